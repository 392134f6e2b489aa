"""What a network that predicts a field at once sees of a prepared pair, and its keypoints there."""

from __future__ import annotations

import torch

from ..core.errors import InputError
from ..engine.field.lung_images import FACTOR, LungImages
from .prepared import PreparedPair


def lung_images(pair: PreparedPair) -> LungImages:
    """Both lungs as a registration gives them to the network; the origin is the keypoints'.

    Raises InputError for a pair without images.
    """
    if pair.images is None:
        raise InputError(
            "Some pairs were prepared by an earlier version, without their images: delete the "
            "folder of pairs, and they are prepared again."
        )
    origin = ((FACTOR - 1) / 2 * pair.spacing,) * 3
    images, distances = (
        [part.float() for part in parts] for parts in (pair.images, pair.distances)
    )
    return LungImages.of(images, distances, FACTOR * pair.spacing, origin)


def keypoints(
    pair: PreparedPair, level: LungImages, count: int, rng
) -> tuple[torch.Tensor, torch.Tensor]:
    """At most `count` random keypoints of a pair: points, displacements (K, 3), in voxels."""
    chosen = torch.from_numpy(rng.permutation(len(pair.points))[:count])
    points = (pair.points[chosen] - torch.tensor(level.origin)) / level.spacing
    return points, pair.targets[chosen] / level.spacing
