"""How well motion is found next to fissures along which lobes slide: phantoms, known to the point.

    python Testing/tools/sliding_lobes.py 888000 888001 888002 [--most=12] [--method=gauss-newton]

For each seed the pair with and without sliding lobes, everything else the same: mean errors in mm
at landmarks within 10 mm of the oblique fissures and at all others.
"""

import sys

import numpy as np
from L2ORegistrationLib.engine.registration import register
from L2ORegistrationLib.phantom.lobes import LobeSliding
from L2ORegistrationLib.phantom.pair import make_anatomy, make_pair

NEAR_MM = 10.0


def main(seeds: list[int], most: float, method: str) -> None:
    print("seed       lobes   near    rest   ratio    n near")
    for seed in seeds:
        anatomy = make_anatomy(seed, 1.5)
        lobes = LobeSliding.draw(np.random.default_rng([seed, 41]), anatomy, most)
        for slid in (0.0, most):
            pair = make_pair(seed, anatomy=anatomy, swap=True, lobes_mm=slid)
            masks = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
            found = register(pair.fixed, pair.moving, method=method, **masks)
            near = np.abs(lobes.distance.sample(pair.fixed_landmarks)) < NEAR_MM
            ends = found.field.transform_points(pair.fixed_landmarks)
            errors = np.linalg.norm(ends - pair.moving_landmarks, axis=1)
            a, b = errors[near].mean(), errors[~near].mean()
            print(
                f"{seed}  {slid:6.1f}  {a:6.3f}  {b:6.3f}  {a / b:6.2f}  {near.sum():8d}",
                flush=True,
            )


if __name__ == "__main__":
    options = dict(a[2:].split("=") for a in sys.argv[1:] if a.startswith("--"))
    chosen = [int(a) for a in sys.argv[1:] if not a.startswith("--")] or [888000, 888001, 888002]
    main(chosen, float(options.get("most", 12.0)), options.get("method", "gauss-newton"))
