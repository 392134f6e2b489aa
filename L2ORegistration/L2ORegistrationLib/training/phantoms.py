"""Training pairs from breathing phantoms: many patients, several breaths each, exact keypoints.

Close-ups teach single iterations, so that they have every disease, dose and size of voxels, and
motions from smooth to rough: how smooth the lung is has to be seen, not known.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from ..core.errors import InputError
from ..core.geometry import Volume
from ..core.memory import free_mb
from ..phantom.pair import PhantomPair, make_anatomy, make_pair
from ..phantom.seeds import learned
from ..phantom.varied import faded, vary, with_emphysema, with_texture
from .closeup import CloseUp, close_ups, save
from .prepared import PreparedPair, prepare

SLIDING_LOBES, LOBES_MM = 0.3, 12.0  # share of the pairs, and how far lobes slide in them
BREATHS = 3  # pairs from one patient: drawing the patient takes longest
MEMORY_MB = 1500  # that a process takes which draws

# Kinds of close-ups and their shares; SLIDING, ROUGHNESS: shares of what their motion is like.
KINDS = {
    "plain": 0.18,
    "dose": 0.22,
    "hard": 0.22,
    "thick": 0.13,
    "wide": 0.1,
    "nodules": 0.05,
    "disease": 0.05,
    "artefacts": 0.05,
}
TEXTURE, FADED, EMPHYSEMA, SLIDING = 0.8, 0.4, 0.3, 0.55
EARLY = 0.4  # share of the close-ups in which much is left to do
ROUGHNESS = {0.0: 0.3, 0.3: 0.3, 1.0: 0.4}


def phantom_pairs(
    folder: str | Path, count: int, seed: int = 0, on_pair=None, close: bool = False
) -> list[Path]:
    """Prepare `count` phantom pairs in a folder; those already there are kept. Returns their files.

    on_pair(path), where given, is called after each; close: close-ups instead. Patients are drawn
    by as many processes as torch has threads, if the memory carries them (MEMORY_MB each); the
    pairs are the same for any number. Raises InputError where such a process is killed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = "close-up" if close else "phantom"
    paths = [folder / f"{name}-{seed}-{i:04d}.pt" for i in range(count)]
    patients = range(0, count, BREATHS)
    draw = partial(_draw, seed=seed, close=close)
    for drawn in _drawn(draw, [paths[first : first + BREATHS] for first in patients], patients):
        for path in drawn:
            if on_pair is not None:
                on_pair(path)
    return paths


def _draw(paths: list[Path], first: int, seed: int, close: bool) -> list[Path]:
    """Write what is missing of the pairs of one patient, of which the first has this number."""
    anatomy, prepared = None, prepare_close_ups if close else prepare_phantom
    for i, path in enumerate(paths, first):
        if path.exists():
            continue
        if anatomy is None:
            patient = first // BREATHS
            rng = np.random.default_rng([seed, patient])
            spacing = (1.5, 1.5, float(rng.choice([1.25, 1.5, 2.0, 2.5])))
            anatomy = make_anatomy(learned(seed, patient), spacing, detail=1.0)
        ready = prepared(learned(seed, i), anatomy)
        save(ready, path) if close else ready.save(path)
    return paths


def _drawn(draw, paths: list[list[Path]], first: Sequence[int]) -> Iterator[list[Path]]:
    """draw(paths, first) of each patient as they are ready, those of whom all is there at once."""
    there = [all(path.exists() for path in those) for those in paths]
    yield from (those for those, done in zip(paths, there) if done)
    missing = [(those, i) for those, i, done in zip(paths, first, there) if not done]
    carried = (free_mb() or len(missing) * MEMORY_MB) // MEMORY_MB
    processes = min(torch.get_num_threads(), len(missing), carried, 61)  # Windows takes no more
    if processes < 2:
        yield from (draw(*one) for one in missing)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), _alone) as pool:
        drawing = [pool.submit(draw, *one) for one in missing]
        try:
            yield from (done.result() for done in as_completed(drawing))
        except BrokenProcessPool as error:
            raise InputError(
                "A process that draws phantoms was killed, probably because the memory ran out: "
                "the same command, with fewer --threads, goes on with those that are drawn."
            ) from error
        finally:  # stopped, or failed: what is being drawn is finished, the rest is not begun
            pool.shutdown(cancel_futures=True)


def _alone() -> None:
    """A process that draws: on one core, and stopped by the one that began it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def prepare_phantom(seed: int, anatomy) -> PreparedPair:
    """One breath of one patient, scanned and segmented as imperfectly as real ones are."""
    rng = np.random.default_rng([seed, 1])
    lobes = np.random.default_rng([seed, 2]).random() < SLIDING_LOBES
    pair = make_pair(
        seed,
        anatomy=anatomy,
        shift_mm=30.0,
        sliding=rng.random() < 0.7,
        lobes_mm=LOBES_MM if lobes else 0.0,
    )
    index = np.argwhere(pair.fixed_mask.array)
    index = index[rng.permutation(len(index))[:40000]]
    points = pair.fixed.grid.to_world(index[:, ::-1])
    moved = points + pair.field.array[tuple(index.T)]
    fixed, fixed_mask = _scanned(rng, pair, "fixed")
    moving, moving_mask = _scanned(rng, pair, "moving")
    seen = moving.grid.contains(moved) & fixed.grid.contains(points)
    return prepare(
        fixed,
        moving,
        fixed_mask,
        moving_mask,
        points[seen],
        moved[seen],
        jitter=rng if rng.random() < 0.4 else None,
    )


def prepare_close_ups(seed: int, anatomy) -> list[CloseUp]:
    """One breath of one patient, scanned well or badly, and what learned iterations see of it."""
    rng = np.random.default_rng([seed, 3])
    if rng.random() < TEXTURE:
        anatomy = with_texture(anatomy, seed)
    if rng.random() < EMPHYSEMA:
        anatomy = with_emphysema(anatomy, seed)
    pair = make_pair(
        seed,
        anatomy=anatomy,
        shift_mm=20.0,
        sliding=rng.random() < SLIDING,
        lobes_mm=rng.uniform(2.0, LOBES_MM) if rng.random() < SLIDING_LOBES else 0.0,
        roughness=float(rng.choice(list(ROUGHNESS), p=list(ROUGHNESS.values()))),
    )
    if rng.random() < FADED:
        pair = faded(pair, seed)
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    early = rng.random() < EARLY
    return close_ups(vary(pair, kind, seed), pair.fixed_mask, seed, early)


def _scanned(rng: np.random.Generator, pair: PhantomPair, which: str) -> tuple[Volume, Volume]:
    """The image and a mask whose surface is off by a voxel here and there; sometimes cut short."""
    image, mask = getattr(pair, which), getattr(pair, which + "_mask")
    wobble = ndimage.gaussian_filter(rng.standard_normal(mask.array.shape, np.float32), 4)
    wobble *= rng.uniform(0, 0.35) / wobble.std()
    soft = ndimage.gaussian_filter(mask.array.astype(np.float32), 1.0)
    mask = Volume((soft + wobble * (soft > 0.01) > 0.5).astype(np.uint8), mask.grid)
    if rng.random() < 0.12:
        size = mask.array.shape[0]
        cut = int(size * rng.uniform(0.03, 0.18))
        z = slice(cut, size) if rng.random() < 0.5 else slice(0, size - cut)
        y, x = (slice(0, n) for n in mask.array.shape[1:])
        image, mask = image.part(z, y, x), mask.part(z, y, x)
    return image, mask
