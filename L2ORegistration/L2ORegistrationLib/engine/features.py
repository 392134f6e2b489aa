"""MIND-SSC: what a voxel's neighbourhood looks like, whatever its absolute intensity.

The modality independent neighbourhood descriptor in its self-similarity-context form (12
channels), the features of the paper's section 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

CHANNELS = 12
# The six neighbours of a voxel, (z, y, x); a channel compares two of them that are not opposite.
_NEIGHBOURS = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
_PAIRS = tuple(
    (a, b)
    for i, a in enumerate(_NEIGHBOURS)
    for b in _NEIGHBOURS[i + 1 :]
    if sum(abs(p - q) for p, q in zip(a, b)) == 2 and any(p + q for p, q in zip(a, b))
)


def mind_ssc(
    image: torch.Tensor, *, radius: int = 1, dilation: int = 2, floor: float = 1e-6
) -> torch.Tensor:
    """The descriptor of image (D, H, W): (12, D, H, W), values in (0, 1], float32.

    radius: of the patches that are compared; dilation: voxels from the centre to the neighbours;
    floor: the smallest mean patch distance (image units squared) that counts as structure: where
    an image is flatter than that, the descriptor goes to 1 instead of amplifying noise.
    Borders repeat the edge value.
    """
    reach = dilation + radius
    padded = F.pad(image[None, None].float(), (reach,) * 6, mode="replicate")[0, 0]
    depth, height, width = image.shape

    def shifted(offset):
        z, y, x = (dilation + dilation * o for o in offset)
        return padded[
            z : z + depth + 2 * radius, y : y + height + 2 * radius, x : x + width + 2 * radius
        ]

    distances = torch.empty((CHANNELS, *image.shape), device=image.device)
    for channel, (a, b) in enumerate(_PAIRS):
        squared = (shifted(a) - shifted(b)).square_()
        distances[channel] = _patch_mean(squared, radius)
    distances -= distances.amin(dim=0)
    mean = distances.mean(dim=0).clamp_(min=floor)
    return distances.div_(mean).neg_().exp_()


def pool(features: torch.Tensor, factor: int) -> torch.Tensor:
    """Features (C, D, H, W) averaged over blocks of factor^3 voxels; sizes must divide."""
    return features if factor == 1 else F.avg_pool3d(features[None], factor)[0]


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
