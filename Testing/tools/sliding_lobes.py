"""How well motion is found next to fissures along which lobes slide: phantoms, known to the point.

    python Testing/tools/sliding_lobes.py [SEED ...] [--most 12] [--method gauss-newton]

For each seed the pair with and without sliding lobes, everything else the same: mean errors in mm
at landmarks within 10 mm of the oblique fissures and at all others.
"""

import argparse

import numpy as np
from L2ORegistrationLib.engine.registration import register
from L2ORegistrationLib.phantom.lobes import LobeSliding
from L2ORegistrationLib.phantom.pair import make_anatomy, make_pair

NEAR_MM = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", nargs="*", type=int, default=[888000, 888001, 888002])
    parser.add_argument("--most", type=float, default=12.0)
    parser.add_argument("--method", default="gauss-newton")
    options = parser.parse_args()
    print("seed       lobes   near    rest   ratio    n near")
    for seed in options.seeds:
        anatomy = make_anatomy(seed, 1.5)
        lobes = LobeSliding.draw(np.random.default_rng([seed, 41]), anatomy, options.most)
        for slid in (0.0, options.most):
            pair = make_pair(seed, anatomy=anatomy, swap=True, lobes_mm=slid)
            masks = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
            found = register(pair.fixed, pair.moving, method=options.method, **masks)
            near = np.abs(lobes.distance.sample(pair.fixed_landmarks)) < NEAR_MM
            ends = found.field.transform_points(pair.fixed_landmarks)
            errors = np.linalg.norm(ends - pair.moving_landmarks, axis=1)
            a, b = errors[near].mean(), errors[~near].mean()
            print(
                f"{seed}  {slid:6.1f}  {a:6.3f}  {b:6.3f}  {a / b:6.2f}  {near.sum():8d}",
                flush=True,
            )


if __name__ == "__main__":
    main()
