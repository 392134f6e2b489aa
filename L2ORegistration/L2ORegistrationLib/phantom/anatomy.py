"""A synthetic chest CT: lungs with vessels, airways and fissures inside ribs, spine and heart.

Every tissue is painted over the ones before with a soft edge, as wide as a voxel, so that thin
and slanted structures show the partial volume of a real scan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.spatial.transform import Rotation

from ..core.errors import InputError
from ..core.geometry import Grid, Volume
from .chest import Build, Shapes, soft_share
from .splines import smooth_noise
from .vessels import Tree, grow_tree, splat, tube_samples

AIR, FAT, SOFT = -1000.0, -95.0, 40.0


@dataclass(frozen=True)
class Anatomy:
    """A patient at full inspiration, free of noise; all on one grid, LPS mm.

    image: HU, float32; body: HU (z, y, x) of everything else, the lungs filled with soft tissue;
    inside: share of lung (z, y, x) in each voxel, 0 to 1, soft at the pleura; lungs: uint8,
    0 none, 1 right, 2 left; wall: signed distance (z, y, x) in mm to the inner face of the rib
    cage, negative inside; fissure: signed distance (z, y, x) in mm to the oblique fissure of the
    lung on that side, positive above it; landmarks: (N, 3) branch points of vessels in the lungs.
    """

    image: Volume
    body: np.ndarray
    inside: np.ndarray
    lungs: Volume
    wall: np.ndarray
    fissure: np.ndarray
    landmarks: np.ndarray


def make_anatomy(
    seed: int,
    spacing: float | tuple[float, float, float] = 1.5,
    detail: float | None = None,
) -> Anatomy:
    """A patient; the same seed and spacing give the same patient.

    spacing: mm, one number or (x, y, z); detail: 1 for thousands of vessel branches in each lung,
    less is faster; by default what the spacing can show. Raises InputError for a spacing that is
    not positive, or too wide to show a patient.
    """
    spacing = np.broadcast_to(np.asarray(spacing, dtype=float), 3)
    if not np.isfinite(spacing).all() or min(spacing) <= 0:
        raise InputError(f"The phantom needs a positive spacing in mm, got {spacing}.")
    detail = min(1.0, (1.5 / max(spacing)) ** 1.5) if detail is None else detail
    shape_rng, tree_rng, texture_rng = (np.random.default_rng([seed, k]) for k in range(3))
    build = Build.draw(shape_rng)
    around_lungs = np.array((2 * build.width + 56, 2 * build.depth + 60, build.height + 50))  # mm
    size = np.round(around_lungs / spacing).astype(int)
    if min(size) < 16:
        raise InputError(f"The phantom needs at least 16 voxels a side: {spacing} mm are too wide.")
    grid = Grid(tuple(size), tuple(spacing), tuple(-(size - 1) * spacing / 2))
    tilt = Rotation.from_euler("xyz", shape_rng.normal(0, [2.5, 2.5, 3.5]), degrees=True)
    shapes = Shapes(shape_rng, build, grid, tilt)

    trees = _grow_trees(tree_rng, shapes, detail)
    tissue = _draw_body(texture_rng, shapes)
    lung, fissure = _draw_parenchyma(texture_rng, shapes)
    inside = soft_share(shapes.lung, grid)
    landmarks = _draw_trees(shapes, trees, tissue, lung)
    lungs = np.where(shapes.lung < 0, np.where(shapes.side < 0, 1, 2), 0).astype(np.uint8)
    image = tissue + inside * (lung - tissue)
    lungs = Volume(lungs, grid)
    deep = Volume(shapes.lung, grid).sample(landmarks) < -2
    deep &= lungs.sample(landmarks, order=0) > 0
    image = Volume(image, grid)
    return Anatomy(image, tissue, inside, lungs, shapes.wall, fissure, landmarks[deep])


def _paint(image: np.ndarray, value, share: np.ndarray) -> None:
    """Bring the image (changed in place) towards a value in HU by a share from 0 to 1."""
    image += share * (value - image)


def _draw_body(rng: np.random.Generator, shapes: Shapes) -> np.ndarray:
    """HU of all but the lungs, whose place is taken by soft tissue; no vessels yet."""
    build, grid = shapes.build, shapes.grid
    (x, y, _), wall = shapes.canonical, shapes.wall
    lumps = smooth_noise(rng, grid, 14)
    image = np.full(grid.shape, AIR, np.float32)
    _paint(image, FAT + 8 * lumps, soft_share(shapes.torso, grid))
    _paint(
        image,
        SOFT,
        soft_share(wall - build.muscle * (0.75 + 0.25 * np.tanh(lumps)), grid)
        * soft_share(shapes.torso + 3, grid),
    )
    # Fat seams between the muscles of the wall.
    _paint(image, FAT, 0.7 * np.exp(-(((wall - 10.5 - 2 * lumps) / 1.6) ** 2)))
    _paint(image, SOFT, soft_share(wall - 1, grid))

    fatty = np.clip(0.5 + 0.8 * smooth_noise(rng, grid, 9), 0, 1)
    middle = np.minimum(shapes.middle, shapes.heart - 6)
    _paint(
        image, SOFT + (FAT - SOFT) * fatty, soft_share(middle + 3, grid) * soft_share(wall, grid)
    )
    # Below the diaphragm: liver on the right, spleen and stomach on the left, fat around them.
    abdomen = soft_share(-shapes.below + 3, grid) * soft_share(wall + 3, grid)
    organ = smooth_noise(rng, grid, 40)
    left = np.clip(0.5 + (x - 15 - 10 * organ) / 6, 0, 1)
    contrast = 0.25 * (build.blood - 45)
    _paint(image, 58 + contrast + 6 * lumps, abdomen * (1 - left))
    gas = rng.choice([-900.0, 30.0])
    mixed = FAT + (50 - FAT) * np.clip(3 * organ + 2.3, 0, 1)
    mixed = mixed + (gas - 50) * np.clip(8 * organ - 7, 0, 1)
    _paint(image, mixed + contrast * (mixed > 0), abdomen * left)
    chambers = np.clip(smooth_noise(rng, grid, 26) * 1.5 + 0.5, 0, 1)
    _paint(image, FAT, soft_share(shapes.heart + 1, grid) * np.clip(0.6 + 0.8 * lumps, 0, 1))
    _paint(
        image,
        42 + 0.4 * (build.blood - 42) + 0.6 * (build.blood - 42) * chambers,
        soft_share(shapes.heart + 5, grid),
    )
    _paint(image, build.blood, soft_share(shapes.aorta + 2.5, grid) * soft_share(wall, grid))
    _draw_bones(rng, shapes, image)
    if rng.random() < 0.5:
        table = y - (build.depth + build.muscle * 0.6 + build.fat + 12) + x**2 / 900
        _paint(image, rng.uniform(-700, -250), soft_share(np.abs(table) - 3, grid))
    return image


def _draw_bones(rng: np.random.Generator, shapes: Shapes, image: np.ndarray) -> None:
    """Ribs, spine, sternum and shoulder blades, painted into the image."""
    build, grid = shapes.build, shapes.grid
    (x, y, z), wall = shapes.canonical, shapes.wall
    marrow = 40 * smooth_noise(rng, grid, 6)
    thick = (wall - 5.5) / 4.2
    rib = (np.sqrt((shapes.rib_height() / 6.8) ** 2 + thick**2) - 1) * 4.5
    rib = np.where((x / build.width) ** 2 + (y / build.depth) ** 2 < 0.25, 9, rib)
    bone = np.clip((y + 0.72 * build.depth) / 6 + 0.5, 0, 1)
    share = soft_share(rib, grid)
    _paint(image, 90 + bone * 420, share)
    _paint(image, 90 + bone * (110 + marrow), soft_share(rib + 2, grid))
    column = shapes.spine + 3
    disc = np.abs(((z / 24 + 0.3) % 1) - 0.5) * 24
    vertebra = np.maximum(column, 3.5 - (12 - disc))
    _paint(image, 85, soft_share(column, grid))
    _paint(image, 420, soft_share(vertebra, grid))
    _paint(image, 190 + 1.5 * marrow, soft_share(vertebra + 2.2, grid))
    back = y - 0.86 * build.depth
    arch = np.maximum(np.abs(np.hypot(x, back - 29) - 11) - 3, 2 - disc)
    spike = np.maximum(np.abs(x) - 3.5, np.abs(back - 48) - 14)
    wing = np.maximum(np.hypot(back - 30 - 0.25 * np.abs(x), disc - 8) - 5, np.abs(x) - 34)
    _paint(image, 330 + marrow, soft_share(np.minimum.reduce([arch, spike, wing]), grid))
    _paint(image, 30, soft_share(np.hypot(x, back - 29) - 8, grid))
    sternum = np.maximum.reduce(
        [np.abs(wall - 6) - 5, np.abs(x) - 17, y, np.abs(z - 0.1 * build.height) - 75]
    )
    _paint(image, 300, soft_share(sternum, grid))
    _paint(image, 130 + marrow, soft_share(sternum + 2, grid))
    height = 0.2 * build.height
    blade = np.abs(wall - 18 - 3 * smooth_noise(rng, grid, 40)) - 2.5
    blade = np.maximum.reduce(
        [blade, np.hypot((np.abs(x) - 0.72 * build.width) / 1.2, (z - height)) - 42, 10 - y]
    )
    _paint(image, 380, soft_share(blade, grid) * soft_share(shapes.torso + 4, grid))


def _draw_parenchyma(rng: np.random.Generator, shapes: Shapes) -> tuple[np.ndarray, np.ndarray]:
    """HU of the lung tissue everywhere (it is cut out at the pleura later); no vessels yet.

    Also the distance to the oblique fissures, as in `Anatomy`.
    """
    build, grid = shapes.build, shapes.grid
    hang = shapes.canonical[1] / build.depth
    lung = rng.uniform(-900, -820) + rng.uniform(10, 45) * hang
    for scale, low, high in ((45, 4, 14), (15, 5, 14), (6, 6, 16), (3, 8, 26)):
        lung = lung + rng.uniform(low, high) * smooth_noise(rng, grid, scale)
    if rng.random() < 0.35:  # emphysema: clumps with little tissue left
        holes = smooth_noise(rng, grid, rng.uniform(8, 25))
        lung = lung - rng.uniform(40, 90) * np.clip(holes - rng.uniform(0, 1.2), 0, 1)
    if rng.random() < 0.3:  # ground glass and dependent opacity
        haze = smooth_noise(rng, grid, rng.uniform(20, 45)) + 0.5 * hang
        lung = lung + rng.uniform(60, 220) * np.clip(haze - rng.uniform(1.2, 2.2), 0, 1)
    oblique = np.zeros(grid.shape, np.float32)
    for fissure, side, is_oblique in _fissures(rng, shapes):
        oblique += is_oblique * side * fissure
        faint = np.clip(0.75 + 0.5 * smooth_noise(rng, grid, 30), 0, 1)
        width = max(1.0, 0.6 * float(np.mean(grid.spacing)))
        sheet = np.exp(-((fissure / width) ** 2)) * faint * side
        lung = lung + rng.uniform(100, 190) / width * sheet
    lung = np.clip(lung, -985, 200).astype(np.float32)
    for _ in range(rng.poisson(1.5)):
        place = rng.uniform(-0.8, 0.8, 3) * [build.width, build.depth, 0.5 * build.height]
        far = np.sqrt(sum((c - p) ** 2 for c, p in zip(shapes.canonical, place, strict=True)))
        _paint(lung, rng.uniform(-50, 90), soft_share(far - rng.uniform(2, 8), grid, width=2.5))
    return lung, oblique


def _fissures(
    rng: np.random.Generator, shapes: Shapes
) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Signed distance (mm) to each fissure, where it exists (1, and 0 in the other lung), and
    whether it is the oblique one.
    """
    x, y, z = shapes.canonical
    right = (shapes.side < 0).astype(np.float32)
    height = shapes.build.height
    for side in (right, 1 - right):
        slope, at = rng.uniform(1.1, 1.7), rng.uniform(-0.08, 0.02) * height
        bend = 5 * smooth_noise(rng, shapes.grid, 60)
        oblique = z - at - slope * (y - 5) + bend - 0.0025 * (np.abs(x) - 70) ** 2
        yield oblique / np.hypot(1, slope), side, True
        if side is right:
            level = z - at - 5 + 4 * smooth_noise(rng, shapes.grid, 60) + 0.1 * np.abs(x)
            yield level, side * (oblique > 0), False


def _grow_trees(rng: np.random.Generator, shapes: Shapes, detail: float) -> dict[str, Tree]:
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
    for sign in (-1, 1):
        own = nodes[np.sign(canonical[:, 0] - 3) == sign]
        if len(own) < 8:
            continue
        hilum = np.array([sign * 36.0, 12.0, 10.0])
        for kind, offset in (("artery", (0, -2, 6)), ("vein", (-4 * sign, -12, -14))):
            count = int(max(8, detail * density * len(own) * 64 / 420))
            targets = own[rng.choice(len(own), min(count, len(own)), replace=False)]
            local = shapes.tilt.inv().apply(targets)
            # Arteries divide along the oblique fissure, veins into upper and lower ones.
            border = 1.4 * (local[:, 1] - 5.0) if kind == "artery" else 0.0
            lobe = (local[:, 2] > border).astype(int)
            root = shapes.to_world(hilum + np.array(offset))
            tree = grow_tree(rng, root, targets, lobe, leaf / detail**0.385)
            heart = hilum + offset - [sign * 26.0, 8.0, 2.0]
            trees[kind] += [_trunk(shapes.to_world(heart), root, tree.radius.max()), tree]
            if kind == "artery":
                trees["airway"] += [
                    _beside(tree),
                    _trunk(shapes.to_world(carina), _beside(tree).start[0], 6.0),
                ]
    top = shapes.to_world(np.array([2.0, 16.0, build.height / 2 + 40]))
    trees["airway"].append(_trunk(shapes.to_world(carina), top, 8.5))
    bent = _Bend(rng, lattice)
    return {kind: _joined([bent(tree) for tree in parts]) for kind, parts in trees.items()}


class _Bend:
    """A smooth shift that makes straight branches wind; the same for all trees."""

    def __init__(self, rng: np.random.Generator, lattice: Grid):
        self._volumes = [
            Volume(
                1.3 * smooth_noise(rng, lattice, 14) + 2.0 * smooth_noise(rng, lattice, 35), lattice
            )
            for _ in range(3)
        ]

    def __call__(self, tree: Tree) -> Tree:
        """The tree cut into pieces of about 5 mm, each end shifted."""
        along = tree.end - tree.start
        count = np.maximum(np.ceil(np.linalg.norm(along, axis=1) / 5.0), 1).astype(int)
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
    """A tree of one branch."""
    return Tree(np.array([start]), np.array([end]), np.array([radius]), np.array([0]))


def _beside(tree: Tree) -> Tree:
    """The airways that run with these arteries, as far as a CT shows them."""
    visible = tree.chosen(tree.radius > 1.3)
    shift = np.array([-0.5, 0.75, -0.4]) * (2.2 * visible.radius[:, None] + 0.3)
    return replace(visible, start=visible.start + shift, end=visible.end + shift)


def _joined(trees: list[Tree]) -> Tree:
    parts = ([getattr(tree, part.name) for tree in trees] for part in fields(Tree))
    return Tree(*map(np.concatenate, parts))


def _draw_trees(shapes: Shapes, trees: dict[str, Tree], body, lung) -> np.ndarray:
    """Draw all trees into body and lung (changed in place); the branch points (N, 3) LPS mm."""
    grid = shapes.grid
    step = 0.55 * min(grid.spacing)
    outside = np.clip(0.5 + shapes.lung / 4, 0, 1) * (shapes.heart > 0)

    def share(tree: Tree) -> np.ndarray:
        return splat(*tube_samples(tree, step), grid)

    airway = trees["airway"]
    thickness = 0.3 + 0.12 * airway.radius
    blood = share(_joined([trees["artery"], trees["vein"]]))
    wall = share(replace(airway, radius=airway.radius + 0.5 * thickness))
    lumen = share(replace(airway, radius=np.maximum(airway.radius - 0.5 * thickness, 0.1)))
    for image, where in ((lung, 1.0), (body, outside)):
        _paint(image, 0.0, wall * where)
        _paint(image, shapes.build.blood, blood * where)
        _paint(image, -980.0, lumen * where)
    points = [t.end[(t.radius > 0.7) & (t.generation > 0)] for t in trees.values()]
    return np.concatenate(points)
