"""Seconds and memory of a registration at the resolution of a modern scanner.

    python Testing/tools/full_resolution.py PAIR [--threads 2] [--repeats 2]

PAIR: a folder with fixed, moving, fixed_mask and moving_mask (.nii.gz). All four are resampled to
512x512x650 voxels and registered, from memory, in a process of their own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import SimpleITK as sitk
from L2ORegistrationLib.core.geometry import Volume
from L2ORegistrationLib.engine.registration import register

NAMES = ("fixed", "moving", "fixed_mask", "moving_mask")
SIZE = (512, 512, 650)


def refined(image: sitk.Image, mask: bool) -> sitk.Image:
    """The image on SIZE voxels between the same outermost ones."""
    ends = zip(image.GetSize(), image.GetSpacing(), SIZE, strict=True)
    reference = sitk.Image(SIZE, sitk.sitkUInt8)
    reference.SetSpacing([(n - 1) * s / (m - 1) for n, s, m in ends])
    reference.SetOrigin(image.GetOrigin())
    reference.SetDirection(image.GetDirection())
    way = sitk.sitkNearestNeighbor if mask else sitk.sitkLinear
    return sitk.Resample(image, reference, sitk.Transform(), way, 0.0 if mask else -1000.0)


def measured(folder: Path, threads: int, repeats: int) -> None:
    """Print the seconds and the peak memory of registrations of the files of a folder."""
    parts = [Volume.of_image(sitk.ReadImage(str(folder / f"{name}.nrrd"))) for name in NAMES]
    loaded = sum(part.array.nbytes for part in parts) / 1e9
    for _ in range(repeats):
        begin = time.perf_counter()
        masks = {"fixed_mask": parts[2], "moving_mask": parts[3]}
        verdict = register(*parts[:2], **masks, threads=threads).verdict
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak = peak / 1e9 if sys.platform == "darwin" else peak / 1e6
        print(
            f"{seconds:.1f} s, at most {peak:.1f} GB, of which {loaded:.1f} GB are images and "
            f"masks; {verdict}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pair", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measured(given.pair, given.threads, given.repeats)
    else:
        with tempfile.TemporaryDirectory() as place:
            for name in NAMES:
                image = sitk.ReadImage(str(given.pair / f"{name}.nii.gz"))
                image = refined(image, name.endswith("mask"))
                sitk.WriteImage(image, str(Path(place) / f"{name}.nrrd"), useCompression=False)
            options = ["--threads", str(given.threads), "--repeats", str(given.repeats)]
            command = [sys.executable, __file__, place, *options, "--measure"]
            sys.exit(subprocess.run(command, check=False).returncode)
