"""Breathing phantom: two CT states of one synthetic patient and the exact motion between them.

The lungs and the rest of the body are two layers, each moved by its own smooth field, so that the
pleura can slide. A layer is only ever sampled, never estimated: the motion is known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Grid, Volume
from .anatomy import Anatomy, make_anatomy
from .lobes import CLEAR_MM, LobeSliding
from .scanner import noisy
from .splines import interpolate, lattice_over, smooth_noise

_LATTICE = 6.0  # mm between the nodes on which motion is drawn
_TOLERANCE = 0.003  # mm, of inverted fields
ROUGH_MM = 20.0  # detail of the motion that is finer than this is rough


@dataclass(frozen=True)
class PhantomPair:
    """Two CTs (HU, float32) and what is true of them; everything in LPS mm.

    The field is exact at every voxel of fixed inside the lungs (fixed point -> moving point);
    masks: uint8, 1 in the lungs; landmarks: (N, 3), row i of both shows the same vessel branch.
    """

    fixed: Volume
    moving: Volume
    fixed_mask: Volume
    moving_mask: Volume
    fixed_landmarks: np.ndarray
    moving_landmarks: np.ndarray
    field: DisplacementField


def make_pair(
    seed: int,
    *,
    spacing: float | tuple[float, float, float] = 1.5,
    amplitude_mm: float | None = None,
    sliding: bool = True,
    noise_hu: float | None = None,
    density: bool = True,
    swap: bool | None = None,
    anatomy: Anatomy | None = None,
    shift_mm: float = 0.0,
    lobes_mm: float = 0.0,
    roughness: float = 1.0,
) -> PhantomPair:
    """A pair of breathing states; deterministic in the seed.

    spacing: mm, one number or (x, y, z), of a new patient (ignored with an anatomy);
    amplitude_mm: motion at the base of the lungs, by default 5 to 60; noise_hu: sd of the image
    noise, by default 10 to 50 with a random sharpness of either image (0: no noise, same
    sharpness); density: air and blood leave with the breath; swap: fixed is inspiration
    (True), expiration (False) or either by chance (None); anatomy: reuse this patient; shift_mm:
    how far (at most, each axis) the patient lies elsewhere in the second scan's coordinates;
    lobes_mm: how far (at most) lobes slide along the oblique fissures, where the field jumps;
    roughness: of the motion's detail finer than 20 mm, 1 is the usual, 0 none.
    Raises InputError for a negative amplitude, noise, shift, sliding of lobes or roughness.
    """
    for name, value in (
        *(("amplitude", amplitude_mm), ("noise", noise_hu), ("shift", shift_mm)),
        ("sliding of lobes", lobes_mm),
        ("roughness", roughness),
    ):
        if value is not None and not (np.isfinite(value) and value >= 0):
            raise InputError(f"The phantom's {name} must be zero or more, got {value}.")
    rng = np.random.default_rng([seed, 17])
    if anatomy is None:
        anatomy = make_anatomy(seed, spacing)
    chance = rng.random()
    swap = chance < 0.5 if swap is None else swap
    drawn = float(np.exp(rng.uniform(np.log(5), np.log(60))))
    amplitude = drawn if amplitude_mm is None else float(amplitude_mm)
    shift = rng.uniform(-1, 1, 3) * shift_mm
    still = anatomy.image.grid
    lattice = lattice_over(still, _LATTICE)

    motion = _draw_motion(rng, lattice, anatomy.lungs, amplitude, roughness)
    body_motion = _slid(rng, motion, anatomy, lattice) if sliding else motion
    motion_fine = _fine(motion, lattice, still)
    body_fine = _fine(body_motion, lattice, still) if sliding else motion_fine
    lobes = None
    whole_fine = motion_fine
    if lobes_mm:
        lobes = LobeSliding.draw(np.random.default_rng([seed, 41]), anatomy, lobes_mm)
        whole_fine = _with_lobes(motion_fine, lobes, anatomy)
    image, mask = _moved(rng, anatomy, whole_fine, body_fine, _stretch(motion, lattice), density)

    # "still" is the drawn patient (inspiration), "moved" the computed state; moved -> still is u.
    inspiration, lungs = anatomy.image.array, anatomy.lungs.array > 0
    if swap:
        array = _fine(_inverted(body_motion, lattice), lattice, still)
        if lobes:
            place = still.points()[lungs]
            slid = lobes(place, back=True)
            array[lungs] = followed_back(slid, DisplacementField(motion_fine, still)) - place
        else:
            array[lungs] = _inverted_within(lungs, motion, motion_fine, lattice, still)
        states = (inspiration, lungs), (image, mask)
    else:
        array = np.where(mask[..., None], whole_fine, body_fine)
        states = (image, mask), (inspiration, lungs)
    field = DisplacementField(array.astype(np.float32), still)
    landmarks = _landmarks(anatomy, motion_fine, field, states[0][1], swap, lobes)

    (fixed, fixed_lungs), (moving, moving_lungs) = states
    fixed, moving = (_scanned(rng, state, noise_hu) for state in (fixed, moving))
    elsewhere = replace(still, origin=tuple(np.add(still.origin, shift)))
    return PhantomPair(
        fixed=Volume(fixed, still),
        moving=Volume(moving, elsewhere),
        fixed_mask=Volume(fixed_lungs.astype(np.uint8), still),
        moving_mask=Volume(moving_lungs.astype(np.uint8), elsewhere),
        fixed_landmarks=landmarks[0],
        moving_landmarks=landmarks[1] + shift,
        field=DisplacementField((field.array + shift).astype(np.float32), still),
    )


def _draw_motion(
    rng, lattice: Grid, lungs: Volume, amplitude: float, roughness: float = 1.0
) -> np.ndarray:
    """Displacements (z, y, x, 3), LPS mm, from expiration to inspiration at the lattice nodes.

    lungs: 1 right, 2 left (an unlabelled mask breathes as one). Smooth, and invertible: the
    Jacobian determinant is above 0.1 everywhere.
    """
    labels = [label for label in (1, 2) if (lungs.array == label).any()]
    if not labels:
        raise InputError("The phantom's motion needs a lung mask that is not empty.")
    middle = _bounds(lungs, labels).mean(axis=0)
    tilt = Rotation.from_euler("xyz", rng.normal(0, [7, 5, 5]), degrees=True)
    points = lattice.points()
    shared = _Breath.draw(rng, amplitude)
    share = rng.permutation([1.0, rng.uniform(0.6, 1.0)])  # one lung moves the full way down
    sides = []
    for label, part in zip(labels, share, strict=False):
        bounds = _bounds(lungs, [label])
        breath = shared.varied(rng, part)
        local = tilt.inv().apply((points - bounds.mean(axis=0)).reshape(-1, 3))
        across = tilt.inv().apply((points - middle).reshape(-1, 3))[:, 0]
        moved = tilt.apply(breath.at(local, across, bounds[1] - bounds[0]))
        sides.append(moved.reshape(points.shape))
    left = 1 / (1 + np.exp(-(points[..., :1] - middle[0]) / 14))
    motion = sides[0] * (1 - left) + sides[-1] * left

    # Random detail, gentler where the breath is shallow and always gentler than it is wide.
    strength = rng.uniform(0.3, 1.0) * np.clip(amplitude / 15, 0.25, 1)
    detail = np.zeros_like(motion)
    for scale, peak in ((34.0, 3.0), (19.0, 1.5), (10.0, 0.6)):
        for k in range(3):
            amount = strength * peak * rng.uniform(0.3, 1.0)
            amount *= roughness if scale < ROUGH_MM else 1
            detail[..., k] += amount * smooth_noise(rng, lattice, scale)
    turn = Rotation.from_rotvec(np.radians(rng.normal(0, 1.5 * min(1, amplitude / 10), 3)))
    motion += turn.apply((points - middle).reshape(-1, 3)).reshape(points.shape)
    motion -= points - middle
    while _stretch(motion + detail, lattice).min() < 0.15:
        detail *= 0.75
        motion *= 0.95
    return motion + detail


@dataclass(frozen=True)
class _Breath:
    """How one lung breathes in: mm of motion down, forward and outward, and their shape."""

    down: float
    forward: float
    outward: float
    power: float
    back: float

    @classmethod
    def draw(cls, rng, amplitude: float) -> _Breath:
        return cls(
            down=amplitude,
            forward=min(25.0, amplitude * rng.uniform(0.05, 0.8)),
            outward=min(12.0, amplitude * rng.uniform(0.02, 0.4)),
            power=rng.uniform(1.0, 2.0),
            back=rng.uniform(-0.1, 0.5),
        )

    def varied(self, rng, share: float) -> _Breath:
        """The breath of one lung that moves this share of the way down."""
        return replace(
            self,
            down=self.down * share,
            forward=self.forward * rng.uniform(0.7, 1.1),
            outward=self.outward * rng.uniform(0.6, 1.2),
            back=self.back + rng.uniform(-0.1, 0.1),
        )

    def at(self, local, across, size) -> np.ndarray:
        """Motion (N, 3) at points (N, 3) relative to the lung's centre, for a lung of this size.

        across (N,): mm to the left of the patient's middle.
        """
        level = np.clip(0.5 - local[:, 2] / size[2], 0, None)
        below = np.maximum(level - 1, 0)
        level = np.minimum(level, 1) ** self.power + 0.3 * np.tanh(below * self.power / 0.3)
        behind = np.tanh(local[:, 1] / (0.5 * size[1]))
        belly = 0.25 + 0.75 * np.exp(-((local[:, 2] / (0.6 * size[2])) ** 2))
        return np.stack(
            [
                self.outward * np.tanh(across / (0.9 * size[0])) * belly,
                -self.forward * 0.5 * (1 - behind) * belly,
                -self.down * level * (1 + self.back * behind) / (1 + abs(self.back)),
            ],
            axis=1,
        )


def _bounds(lungs: Volume, labels) -> np.ndarray:
    """Lowest and highest LPS corner (2, 3) of these labels."""
    found = ndimage.find_objects(np.isin(lungs.array, labels).astype(np.uint8))[0]
    corners = [[s.start for s in found[::-1]], [s.stop - 1 for s in found[::-1]]]
    return np.sort(lungs.grid.to_world(np.array(corners)), axis=0)


def _slid(rng, motion, anatomy: Anatomy, lattice: Grid) -> np.ndarray:
    """The body's motion: along the rib cage it lags behind the lung, across it goes with it."""
    wall = Volume(anatomy.wall, anatomy.image.grid).sample(lattice.points())
    wall = ndimage.gaussian_filter(wall, 1.0)
    normal = np.stack(np.gradient(wall, *lattice.spacing[::-1])[::-1], axis=-1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 0.3)
    along = motion[..., 2:] * (np.array([0.0, 0.0, 1.0]) - normal[..., 2:] * normal)
    lag = rng.uniform(0.4, 0.95) / (1 + np.exp(-(wall + 9) / 3.5))
    return motion - lag[..., None] * along


def _stretch(motion, lattice: Grid) -> np.ndarray:
    """Jacobian determinant (z, y, x) of x + u(x) at the nodes."""
    gradient = np.gradient(motion, *lattice.spacing[::-1], axis=(0, 1, 2))
    return np.linalg.det(np.stack(gradient[::-1], axis=-1) + np.eye(3))


def _fine(motion, lattice: Grid, grid: Grid) -> np.ndarray:
    """Motion at the lattice nodes, (z, y, x, 3) in mm, interpolated on the grid."""
    return np.stack([interpolate(motion[..., k], lattice, grid) for k in range(3)], axis=-1)


def _moved(rng, anatomy: Anatomy, motion, body_motion, stretch, density: bool):
    """The other state: HU (z, y, x) and its lung mask; both layers sampled where they come from."""
    grid = anatomy.image.grid
    points = _index_points(motion, grid)
    inside = _sampled(anatomy.inside, points)
    body = _sampled(anatomy.body, _index_points(body_motion, grid))
    share = np.where(inside > 0.004, inside, 0)
    to_density = 1000.0  # the layers are mixed in densities: HU + 1000
    image = (1 - share) * (body + to_density)

    lung = anatomy.image.array + to_density - (1 - anatomy.inside) * (anatomy.body + to_density)
    found = share > 0
    box = ndimage.find_objects((anatomy.inside > 0).astype(np.uint8))[0]
    box = tuple(slice(max(s.start - 8, 0), s.stop + 8) for s in box)
    spline = ndimage.spline_filter(lung[box], order=3, mode="mirror", output=np.float32)
    corner = np.array([s.start for s in box])[:, None]
    value = ndimage.map_coordinates(
        spline, points[:, found] - corner, order=3, mode="nearest", prefilter=False
    )
    if density:
        lattice = lattice_over(grid, _LATTICE)
        change = interpolate(np.clip(stretch, 0.3, 4), lattice, grid)[found]
        # Regions fill unevenly, and patients do not breathe the same way twice.
        uneven = np.exp(rng.uniform(0, 0.08) * smooth_noise(rng, grid, 40))[found]
        change = change ** rng.uniform(0.7, 1.0) * rng.uniform(0.9, 1.1) * uneven
        # Vessels are full of blood in both states; only what holds air changes.
        airy = np.clip((600 - value / np.maximum(share[found], 0.1)) / 400, 0, 1)
        value = value * (1 + (change - 1) * airy)
    image[found] += np.maximum(value, 0)
    return (image - to_density).astype(np.float32), inside > 0.5


def _scanned(rng, state: np.ndarray, noise_hu: float | None) -> np.ndarray:
    """The state as a scanner shows it: its kernel's blur and its noise (z, y, x)."""
    # Drawn in any case, so that the noise asked for changes nothing that is drawn later.
    sd = np.exp(rng.uniform(np.log(10), np.log(50)))
    blur, grain = rng.uniform(0.3, 0.8), rng.uniform(0.4, 1)  # voxels
    seed = rng.integers(2**32)
    if noise_hu == 0:
        return state.astype(np.float32)
    sd = sd if noise_hu is None else noise_hu
    scanned = ndimage.gaussian_filter(state, blur, truncate=3)
    return noisy(np.random.default_rng(seed), scanned, grain, sd).astype(np.float32)


def _with_lobes(motion, lobes: LobeSliding, anatomy: Anatomy) -> np.ndarray:
    """The motion (z, y, x, 3), mm, of the moved state's voxels, and then that of the lobes."""
    grid = anatomy.image.grid
    still = grid.points() + motion
    lungs = anatomy.inside > 0
    inside = _sampled(lungs.astype(np.float32), _index_points(motion, grid)) > 0
    whole = motion.copy()
    whole[inside] += lobes(still[inside]) - still[inside]
    return whole


def followed_back(points: np.ndarray, motion: DisplacementField) -> np.ndarray:
    """The points (N, 3), LPS mm, that a motion takes to these, by fixed-point iteration."""
    found = points - motion.sample(points)
    active = np.arange(len(points))
    for _ in range(300):
        miss = points[active] - motion.transform_points(found[active])
        found[active] += miss
        active = active[np.abs(miss).max(axis=1) > _TOLERANCE / 10]
        if not len(active):
            break
    return found


def _landmarks(anatomy, motion, field, fixed_lungs, swap, lobes: LobeSliding | None):
    """Branch points in fixed and moving, where the whole neighbourhood belongs to the lung."""
    grid = field.grid
    u = DisplacementField(motion, grid)
    deep = Volume(ndimage.binary_erosion(fixed_lungs, np.ones((3, 3, 3))), grid)
    if lobes:
        still = anatomy.landmarks[np.abs(lobes.distance.sample(anatomy.landmarks)) > CLEAR_MM]
        moved = followed_back(lobes(still, back=True), u)
        fixed, moving = (still, moved) if swap else (moved, still)
    elif swap:
        fixed = anatomy.landmarks
        moving = field.transform_points(fixed)
    else:
        moving = anatomy.landmarks
        fixed = followed_back(moving, u)
    kept = deep.sample(fixed, outside=0) > 0.999
    kept &= grid.contains(moving, margin=0)
    return fixed[kept], moving[kept]


def _inverted(motion, lattice: Grid) -> np.ndarray:
    """v with v(y) = -u(y + v(y)) at the lattice nodes, (z, y, x, 3), by fixed-point iteration."""
    back = -motion
    for _ in range(60):
        points = _index_points(back, lattice)
        found = np.stack([_sampled(-motion[..., k], points) for k in range(3)], axis=-1)
        change = np.abs(found - back).max()
        back = found
        if change < 10 * _TOLERANCE:
            break
    return back


def _inverted_within(mask, motion, motion_fine, lattice: Grid, grid: Grid) -> np.ndarray:
    """The inverse (N, 3) at the N voxels of a mask (z, y, x), exact to the tolerance."""
    value = _fine(_inverted(motion, lattice), lattice, grid)[mask].astype(np.float64)
    place = np.argwhere(mask)
    scale = np.asarray(grid.spacing)
    active = np.arange(len(place))
    for _ in range(200):
        points = (place[active] + (value[active] / scale)[:, ::-1]).T
        found = -np.stack([_sampled(motion_fine[..., k], points) for k in range(3)], axis=-1)
        miss = np.abs(found - value[active]).max(axis=1)
        value[active] = found
        active = active[miss > _TOLERANCE]
        if not len(active):
            break
    return value


def _index_points(motion, grid: Grid) -> np.ndarray:
    """Array indices (3, z, y, x) of x + u(x) for an upright grid."""
    index = np.indices(grid.shape, dtype=np.float64)
    for k in range(3):
        index[k] += motion[..., 2 - k] / grid.spacing[2 - k]
    return index


def _sampled(array, points) -> np.ndarray:
    """Values at array indices (3, ...), linear; beyond the array its edge continues."""
    return ndimage.map_coordinates(array, points, order=1, mode="nearest")
