"""Whether a device computes what the CPU does: the parts of a registration, tried on a tiny pair.

GPUs differ in the operations that they offer and, with some drivers, in what these return. Nobody
can test them all, so a registration looks before it relies on one; once in a process.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk
import torch

from ..core.geometry import Grid
from .confidence import evidence
from .field.operations import sample_points
from .field.pyramid import FeaturePyramid
from .images.preprocessing import WORKING_SPACING_MM, WorkingPair
from .match import match
from .optimise.gauss_newton import gauss_newton_step
from .optimise.l2o import observed, weighed
from .optimise.networks import L2ONetwork
from .optimise.penalty import Penalty
from .start.search import discrete_search

SIZE = 32  # voxels of the tiny pair along each axis
TOLERANCE = 0.01  # root mean square, of the values': GPUs' less precise products stay within
_passed: set[str] = set()


def problem(device: torch.device | str) -> str | None:
    """Why a registration should not run on this device, in a few words; None where it can."""
    device = torch.device(device)
    if device.type == "cpu" or str(device) in _passed:
        return None
    try:
        with torch.inference_mode():
            for found, expected in zip(_parts(device), _parts("cpu"), strict=True):
                miss = (found.to("cpu") - expected).square().mean().sqrt()
                if not miss <= TOLERANCE * expected.square().mean().sqrt():  # NaN fails, too
                    return "it computes other numbers than the CPU"
    except (RuntimeError, TypeError) as error:  # what is not implemented is a RuntimeError, too
        return str(error).strip().partition("\n")[0]
    _passed.add(str(device))
    return None


def _parts(device: torch.device | str) -> Iterator[torch.Tensor]:
    """What each part of a registration returns, every part given the same on all devices."""
    rng = np.random.default_rng(0)
    images = rng.normal(-0.7, 0.2, (2, SIZE, SIZE, SIZE)).astype(np.float32)
    grid = Grid((SIZE,) * 3, (WORKING_SPACING_MM,) * 3)
    centre = grid.to_world(np.full(3, (SIZE - 1) / 2))
    distance = (np.linalg.norm(grid.points() - centre, axis=-1) - 20).astype(np.float32)
    identity = sitk.Transform(3, sitk.sitkIdentity)
    pyramid = FeaturePyramid(
        WorkingPair(*images, distance < 0, distance, distance, grid, identity), device
    )
    level = pyramid.mind_level(4)
    yield from (level.fixed, level.moving)
    # Which of two equally good displacements it takes may differ: that it runs is what counts.
    yield 0 * discrete_search(level) + 1
    field = _constant(rng.normal(0, 2, (3, *level.shape)), device)
    yield level.sample_field(field[:, ::2, ::2, ::2])
    yield from level.normal_equations(field)
    yield torch.tensor([match(level, field, 1.0).ratio])
    fine = pyramid.mind_level(2)
    there = fine.sample_field(field)
    yield torch.nan_to_num(evidence(fine, there, 0 * there, 2.0))
    bowls = _constant(_bowls(rng, len(level.active_nodes)), device)
    yield gauss_newton_step(level, field, bowls, Penalty(1e-3, 0.5))
    contrast = pyramid.contrast_level(field[:, :1, :1, :1])
    yield contrast.moving
    last = contrast.sample_field(field)
    for roughly in (True, False):
        mismatch, system = contrast.normal_equations(last, roughly)
        yield from (mismatch, system)
    network = _filled(rng, L2ONetwork, 8)
    said = network.to(device).levels[2](observed(contrast, last, mismatch, system, 1e-2)[None])[0]
    yield said
    yield gauss_newton_step(contrast, last, *weighed(said, contrast, system, 1e-2, 0.5))
    yield sample_points(field, _constant(rng.uniform(0, 3, (50, 3)), device))


def _filled(rng: np.random.Generator, kind: type, width: int) -> torch.nn.Module:
    """A network with random weights: parts of it would begin with zero, which hides much."""
    with torch.random.fork_rng(devices=[]):
        network = kind(width)
    for value in network.state_dict().values():
        value.copy_(_constant(rng.normal(0, 0.3, value.shape), "cpu"))
    return network


def _bowls(rng: np.random.Generator, count: int) -> np.ndarray:
    """Gauss-Newton systems (count, 9) that are well-posed."""
    return np.concatenate((rng.uniform(1, 2, (count, 3)), rng.normal(0, 0.1, (count, 6))), axis=1)


def _constant(values: np.ndarray, device: torch.device | str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float32)).to(device)
