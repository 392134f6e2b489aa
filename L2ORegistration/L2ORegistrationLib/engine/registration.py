"""The one road from two images to a displacement field; everybody who registers walks it.

images -> lung masks -> start -> pair on the working grid -> features -> optimiser steps -> field.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..core.at_once import at_once
from ..core.errors import InputError
from ..core.geometry import DisplacementField
from .appraisal import appraised, judgement, warning
from .arguments import (
    as_landmarks,
    as_mask,
    as_points,
    as_transform,
    as_volume,
    check_thickness,
    checked_count,
    checked_iterations,
)
from .catalogue import (
    CLOSER,
    DEFAULT,
    DESCRIPTORS,
    METHODS,
    STARTS,
    Stage,
    checked_method,
    load,
    of_variant,
)
from .devices import check_memory, choose_device, has_memory
from .field.levels import Level
from .field.monitor import Monitor
from .field.pyramid import FeaturePyramid
from .field.whole import WholeField, start_grid
from .images.closer import closer_images, closer_ratios
from .images.lungs import lung_mask
from .images.preprocessing import WORKING_SPACING_MM, WorkingPair, averaged, pair_on, working_grid
from .match import match
from .models import load_model
from .packaged import checked_weights
from .resources import borrowed
from .result import Result, Step
from .start.alignment import distance_map
from .start.beginning import Beginning
from .start.choice import Comparison
from .start.orientation import lost_orientation
from .verdict import CHECK, MATCHED, Verdict

BYTES_PER_VOXEL = 125  # peak per voxel of the working grid, measured
CLOSER_BYTES_PER_VOXEL = 57  # more, per voxel of the closer grid where there is one
BASE_MB = 500
MOST_REPEATED = 6.0  # voxels of the grid show one of the images' own: packaged weights saw no more
WORSE = 1.1  # a later step may look this much worse before an earlier one is preferred


class Registration:
    """One registration: iterate over it for its Steps, stop when you like, then take `result()`.

    fixed, moving: path, SimpleITK image or Volume; fixed_mask, moving_mask: the same, lungs marked
    by labels above zero or shares of at least one half (found automatically where not given; on
    any grid that lies where the image does); initial_transform: path, SimpleITK transform,
    DisplacementField or 4x4 LPS matrix, fixed -> moving, which replaces `start`; start: "search"
    (identity, boxes, a rigid motion or an affine, of both lungs or of one by itself, whichever
    matches best after a discrete search), "affine", "box", "none" or "landmarks" (thin-plate spline
    through `landmarks` = fixed points (N, 3) and moving points (N, 3), LPS mm); pinned: fixed
    points (N, 3) where the initial transform is known to be right, to which springs then pull;
    method: a key of `catalogue.METHODS`, by default `DEFAULT`, or the one that given weights belong
    to; model: name of packaged weights or a .pt file, for a learned method, which becomes the one
    that the weights were trained for; iterations: on each level, instead of the method's own, one
    number for all or one for each, the coarsest first; refine: go on with Adam where a network
    predicted the motion at once; device: "auto", "cpu", "cuda", "mps"; threads: of the CPU, for the
    whole process while it computes; spacing: of the working grid, mm; cancelled(): asked between
    the steps of the preparation, which takes longest: where it says True, the iteration ends there.

    The start "voxelmorph++" is what its network predicts from the affine; start_model: its weights,
    packaged or a .pt file. Left out, the start is the method's own, mostly "search".

    Besides `steps`, who looks closer finds what was given and chosen (`fixed`, `moving`, their
    masks, `plan`, `starts`), `pyramid` and `finest`, what is compared, and `fields`, the
    optimisers' own field (3, d, h, w), mm, after each of the steps.

    Raises InputError for anything that cannot be used, before or at the first step.
    """

    def __init__(
        self,
        fixed,
        moving,
        *,
        fixed_mask=None,
        moving_mask=None,
        initial_transform=None,
        start: str | None = None,
        landmarks: tuple[np.ndarray, np.ndarray] | None = None,
        pinned: np.ndarray | None = None,
        method: str | None = None,
        model: str | Path | None = None,
        start_model: str | Path | None = None,
        iterations: int | Sequence[int] | None = None,
        refine: bool = True,
        device: str = "auto",
        threads: int | None = None,
        spacing: float = WORKING_SPACING_MM,
        cancelled: Callable[[], bool] = lambda: False,
    ):
        name = checked_method(method or DEFAULT)
        if model is not None and method is not None and not METHODS[name].weights:
            raise InputError(f"The method '{name}' has no weights: leave the model out.")
        checked_weights(name, model)
        self.card, self._network = None, None
        weights = METHODS[name].weights if model is None else model
        if weights:
            self.card, self._network = load_model(weights)
            named, name = name, of_variant(self.card.variant)
            if method is not None and named != name:
                raise InputError(
                    f"These weights belong to the method '{name}', not to '{named}': leave out the "
                    "model or the method."
                )
        self.name, self.method = name, METHODS[name]
        if start is None:
            start = self.method.start
        if start not in STARTS:
            raise InputError(f"Unknown start '{start}': use one of {', '.join(STARTS)}.")
        if not 0.5 <= spacing <= 6:
            raise InputError(f"The working spacing must be between 0.5 and 6 mm, got {spacing}.")
        if landmarks is not None and start != "landmarks":
            raise InputError(
                f"Landmarks are used by the start 'landmarks' only, not by '{start}': choose it, "
                "or leave them out."
            )
        self.device = choose_device(device)
        if self._network is not None:
            self._network.to(self.device)
        self._threads = checked_count(threads, "The number of threads", 1024)
        self._iterations = checked_iterations(iterations)
        self.spacing, self.start_name = spacing, start
        self.predictor = self._loaded_start(start, start_model)
        self.fixed = as_volume(fixed, "The fixed image")
        self.moving = as_volume(moving, "The moving image")
        self.fixed_mask = as_mask(fixed_mask, self.fixed, "fixed")
        self.moving_mask = as_mask(moving_mask, self.moving, "moving")
        self.given = as_transform(initial_transform)
        self._landmarks = as_landmarks(landmarks) if start == "landmarks" else None
        if pinned is not None and (self.given is None or name != "gauss-newton"):
            raise InputError(
                "Pinned points hold an initial transform where it is right: give an initial "
                "transform and the method 'gauss-newton'."
            )
        self._pinned = None if pinned is None else as_points(pinned, "Pinned points")
        self.plan = self._planned(refine)
        self.total = 1 + sum(stage.iterations for stage in self.plan)
        self.steps: list[Step] = []
        self._finished, self.too_coarse, self.short_of_memory = False, False, False
        self.closer_ratio = Fraction(1)  # how many times as fine the last iterations look
        self._cancelled = cancelled

    def __iter__(self) -> Iterator[Step]:
        """Run from the beginning; yields a Step after the start and after every iteration."""
        self.steps, self.starts, self._finished = [], [], False
        run = self._run()
        try:
            while True:
                with borrowed(self._threads):
                    step = next(run, None)
                if step is None:
                    break
                self.steps.append(step)
                yield step
            self._finished = True
        except _Cancelled:
            pass
        finally:
            run.close()  # what it holds on the device is free at once

    @property
    def field(self) -> DisplacementField:
        """The best field so far, mm LPS; valid any time after the first step."""
        return self.steps[self._best()].field

    @property
    def judgement(self) -> Verdict:
        """What to think of `field`, from all but its confidence."""
        return judgement(self, self._best())

    def result(self) -> Result:
        """The best field so far and what to think of it; valid any time after the first step."""
        if not self.steps:
            raise RuntimeError("The registration has not made a step yet.")
        with borrowed(self._threads):
            return appraised(self, self._best(), cancelled=not self._finished)

    @property
    def warning(self) -> str:
        """What was asked for beyond what is known to be good: sentences, or nothing."""
        return warning(self)

    def _planned(self, refine: bool) -> list[Stage]:
        """The stages in order, with their iterations."""
        searched = self.searching or self.given is not None
        learned, compares = 0, ""
        if self.card is not None:
            # Without the search there is further to go: as many as the network has learned to make.
            most = self.card.trained_iterations[1]
            learned = self.card.iterations if self.searching else most
            compares = self.card.compares
        return self.method.plan(self._iterations, learned, refine, searched, compares)

    @torch.inference_mode()  # as a decorator it is off while the caller has the step
    def _run(self) -> Iterator[Step]:
        begin = time.monotonic()
        pair, start = self._prepare()
        self._check_cancelled()
        closer = None
        if self.closer_ratio > 1:
            images = self.fixed, self.moving
            how = pair.grid, pair.start, self.closer_ratio, self._check_cancelled
            closer = closer_images(*images, *how)
        pyramid = FeaturePyramid(pair, self.device, closer)
        finest = _level(self.method.finest, pyramid, None)
        self._check_cancelled()
        whole_field = WholeField(pair, finest, self.fixed.grid)
        monitor = Monitor(finest)

        def step(index, stage, level, field):
            whole = whole_field.identity() if field is None else whole_field.field(field)
            field = whole_field.undo_start() if field is None else field
            self.fields.append(field)
            seconds = time.monotonic() - begin
            return Step(index, self.total, stage, level, whole, monitor(finest, field), seconds)

        self.pyramid, self.finest, self.fields, self.turned = pyramid, finest, [], ""
        if pair.repeated > MOST_REPEATED:
            self.too_coarse |= any(stage.unweighed != stage for stage in self.plan)
            self.plan = [stage.unweighed for stage in self.plan]
        yield step(0, "initial", 0, None)
        self._check_cancelled()
        field = torch.zeros((3, *finest.shape), device=self.device)
        if start is not None:
            field = finest.sample_field(start)
        elif self.predictor is not None and self.given is None:
            field = finest.sample_field(self._predicted(pyramid))
            self._check_cancelled()
        index = 1
        yield step(index, "start", 0, field)
        for stage in self.plan:
            level = None  # the one before, whose gradients are large, is not needed any longer
            if stage.compares == self.method.finest:
                level = replace(finest)  # without what it keeps for later, which is large
            else:
                level = _level(stage.compares, pyramid, field)
            begun = level.sample_field(field)
            for field, _ in self._optimiser(stage).iterate(level, begun, stage.iterations):
                index += 1
                yield step(index, stage.name, stage.level, finest.sample_field(field))
        # Only where nothing matches: the question costs as much as a registration.
        if self.searching and match(finest, self.fields[-1], 1.0).matched < MATCHED[CHECK]:
            images = [averaged(image, self.spacing) for image in (self.fixed, self.moving)]
            self.turned = lost_orientation(
                *images,
                *self._distances,
                pair.grid,
                self.starts[0].mismatch,
                self.device,
                self._check_cancelled,
            )

    def _loaded_start(self, start: str, model: str | Path | None):
        """The card and the network of a start that is one; None for any other."""
        if start not in METHODS:
            if model is not None:
                raise InputError(
                    f"The start '{start}' has no weights: leave the start model out, or start "
                    "from 'voxelmorph++'."
                )
            return None
        checked_weights(start, model, "start")
        card, network = load_model(model or METHODS[start].weights)
        if of_variant(card.variant) != start:
            raise InputError(
                f"The start model is one of {card.variant}, not of {start}: give weights of that."
            )
        return card, network.to(self.device)

    def _predicted(self, pyramid: FeaturePyramid) -> torch.Tensor:
        """The field (3, ., ., .), mm, that the start's network predicts, on its own lattice."""
        card, network = self.predictor
        method, iterations = METHODS[self.start_name], card.iterations
        (stage,) = method.plan(None, iterations, refine=False, compares=card.compares)
        level = _level(stage.compares, pyramid, None)
        begun = torch.zeros((3, *level.shape), device=self.device)
        *_, (field, _) = load(stage.optimiser)(network).iterate(level, begun, stage.iterations)
        return field

    def _optimiser(self, stage: Stage):
        settings = dict(stage.settings)
        if self._pinned is not None:
            settings["pinned"] = self._pinned
        network = (self._network,) if stage.learned else ()
        return load(stage.optimiser)(*network, **settings)

    def _closer_ratio(self, voxels: int, needed: int) -> Fraction:
        """How many times as fine as the working grid the last iterations look, if there is memory.

        voxels: of the working grid; needed: MB, for all else.
        """
        if all(stage.compares != CLOSER for stage in self.plan):
            return Fraction(1)
        spacings = [image.grid.spacing for image in (self.fixed, self.moving)]
        wished = closer_ratios(spacings, self.spacing)
        for ratio in wished:
            more = int(voxels * ratio**3) * CLOSER_BYTES_PER_VOXEL >> 20
            if has_memory(self.device, needed + more):
                break
        else:
            ratio = Fraction(1)
        self.short_of_memory = bool(wished) and ratio < wished[0]
        return ratio

    @property
    def searching(self) -> bool:
        return self.start_name == "search" and self.given is None

    def _prepare(self) -> tuple[WorkingPair, torch.Tensor | None]:
        """Masks, start and both images on the working grid; what a search found, if any, in mm."""
        if self.fixed_mask is None:
            self.fixed_mask = lung_mask(self.fixed, "the fixed image")
            self._check_cancelled()
        if self.moving_mask is None:
            self.moving_mask = lung_mask(self.moving, "the moving image")
            self._check_cancelled()
        distances = at_once(distance_map, (self.fixed_mask, self.moving_mask))
        for distance, name in zip(distances, ("fixed", "moving"), strict=True):
            check_thickness(distance, self.spacing, name)
        self._distances = distances
        grid = working_grid(distances[0], self.spacing)
        voxels = int(np.prod(grid.size))
        needed = BASE_MB + (voxels * BYTES_PER_VOXEL >> 20)
        check_memory(self.device, needed)
        self.closer_ratio = self._closer_ratio(voxels, needed)
        images = at_once(partial(averaged, spacing=self.spacing), (self.fixed, self.moving))
        comparison = Comparison(*images, distances[0], grid, self.device)
        beginning = Beginning(*distances, (self.fixed.grid, self.moving.grid), start_grid(grid))
        if self.searching:
            self.starts = beginning.chosen(comparison, self._check_cancelled)
            start, field = self.starts[0].transform, self.starts[0].field
        else:
            start = beginning.asked_for(self.start_name, self.given, self._landmarks)
            # What was wrong at landmarks may be wrong all around.
            field = None if self._pinned is None else comparison.improved(start)
        beginning.check_overlap(start, self.searching)
        self._check_cancelled()
        return pair_on(grid, *images, *distances, start), field

    def _check_cancelled(self) -> None:
        if self._cancelled():
            raise _Cancelled

    def _best(self) -> int:
        """The last step, unless an earlier one, such as none at all, matches clearly better."""
        values = [step.dissimilarity for step in self.steps]
        good = min(values) * WORSE
        return next((i for i in range(len(values) - 1, 0, -1) if values[i] <= good), 0)


def register(
    fixed, moving, *, on_step: Callable[[Step], object] | None = None, **options
) -> Result:
    """Register two images; see `Registration` for the arguments.

    on_step(step) is called after every step and may return False to stop. Ctrl-C stops, too; the
    result is then the best field so far, marked as cancelled.
    """
    registration = Registration(fixed, moving, **options)
    try:
        for step in registration:
            if on_step is not None and on_step(step) is False:
                break
    except KeyboardInterrupt:
        if not registration.steps:
            raise
    return registration.result()


def _level(descriptor: str, pyramid: FeaturePyramid, field: torch.Tensor | None):
    level = load(DESCRIPTORS[descriptor])(pyramid, field)
    lungs = level.distance < 0 if isinstance(level, Level) else level.fixed
    if not lungs.any():
        raise InputError(
            "The lungs are too thin for this working spacing: no voxel lies within them. Choose a "
            "finer spacing."
        )
    return level


class _Cancelled(Exception):
    """Ends an iteration that its caller no longer wants."""
