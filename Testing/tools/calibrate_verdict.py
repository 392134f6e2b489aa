"""How often the verdict is wrong: on registrations that went right, and on such that cannot.

    python Testing/tools/calibrate_verdict.py [PHANTOMS] [PAIRS ...]

Registers breathing phantoms (and folders of pairs with landmarks) as they are, with the moving
patient turned by 30 degrees about each axis and 200 mm away in every direction, and so that it must
fail: against another patient, mirrored, and from no start 60 mm away. Prints each error beside its
verdict, the share of failed ones (mean error above 5 mm) called good, and the share of right ones
(below 1 mm) called failed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import Grid, Volume
from L2ORegistrationLib.core.measures import target_registration_error
from L2ORegistrationLib.datasets.registry import load_dataset
from L2ORegistrationLib.engine.registration import register
from L2ORegistrationLib.phantom.pair import make_pair
from L2ORegistrationLib.phantom.seeds import measured
from scipy.spatial.transform import Rotation

FAR_MM = 60.0
FARTHER_MM = (200.0, -200.0, 200.0)
TURN = 30.0  # degrees


def cases(phantoms: int, folders: list[Path]):
    """(name, fixed, moving, fixed points, moving points) of each pair."""
    for seed in range(phantoms):
        motion = {"amplitude_mm": 8.0 + 3.0 * (seed % 6), "noise_hu": 25}
        pair = make_pair(measured(seed), spacing=2.5, **motion)
        points = pair.fixed_mask.marked_points(most=400)
        yield (
            f"phantom {seed}",
            pair.fixed,
            pair.moving,
            points,
            pair.field.transform_points(points),
        )
    for folder in folders:
        for case in load_dataset("pairs", folder):
            if case.landmarks:
                yield f"{folder.name}/{case.name}", case.fixed(), case.moving(), *case.landmarks


def variants(case, other):
    """The case as it is, and in ways in which it must fail: (kind, case, options)."""
    name, fixed, moving, p, q = case
    yield "as it is", case, {}
    for axis in range(3):
        yield f"turned about {'xyz'[axis]}", (name, fixed, *turned(moving, p, q, axis)), {}
    yield "200 mm away", (name, fixed, shifted(moving, FARTHER_MM), p, q + FARTHER_MM), {}
    yield "another patient", (name, fixed, other[2], p, None), {}
    mirrored = Volume(np.ascontiguousarray(moving.array[..., ::-1]), moving.grid)
    index = moving.grid.to_index(q)
    index[:, 0] = moving.grid.size[0] - 1 - index[:, 0]
    yield "mirrored", (name, fixed, mirrored, p, moving.grid.to_world(index)), {}
    away = (name, fixed, shifted(moving, (0, 0, FAR_MM)), p, q + [0, 0, FAR_MM])
    yield "no start, far away", away, {"start": "none"}


def shifted(image: Volume, mm: tuple[float, float, float]) -> Volume:
    """The image elsewhere."""
    grid = image.grid
    return Volume(
        image.array, Grid(grid.size, grid.spacing, np.add(grid.origin, mm), grid.direction)
    )


def turned(moving: Volume, p: np.ndarray, q: np.ndarray, axis: int):
    """(image, fixed points, moving points) of a patient who lies turned in the same scanner.

    Points that leave the image are left out on both sides.
    """
    turn = Rotation.from_euler("xyz"[axis], TURN, degrees=True).as_matrix()
    grid = moving.grid
    middle = grid.to_world((np.array(grid.size) - 1) / 2)
    array = moving.sample((grid.points() - middle) @ turn + middle, outside=-1000.0)
    ends = (q - middle) @ turn.T + middle
    seen = grid.contains(ends)
    return Volume(array.astype(np.float32), grid), p[seen], ends[seen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phantoms", nargs="?", type=int, default=4)
    parser.add_argument("pairs", nargs="*", type=Path)
    given = parser.parse_args()
    every = list(cases(given.phantoms, given.pairs))
    rows = []
    for number, case in enumerate(every):
        for kind, (name, fixed, moving, p, q), options in variants(case, every[number - 1]):
            try:
                result = register(fixed, moving, **options)
            except InputError as refused:
                print(f"{name:24} {kind:20} refused: {refused}", flush=True)
                continue
            # Between patients nothing corresponds: there is no right answer, so it has failed.
            error = np.inf if q is None else target_registration_error(result.field, p, q).mean()
            rows.append((error, result.verdict))
            print(f"{name:24} {kind:20} {error:7.2f} mm  {result.verdict}", flush=True)
            for reason in result.reasons:
                print(f"{'':24} {reason}")
    failed = [verdict for error, verdict in rows if error > 5]
    right = [verdict for error, verdict in rows if error < 1]
    print(f"failed ones called good: {failed.count('good')} of {len(failed)}")
    print(f"right ones called failed: {right.count('failed')} of {len(right)}")


if __name__ == "__main__":
    main()
