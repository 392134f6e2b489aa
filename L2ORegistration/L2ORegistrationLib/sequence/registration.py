"""All phases of a breath to one of them: each from its neighbour's result, both ways round.

From the reference the phases are walked forward and backward round the cycle, and the phase where
both ways meet is registered on each. The reference is always the fixed image, so errors do not add
up along the way; what is passed on is only where to start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from .. import __version__
from ..core.errors import InputError
from ..core.geometry import DisplacementField, Grid, Volume
from ..engine.catalogue import METHODS, Stage
from ..engine.images.lungs import lung_mask
from ..engine.registration import Registration
from ..engine.verdict import CHECK, FAILED, Verdict, worst
from ..outputs.inverse import invert

# Gauss-Newton iterations by level, where the neighbour's field is a start: there is little to go.
ITERATIONS = (1, 2, 6)
STIFFER = 1.5  # in the last level: phases are noisier than scans of a held breath, and move less
CLOSELY = 1  # of the last level's iterations look closely
MOST_MASKS = 4  # that are sought at a time: each needs a copy of its phase
SMOOTHNESS = 0.02  # see smooth_in_time
LOOP_POINTS = 20_000


class NeighbourRegistration(Registration):
    """A registration that starts where the neighbouring phase ended, in few iterations."""

    def _planned(self, refine: bool) -> list[Stage]:
        *coarse, last = (
            replace(stage, iterations=ITERATIONS[stage.level])
            for stage in METHODS["gauss-newton"].stages
        )
        stiffness = STIFFER * last.settings["stiffness"]
        settings = {**last.settings, "stiffness": stiffness, "closely": CLOSELY}
        return [*coarse, replace(last, settings=settings)]


@dataclass(frozen=True)
class PhaseDone:
    """A phase has its field.

    index: number of the registration, from 1 to total; phase: whose it is (the last one, of the
    closed loops, is the reference's); seconds: so far; field: reference -> phase, mm LPS, before
    smoothing in time; verdict: what to think of it.
    """

    index: int
    total: int
    phase: int
    seconds: float
    field: DisplacementField
    verdict: Verdict


@dataclass
class SequenceResult:
    """Fields from the reference to each phase, all on one grid, and the loops.

    fields: {phase: DisplacementField}, of all phases unless cancelled; verdicts: what to think of
    each, before smoothing, but that of the phase that is registered to; reference: index of the
    phase, or None: their mean position; masks: lungs of each phase, bool; loops: by name, the
    distances (N,) in mm at points of the reference's lungs; grid: of the reference image;
    mean_wanted: whether the mean position was asked for, which a cancelled run does not know.
    """

    phases: list[Volume]
    masks: list[Volume]
    fields: dict[int, DisplacementField]
    verdicts: dict[int, Verdict]
    reference: int | None
    loops: dict[str, np.ndarray]
    seconds: float
    cancelled: bool
    provenance: dict[str, str | int | float]
    mean_wanted: bool = False

    @property
    def grid(self) -> Grid:
        """The grid of the phases, and of the reference."""
        return self.phases[0].grid

    @property
    def trusted(self) -> dict[int, DisplacementField]:
        """The fields of the phases that have not failed: what is said of the whole breath."""
        return trusted(self.fields, self.verdicts)

    @property
    def verdict(self) -> str:
        """The worst of the phases' verdicts: "good", "check" or "failed"."""
        return worst(verdict.level for verdict in self.verdicts.values())

    def lung_volumes(self) -> np.ndarray:
        """Millilitres of lung in each phase, from its mask."""
        voxel = abs(np.linalg.det(self.grid.matrix[:3, :3])) / 1000
        return np.array([mask.array.sum() * voxel for mask in self.masks])


class SequenceRegistration:
    """Iterate over it for a PhaseDone after each registration, stop when you like, take result().

    phases: images of one grid, in the order of the breath, round a cycle; reference: index of a
    phase, or "mean": the mean position of every point over the breath; masks: lungs of each phase
    (found automatically if not given); smooth: along the cycle; spacing, device, threads: as of
    engine.registration.Registration; cancelled(): asked within each phase: where it says True, the
    iteration ends, and the phase in progress is dropped.

    Raises InputError for what cannot be used.
    """

    def __init__(
        self,
        phases: Sequence[Volume],
        *,
        reference: int | str = 0,
        masks: Sequence[Volume] | None = None,
        smooth: bool = True,
        cancelled: Callable[[], bool] = lambda: False,
        **options,
    ):
        if reference != "mean" and reference not in range(len(phases)):
            raise InputError(
                f"There is no phase {reference}: give a number from 0 to {len(phases) - 1}, or "
                "'mean'."
            )
        if masks is not None and len(masks) != len(phases):
            raise InputError(f"There are {len(phases)} phases but {len(masks)} masks.")
        self._phases, self._masks = list(phases), list(masks) if masks else []
        self._mean = reference == "mean"
        self._reference = 0 if self._mean else int(reference)
        self._smooth, self._cancelled = smooth, cancelled
        self._options = {**options, "method": "gauss-newton"}
        self._fields: dict[int, DisplacementField] = {}
        self._verdicts: dict[int, Verdict] = {}
        self._loops: dict[str, np.ndarray] = {}
        self._seconds = 0.0
        self._finished = False
        count = len(self._phases)
        half = count // 2
        ahead = [(self._reference + k) % count for k in range(1, half + 1)]
        behind = [(self._reference - k) % count for k in range(1, count - half + 1)]
        self._ways = {"forward": ahead, "backward": behind}  # both end at the same phase
        self.total = count + 1

    def __iter__(self) -> Iterator[PhaseDone]:
        began = time.monotonic()
        done = 0
        if not self._masks:
            threads = self._options.get("threads") or os.cpu_count() or 1
            with ThreadPoolExecutor(min(threads, MOST_MASKS)) as pool:
                names = [f"phase {number}" for number in range(len(self._phases))]
                self._masks = list(pool.map(lung_mask, self._phases, names))
        ends, arrived = [], True
        for way in self._ways.values():
            start = None
            for index in way:
                found = self._registered(self._reference, index, start)
                if found is None:
                    return
                field, verdict = found
                if verdict.level != FAILED:  # else the next one begins where the last good one did
                    start = field
                if index in self._fields:  # where both ways meet
                    ends, arrived = [self._fields[index], field], verdict.level != FAILED
                    field, verdict = self._met(index, field, verdict)
                self._fields[index], self._verdicts[index] = field, verdict
                done += 1
                self._seconds = time.monotonic() - began
                yield PhaseDone(done, self.total, index, self._seconds, field, verdict)
        # There on one way; back on the other, with the roles of the images exchanged.
        farthest = self._ways["forward"][-1]
        begin = inverse(ends[1] if arrived else self._fields[farthest])
        found = self._registered(farthest, self._reference, begin)
        if found is None:
            return
        back, verdict = found
        points = self._masks[self._reference].marked_points(most=LOOP_POINTS)
        ways = [field.transform_points(points) for field in ends]
        returned = back.transform_points(self._fields[farthest].transform_points(points))
        self._loops = {
            "forward against backward": np.linalg.norm(ways[0] - ways[1], axis=1),
            "there and round the cycle back": np.linalg.norm(returned - points, axis=1),
        }
        self._finished = True
        self._seconds = time.monotonic() - began
        yield PhaseDone(
            self.total, self.total, self._reference, self._seconds, self._still(), verdict
        )

    def result(self) -> SequenceResult:
        """The fields so far. Of a cancelled run: those of the phases that were finished."""
        if not self._fields:
            raise RuntimeError("No phase is registered yet.")
        fields = {**self._fields, self._reference: self._still()}
        fields = dict(sorted(fields.items()))
        masks = self._masks
        good = trusted(fields, self._verdicts)
        smoothed = self._smooth and self._finished and len(good) == len(fields)
        if smoothed:  # a failed phase would spoil its neighbours
            fields = smooth_in_time(fields, self._reference)
        reference: int | None = self._reference
        if self._mean and self._finished:
            fields, reference = to_mean_position(fields, good), None
        return SequenceResult(
            phases=self._phases,
            masks=masks,
            fields=fields,
            verdicts=dict(sorted(self._verdicts.items())),
            reference=reference,
            loops=self._loops,
            seconds=self._seconds,
            cancelled=not self._finished,
            mean_wanted=self._mean,
            provenance={
                "software": f"L2ORegistration {__version__}",
                "method": "gauss-newton, phase by phase",
                "reference": "mean position" if reference is None else reference,
                "iterations": ", ".join(f"level {k}: {n}" for k, n in enumerate(ITERATIONS)),
                "smoothness in time": SMOOTHNESS if smoothed else 0,
                **{k: v for k, v in self._options.items() if k != "method" and v is not None},
                "seconds": round(self._seconds, 2),
            },
        )

    def _registered(
        self, fixed: int, moving: int, start: DisplacementField | None
    ) -> tuple[DisplacementField, Verdict] | None:
        """The field of one pair and its verdict; None where it was cancelled before the end."""
        options = dict(self._options)
        if start is None:  # neighbours in time are close in space
            options["start"] = "none"
        else:
            options["initial_transform"] = start
        registration = NeighbourRegistration(
            self._phases[fixed],
            self._phases[moving],
            fixed_mask=self._masks[fixed],
            moving_mask=self._masks[moving],
            cancelled=self._cancelled,
            **options,
        )
        try:
            for _ in registration:
                if self._cancelled():
                    return None
        except InputError as error:
            raise InputError(f"Phase {moving}: {error}") from error
        if self._cancelled() or not registration.steps:
            return None
        return registration.field, registration.judgement

    def _met(
        self, index: int, field: DisplacementField, verdict: Verdict
    ) -> tuple[DisplacementField, Verdict]:
        """Of both ways to a phase, the first of them kept already, their mean, or the better."""
        other, said = self._fields[index], self._verdicts[index]
        if said.level == verdict.level:
            return _mean_of(other, field), verdict
        if worst((said.level, verdict.level)) == said.level:
            other, said, verdict = field, verdict, said
        if verdict.level != FAILED:
            return other, said
        doubt = "Only one of both ways round the cycle has arrived here."
        return other, Verdict(worst((CHECK, said.level)), (*said.reasons, doubt))

    def _still(self) -> DisplacementField:
        return DisplacementField.zeros(next(iter(self._fields.values())).grid)


def smooth_in_time(
    fields: dict[int, DisplacementField], reference: int
) -> dict[int, DisplacementField]:
    """The fields of a whole cycle with less jitter from phase to phase; the reference stays.

    Minimises, at each point, the squared change of the fields plus SMOOTHNESS times their squared
    second difference round the cycle (Whittaker's smoother). Of ten phases this keeps
    99.7 % of a motion that swings once in a breath, 96 % of one that swings twice and 75 % of what
    changes its sign from phase to phase.
    """
    count = len(fields)
    bend = np.roll(np.eye(count), 1, 0) + np.roll(np.eye(count), -1, 0) - 2 * np.eye(count)
    others = [k for k in range(count) if k != reference]
    system = np.eye(count) + SMOOTHNESS * bend.T @ bend
    matrix = np.linalg.inv(system[np.ix_(others, others)]).astype(np.float32)
    stack = np.stack([fields[k].array for k in others])
    smooth = np.tensordot(matrix, stack, axes=1)
    grid = fields[reference].grid
    found = {k: DisplacementField(array, grid) for k, array in zip(others, smooth, strict=True)}
    return {k: found.get(k, fields[reference]) for k in range(count)}


def trusted(
    fields: dict[int, DisplacementField], verdicts: dict[int, Verdict]
) -> dict[int, DisplacementField]:
    """Those of the fields whose phases have not failed; the reference has no verdict, and stays."""
    failed = [phase for phase, verdict in verdicts.items() if verdict.level == FAILED]
    return {phase: field for phase, field in fields.items() if phase not in failed}


def to_mean_position(
    fields: dict[int, DisplacementField], good: dict[int, DisplacementField] | None = None
) -> dict[int, DisplacementField]:
    """The fields from the mean position of every point over the breath, instead of a phase.

    A point x of the reference has the mean position x + mean of u_k(x), over those of `good`.
    """
    good = fields if good is None else good
    grid = next(iter(fields.values())).grid
    mean = DisplacementField(np.mean([f.array for f in good.values()], axis=0), grid)
    back = inverse(mean)
    nodes = grid.points()
    origin = nodes + back.array
    return {
        k: DisplacementField((field.transform_points(origin) - nodes).astype(np.float32), grid)
        for k, field in fields.items()
    }


def inverse(field: DisplacementField) -> DisplacementField:
    """The field v with v(y) = -u(y + v(y)), mm LPS, on the same grid."""
    found = invert(field).field.sample(field.grid.points()).astype(np.float32)
    return replace(field, array=found)


def _mean_of(*fields: DisplacementField) -> DisplacementField:
    array = np.mean([field.array for field in fields], axis=0, dtype=np.float32)
    return DisplacementField(array, fields[0].grid)
