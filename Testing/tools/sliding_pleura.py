"""How well motion is found next to the pleura, along which lungs slide: phantoms, known everywhere.

    python Testing/tools/sliding_pleura.py 9100 9101 [--method=l2o] [--model=PATH]

For each seed, a textureless patient, the mean error in mm at all places of the fixed lungs, at
those within 3 mm of their surface, and the second against the first.
"""

import sys

import numpy as np
from L2ORegistrationLib.engine.registration import register
from L2ORegistrationLib.engine.start.alignment import distance_map
from L2ORegistrationLib.phantom.pair import make_anatomy, make_pair

NEAR_MM = 3.0


def main(seeds: list[int], **options: str) -> None:
    print("seed     everywhere    near   ratio")
    for seed in seeds:
        pair = make_pair(seed, anatomy=make_anatomy(seed, detail=1.0))
        masks = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
        found = register(pair.fixed, pair.moving, **masks, **options)
        points = pair.fixed_mask.marked_points(most=100_000)
        truth = pair.field.transform_points(points)
        errors = np.linalg.norm(found.field.transform_points(points) - truth, axis=1)
        near = distance_map(pair.fixed_mask).sample(points) > -NEAR_MM
        a, b = errors.mean(), errors[near].mean()
        print(f"{seed:<12d}{a:7.3f} {b:7.3f}  {b / a:6.2f}", flush=True)


if __name__ == "__main__":
    given = dict(a[2:].split("=") for a in sys.argv[1:] if a.startswith("--"))
    main([int(a) for a in sys.argv[1:] if not a.startswith("--")] or [9100, 9101], **given)
