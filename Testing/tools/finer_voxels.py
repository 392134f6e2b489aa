"""What a closer look gains and costs where voxels are finer than the working grid.

    python Testing/tools/finer_voxels.py SEED... [--threads 2]

Draws phantoms with voxels of 0.8 x 0.8 x 1 mm (plain, with low dose, and averaged to
0.97 x 0.97 x 2.5 mm) and registers each with and without the closer images. A phantom takes two
minutes and 3 GB.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from unittest import mock

import L2ORegistrationLib as l2o
from L2ORegistrationLib.core.measures import target_registration_error
from L2ORegistrationLib.phantom.pair import make_anatomy, make_pair
from L2ORegistrationLib.phantom.scanner import Scan, averaged
from L2ORegistrationLib.phantom.varied import faded, vary, with_texture

FINE, THICKER = (0.8, 0.8, 1.0), (0.97, 0.97, 2.5)
AMPLITUDE_MM = 20.0


def pairs(seed: int) -> dict:
    """The pairs of one patient, by what is named."""
    anatomy = with_texture(make_anatomy(seed, FINE), seed)
    plain = faded(make_pair(seed, anatomy=anatomy, amplitude_mm=AMPLITUDE_MM), seed)
    scans = (Scan(plain.fixed, plain.fixed_mask), Scan(plain.moving, plain.moving_mask))
    fixed, moving = (averaged(scan, THICKER) for scan in scans)
    thicker = replace(
        plain,
        fixed=fixed.image,
        moving=moving.image,
        fixed_mask=fixed.mask,
        moving_mask=moving.mask,
    )
    return {"plain": plain, "dose": vary(plain, "dose", seed), "2.5 mm slices": thicker}


def measured(pair, threads: int) -> tuple[float, float, float]:
    """Mean landmark error, mm, the share of landmarks within what they were told, and seconds."""
    masks = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
    result = l2o.register(pair.fixed, pair.moving, **masks, device="cpu", threads=threads)
    places = pair.fixed_landmarks, pair.moving_landmarks
    errors = target_registration_error(result.field, *places)
    told = result.confidence.sample(pair.fixed_landmarks, order=0)
    return errors.mean(), (errors <= told).mean(), result.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", nargs="+", type=int)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print("seed  kind            without: mm, sure, s        closer: mm, sure, s")
    for seed in options.seeds:
        for kind, pair in pairs(seed).items():
            with mock.patch(
                "L2ORegistrationLib.engine.registration.closer_ratios", return_value=[]
            ):
                before = measured(pair, options.threads)
            rows = (before, measured(pair, options.threads))
            told = "        ".join(f"{e:7.3f} {sure:7.3f} {s:6.1f}" for e, sure, s in rows)
            print(f"{seed}  {kind:14s} {told}", flush=True)


if __name__ == "__main__":
    main()
