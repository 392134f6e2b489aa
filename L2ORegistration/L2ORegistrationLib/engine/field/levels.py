"""One level of the pyramid: features, lung surfaces and the grid on which the field lives.

A level has features with spacing h and a field with spacing r h: each field voxel sits over exactly
r x r x r feature voxels (r = 2 of MIND, 4 to 6 of contrast, and 1 in the paper). Fields
here are torch tensors (3, d, h, w), components (x, y, z) in LPS mm on the world-aligned field grid
of the level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from dataclasses import field as dataclass_field
from functools import cached_property

import torch
import torch.nn.functional as F

from ...core.geometry import Grid
from ..images.spline import coefficients
from .operations import interpolated, sample_points
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
CONTRAST_MM = 3.0  # local contrast is measured within the lungs and this far beyond
SHOWN = 0.5  # of a field voxel by both images: where it is less, nothing is known
REPETITION = 0.5  # evidence that is seen n times counts n^-0.5 as much each time
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


def _blend(ratio: int) -> torch.Tensor:
    """How the voxels of a block blend the 3x3x3 field voxels around it: (ratio^3, 27), linear."""
    offset = (torch.arange(ratio) + 0.5) / ratio - 0.5
    line = torch.stack(((-offset).clamp(min=0), 1 - offset.abs(), offset.clamp(min=0)), dim=1)
    return torch.kron(torch.kron(line, line), line)
