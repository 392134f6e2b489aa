"""The one road from two images to a displacement field; everybody who registers walks it.

images -> lung masks -> start -> pair on the working grid -> features -> optimiser steps -> field.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from .. import __version__
from ..core.errors import InputError
from ..core.geometry import DisplacementField, Grid, Volume
from ..core.jacobian import jacobian_determinant
from .arguments import (
    as_landmarks,
    as_mask,
    as_transform,
    as_volume,
    check_thickness,
    checked_count,
    checked_iterations,
)
from .catalogue import (
    CALIBRATED_ON,
    DEFAULT,
    DESCRIPTORS,
    METHODS,
    STARTS,
    Stage,
    checked_method,
    load,
    of_variant,
)
from .confidence import confidence, summary
from .devices import check_memory, choose_device
from .field.levels import FeaturePyramid
from .field.monitor import Monitor
from .field.whole import WholeField, continued, start_grid
from .images.lungs import lung_mask
from .images.plausibility import implausible
from .images.preprocessing import WORKING_SPACING_MM, WorkingPair, averaged, pair_on, working_grid
from .match import match, share_inside
from .models import load_model
from .packaged import checked_weights
from .result import Result, Step
from .start.alignment import (
    box_alignment,
    distance_map,
    landmark_alignment,
    lung_alignment,
    rigid_part,
)
from .start.choice import CONVINCING, Comparison, Start, best_start
from .start.orientation import lost_orientation
from .verdict import CHECK, MATCHED, Verdict, judge

BYTES_PER_VOXEL = 125  # peak per voxel of the working grid, measured
BASE_MB = 500
MIN_OVERLAP = 0.3
FINEST_MM = 1.25  # of the working spacing: at 1 mm the confidence holds for 64 % instead of 90
MOST_REPEATED = 6.0  # voxels of the grid that show one of the images' own: as coarse as L2O learned
WORSE = 1.1  # a later step may look this much worse before an earlier one is preferred


class Registration:
    """One registration: iterate over it for its Steps, stop when you like, then take `result()`.

    fixed, moving: path, SimpleITK image or Volume; fixed_mask, moving_mask: the same, lungs marked
    by labels above zero or shares of at least one half (found automatically where not given; on
    any grid that lies where the image does); initial_transform: path, SimpleITK transform,
    DisplacementField or 4x4 LPS matrix, fixed -> moving, which replaces `start`; start: "search"
    (identity, boxes or an affine of both lungs, whichever matches best after a discrete search),
    "affine", "box", "none" or "landmarks" (thin-plate spline through `landmarks` = fixed points
    (N, 3) and moving points (N, 3), LPS mm); pinned: fixed points (N, 3) where the initial
    transform is known to be right, which stiff springs then hold; method: a key of
    `catalogue.METHODS`, by default `DEFAULT`, or the one that given weights belong to; model:
    name of packaged weights or a .pt file, for a learned method, which becomes the one that the
    weights were trained for; iterations: on each level, instead of the method's own, one number for
    all or one for each, the coarsest first; refine: go on
    with Adam where a network predicted the motion at once; device: "auto", "cpu", "cuda", "mps";
    threads: of the CPU; spacing: of the working grid, mm; cancelled(): asked between the steps of
    the preparation, which takes longest: where it says True, the iteration ends there.

    The start "voxelmorph++" is what its network predicts from the affine; start_model: its weights,
    packaged or a .pt file. Left out, the start is the method's own, mostly "search".

    Besides `steps`, who looks closer finds `pyramid`, what is compared, and `fields`, the
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
        if start is None:
            start = METHODS[name].start
        if start not in STARTS:
            raise InputError(f"Unknown start '{start}': use one of {', '.join(STARTS)}.")
        if not 0.5 <= spacing <= 6:
            raise InputError(f"The working spacing must be between 0.5 and 6 mm, got {spacing}.")
        if landmarks is not None and start != "landmarks":
            raise InputError(
                f"Landmarks are used by the start 'landmarks' only, not by '{start}': choose it, "
                "or leave them out."
            )
        if model is not None and method is not None and not METHODS[name].weights:
            raise InputError(f"The method '{name}' has no weights: leave the model out.")
        self._device = choose_device(device)
        self._threads = checked_count(threads, "The number of threads", 1024)
        self._iterations = checked_iterations(iterations)
        self._spacing, self._start_name = spacing, start
        self._card, self._network = None, None
        checked_weights(name, model)
        weights = METHODS[name].weights if model is None else model
        if weights:
            self._card, self._network = load_model(weights)
            self._network.to(self._device)
            name = of_variant(self._card.variant)
        self._name, self._method = name, METHODS[name]
        self._predictor = self._loaded_start(start, start_model)
        self._fixed = as_volume(fixed, "The fixed image")
        self._moving = as_volume(moving, "The moving image")
        self._fixed_mask = as_mask(fixed_mask, self._fixed, "fixed")
        self._moving_mask = as_mask(moving_mask, self._moving, "moving")
        self._given = as_transform(initial_transform)
        self._landmarks = as_landmarks(landmarks) if start == "landmarks" else None
        if pinned is not None and (self._given is None or name != "gauss-newton"):
            raise InputError(
                "Pinned points hold an initial transform where it is right: give one, and the "
                "method gauss-newton."
            )
        self._pinned = None if pinned is None else np.asarray(pinned, dtype=float)
        self._plan = self._planned(refine)
        self.total = 1 + sum(stage.iterations for stage in self._plan)
        self.steps: list[Step] = []
        self._finished, self._too_coarse = False, False
        self._cancelled = cancelled

    def __iter__(self) -> Iterator[Step]:
        """Run from the beginning; yields a Step after the start and after every iteration."""
        self.steps, self.starts, self._finished = [], [], False
        threads = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            for step in self._run():
                self.steps.append(step)
                yield step
            self._finished = True
        except _Cancelled:
            pass
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise InputError(
                "The GPU ran out of memory: choose the CPU, or a coarser working spacing."
            ) from error
        finally:
            torch.set_num_threads(threads)

    @property
    def field(self) -> DisplacementField:
        """The best field so far, mm LPS; valid any time after the first step."""
        return self.steps[self._best()].field

    def result(self) -> Result:
        """The best field so far and what to think of it; valid any time after the first step."""
        if not self.steps:
            raise RuntimeError("The registration has not made a step yet.")
        best = self._best()
        told = self._confidence(best)
        sure = summary(told, self._fixed_mask)
        judgement = self._judge(best, sure["unsure"])
        return Result(
            field=self.steps[best].field,
            steps=list(self.steps),
            best=best,
            fixed=self._fixed,
            moving=self._moving,
            fixed_mask=self._fixed_mask,
            moving_mask=self._moving_mask,
            seconds=self.steps[-1].seconds,
            provenance=self._provenance(judgement, sure),
            cancelled=not self._finished,
            judgement=judgement,
            confidence=told,
        )

    def _judge(self, best: int, unsure: float) -> Verdict:
        """What to think of a step, from what the images, masks and field say."""
        field = self.steps[best].field
        inside = share_inside(self._fixed_mask, self._moving, field)
        determinant = jacobian_determinant(field)
        lungs = self._fixed_mask.sample(determinant.grid.points(), order=0, outside=0.0) > 0
        values = determinant.array[lungs] if lungs.any() else np.ones(1)
        with torch.inference_mode():
            found = match(self._finest, self.fields[best], inside)
        masks, images = (self._fixed_mask, self._moving_mask), (self._fixed, self._moving)
        odd = [
            f"The {name} lungs look wrong: {reason}"
            for name, reasons in zip(("fixed", "moving"), _at_once(implausible, masks, images))
            for reason in reasons
        ]
        folded, expansion = float((values <= 0).mean()), float(values.mean())
        return judge(found, folded, expansion, odd, self._turned, unsure)

    def _confidence(self, best: int) -> Volume:
        """How far off a step may be: see `confidence.confidence`."""
        with torch.inference_mode():
            level, (fields, before) = self._finest, (self.fields, self._before(best))
            if self._method.finest != CALIBRATED_ON:
                level = _level(CALIBRATED_ON, self.pyramid, None)
            field, before = (level.sample_field(one) for one in (fields[best], fields[before]))
            moved = self.steps[best].field.transform_points(level.grid.points())
            inside = self._moving.grid.contains(moved)
            coarsest = max(*self._fixed.grid.spacing, *self._moving.grid.spacing)
            return confidence(replace(level), field, before, coarsest, inside)

    def _before(self, best: int) -> int:
        """The step that the last stage until `best` began with; half of a single stage's."""
        stages = [(step.stage, step.level) for step in self.steps]
        before = stages.index(stages[best]) - 1
        return before if before > 1 else best // 2

    def _planned(self, refine: bool) -> list[Stage]:
        """The stages in order, with their iterations."""
        searched = self._searching or self._given is not None
        learned, compares = 0, ""
        if self._card is not None:
            # Without the search there is further to go: as many as the network has learned to make.
            most = self._card.trained_iterations[1]
            learned = self._card.iterations if self._searching else most
            compares = self._card.compares
        return self._method.plan(self._iterations, learned, refine, searched, compares)

    @torch.inference_mode()  # as a decorator it is off while the caller has the step
    def _run(self) -> Iterator[Step]:
        begin = time.monotonic()
        pair, start = self._prepare()
        self._check_cancelled()
        pyramid = FeaturePyramid(pair, self._device)
        finest = _level(self._method.finest, pyramid, None)
        self._check_cancelled()
        whole_field = WholeField(pair, finest, self._fixed.grid)
        monitor = Monitor(finest)

        def step(index, stage, level, field):
            whole = whole_field.identity() if field is None else whole_field.field(field)
            field = whole_field.undo_start() if field is None else field
            self.fields.append(field)
            seconds = time.monotonic() - begin
            return Step(index, self.total, stage, level, whole, monitor(finest, field), seconds)

        self.pyramid, self._finest, self.fields, self._turned = pyramid, finest, [], ""
        self._too_coarse = pair.repeated > MOST_REPEATED
        yield step(0, "initial", 0, None)
        self._check_cancelled()
        field = torch.zeros((3, *finest.shape), device=self._device)
        if start is not None:
            field = finest.sample_field(start)
        elif self._predictor is not None and self._given is None:
            field = finest.sample_field(self._predicted(pyramid))
            self._check_cancelled()
        index = 1
        yield step(index, "start", 0, field)
        for stage in self._plan:
            level = None  # the one before, whose gradients are large, is not needed any longer
            if stage.compares == self._method.finest:
                level = replace(finest)  # without what it keeps for later, which is large
            else:
                level = _level(stage.compares, pyramid, field)
            begun = level.sample_field(field)
            for field, _ in self._optimiser(stage).iterate(level, begun, stage.iterations):
                index += 1
                yield step(index, stage.name, stage.level, finest.sample_field(field))
        # Only where nothing matches: the question costs as much as a registration.
        if self._searching and match(finest, self.fields[-1], 1.0).matched < MATCHED[CHECK]:
            images = [averaged(image, self._spacing) for image in (self._fixed, self._moving)]
            self._turned = lost_orientation(*images, *self._distances, pair.grid, self._device)

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
        return card, network.to(self._device)

    def _predicted(self, pyramid: FeaturePyramid) -> torch.Tensor:
        """The field (3, ., ., .), mm, that the start's network predicts, on its own lattice."""
        card, network = self._predictor
        method, iterations = METHODS[self._start_name], card.iterations
        (stage,) = method.plan(None, iterations, refine=False, compares=card.compares)
        level = _level(stage.compares, pyramid, None)
        begun = torch.zeros((3, *level.shape), device=self._device)
        *_, (field, _) = load(stage.optimiser)(network).iterate(level, begun, stage.iterations)
        return field

    def _optimiser(self, stage: Stage):
        settings = dict(stage.settings)
        if self._too_coarse and "trusting" in settings:
            settings["trusting"] = 0
        if self._pinned is not None:
            settings["pinned"] = self._pinned
        network = (self._network,) if stage.learned else ()
        return load(stage.optimiser)(*network, **settings)

    @property
    def _searching(self) -> bool:
        return self._start_name == "search" and self._given is None

    def _prepare(self) -> tuple[WorkingPair, torch.Tensor | None]:
        """Masks, start and both images on the working grid; what a search found, if any, in mm."""
        if self._fixed_mask is None:
            self._fixed_mask = lung_mask(self._fixed)
            self._check_cancelled()
        if self._moving_mask is None:
            self._moving_mask = lung_mask(self._moving)
            self._check_cancelled()
        distances = _at_once(distance_map, (self._fixed_mask, self._moving_mask))
        for distance, name in zip(distances, ("fixed", "moving"), strict=True):
            check_thickness(distance, self._spacing, name)
        self._distances = distances
        grid = working_grid(distances[0], self._spacing)
        voxels = int(np.prod(grid.size))
        check_memory(self._device, BASE_MB + (voxels * BYTES_PER_VOXEL >> 20))
        images = _at_once(partial(averaged, spacing=self._spacing), (self._fixed, self._moving))
        comparison = Comparison(*images, distances[0], grid, self._device)
        if not self._searching:
            start, field = self._started(*distances, start_grid(grid)), None
            if self._pinned is not None:  # what was wrong at landmarks may be wrong all around
                field = comparison.improved(start)
        else:
            candidates = self._candidates(comparison, *distances)
            self.starts = best_start(comparison, candidates)
            start, field = self.starts[0].transform, self.starts[0].field
        self._check_overlap(distances[0], start)
        self._check_cancelled()
        return pair_on(grid, *images, *distances, start), field

    def _candidates(self, comparison: Comparison, fixed: Volume, moving: Volume) -> Iterator[Start]:
        """The starts among which the images choose, the safest first, from both distance maps."""
        unmoved = comparison.searched("identity", sitk.Transform(3, sitk.sitkIdentity))
        yield unmoved
        self._check_cancelled()
        affine = lung_alignment(fixed, moving, self._fixed.grid, self._moving.grid)
        self._check_cancelled()
        if unmoved.mismatch >= CONVINCING and (rigid := rigid_part(affine, fixed)):
            yield comparison.searched("rigid", comparison.realigned(rigid))
            self._check_cancelled()
        yield comparison.searched("affine", affine)
        self._check_cancelled()
        yield comparison.searched("box", box_alignment(fixed, moving))

    def _check_cancelled(self) -> None:
        if self._cancelled():
            raise _Cancelled

    def _started(self, fixed: Volume, moving: Volume, lattice: Grid) -> sitk.Transform:
        """The start, from both distance maps; where it is a displacement field, on the lattice."""
        if self._given is not None:
            return continued(self._given, lattice)
        if self._start_name == "none":
            return sitk.Transform(3, sitk.sitkIdentity)
        if self._start_name == "box":
            return box_alignment(fixed, moving)
        if self._start_name == "landmarks":
            return landmark_alignment(*self._landmarks, lattice)
        return lung_alignment(fixed, moving, self._fixed.grid, self._moving.grid)

    def _check_overlap(self, distance: Volume, start: sitk.Transform) -> None:
        points = distance.grid.points()[distance.array < 0][::97]
        moved = np.array([start.TransformPoint(p) for p in points.tolist()])
        if self._moving.grid.contains(moved).mean() < MIN_OVERLAP:
            raise InputError(
                "The images hardly overlap at the start: most of the fixed lungs fall outside the "
                "moving image. Start from 'affine' or 'search', or give an initial transform "
                "from fixed to moving."
            )

    def _best(self) -> int:
        """The last step, unless an earlier one, such as none at all, matches clearly better."""
        values = [step.dissimilarity for step in self.steps]
        good = min(values) * WORSE
        return next((i for i in range(len(values) - 1, 0, -1) if values[i] <= good), 0)

    def _provenance(
        self, judgement: Verdict, told: dict[str, float]
    ) -> dict[str, str | int | float]:
        return {
            "software": f"L2ORegistration {__version__}",
            "method": self._name,
            "model": f"{self._card.name} {self._card.version}" if self._card else "",
            "model_sha256": self._card.sha256 if self._card else "",
            "start": "given transform" if self._given is not None else self._start_name,
            "start_model": f"{self._predictor[0].name} {self._predictor[0].version}"
            if self._predictor
            else "",
            "start_chosen": ", ".join(f"{s.name} {s.mismatch:.4f}" for s in self.starts),
            "plan": ", ".join(f"{stage.name} {stage.iterations}" for stage in self._plan),
            "spacing_mm": self._spacing,
            "device": str(self._device),
            "torch": torch.__version__,
            "seconds": round(self.steps[-1].seconds, 2),
            "verdict": judgement.level,
            "reasons": " ".join(judgement.reasons),
            "confidence_median_mm": round(told["median"], 2),
            "confidence_p95_mm": round(told["p95"], 2),
            "confidence_unsure": round(told["unsure"], 3),
            "warning": self.warning,
        }

    @property
    def warning(self) -> str:
        """What was asked for beyond what is known to be good: sentences, or nothing."""
        said = []
        made = max((stage.iterations for stage in self._plan if stage.all_learned), default=0)
        if made and made > self._card.trained_iterations[1]:
            said.append(
                f"{made} iterations a level are more than the {self._card.name} "
                f"weights were trained with (at most {self._card.trained_iterations[1]}): later "
                "ones may make it worse; the best by dissimilarity is kept."
            )
        if self._too_coarse and any("trusting" in stage.settings for stage in self._plan):
            said.append(
                "The images are coarser than those that the network has learned from: plain "
                "Gauss-Newton made all iterations."
            )
        if self._spacing < FINEST_MM:
            said.append(
                f"A working spacing of {self._spacing:g} mm is finer than what was calibrated: "
                f"the result is no better than with {WORKING_SPACING_MM:g} mm, and verdict and "
                "confidence may be wrong."
            )
        return " ".join(said)


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


def _at_once(function: Callable, *values: Sequence) -> list:
    """function(*v) for the fixed and the moving one of `values`, each on a core of its own."""
    with ThreadPoolExecutor(2) as both:
        return list(both.map(function, *values))


def _level(descriptor: str, pyramid: FeaturePyramid, field: torch.Tensor | None):
    return load(DESCRIPTORS[descriptor])(pyramid, field)


class _Cancelled(Exception):
    """Ends an iteration that its caller no longer wants."""
