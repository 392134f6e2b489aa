"""LapIRN: three networks on ever finer images, each adding to the field of those before it.

Mok and Chung, "Large deformation diffeomorphic image registration with Laplacian pyramid networks"
(MICCAI 2020), in both variants: displacements, or velocities that are integrated. What differs from
the publication, which is about brains: the networks see both lungs on 3 mm voxels after the
alignment of their surfaces, and lengths are counted in voxels, so that lungs of any size will do.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from ..field.lung_images import UNIT_VOXELS, LungImages, padded
from ..field.operations import sample

LEVELS = 3
WIDTH = 28
SLOPE = 0.2  # of the rectifiers
REACH = 0.4  # units: as far as one level moves
SQUARINGS = 7
MULTIPLE = 8  # of the images' sizes: the coarsest level, at a quarter, halves once more


class LapIRN(nn.Module):
    """The networks of all levels, the coarsest first: 923,748 parameters.

    diffeomorphic: predict velocities; it is kept with the weights. An untrained level adds nothing.
    """

    def __init__(self, diffeomorphic: bool = False):
        super().__init__()
        self.levels = nn.ModuleList(PyramidLevel(2 if k == 0 else 5) for k in range(LEVELS))
        self.register_buffer("diffeomorphic", torch.tensor(diffeomorphic))

    def forward(
        self, fixed: torch.Tensor, moving: torch.Tensor, levels: int = LEVELS
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The motion after the first `levels` levels, on the lattice of the last of them.

        fixed, moving: (d, h, w), sizes multiples of 8. Returns the displacement (3, ., ., .), in
        voxels of that lattice, (x, y, z), and what the level predicts: the same, or its velocity.
        """
        predicted, embedding, motion = None, None, None
        for number in range(levels):
            factor = 2 ** (LEVELS - 1 - number)
            own_fixed, own_moving = halved(fixed, factor), halved(moving, factor)
            if number == 0:
                inputs = torch.stack((own_moving, own_fixed))
            else:
                predicted, motion = enlarged(predicted), enlarged(motion)
                warped = sample(own_moving[None], motion)
                inputs = torch.cat((warped, own_fixed[None], predicted * factor / UNIT_VOXELS))
            embedding, output = self.levels[number](inputs[None], embedding)
            output = output[0] * UNIT_VOXELS / factor
            predicted = output if predicted is None else predicted + output
            motion = integrated(predicted) if self.diffeomorphic else predicted
        return motion, predicted


class PyramidLevel(nn.Module):
    """One level: features, residual blocks at half the resolution, and back."""

    def __init__(self, inputs: int):
        super().__init__()
        self.encode = nn.Sequential(_convolution(inputs, WIDTH), _rectifier(), _convolution())
        self.down = _convolution(stride=2)
        blocks = [layer for _ in range(5) for layer in (ResidualBlock(), _rectifier())]
        self.blocks = nn.Sequential(*blocks)
        self.up = nn.ConvTranspose3d(WIDTH, WIDTH, 2, stride=2, bias=False)
        self.decode = nn.Sequential(
            _convolution(2 * WIDTH, WIDTH), _rectifier(), _convolution(WIDTH, 3)
        )
        nn.init.zeros_(self.decode[-1].weight)

    def forward(
        self, inputs: torch.Tensor, below: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """inputs (N, C, D, H, W), embedding of the level below (N, 28, D/2, H/2, W/2) or None.

        Returns the embedding (N, 28, D, H, W) and the field (N, 3, D, H, W) in units.
        """
        features = self.encode(inputs)
        x = self.down(features)
        x = self.up(self.blocks(x if below is None else x + below))
        field = self.decode(torch.cat((x, features), dim=1))
        return x, REACH * F.softsign(field.float())


class ResidualBlock(nn.Module):
    """Two convolutions after their rectifiers, added to what came in."""

    def __init__(self):
        super().__init__()
        self.change = nn.Sequential(
            nn.LeakyReLU(SLOPE), _convolution(), nn.LeakyReLU(SLOPE), _convolution()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 28, D, H, W) -> the same."""
        return x + self.change(x)


def _convolution(inputs: int = WIDTH, outputs: int = WIDTH, stride: int = 1) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def _rectifier() -> nn.Module:
    return nn.LeakyReLU(SLOPE)


def halved(image: torch.Tensor, factor: int) -> torch.Tensor:
    """An image (d, h, w) averaged over blocks of factor^3 voxels, a power of two."""
    return image if factor == 1 else F.avg_pool3d(image[None], factor)[0]


def enlarged(field: torch.Tensor) -> torch.Tensor:
    """A field (3, d, h, w) in its voxels on the nested lattice of twice the size, in its voxels."""
    return 2 * F.interpolate(field[None], scale_factor=2, mode="trilinear", align_corners=False)[0]


def integrated(velocity: torch.Tensor) -> torch.Tensor:
    """The displacement after one unit of time at a constant velocity (3, d, h, w), in voxels."""
    field = velocity / 2**SQUARINGS
    for _ in range(SQUARINGS):
        field = field + sample(field, field)
    return field


class LapIRNOptimiser:
    """Predicts the motion that is left in one go."""

    def __init__(self, network: LapIRN):
        self.network = network

    def iterate(
        self, level: LungImages, field: torch.Tensor, iterations: int
    ) -> Iterator[tuple[torch.Tensor, float]]:
        """Improve field (3, d, h, w) in mm; yields (field, mean squared difference before it)."""
        depth, height, width = level.shape
        for _ in range(iterations):
            moving = level.moved(field)
            images = (padded(image.clamp(0, 1), MULTIPLE) for image in (level.fixed, moving))
            motion, _ = self.network(*images)
            field = level.after(field, motion[:, :depth, :height, :width] * level.spacing)
            yield field, level.mismatch(moving)
