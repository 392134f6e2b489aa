"""How well motion is found next to the pleura, along which lungs slide: phantoms, known everywhere.

    python Testing/tools/sliding_pleura.py [SEED ...] [--method l2o] [--model PATH]

For each seed, a textureless patient, the mean error in mm at all places of the fixed lungs, at
those within 3 mm of their surface, and the second against the first.
"""

import argparse

import numpy as np
from L2ORegistrationLib.engine.registration import register
from L2ORegistrationLib.engine.start.alignment import distance_map
from L2ORegistrationLib.phantom.pair import make_anatomy, make_pair

NEAR_MM = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", nargs="*", type=int, default=[9100, 9101])
    parser.add_argument("--method", default="l2o")
    parser.add_argument("--model")
    options = parser.parse_args()
    print("seed     everywhere    near   ratio")
    for seed in options.seeds:
        pair = make_pair(seed, anatomy=make_anatomy(seed, detail=1.0))
        masks = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
        chosen = {"method": options.method, "model": options.model, **masks}
        found = register(pair.fixed, pair.moving, **chosen)
        points = pair.fixed_mask.marked_points(most=100_000)
        truth = pair.field.transform_points(points)
        errors = np.linalg.norm(found.field.transform_points(points) - truth, axis=1)
        near = distance_map(pair.fixed_mask).sample(points) > -NEAR_MM
        a, b = errors.mean(), errors[near].mean()
        print(f"{seed:<12d}{a:7.3f} {b:7.3f}  {b / a:6.2f}", flush=True)


if __name__ == "__main__":
    main()
