"""A synthetic chest CT: lungs with vessels, airways and fissures inside ribs, spine and heart.

Shapes are signed distances (mm, negative inside) of a patient who stands upright in canonical
coordinates: x to the left, y to the back, z up, the origin in the middle of the chest. They are
computed on a coarse lattice, brought to the fine grid by splines, and blended with soft edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .errors import InputError
from .geometry import Grid, Volume
from .smooth import interpolate, lattice_over, smooth_noise
from .vessels import Tree, grow_tree, splat, tube_samples

AIR, FAT, SOFT = -1000.0, -95.0, 40.0


@dataclass(frozen=True)
class Anatomy:
    """A patient at full inspiration, free of noise; all on one grid, LPS mm.

    image: HU, float32; body: HU (z, y, x) of everything else, the lungs filled with soft tissue;
    inside: share of lung (z, y, x) in each voxel, 0 to 1, soft at the pleura; lungs: uint8,
    0 none, 1 right, 2 left; wall: signed distance (z, y, x) in mm to the inner face of the rib
    cage, negative inside; landmarks: (N, 3) branch points of vessels in the lungs.
    """

    image: Volume
    body: np.ndarray
    inside: np.ndarray
    lungs: Volume
    wall: np.ndarray
    landmarks: np.ndarray


@dataclass(frozen=True)
class _Build:
    """What differs between patients: lengths in mm."""

    width: float
    depth: float
    height: float
    roundness: float
    dome: float
    left_dome: float
    recess_side: float
    recess_back: float
    heart: np.ndarray
    heart_radii: np.ndarray
    mediastinum: float
    muscle: float
    fat: float
    rib_pitch: float
    rib_slope: float
    blood: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Build:
        size = rng.uniform(0.86, 1.1)
        width = size * rng.uniform(122, 138)
        depth = size * rng.uniform(82, 104) + rng.choice([0, 10], p=[0.75, 0.25])
        height = size * rng.uniform(215, 275)
        return cls(
            width=width,
            depth=depth,
            height=height,
            roundness=rng.uniform(2.1, 2.7),
            dome=rng.uniform(0.68, 0.84),
            left_dome=rng.uniform(-3, 18),
            recess_side=rng.uniform(25, 60),
            recess_back=rng.uniform(25, 60),
            heart=np.array([rng.uniform(10, 28), -depth * rng.uniform(0.3, 0.45), 0.0]),
            heart_radii=size * rng.uniform([48, 38, 46], [64, 50, 62]),
            mediastinum=rng.uniform(15, 24),
            muscle=rng.uniform(10, 24),
            fat=rng.uniform(4, 30),
            rib_pitch=size * rng.uniform(23, 28),
            rib_slope=rng.uniform(0.35, 0.7),
            blood=rng.choice([rng.uniform(35, 60), rng.uniform(100, 320)], p=[0.6, 0.4]),
        )


def make_anatomy(
    seed: int,
    spacing: float | tuple[float, float, float] = 1.5,
    size_mm: tuple[float, float, float] | None = None,
    detail: float | None = None,
) -> Anatomy:
    """A patient; the same seed gives the same patient (at any spacing, up to the fine texture).

    spacing: mm, one number or (x, y, z); size_mm: (x, y, z) extent of the image, by default around
    the lungs; detail: 1 for thousands of vessel branches in each lung, less is faster; by default
    what the spacing can show. Raises InputError for a spacing or size that is not positive.
    """
    spacing = np.broadcast_to(np.asarray(spacing, dtype=float), 3)
    if not np.isfinite(spacing).all() or min(spacing) <= 0:
        raise InputError(f"The phantom needs a positive spacing in mm, got {spacing}.")
    detail = min(1.0, (1.5 / max(spacing)) ** 1.5) if detail is None else detail
    shape_rng, tree_rng, texture_rng = (np.random.default_rng([seed, k]) for k in range(3))
    build = _Build.draw(shape_rng)
    if size_mm is None:
        size_mm = (2 * build.width + 56, 2 * build.depth + 60, build.height + 50)
    size = np.round(np.asarray(size_mm, dtype=float) / spacing).astype(int)
    if min(size) < 16:
        raise InputError(f"The phantom needs at least 16 voxels a side, {size} fit the size.")
    grid = Grid(tuple(size), tuple(spacing), tuple(-(size - 1) * spacing / 2))
    tilt = Rotation.from_euler("xyz", shape_rng.normal(0, [2.5, 2.5, 3.5]), degrees=True)
    shapes = _Shapes(shape_rng, build, grid, tilt)

    trees = _grow_trees(tree_rng, shapes, detail)
    tissue = _draw_body(texture_rng, shapes)
    lung = _draw_parenchyma(texture_rng, shapes)
    inside = _soft(shapes.lung, grid)
    landmarks = _draw_trees(shapes, trees, tissue, lung)
    lungs = np.where(shapes.lung < 0, np.where(shapes.side < 0, 1, 2), 0).astype(np.uint8)
    image = tissue + inside * (lung - tissue)
    deep = Volume(shapes.lung, grid).sample(landmarks) < -2
    return Anatomy(
        Volume(image, grid), tissue, inside, Volume(lungs, grid), shapes.wall, landmarks[deep]
    )


class _Shapes:
    """Signed distances on the fine grid, and where everything is."""

    def __init__(self, rng, build: _Build, grid: Grid, tilt: Rotation):
        self.build, self.grid, self.tilt = build, grid, tilt
        self.lattice = lattice_over(grid, 4.0)
        # A smooth warp of space makes every patient crooked in their own way.
        self._warps = [
            (smooth_noise(rng, self.lattice, scale), amplitude)
            for scale, amplitude in ((90, 5.0), (90, 4.0), (90, 5.0), (35, 1.5), (35, 1.5))
        ]
        self.x, self.y, self.z = (self._fine_axis(k) for k in range(3))
        self.canonical = self.x, self.y, self.z
        x, y, z = np.moveaxis(tilt.inv().apply(self.lattice.points().reshape(-1, 3)), 1, 0)
        x, y, z = (c.reshape(self.lattice.shape).astype(np.float32) for c in (x, y, z))
        for k, (noise, amplitude) in enumerate(self._warps):
            moved = (x, y, z)[k % 3]
            moved += amplitude * noise
        wall = self._chest(x, y, z)
        heart, aorta, middle, spine = self._middle(x, y, z)
        below = self._below(x, y, z)
        organs = np.minimum.reduce([heart, aorta, middle, spine - 4])
        lung = np.maximum.reduce([wall, -organs, below, 5 - np.abs(x - 3)])
        lung = self._normalised(_smooth(lung, 0.7))
        torso = self._torso(x, y, z, wall)
        for name, values in {
            "wall": wall,
            "heart": heart,
            "aorta": aorta,
            "middle": middle,
            "spine": spine,
            "below": below,
            "lung": lung,
            "torso": torso,
            "side": x - 3,
        }.items():
            setattr(self, name, interpolate(np.clip(values, -60, 60), self.lattice, grid))
        # Ribs press a little on the lung, which gives its surface a texture.
        self.lung += 1.2 * np.exp(-((self.rib_height() / 7) ** 2)) * (np.abs(self.wall) < 6)

    def _fine_axis(self, k: int) -> np.ndarray:
        """Canonical coordinate k of every voxel (z, y, x)."""
        row = self.tilt.inv().as_matrix()[k]
        axes = [o + s * np.arange(n) for o, s, n in zip(*_axes(self.grid), strict=True)]
        values = row[2] * axes[2][:, None, None] + row[1] * axes[1][:, None] + row[0] * axes[0]
        return values.astype(np.float32)

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """LPS mm of canonical points (N, 3)."""
        return self.tilt.apply(points)

    def rib_height(self) -> np.ndarray:
        """Height in mm over the middle line of the nearest rib, on the fine grid."""
        build = self.build
        phase = (self.z - build.rib_slope * self.y) / build.rib_pitch
        return (phase - np.round(phase)) * build.rib_pitch

    def _level(self, z):
        """0 at the top of the lungs, 1 at their lowest point."""
        return 0.5 - z / self.build.height

    def _normalised(self, value):
        """An implicit function as a distance near its surface."""
        slope = np.sqrt(sum(g**2 for g in np.gradient(value, *self.lattice.spacing[::-1])))
        return value / np.clip(slope, 0.3, 3)

    def _chest(self, x, y, z):
        build = self.build
        level = self._level(z)
        rise = np.clip(level, 0.002, 1)
        half_width = build.width * (1 - (1 - np.minimum(rise / 0.62, 1)) ** 2.3) ** 0.62
        half_depth = build.depth * (1 - (1 - np.minimum(rise / 0.55, 1)) ** 2.2) ** 0.55
        centre = 0.55 * (build.depth - half_depth)
        n = build.roundness
        ring = (np.abs(x / half_width) ** n + np.abs((y - centre) / half_depth) ** n) ** (1 / n)
        size = np.minimum(half_width, half_depth)
        above = -(level - 0.01) * build.height
        return np.maximum(self._normalised((ring - 1) * size), above)

    def _below(self, x, y, z):
        """The diaphragm: negative above its two domes."""
        build = self.build
        dome = build.height * (0.5 - build.dome)
        across = (np.abs(x) - 0.45 * build.width) / (0.55 * build.width)
        front = (y + 0.15 * build.depth) / build.depth
        drop = np.where(across > 0, build.recess_side, 12) * across**2
        drop = drop + np.where(front > 0, build.recess_back, 14) * front**2
        step = 1 / (1 + np.exp(-x / 10))
        top = dome - drop - build.left_dome * step
        return self._normalised(top - z)

    def _middle(self, x, y, z):
        build = self.build
        level = self._level(z)
        dome = build.height * (0.5 - build.dome)
        heart_centre = build.heart + [0, 0, dome + 0.62 * build.heart_radii[2]]
        r = build.heart_radii
        dx, dy, dz = x - heart_centre[0], y - heart_centre[1], z - heart_centre[2]
        dx = dx + 0.35 * dz  # the apex points down to the left
        heart = (np.sqrt((dx / r[0]) ** 2 + (dy / r[1]) ** 2 + (dz / r[2]) ** 2) - 1) * r.mean()
        heart = self._normalised(heart)
        aorta = np.hypot(x - 20, y - 0.42 * build.depth) - 12
        aorta = np.maximum(aorta, z - 0.22 * build.height)
        arch = (
            np.sqrt(
                (np.hypot(y - 0.12 * build.depth, z - 0.2 * build.height) - 26) ** 2
                + (x - 12 - 0.12 * (y - 0.1 * build.depth)) ** 2
            )
            - 12
        )
        aorta = np.minimum(aorta, np.maximum(arch, 0.2 * build.height - z))
        hollow = np.exp(-(((y - 0.1 * build.depth) / (0.55 * build.depth)) ** 2))
        half = 5 + build.mediastinum * hollow + 24 * np.exp(-np.maximum(level, 0) / 0.07)
        middle = np.abs(x - 4) - half
        hilum = (
            np.minimum(
                *(
                    np.sqrt(((x - s * 36) / 13) ** 2 + ((y - 12) / 16) ** 2 + ((z - 8) / 24) ** 2)
                    - 1
                    for s in (-1, 1)
                )
            )
            * 13
        )
        middle = np.minimum(middle, hilum)
        spine = np.hypot(x / 21, (y - 0.86 * build.depth) / 24) * 22 - 22
        return heart, aorta, middle, spine

    def _torso(self, x, y, z, wall):
        build = self.build
        a = build.width + build.muscle + build.fat
        b = build.depth + 0.6 * build.muscle + build.fat
        ring = ((np.abs(x) / a) ** 2.6 + (np.abs(y - 4) / b) ** 2.6) ** (1 / 2.6)
        around = np.hypot(x / 70, (y - 0.86 * build.depth - 18) / 50) * 50 - 50
        return np.minimum.reduce([self._normalised((ring - 1) * b), wall - 10, around])


def _axes(grid: Grid):
    return grid.origin, grid.spacing, grid.size


def _smooth(values, sigma):
    return ndimage.gaussian_filter(values, sigma, mode="nearest")


def _soft(distance: np.ndarray, grid: Grid, width: float | None = None) -> np.ndarray:
    """The share of a voxel inside a surface, from the signed distance of its centre in mm."""
    width = float(np.mean(grid.spacing)) if width is None else width
    return np.clip(0.5 - distance / width, 0, 1)


def _paint(image: np.ndarray, value, share: np.ndarray) -> None:
    image += share * (value - image)


def _draw_body(rng: np.random.Generator, shapes: _Shapes) -> np.ndarray:
    """HU of all but the lungs, whose place is taken by soft tissue; no vessels yet."""
    build, grid = shapes.build, shapes.grid
    x, y, wall = shapes.x, shapes.y, shapes.wall
    lumps = smooth_noise(rng, grid, 14)
    image = np.full(grid.shape, AIR, np.float32)
    _paint(image, FAT + 8 * lumps, _soft(shapes.torso, grid))
    _paint(
        image,
        SOFT,
        _soft(wall - build.muscle * (0.75 + 0.25 * np.tanh(lumps)), grid)
        * _soft(shapes.torso + 3, grid),
    )
    # Fat seams between the muscles of the wall.
    _paint(image, FAT, 0.7 * np.exp(-(((wall - 10.5 - 2 * lumps) / 1.6) ** 2)))
    _paint(image, SOFT, _soft(wall - 1, grid))

    fatty = np.clip(0.5 + 0.8 * smooth_noise(rng, grid, 9), 0, 1)
    middle = np.minimum(shapes.middle, shapes.heart - 6)
    _paint(image, SOFT + (FAT - SOFT) * fatty, _soft(middle + 3, grid) * _soft(wall, grid))
    # Below the diaphragm: liver on the right, spleen and stomach on the left, fat around them.
    abdomen = _soft(-shapes.below + 3, grid) * _soft(wall + 3, grid)
    organ = smooth_noise(rng, grid, 40)
    left = np.clip(0.5 + (x - 15 - 10 * organ) / 6, 0, 1)
    contrast = 0.25 * (build.blood - 45)
    _paint(image, 58 + contrast + 6 * lumps, abdomen * (1 - left))
    gas = rng.choice([-900.0, 30.0])
    mixed = FAT + (50 - FAT) * np.clip(3 * organ + 2.3, 0, 1)
    mixed = mixed + (gas - 50) * np.clip(8 * organ - 7, 0, 1)
    _paint(image, mixed + contrast * (mixed > 0), abdomen * left)
    chambers = np.clip(smooth_noise(rng, grid, 26) * 1.5 + 0.5, 0, 1)
    _paint(image, FAT, _soft(shapes.heart + 1, grid) * np.clip(0.6 + 0.8 * lumps, 0, 1))
    _paint(
        image,
        42 + 0.4 * (build.blood - 42) + 0.6 * (build.blood - 42) * chambers,
        _soft(shapes.heart + 5, grid),
    )
    _paint(image, build.blood, _soft(shapes.aorta + 2.5, grid) * _soft(wall, grid))
    _draw_bones(rng, shapes, image)
    if rng.random() < 0.5:
        table = y - (build.depth + build.muscle * 0.6 + build.fat + 12) + x**2 / 900
        _paint(image, rng.uniform(-700, -250), _soft(np.abs(table) - 3, grid))
    return image


def _draw_bones(rng: np.random.Generator, shapes: _Shapes, image: np.ndarray) -> None:
    build, grid = shapes.build, shapes.grid
    (x, y, z), wall = shapes.canonical, shapes.wall
    marrow = 40 * smooth_noise(rng, grid, 6)
    thick = (wall - 5.5) / 4.2
    rib = (np.sqrt((shapes.rib_height() / 6.8) ** 2 + thick**2) - 1) * 4.5
    rib = np.where((x / build.width) ** 2 + (y / build.depth) ** 2 < 0.25, 9, rib)
    bone = np.clip((y + 0.72 * build.depth) / 6 + 0.5, 0, 1)
    share = _soft(rib, grid)
    _paint(image, 90 + bone * 420, share)
    _paint(image, 90 + bone * (110 + marrow), _soft(rib + 2, grid))
    column = shapes.spine + 3
    disc = np.abs(((z / 24 + 0.3) % 1) - 0.5) * 24
    vertebra = np.maximum(column, 3.5 - (12 - disc))
    _paint(image, 85, _soft(column, grid))
    _paint(image, 420, _soft(vertebra, grid))
    _paint(image, 190 + 1.5 * marrow, _soft(vertebra + 2.2, grid))
    back = y - 0.86 * build.depth
    arch = np.maximum(np.abs(np.hypot(x, back - 29) - 11) - 3, 2 - disc)
    spike = np.maximum(np.abs(x) - 3.5, np.abs(back - 48) - 14)
    wing = np.maximum(np.hypot(back - 30 - 0.25 * np.abs(x), disc - 8) - 5, np.abs(x) - 34)
    _paint(image, 330 + marrow, _soft(np.minimum.reduce([arch, spike, wing]), grid))
    _paint(image, 30, _soft(np.hypot(x, back - 29) - 8, grid))
    sternum = np.maximum.reduce(
        [np.abs(wall - 6) - 5, np.abs(x) - 17, y, np.abs(z - 0.1 * build.height) - 75]
    )
    _paint(image, 300, _soft(sternum, grid))
    _paint(image, 130 + marrow, _soft(sternum + 2, grid))
    height = 0.2 * build.height
    blade = np.abs(wall - 18 - 3 * smooth_noise(rng, grid, 40)) - 2.5
    blade = np.maximum.reduce(
        [blade, np.hypot((np.abs(x) - 0.72 * build.width) / 1.2, (z - height)) - 42, 10 - y]
    )
    _paint(image, 380, _soft(blade, grid) * _soft(shapes.torso + 4, grid))


def _draw_parenchyma(rng: np.random.Generator, shapes: _Shapes) -> np.ndarray:
    """HU of the lung tissue everywhere (it is cut out at the pleura later); no vessels yet."""
    build, grid = shapes.build, shapes.grid
    hang = shapes.y / build.depth
    lung = rng.uniform(-900, -820) + rng.uniform(10, 45) * hang
    for scale, low, high in ((45, 4, 14), (15, 5, 14), (6, 6, 16), (3, 8, 26)):
        lung = lung + rng.uniform(low, high) * smooth_noise(rng, grid, scale)
    if rng.random() < 0.35:  # emphysema: clumps with little tissue left
        holes = smooth_noise(rng, grid, rng.uniform(8, 25))
        lung = lung - rng.uniform(40, 90) * np.clip(holes - rng.uniform(0, 1.2), 0, 1)
    if rng.random() < 0.3:  # ground glass and dependent opacity
        haze = smooth_noise(rng, grid, rng.uniform(20, 45)) + 0.5 * hang
        lung = lung + rng.uniform(60, 220) * np.clip(haze - rng.uniform(1.2, 2.2), 0, 1)
    for fissure, side in _fissures(rng, shapes):
        faint = np.clip(0.75 + 0.5 * smooth_noise(rng, grid, 30), 0, 1)
        width = max(1.0, 0.6 * float(np.mean(grid.spacing)))
        sheet = np.exp(-((fissure / width) ** 2)) * faint * side
        lung = lung + rng.uniform(100, 190) / width * sheet
    lung = np.clip(lung, -985, 200).astype(np.float32)
    for _ in range(rng.poisson(1.5)):
        place = rng.uniform(-0.8, 0.8, 3) * [build.width, build.depth, 0.5 * build.height]
        far = np.sqrt(sum((c - p) ** 2 for c, p in zip(shapes.canonical, place, strict=True)))
        _paint(lung, rng.uniform(-50, 90), _soft(far - rng.uniform(2, 8), grid, width=2.5))
    return lung


def _fissures(rng: np.random.Generator, shapes: _Shapes):
    """Signed distances to the oblique fissures and the horizontal one, and their side."""
    x, y, z = shapes.canonical
    right = (shapes.side < 0).astype(np.float32)
    height = shapes.build.height
    for side in (right, 1 - right):
        slope, at = rng.uniform(1.1, 1.7), rng.uniform(-0.08, 0.02) * height
        bend = 5 * smooth_noise(rng, shapes.grid, 60)
        oblique = z - at - slope * (y - 5) + bend - 0.0025 * (np.abs(x) - 70) ** 2
        yield oblique / np.hypot(1, slope), side
        if side is right:
            level = z - at - 5 + 4 * smooth_noise(rng, shapes.grid, 60) + 0.1 * np.abs(x)
            yield level, side * (oblique > 0)


def _grow_trees(rng: np.random.Generator, shapes: _Shapes, detail: float) -> dict[str, Tree]:
    """Arteries, veins and airways of both lungs, and the trachea, in LPS mm."""
    lattice = shapes.lattice
    lung = Volume(shapes.lung, shapes.grid)
    depth = lung.sample(lattice.points())
    nodes = lattice.points()[depth < -3.0]
    nodes = nodes + rng.uniform(-2, 2, nodes.shape)
    nodes = nodes[lung.sample(nodes) < -2.2]
    canonical = shapes.tilt.inv().apply(nodes)
    build = shapes.build
    trees: dict[str, list[Tree]] = {"artery": [], "vein": [], "airway": []}
    density = rng.uniform(0.7, 1.3)
    leaf = rng.uniform(0.23, 0.31)
    carina = np.array([3.0, 12.0, 30.0])
    slope, bend = 1.4, 5.0
    for sign in (-1, 1):
        own = nodes[np.sign(canonical[:, 0] - 3) == sign]
        if len(own) < 8:
            continue
        hilum = np.array([sign * 36.0, 12.0, 10.0])
        for kind, offset in (("artery", (0, -2, 6)), ("vein", (-4 * sign, -12, -14))):
            count = int(max(8, detail * density * len(own) * 64 / 420))
            targets = own[rng.choice(len(own), min(count, len(own)), replace=False)]
            local = shapes.tilt.inv().apply(targets)
            lobe = (local[:, 2] > slope * (local[:, 1] - bend)).astype(int)
            if kind == "vein":
                lobe = (local[:, 2] > 0).astype(int)
            root = shapes.to_world(hilum + np.array(offset))
            tree = grow_tree(rng, root, targets, groups=lobe, leaf_radius=leaf / detail**0.385)
            heart = hilum + offset - [sign * 26.0, 8.0, 2.0]
            trees[kind] += [_trunk(shapes.to_world(heart), root, tree.radius.max()), tree]
            if kind == "artery":
                trees["airway"] += [
                    _beside(tree),
                    _trunk(shapes.to_world(carina), _beside(tree).start[0], 6.0),
                ]
    top = shapes.to_world(np.array([2.0, 16.0, build.height / 2 + 40]))
    trees["airway"].append(_trunk(shapes.to_world(carina), top, 8.5))
    bend = _Bend(rng, lattice)
    return {kind: _joined([bend(tree) for tree in parts]) for kind, parts in trees.items()}


class _Bend:
    """A smooth shift that makes straight branches wind; the same for all trees."""

    def __init__(self, rng: np.random.Generator, lattice: Grid):
        self._volumes = [
            Volume(
                1.3 * smooth_noise(rng, lattice, 14) + 2.0 * smooth_noise(rng, lattice, 35), lattice
            )
            for _ in range(3)
        ]

    def __call__(self, tree: Tree, piece: float = 5.0) -> Tree:
        """The tree cut into pieces of about this length (mm), each end shifted."""
        along = tree.end - tree.start
        count = np.maximum(np.ceil(np.linalg.norm(along, axis=1) / piece), 1).astype(int)
        owner = np.repeat(np.arange(len(count)), count)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        start = tree.start[owner] + along[owner] * (place / count[owner])[:, None]
        end = tree.start[owner] + along[owner] * ((place + 1) / count[owner])[:, None]
        last = place + 1 == count[owner]
        generation = np.where(last, tree.generation[owner], -1)
        return Tree(self._moved(start), self._moved(end), tree.radius[owner], generation)

    def _moved(self, points):
        return points + np.stack([v.sample(points) for v in self._volumes], axis=-1)


def _trunk(start, end, radius) -> Tree:
    return Tree(np.array([start]), np.array([end]), np.array([radius]), np.array([0]))


def _beside(tree: Tree) -> Tree:
    """The airways that run with these arteries, as far as a CT shows them."""
    visible = tree.chosen(tree.radius > 1.3)
    shift = np.array([-0.5, 0.75, -0.4]) * (2.2 * visible.radius[:, None] + 0.3)
    return Tree(visible.start + shift, visible.end + shift, visible.radius, visible.generation)


def _joined(trees: list[Tree]) -> Tree:
    return Tree(
        *(
            np.concatenate([getattr(tree, name) for tree in trees])
            for name in ("start", "end", "radius", "generation")
        )
    )


def _draw_trees(shapes: _Shapes, trees: dict[str, Tree], body, lung) -> np.ndarray:
    """Draw all trees into body and lung (changed in place); the branch points (N, 3) LPS mm."""
    grid = shapes.grid
    step = 0.55 * min(grid.spacing)
    outside = np.clip(0.5 + shapes.lung / 4, 0, 1) * (shapes.heart > 0)

    def share(tree: Tree) -> np.ndarray:
        return splat(*tube_samples(tree, step), grid)

    airway = trees["airway"]
    thickness = 0.3 + 0.12 * airway.radius
    wall = Tree(airway.start, airway.end, airway.radius + 0.5 * thickness, airway.generation)
    lumen = Tree(
        airway.start,
        airway.end,
        np.maximum(airway.radius - 0.5 * thickness, 0.1),
        airway.generation,
    )
    blood = share(_joined([trees["artery"], trees["vein"]]))
    wall, lumen = share(wall), share(lumen)
    for image, where in ((lung, 1.0), (body, outside)):
        _paint(image, 0.0, wall * where)
        _paint(image, shapes.build.blood, blood * where)
        _paint(image, -980.0, lumen * where)
    points = [t.end[(t.radius > 0.7) & (t.generation > 0)] for t in trees.values()]
    return np.concatenate(points)
