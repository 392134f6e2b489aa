"""What VoxelMorph++ predicts for prepared pairs: where a network that goes on from there starts."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from ..core.errors import InputError
from ..engine.images.features import pool
from ..engine.models import load_model
from ..engine.optimise.voxelmorph import VoxelMorph, VoxelMorphOptimiser
from .lung_images import lung_images
from .prepared import PreparedPair

PAIRS = 1000  # whose predictions are kept: half a megabyte each


@lru_cache(maxsize=PAIRS)
def predicted(path: Path, weights: str) -> torch.Tensor:
    """The field (3, d, h, w), mm, on the 6 mm lattice of a prepared pair.

    weights: of VoxelMorph++, packaged or a .pt file. Raises InputError for others.
    """
    network, coarse = start_network(weights)
    level = lung_images(PreparedPair.load(path), coarse)
    with torch.no_grad():
        begun = torch.zeros((3, *level.shape))
        ((field, _),) = VoxelMorphOptimiser(network).iterate(level, begun, 1)
        return field if coarse else pool(field, 2)


@lru_cache(maxsize=1)
def start_network(weights: str) -> tuple[VoxelMorph, bool]:
    """The network, and whether it sees coarse images. Raises InputError for one of another kind."""
    card, network = load_model(weights)
    if not isinstance(network, VoxelMorph):
        raise InputError(
            f"The start model is one of {card.variant}, not of voxelmorph++: give weights of that."
        )
    return network, bool(card.compares)
