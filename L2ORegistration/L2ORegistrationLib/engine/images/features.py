"""MIND-SSC: what a voxel's neighbourhood looks like, whatever its absolute intensity.

The modality independent neighbourhood descriptor in its self-similarity-context form (12
channels), the features of the paper's section 2.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F

CHANNELS = 12
SHARPER_THAN_VOXELS, SHARPENING = 0.8, 3.0  # width (sigma) and amount of what is made stronger
_TILE, _LARGE_TILE = (16, 64), (64, 256)  # voxels along z and y that are described at once
# The six neighbours of a voxel, (z, y, x); a channel compares two of them that are not opposite.
_NEIGHBOURS = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
_PAIRS = tuple(
    (a, b)
    for i, a in enumerate(_NEIGHBOURS)
    for b in _NEIGHBOURS[i + 1 :]
    if sum(abs(p - q) for p, q in zip(a, b)) == 2 and any(p + q for p, q in zip(a, b))
)


def _edges() -> dict[tuple[int, int, int], dict[int, tuple[int, int, int]]]:
    """The pairs as edges of an octahedron: way from end to end -> {channel: where it starts}.

    Each way is that of two parallel edges: images compared once along it serve two channels.
    """
    edges: dict = {}
    for channel, ends in enumerate(_PAIRS):
        start, end = sorted(ends)
        way = tuple(b - a for a, b in zip(start, end))
        edges.setdefault(way, {})[channel] = start
    return edges


_EDGES = _edges()


def mind_ssc(
    image: torch.Tensor,
    *,
    radius: int = 1,
    dilation: int = 2,
    floor: float = 1e-6,
    factor: int = 1,
) -> torch.Tensor:
    """The descriptor of image (D, H, W): (12, D, H, W), values in (0, 1], float32.

    radius: of the patches that are compared; dilation: voxels from the centre to the neighbours;
    floor: the smallest mean patch distance (image units squared) that counts as structure: where
    an image is flatter than that, the descriptor goes to 1 instead of amplifying noise; factor:
    average the descriptor over blocks of factor^3 voxels (sizes must divide). Borders repeat the
    edge value. Works tile by tile, so that a tile stays in the cache, and
    the whole descriptor at full resolution is never in memory.
    """
    reach = dilation + radius
    padded = F.pad(image[None, None].float(), (reach,) * 6, mode="replicate")[0, 0]
    result = image.new_empty((CHANNELS, *(n // factor for n in image.shape)), dtype=torch.float32)
    tile = _TILE if image.device.type == "cpu" else _LARGE_TILE
    depth, height = (max(n // factor, 1) * factor for n in tile)
    for z, y in product(range(0, image.shape[0], depth), range(0, image.shape[1], height)):
        below = slice(z, min(z + depth, image.shape[0])), slice(y, min(y + height, image.shape[1]))
        around = tuple(slice(part.start, part.stop + 2 * reach) for part in below)
        there = tuple(slice(part.start // factor, part.stop // factor) for part in below)
        part = _mind(padded[around], radius, dilation, floor)
        result[(slice(None), *there)] = pool(part, factor)
    return result


def _mind(padded: torch.Tensor, radius: int, dilation: int, floor: float) -> torch.Tensor:
    """The descriptor of the part of an image that is radius + dilation voxels from its edges."""
    size = [n - 2 * dilation for n in padded.shape]  # with the patches' room around
    distances = padded.new_empty((CHANNELS, *(n - 2 * radius for n in size)))
    for (z, y, x), edges in _EDGES.items():
        first = [1 + min(start[k] for start in edges.values()) for k in range(3)]
        last = [1 + max(start[k] for start in edges.values()) for k in range(3)]
        here, there = (
            padded[
                tuple(
                    slice(dilation * (a + way), dilation * (b + way) + n)
                    for a, b, way, n in zip(first, last, ways, size)
                )
            ]
            for ways in ((0, 0, 0), (z, y, x))
        )
        compared = _patch_mean((here - there).square_(), radius)
        for channel, start in edges.items():
            part = (dilation * (1 + s - a) for s, a in zip(start, first))
            where = tuple(slice(a, a + n) for a, n in zip(part, distances.shape[1:]))
            distances[channel] = compared[where]
    distances -= distances.amin(dim=0)
    mean = distances.mean(dim=0).clamp_(min=floor)
    return distances.div_(mean).neg_().exp_()


def local_contrast(
    image: torch.Tensor, weight: torch.Tensor, *, sigma: float = 1.5, floor: float = 0.02
) -> torch.Tensor:
    """Image minus local mean over local standard deviation, (1, D, H, W).

    image, weight (D, H, W): only voxels with weight count in the statistics, so that the ribs
    don't drown the lung beside them; sigma: of the Gaussian window, in blocks of 2x2x2 voxels;
    floor: the standard deviation (image units) that counts as structure. Sizes must be even.
    Comparing it between two images is what normalised cross-correlation does.
    """
    weight = weight + 1e-3
    weighted = weight * image
    moments = [F.avg_pool3d(m[None, None], 2) for m in (weight, weighted, weighted * image)]
    moments = _blurred(torch.cat(moments, dim=1), sigma)[0]
    mean = moments[1] / moments[0]
    variance = (moments[2] / moments[0] - mean.square()).clamp_(min=0)
    window = torch.stack((mean, (variance + floor**2).rsqrt_()))[None]
    window = F.interpolate(window, size=image.shape, mode="trilinear", align_corners=False)[0]
    return (image - window[0]).mul_(window[1])[None]


def sharpened(image: torch.Tensor) -> torch.Tensor:
    """The image (D, H, W) with its fine detail four times as strong (unsharp masking).

    Lungs show most of what they show in coarse shades, whose differences between two scans hang
    together over many voxels: their squares count the same evidence many times. Fine detail tells
    where a point is, whatever lies around it. Amount and width: measured, Testing/experiments.md.
    """
    coarse = _blurred(image[None, None], SHARPER_THAN_VOXELS)[0, 0]
    return torch.lerp(coarse, image, 1 + SHARPENING)


def pool(features: torch.Tensor, factor: int) -> torch.Tensor:
    """Features (C, D, H, W) averaged over blocks of factor^3 voxels; sizes must divide."""
    return features if factor == 1 else F.avg_pool3d(features[None], factor)[0]


def _blurred(values: torch.Tensor, sigma: float) -> torch.Tensor:
    """values (1, C, D, H, W) under a Gaussian window of sigma voxels, edges repeated."""
    radius = round(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=values.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (2, 3, 4):
        pad = [0] * 6
        pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = radius
        padded, size = F.pad(values, pad, mode="replicate"), values.shape[axis]
        values = padded.narrow(axis, 0, size) * kernel[0].item()
        for i, share in enumerate(kernel.tolist()[1:], 1):
            values.add_(padded.narrow(axis, i, size), alpha=share)
    return values


def _patch_mean(values: torch.Tensor, radius: int) -> torch.Tensor:
    """The mean over a cube of (2 radius + 1)^3, valid part only; one axis after the other."""
    width = 2 * radius + 1
    for axis in range(3):
        size = values.shape[axis] - 2 * radius
        total = values.narrow(axis, 0, size).clone()
        for k in range(1, width):
            total += values.narrow(axis, k, size)
        values = total
    return values.div_(width**3)
