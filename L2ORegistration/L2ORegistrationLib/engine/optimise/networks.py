"""The U-Nets that say what an optimisation step should be, or what it should be made of.

`Falta2022Network` is the recurrent network of the paper (45 channels in, 13 out): it proposes the
steps. `L2ONetwork` is ours: on each level it weighs the system whose solution is the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import nn

# Corners of a cube (x, y, z), in units of its half-width: where the paper samples dissimilarities.
OFFSETS = tuple((x, y, z) for z in (-1, 1) for y in (-1, 1) for x in (-1, 1))
HIDDEN_FALTA2022 = 10
SAMPLE_GAINS = (20.0, 100.0, 200.0, 400.0)  # by the order of the difference; 0 is the mean
DISPLACEMENT_GAIN = 10.0  # in the paper's coordinates a voxel is 0.02


class Falta2022Network(nn.Module):
    """The paper's U-Net: 3 + 24 + 8 + 10 channels in, 3 + 10 out, 254,493 parameters.

    Channels in: displacement (3), displacement + offset of the eight samples (24), hidden state
    (10), their dissimilarities (8). Out: the new displacement in normalised coordinates
    and the new hidden state, both through tanh, so within [-1, 1]. Widths 16/24/24/32 down,
    32/24/24/24 up and 24/16/32 at full resolution; four halvings by averages.
    """

    inputs, hidden = 45, HIDDEN_FALTA2022

    def __init__(self):
        super().__init__()
        down, up, last = (16, 24, 24, 32), (32, 24, 24, 24), (24, 16)
        self.down = nn.ModuleList(block(i, o) for i, o in zip((self.inputs, *down), down))
        skips = (0, *down[:0:-1])
        self.up = nn.ModuleList(block(i + s, o) for i, s, o in zip((down[-1], *up), skips, up))
        self.last = nn.Sequential(
            *(block(i, o) for i, o in zip((up[-1] + down[0], *last), last)),
            nn.Conv3d(last[-1], 32, 3, padding=1),
            InstanceNorm(32),
            nn.ReLU(inplace=True),
            nn.Conv3d(32, 3 + self.hidden, 1),
            nn.Tanh(),
        )
        _tell_apart(self.down[0][0])
        # Untrained it changes nothing, instead of moving every voxel by tens of millimetres.
        nn.init.zeros_(self.last[-2].weight[:3])
        nn.init.zeros_(self.last[-2].bias[:3])

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, 45, D, H, W) -> displacement (N, 3, D, H, W), hidden state (N, 10, D, H, W)."""
        skips, x = [], inputs
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = _halve(x)
        for block in self.up:
            x = block(x)
            skip = skips.pop()
            x = torch.cat((_resize(x, skip.shape[2:]), skip), dim=1)
        x = self.last(x)
        return x[:, :3], x[:, 3:]


def _tell_apart(convolution: nn.Conv3d) -> None:
    """Begin with weights for which the eight dissimilarities of a voxel differ.

    Only their differences tell a direction, but these are small against their mean, and the paper's
    network would have to learn for long to see them. So its first weights, drawn at random, apply
    to the mean, slopes and mixed differences of the samples, each scaled to about one. A change of
    basis: what the network can become is the same.
    """
    signs = torch.tensor(OFFSETS, dtype=torch.float32)
    basis = [
        SAMPLE_GAINS[order] / len(signs) * signs[:, list(axes)].prod(dim=1)
        for order in range(4)
        for axes in combinations(range(3), order)
    ]
    with torch.no_grad():
        weight = convolution.weight
        weight[:, -8:] = torch.einsum("ocdhw,cs->osdhw", weight[:, -8:], torch.stack(basis))
        weight[:, :3] *= DISPLACEMENT_GAIN


class L2ONetwork(nn.Module):
    """A `Weigher` for each level of the pyramid, the coarsest first.

    ensemble: how many a level has; where there are several, what they say is averaged.
    """

    LEVELS = 3

    def __init__(self, width: int = 16, ensemble: Sequence[int] = (1,) * LEVELS):
        super().__init__()
        self.width, self.ensemble = width, tuple(ensemble)
        self.levels = nn.ModuleList(
            Weigher(width) if count == 1 else Ensemble(Weigher(width) for _ in range(count))
            for count in self.ensemble
        )


class Ensemble(nn.ModuleList):
    """Networks of one kind that were trained apart: the mean of what they say is less by chance."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.stack([network(inputs) for network in self]).mean(dim=0)


class Weigher(nn.Module):
    """A U-Net that reads a Gauss-Newton system; returns how far to believe it, how stiff to be.

    Channels in: logarithms of the evidence's strength, of the mismatch and of the pull that is
    left; where there is evidence (1); logarithms of the field's curvature and of how that curves;
    signed distance to the fixed lung surface, inside (1); logarithm of the stiffness. Out:
    logarithms of what multiplies the evidence, the curvature's penalty and that of its change, each
    at most MOST either way; untrained 0, so plain Gauss-Newton.
    """

    inputs = 9
    MOST = 2.5

    def __init__(self, width: int):
        super().__init__()
        w0, w1, w2 = width, width * 3 // 2, width * 2
        self.encode0 = nn.Sequential(_grouped(self.inputs, w0), _grouped(w0, w0))
        self.encode1 = nn.Sequential(_grouped(w0, w1), _grouped(w1, w1))
        self.encode2 = nn.Sequential(_grouped(w1, w2), _grouped(w2, w2))
        self.decode1 = _grouped(w2 + w1, w1)
        self.decode0 = _grouped(w1 + w0, w0)
        self.head = nn.Conv3d(w0, 3, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, 9, D, H, W) -> (N, 3, D, H, W)."""
        x0 = self.encode0(inputs)
        x1 = self.encode1(_halve(x0))
        x = self.encode2(_halve(x1))
        x = self.decode1(torch.cat((_resize(x, x1.shape[2:]), x1), dim=1))
        x = self.decode0(torch.cat((_resize(x, x0.shape[2:]), x0), dim=1))
        return self.MOST * torch.tanh(self.head(x) / self.MOST)


class InstanceNorm(nn.InstanceNorm3d):
    """Instance norm that also takes a single voxel, to which small lungs come down by halving."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x[0, 0].numel() > 1:
            return super().forward(x)
        x = torch.zeros_like(x)  # a single voxel is its own mean
        return x if self.bias is None else x + self.bias.view(1, -1, 1, 1, 1)


def _grouped(inputs: int, outputs: int) -> nn.Sequential:
    """Group norm, because instance norm would take away what is the same everywhere: the noise."""
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1),
        nn.GroupNorm(4, outputs),
        nn.LeakyReLU(0.1, inplace=True),
    )


def block(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3x3 and a 1x1x1 convolution, each with instance norm and ReLU (the paper's block)."""
    layers = []
    for size, kernel in ((inputs, 3), (outputs, 1)):
        layers += [
            nn.Conv3d(size, outputs, kernel, padding=kernel // 2),
            InstanceNorm(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _halve(x: torch.Tensor) -> torch.Tensor:
    """Averages of 2x2x2 voxels, of what is left at the end of odd sizes; a single layer stays."""
    return F.avg_pool3d(x, [min(2, n) for n in x.shape[2:]], ceil_mode=True)


def _resize(x: torch.Tensor, size) -> torch.Tensor:
    return F.interpolate(x, size=tuple(size), mode="trilinear", align_corners=False)
