"""One level of the pyramid: features, lung surfaces and the grid on which the field lives.

A level has features with spacing h (a multiple of the working spacing) and a field with spacing
r h: each field voxel sits over exactly r x r x r feature voxels (r = 2, and 1 in the paper). Fields
here are torch tensors (3, d, h, w), components (x, y, z) in LPS mm on the world-aligned field grid
of the level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from dataclasses import field as dataclass_field
from functools import cached_property, partial

import numpy as np
import torch
import torch.nn.functional as F

from ...core.geometry import Grid
from ..images.closer import CloserImages
from ..images.features import local_contrast, mind_ssc, pool, sharpened
from ..images.preprocessing import WorkingPair
from ..images.spline import coefficients
from .operations import interpolated, sample, sample_points
from .sampling import (
    channel_last,
    sampled_system,
    voxel_positions,
    with_gradient,
)

ACTIVE_MM = 6.0  # dissimilarities are read this far beyond the lung surface
# Robust weights 1 / (1 + (m / (OUTLIER median))^4): a half at twice the median. They, and what the
# next two say, were chosen on the stress pairs of "A sound step" in Testing/experiments.md.
OUTLIER = 2.0
LEAST_SHARED = 0.4  # share of a block's gradients that noise alone, or a wrong place, leaves
BESIDE_MM = 10.0  # lung this near to its surface says how well tissue matches there
NOISE_FLOOR = 1e-4  # MIND treats patch differences below 10 HU (root mean square) as flat
CONTRAST_MM = 3.0  # local contrast is measured within the lungs and this far beyond
SHOWN = 0.5  # of a field voxel by both images: where it is less, nothing is known
REACH_MM = 6.0  # how far what is measured there may depend on what lies around, and move
REPETITION = 0.5  # evidence that is seen n times counts n^-0.5 as much each time
INVERSION_STEPS = 8  # of the field that carries the fixed lungs along
DISTANCE_RANGE_MM = (-30.0, 15.0)


@dataclass
class Level:
    """Where a level's field lives and which of its voxels are worked on, all on one device.

    distance: signed distance (mm) to the fixed lungs at the field voxels, (1, d, h, w); spacing: of
    the field grid, mm; origin: LPS mm of its first voxel; active_nodes: (M,) flat indices of the
    field voxels that are worked on; voxels: (M, r^3) flat indices of the feature voxels under each;
    seen: (2, d, h, w), the share of each field voxel that fixed shows, and moving, where a field is
    0; None: all of it.
    """

    distance: torch.Tensor
    spacing: float
    origin: tuple[float, float, float]
    active_nodes: torch.Tensor
    voxels: torch.Tensor
    seen: torch.Tensor | None = dataclass_field(default=None, kw_only=True)

    usual_mismatch = 1.0  # squared feature differences between two scans are about so large

    @property
    def shape(self) -> tuple[int, int, int]:
        """(d, h, w) of the field."""
        return tuple(self.distance.shape[1:])

    @property
    def ratio(self) -> int:
        """Feature voxels per field voxel along an axis."""
        return round(self.voxels.shape[1] ** (1 / 3))

    @property
    def grid(self) -> Grid:
        """The field grid."""
        return Grid(self.shape[::-1], (self.spacing,) * 3, self.origin)

    def to(self, device: torch.device | str) -> Level:
        """The same on another device."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        tensors = {k: v for k, v in values.items() if isinstance(v, torch.Tensor)}
        return replace(self, **{k: v.to(device) for k, v in tensors.items()})

    def sample_field(self, field: torch.Tensor) -> torch.Tensor:
        """A field of another level (3, ., ., .) in mm, nested with this one, on this field grid."""
        return interpolated(field, self.shape)

    def displacements(self, field: torch.Tensor) -> torch.Tensor:
        """A field in mm at the feature voxels of the active nodes, (M r^3, 3), in those voxels.

        Linear between field voxels, the edge value beyond the outermost ones: `F.interpolate` for
        the active nodes alone, each a blend of the 3x3x3 field voxels around it.
        """
        padded = F.pad(field[None], (1,) * 6, mode="replicate")[0]
        _, height, width = padded.shape[1:]
        position = voxel_positions(self.active_nodes, self.shape)
        strides = torch.tensor((1, width, width * height), device=field.device)
        first = (position * strides).sum(dim=1, keepdim=True)
        steps = torch.arange(3, device=field.device)
        steps = steps[:, None, None] * strides[2] + steps[:, None] * strides[1] + steps
        around = padded.flatten(1)[:, first + steps.flatten()]  # (3, M, 27)
        fine = around @ _blend(self.ratio).to(field).T
        return fine.flatten(1).T / (self.spacing / self.ratio)

    def at_nodes(self, field: torch.Tensor) -> torch.Tensor:
        """A field (C, d, h, w) at the active nodes, (M, C)."""
        return field.flatten(1)[:, self.active_nodes].T

    def both_show(self, field: torch.Tensor) -> torch.Tensor:
        """Which active nodes both images show where a field (3, d, h, w), mm, leads: (M,)."""
        return self.seen_share(self.at_nodes(field)) > SHOWN

    def seen_share(self, shift: torch.Tensor) -> torch.Tensor:
        """How much of each active node both images show, 0 to 1, (M,); shift: (M, 3) mm."""
        if self.seen is None:
            return torch.ones_like(shift[:, 0])
        fixed, moving = self.seen
        place = voxel_positions(self.active_nodes, self.shape) + shift / self.spacing
        return fixed.flatten()[self.active_nodes] * sample_points(moving[None], place)[:, 0]

    @property
    def spline(self) -> torch.Tensor | None:
        """See `sampled_system`; None where moving is interpolated linearly."""
        return None

    def normal_equations(
        self, field: torch.Tensor, roughly: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the images say about a field (3, d, h, w) in mm: how to change it.

        Returns the mean squared feature differences (M,) of the active nodes and their
        Gauss-Newton systems (M, 9) for a step in mm (see `sampled_system`), weighted by how far
        the blocks are believed; zero where an image shows nothing. roughly: from every second
        voxel, whose neighbours show much the same, and without the spline.
        """
        seen = chessboard(self.ratio).nonzero()[:, 0].to(field.device) if roughly else None
        displacement = self.displacements(field).view(*self.voxels.shape, 3)
        fixed, moving = self.linearised
        parts = [fixed.view(*self.voxels.shape, -1), displacement, self.voxels, self.weight]
        fixed, displacement, voxels, weight = (
            part if part is None or seen is None else part.index_select(1, seen) for part in parts
        )
        spline = None if roughly else self.spline
        mismatch, system = sampled_system(fixed, moving, displacement, voxels, spline, weight)
        system *= self._belief(mismatch)
        if self.seen is not None:
            system *= self.seen_share(self.at_nodes(field))[:, None]
        # Noise makes gradients longer, and steps too short, but what both images share does not
        # know it: the matrix counts as far as they share it.
        trace = system[:, :3].sum(dim=1).clamp(min=1e-20)
        shared = (system[:, 9] / trace).clamp(LEAST_SHARED, 1)[:, None]
        spacing = self.spacing / self.ratio
        matrix, right = system[:, :6] * shared / spacing**2, system[:, 6:9] / spacing
        return mismatch, torch.cat((matrix, right), dim=1)


def active_voxels(distance: torch.Tensor, size, reach: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The field voxels (M,) nearer to the lungs than reach (mm) and the feature voxels under them.

    distance: (d, h, w) mm on the field grid; size: (D, H, W) of the features.
    """
    active_nodes = (distance < reach).flatten().nonzero().squeeze(1)
    ratio = size[0] // distance.shape[0]
    _, height, width = size
    x, y, z = (voxel_positions(active_nodes, distance.shape) * ratio).T
    steps = torch.arange(ratio, device=distance.device)
    within = ((steps[:, None, None] * height + steps[:, None]) * width + steps).flatten()
    return active_nodes, ((z * height + y) * width + x)[:, None] + within


def chessboard(ratio: int) -> torch.Tensor:
    """Every second voxel of a block of ratio^3, as bool."""
    steps = torch.arange(ratio)
    return (steps[:, None, None] + steps[:, None] + steps).flatten() % 2 == 0


@dataclass
class MindLevel(Level):
    """A level with MIND: what the optimisers see of a pair at one resolution.

    fixed, moving: features (D, H, W, 12) on the feature grid.
    """

    fixed: torch.Tensor
    moving: torch.Tensor

    usual_mismatch = 0.03
    weight = None  # all voxels count the same

    @classmethod
    def of(cls, fixed, moving, distance, lattice: Grid, seen=None) -> MindLevel:
        """From features (C, D, H, W) on the feature grid.

        distance: (d, h, w) mm, to the fixed lungs on the field grid; lattice: the field grid, one
        spacing for all axes; seen: see `Level`.
        """
        spacing = lattice.spacing[0]
        distance = distance.clamp(*DISTANCE_RANGE_MM)
        return cls(
            distance[None],
            spacing,
            lattice.origin,
            *active_voxels(distance, fixed.shape[1:], ACTIVE_MM + spacing / 2),
            channel_last(fixed),
            channel_last(moving),
            seen=seen,
        )

    @cached_property
    def linearised(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and gradients: fixed at active voxels (M r^3, 4 C), moving (D, H, W, 4 C)."""
        rows, voxels = self.fixed.flatten(0, 2), self.voxels.flatten()
        _, height, width, _ = self.fixed.shape
        parts = [rows.index_select(0, voxels)]
        for stride in (1, width, height * width):
            ends = ((voxels + way).clamp(0, len(rows) - 1) for way in (stride, -stride))
            after, before = (rows.index_select(0, end) for end in ends)
            parts.append(after.sub_(before).div_(2))
        return torch.cat(parts, dim=1), with_gradient(self.moving)

    def _belief(self, mismatch):
        return self.weights(mismatch)[:, None]

    def weights(self, mismatch: torch.Tensor) -> torch.Tensor:
        """How far blocks with these dissimilarities (M,) are believed: 0 to 1, (M,).

        What is in one scan only (disease, fluid) matches far worse than the rest of the lungs. A
        lung slides along the chest wall, which then matches worse than the lung beside it does and
        must not hold it back; where it does not slide, what lies outside helps.
        """
        distance = self.distance.flatten()[self.active_nodes]
        inside = distance < 0
        beside = mismatch[inside & (distance > -BESIDE_MM)]
        if not len(beside):
            return torch.ones_like(mismatch)
        usual = OUTLIER * mismatch[inside].median()
        usual = torch.where(inside, usual, beside.median()).clamp(min=1e-12)
        return 1 / (1 + (mismatch / usual) ** 4)


@dataclass
class ContrastLevel(Level):
    """A level with local contrast and its gradient: one plain sample a voxel, no offsets.

    fixed, moving: (D, H, W, 4) contrast and its gradient (x, y, z) per voxel; weight: (M, r^3);
    repeated: how many voxels of the working grid show one of the images' own; look_closer(field in
    mm): the same level of closer images, where there are some, which then is what is looked at not
    roughly.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    weight: torch.Tensor
    repeated: float = 1.0
    look_closer: Callable[[torch.Tensor], ContrastLevel] | None = None
    _closer: ContrastLevel | None = dataclass_field(default=None, init=False, repr=False)

    def normal_equations(
        self, field: torch.Tensor, roughly: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Level`."""
        if roughly or self.look_closer is None:
            return super().normal_equations(field, roughly)
        if self._closer is None:
            self._closer = self.look_closer(field)
        return self._closer.normal_equations(field)

    @property
    def linearised(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Contrast and gradients: fixed at the active voxels (M r^3, 4), moving (D, H, W, 4)."""
        return self.fixed.flatten(0, 2).index_select(0, self.voxels.flatten()), self.moving

    @cached_property
    def spline(self) -> torch.Tensor:
        """Coefficients (D, H, W) of the quadratic spline through moving's contrast."""
        return coefficients(self.moving[..., 0])

    def _belief(self, mismatch):
        return self.repeated**-REPETITION


class FeaturePyramid:
    """A `preprocessing.WorkingPair` on a device, from which levels are built one at a time.

    closer: the same images on a closer grid, where they are to be looked at so in the end.
    """

    def __init__(
        self,
        pair: WorkingPair,
        device: torch.device | str = "cpu",
        closer: CloserImages | None = None,
    ):
        self.grid, self.repeated, self.closer = pair.grid, pair.repeated, closer
        self.images = [torch.from_numpy(a).to(device) for a in (pair.fixed, pair.moving)]
        distances = (pair.fixed_distance, pair.moving_distance)
        self.distances = [torch.from_numpy(a).to(device) for a in distances]
        self.seen = None
        if pair.seen is not None:
            self.seen = torch.from_numpy(np.stack(pair.seen)).to(device)

    def mind_level(self, factor: int) -> MindLevel:
        """MIND at `factor` times the working spacing (even factors), field twice as coarse.

        MIND is computed at half that spacing and averaged over 2x2x2 voxels, as in the paper.
        """
        return self._level([feature_map(image, factor) for image in self.images], 2 * factor)

    def contrast_level(self, field: torch.Tensor, factor: int = 4) -> ContrastLevel:
        """Local contrast of the sharpened images, for a field `factor` times as coarse.

        field (3, d, h, w), mm, of any level: the motion so far. It carries the fixed lungs to where
        the contrast of moving is measured: two masks that are drawn differently would normalise the
        same tissue differently.
        """
        lungs = self.distances[0], self._carried(field, factor)
        near = [(distance < CONTRAST_MM).float() for distance in lungs]
        if self.seen is not None:
            near = [part * seen for part, seen in zip(near, self.seen)]
        return self._contrast_level(self.images, near, factor, self.repeated)

    def closer_contrast_level(self, field: torch.Tensor, factor: int = 4) -> ContrastLevel:
        """`contrast_level`, and that of the closer images where it is not looked at roughly."""
        level = self.contrast_level(field, factor)
        return replace(level, look_closer=self.closer and partial(self._closer_level, factor))

    def _closer_level(self, factor: int, field: torch.Tensor) -> ContrastLevel:
        """`contrast_level` of the closer images."""
        shape, device = self.closer.grid.shape, self.images[0].device
        distances = self.distances[0], self._carried(field, factor)
        distances = [interpolated(distance[None], shape)[0] for distance in distances]
        wanted = tuple((d < CONTRAST_MM + REACH_MM).cpu().numpy() for d in distances)
        images = [torch.from_numpy(image).to(device) for image in self.closer.on_grid(wanted)]
        # Soft, or rounding would let a voxel at just that distance count in one image only.
        near = [(CONTRAST_MM - distance + 0.5).clamp(0, 1) for distance in distances]
        if self.seen is not None:
            near = [part * seen for part, seen in zip(near, interpolated(self.seen.float(), shape))]
        return self._contrast_level(images, near, factor, self.closer.repeated)

    def _contrast_level(self, images, near, factor: int, repeated: float) -> ContrastLevel:
        """That of images on the working grid, or another one that covers the same.

        near: how much a voxel of either counts where contrast is measured, (D, H, W).
        """
        fixed, moving = (
            with_gradient(channel_last(local_contrast(sharpened(image), weight)))
            for image, weight in zip(images, near)
        )
        distance = pool(self.distances[0][None], factor)
        active_nodes, voxels = active_voxels(distance[0], fixed.shape[:3], CONTRAST_MM)
        weight = near[0].flatten()[voxels]
        lattice = self.grid.coarsened(factor)
        place = lattice.spacing[0], lattice.origin
        found = active_nodes, voxels, fixed, moving, weight, repeated
        return ContrastLevel(distance, *place, *found, seen=self._seen(factor))

    def _carried(self, field: torch.Tensor, factor: int) -> torch.Tensor:
        """The fixed lungs' distances (D, H, W) where a field (3, ., ., .), mm, takes them."""
        distance = self.distances[0]
        field = interpolated(field, [n // factor for n in distance.shape])
        field = field / (factor * self.grid.spacing[0])
        back = torch.zeros_like(field)
        for _ in range(INVERSION_STEPS):
            back = -sample(field, back)
        half = pool(distance[None], 2)
        back = interpolated(back, half.shape[1:]) * (factor / 2)
        # What the motion changes is added to the distances, so that no motion changes nothing.
        return distance + interpolated(sample(half, back) - half, distance.shape)[0]

    def masked_mind_level(self, factor: int = 2) -> MindLevel:
        """The paper's: masked MIND averaged over 2x2x2 voxels, field on the same grid.

        factor: working voxels in one of the grid, along an axis.
        """
        masks = ((pool(d[None], factor) < 0) for d in self.distances)
        features = [feature_map(i, factor) * m for i, m in zip(self.images, masks)]
        return self._level(features, factor)

    def _level(self, features, factor: int) -> MindLevel:
        distance = pool(self.distances[0][None], factor)[0]
        lattice = self.grid.coarsened(factor)
        return MindLevel.of(*features, distance, lattice, self._seen(factor))

    def _seen(self, factor: int) -> torch.Tensor | None:
        """`Level.seen` for field voxels of `factor` working voxels."""
        return None if self.seen is None else pool(self.seen.float(), factor)


def feature_map(image: torch.Tensor, factor: int) -> torch.Tensor:
    """MIND (12, D, H, W) of an image (D, H, W), at `factor` times its spacing; even factors."""
    return mind_ssc(pool(image[None], factor // 2)[0], floor=NOISE_FLOOR, factor=2)


def _blend(ratio: int) -> torch.Tensor:
    """How the voxels of a block blend the 3x3x3 field voxels around it: (ratio^3, 27), linear."""
    offset = (torch.arange(ratio) + 0.5) / ratio - 0.5
    line = torch.stack(((-offset).clamp(min=0), 1 - offset.abs(), offset.clamp(min=0)), dim=1)
    return torch.kron(torch.kron(line, line), line)
