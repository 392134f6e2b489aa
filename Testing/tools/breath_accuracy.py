"""Register the phantom 4DCT and print how right it is.

    python Testing/tools/breath_accuracy.py [SEED] [THREADS] [--voxels 0.97 0.97 2.5] [--phases 5]

Trajectory errors at all vessel branches, closed loops, and the seconds of all phases beside those
of one pair from the beginning, in one process. Usual voxels are of 2.5 mm, on a working grid of 2.
"""

import argparse
import time

import numpy as np
from L2ORegistrationLib.engine.registration import register
from L2ORegistrationLib.phantom.breathing import make_breathing
from L2ORegistrationLib.phantom.seeds import measured
from L2ORegistrationLib.sequence.registration import SequenceRegistration


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, default=7)
    parser.add_argument("threads", nargs="?", type=int, default=2)
    parser.add_argument("--voxels", nargs=3, type=float)
    parser.add_argument("--phases", type=int, default=10)
    given = parser.parse_args()
    voxels = tuple(given.voxels) if given.voxels else 2.5
    made = make_breathing(measured(given.seed), phases=given.phases, spacing=voxels)
    options = {"threads": given.threads, "device": "cpu"}
    if not given.voxels:
        options["spacing"] = 2.0
    middle = len(made.phases) // 2
    pair = []
    for _ in range(2):  # the first one also loads libraries
        began = time.perf_counter()
        register(made.phases[0], made.phases[middle], **options)
        pair.append(time.perf_counter() - began)
    began = time.perf_counter()
    registration = SequenceRegistration(made.phases, **options)
    for step in registration:
        print(f"{step.index} of {step.total}: {step.seconds:.1f} s", flush=True)
    result = registration.result()
    seconds = time.perf_counter() - began
    points = made.trajectories[0]
    found = np.array([result.fields[k].transform_points(points) for k in sorted(result.fields)])
    errors = np.linalg.norm(found - made.trajectories, axis=2)
    still = np.linalg.norm(points - made.trajectories, axis=2)
    print(f"{len(points)} trajectories: {errors.mean():.2f} mm off on average,", end=" ")
    print(f"{np.percentile(errors, 95):.2f} at 95 % (not followed: {still.mean():.2f} mm)")
    for name, distances in result.loops.items():
        print(f"loop, {name}: {distances.mean():.2f} mm on average")
    print(f"all phases {seconds:.1f} s, one pair {pair[-1]:.1f} s: {seconds / pair[-1]:.1f} times")


if __name__ == "__main__":
    main()
