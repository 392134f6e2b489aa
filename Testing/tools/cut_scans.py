"""How well a scan that shows a part of the lungs is registered with one that shows all of them.

    python Testing/tools/cut_scans.py PAIRS [PART ...] [--method l2o]

Of every pair in the folder (images and landmarks, see `benchmark`) the moving scan is cut to its
left or right half, its upper or lower 60 or 40 %; masks are found automatically. Prints errors at
the landmarks that it shows and at the others, the share of either whose error is below what was
told, and the verdict.
"""

import argparse

import numpy as np
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import Volume
from L2ORegistrationLib.datasets.registry import load_dataset
from L2ORegistrationLib.engine.registration import register

EDGE_MM = 2.0  # beside the edge nothing is counted as shown
# Along (z, y, x) of the patient's axes: which one is cut, and where what is left begins and ends.
PARTS = {
    "right": (2, 0.0, 0.5),
    "left": (2, 0.5, 1.0),
    "top60": (0, 0.4, 1.0),
    "base60": (0, 0.0, 0.6),
    "top40": (0, 0.6, 1.0),
    "base40": (0, 0.0, 0.4),
}


def cut(scan: Volume, part: str) -> Volume:
    """That part of the scan, a key of PARTS."""
    axis, begin, end = PARTS[part]
    scan = scan.along_patient()
    slices = [slice(0, n) for n in scan.array.shape]
    n = scan.array.shape[axis]
    slices[axis] = slice(int(begin * n), int(end * n))
    return scan.part(*slices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs")
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--method", default="l2o")
    options = parser.parse_args()
    print("pair, part: mean / 95 % / largest where shown; mean elsewhere; told enough; verdict")
    for case in load_dataset("pairs", options.pairs):
        fixed, moving, (p, q) = case.fixed(), case.moving(), case.landmarks
        for part in options.parts:
            scan = cut(moving, part)
            try:
                result = register(fixed, scan, method=options.method)
            except InputError as error:
                print(f"{case.name} {part}: {error}", flush=True)
                continue
            errors = np.linalg.norm(result.field.transform_points(p) - q, axis=1)
            below = errors < result.confidence.sample(p)
            there = scan.grid.contains(q, margin=-EDGE_MM / min(scan.grid.spacing))
            shown = errors[there]
            print(
                f"{case.name} {part}: {shown.mean():.2f} / {np.percentile(shown, 95):.2f} / "
                f"{shown.max():.1f} mm at {len(shown)}; {errors[~there].mean():.1f} at "
                f"{(~there).sum()}; {below[there].mean():.0%}, {below[~there].mean():.0%}; "
                f"{result.verdict} {' '.join(result.reasons)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
