"""VoxelMorph++: a U-Net, a heatmap for each keypoint, a spline through them, then Adam on MIND.

Heinrich and Hansen, "Voxelmorph++: going beyond the cranial vault with keypoint supervision and
multi-channel instance optimisation" (WBIR 2022). What differs from the publication: the network
sees both lungs on the patient's axes after the alignment of their surfaces, on 3 mm voxels, where
the authors resample expiration and inspiration to different spacings; lengths are therefore counted
in voxels, so that lungs of any size will do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy import interpolate
from torch import nn

from ..field.levels import MindLevel
from ..field.lung_images import UNIT_VOXELS, LungImages, padded
from ..field.operations import sample, sample_points
from .networks import InstanceNorm, block

GAIN = 2.0  # images are in units of 500 HU
HALVINGS = 4
CELLS = 11  # of a heatmap along each axis
REACH = 0.3  # units from the middle of a heatmap to its face
POINTS = 2048  # at which a field is predicted
SMOOTHING = 0.1  # of the spline through them
SPLINE_STEP = 2  # voxels between the nodes at which the spline is evaluated
_CHUNK = 256  # heatmaps at once


class VoxelMorph(nn.Module):
    """The network: 901,888 parameters of the U-Net and 462,417 of the heatmap head."""

    def __init__(self):
        super().__init__()
        self.features = FeatureNetwork()
        self.head = HeatmapHead()

    def forward(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        points: torch.Tensor,
        unit: float = UNIT_VOXELS,
    ) -> torch.Tensor:
        """Displacements (K, 3) of points (K, 3) in fixed; both (x, y, z) in voxels of the images.

        fixed, moving: (d, h, w), 0 outside the lungs, 1 in water; unit: as of `LungImages`.
        """
        images = padded(GAIN * torch.stack((fixed, moving))[None], 2**HALVINGS)
        found = sample_points(self.features(images)[0].float(), (points + 0.5) / 2 - 0.5)
        parts = [self.head(part) for part in found.split(_CHUNK)]
        return torch.cat(parts) * unit


class FeatureNetwork(nn.Module):
    """A U-Net from two images (N, 2, D, H, W) to 64 features at half their resolution.

    Maxima of 2x2x2 voxels on the way down, nearest neighbours on the way up. Sizes are multiples
    of 16.
    """

    def __init__(self):
        super().__init__()
        down, up, last = (32, 48, 48, 64), (64, 48, 48, 48), (48, 32, 64)
        self.down = nn.ModuleList(block(i, o) for i, o in zip((2, *down), down))
        skips = (0, *down[:0:-1])
        self.up = nn.ModuleList(block(i + s, o) for i, s, o in zip((down[-1], *up), skips, up))
        self.last = nn.Sequential(*(block(i, o) for i, o in zip((up[-1], *last), last)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 2, D, H, W) -> (N, 64, D / 2, H / 2, W / 2)."""
        skips = []
        for layer in self.down:
            x = layer(x)
            skips.append(x)
            x = F.max_pool3d(x, 2)
        for layer in self.up:
            x = layer(x)
            if len(skips) > 1:  # full resolution is not needed
                x = torch.cat((F.interpolate(x, scale_factor=2, mode="nearest"), skips.pop()), 1)
        return self.last(x)


class HeatmapHead(nn.Module):
    """From the features of a point to where it goes: a heatmap of 11^3 cells, and its mean."""

    def __init__(self):
        super().__init__()
        self.grow = nn.Sequential(
            nn.ConvTranspose3d(64, 16, 7),
            *_normalised(16),
            nn.Conv3d(16, 32, 3, padding=1),
            *_normalised(32),
            nn.Conv3d(32, 32, 3, padding=1),
        )
        self.shape = nn.Sequential(
            nn.Conv3d(32, 32, 3, padding=1),
            *_normalised(32),
            nn.Conv3d(32, 32, 3, padding=1),
            *_normalised(32),
            nn.Conv3d(32, 16, 3, padding=1),
            *_normalised(16),
            nn.Conv3d(16, 1, 3, padding=1),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (K, 64) -> displacements (K, 3), (x, y, z), within 0.273 units each way."""
        x = self.grow(features.view(-1, 64, 1, 1, 1))
        x = F.interpolate(x, size=(CELLS,) * 3, mode="trilinear", align_corners=False)
        return expected(self.shape(x)[:, 0].float())


def expected(heatmaps: torch.Tensor) -> torch.Tensor:
    """The mean position (K, 3), (x, y, z), under the softmax of heatmaps (K, 11, 11, 11)."""
    weights = heatmaps.flatten(1).softmax(dim=1).view_as(heatmaps)
    centres = REACH * ((2 * torch.arange(CELLS, device=heatmaps.device) + 1) / CELLS - 1)
    sums = ((1, 2), (1, 3), (2, 3))
    return torch.stack([weights.sum(dim=axes) @ centres for axes in sums], dim=1)


def spread(
    points: np.ndarray,
    values: np.ndarray,
    shape: tuple[int, int, int],
    unit: float = UNIT_VOXELS,
    step: int = SPLINE_STEP,
) -> np.ndarray:
    """A smoothing thin-plate spline through values (K, 3) at points (K, 3), over a lattice.

    points: (x, y, z) in voxels of the lattice (d, h, w), whose sizes are multiples of `step`.
    Returns (3, d', h', w'), each node in the middle of step^3 voxels. In three dimensions the thin
    plate's kernel is the distance itself; SMOOTHING is for lengths in units.
    """
    spline = interpolate.RBFInterpolator(
        points / unit, values, kernel="linear", smoothing=SMOOTHING, degree=1
    )
    axes = [(np.arange(n // step) + 0.5) * step - 0.5 for n in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    nodes = np.stack((x, y, z), axis=-1)
    found = spline(nodes.reshape(-1, 3) / unit).reshape(nodes.shape)
    return np.moveaxis(found, -1, 0).astype(np.float32)


class VoxelMorphOptimiser:
    """Predicts the motion that is left, at random points of the fixed lungs, and spreads it."""

    def __init__(self, network: VoxelMorph):
        self.network = network

    def iterate(
        self, level: LungImages, field: torch.Tensor, iterations: int
    ) -> Iterator[tuple[torch.Tensor, float]]:
        """Improve field (3, d, h, w) in mm; yields (field, mean squared difference before it)."""
        lungs = level.fixed.nonzero().flip(1)
        chosen = np.random.default_rng(0).permutation(len(lungs))[:POINTS]
        points = lungs[torch.from_numpy(chosen).to(lungs.device)].float()
        for _ in range(iterations):
            moving = level.moved(field)
            moved = self.network(level.fixed, moving, points, level.unit)
            # More nodes than the images of usual voxels need would only take longer.
            step = max(1, round(SPLINE_STEP * level.unit / UNIT_VOXELS))
            found = points.cpu().numpy(), moved.cpu().numpy()
            nodes = spread(*found, level.shape, level.unit, step)
            further = level.sample_field(torch.from_numpy(nodes).to(field.device)) * level.spacing
            field = level.after(field, further)
            yield field, level.mismatch(moving)


class InstanceOptimiser:
    """Adam on the field of one pair: MIND within the lungs and the field's roughness.

    The weights of the data and of the roughness are those of the publication, for features and a
    field of half the images' resolution.
    """

    RATE, BETAS = 1.0, (0.9, 0.999)  # of Adam; the rate in voxels
    MEANS = 3
    DATA, ROUGHNESS = 12.0, 0.65

    def iterate(
        self, level: MindLevel, field: torch.Tensor, iterations: int
    ) -> Iterator[tuple[torch.Tensor, float]]:
        """Improve field (3, d, h, w) in mm; yields (field, dissimilarity before the step).

        level: features and field on one lattice.
        """
        # Inference tensors cannot take part in a gradient, so what it needs is copied.
        with torch.inference_mode(False):
            features = [f.permute(3, 0, 1, 2).clone() for f in (level.fixed, level.moving)]
        values = field / level.spacing
        # By hand: what torch.optim loads with its Adam takes longer than all the iterations.
        mean, square = torch.zeros_like(values), torch.zeros_like(values)
        (first, second), rate = self.BETAS, self.RATE
        for number in range(1, iterations + 1):
            mismatch, gradient = self._gradient(values, *features)
            mean = first * mean + (1 - first) * gradient
            square = second * square + (1 - second) * gradient.square()
            spread = (square / (1 - second**number)).sqrt() + 1e-8
            values = values - rate * mean / (1 - first**number) / spread
            yield self._smoothed(values) * level.spacing, mismatch

    def _gradient(self, values, fixed, moving) -> tuple[float, torch.Tensor]:
        """The mean squared feature difference, and the gradient of the whole cost."""
        with torch.inference_mode(False), torch.enable_grad():
            values = values.clone().requires_grad_()
            smoothed = self._smoothed(values)
            mismatch = (sample(moving, smoothed) - fixed).square().mean()
            cost = self.DATA * mismatch + self.ROUGHNESS * roughness(smoothed)
            return float(mismatch.detach()), torch.autograd.grad(cost, values)[0]

    def _smoothed(self, field: torch.Tensor) -> torch.Tensor:
        for _ in range(self.MEANS):
            field = F.avg_pool3d(field, 3, stride=1, padding=1)
        return field


def roughness(field: torch.Tensor) -> torch.Tensor:
    """The mean squared difference of neighbours along each axis, summed, of (3, d, h, w)."""
    return sum(torch.diff(field, dim=axis).square().mean() for axis in (1, 2, 3))


def _normalised(channels: int) -> tuple[nn.Module, nn.Module]:
    return InstanceNorm(channels), nn.ReLU(inplace=True)
