"""What a network that predicts a field at once sees of a prepared pair, and its keypoints there."""

from __future__ import annotations

import torch

from ..core.errors import InputError
from ..engine.field.lung_images import COARSE, FACTOR, LungImages
from ..engine.images.features import pool
from .prepared import PreparedPair


def lung_images(pair: PreparedPair, coarse: bool = False) -> LungImages:
    """Both lungs as a registration gives them to the network; the origin is the keypoints'.

    coarse: on voxels of twice the size.

    Raises InputError for a pair without images.
    """
    if pair.images is None:
        raise InputError(
            "Some pairs were prepared by an earlier version, without their images: delete the "
            "folder of pairs, and they are prepared again."
        )
    factor = COARSE if coarse else FACTOR
    origin = ((factor - 1) / 2 * pair.spacing,) * 3
    images, distances = (
        [pool(part.float()[None], factor // FACTOR)[0] for part in parts]
        for parts in (pair.images, pair.distances)
    )
    return LungImages.of(images, distances, factor * pair.spacing, origin, factor)


def keypoints(
    pair: PreparedPair, level: LungImages, count: int, rng
) -> tuple[torch.Tensor, torch.Tensor]:
    """At most `count` random keypoints of a pair: points, displacements (K, 3), in voxels."""
    chosen = torch.from_numpy(rng.permutation(len(pair.points))[:count])
    points = (pair.points[chosen] - torch.tensor(level.origin)) / level.spacing
    return points, pair.targets[chosen] / level.spacing
