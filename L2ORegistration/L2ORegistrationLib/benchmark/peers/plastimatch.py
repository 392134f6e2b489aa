"""plastimatch: B-splines on finer and finer knots, by mean squares, by its own package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import SimpleITK as sitk

from ...core.errors import InputError
from ...core.geometry import DisplacementField
from .common import prepared

if TYPE_CHECKING:
    from ..scan import Scan

KNOTS = ((60, 4), (30, 2), (15, 2), (10, 1))  # mm between the knots, voxels averaged
STAGE = "max_its=50\ngrid_spac={0} {0} {0}\nres={1} {1} {1}"
SETTINGS = "xform=bspline\noptim=lbfgsb\nimpl=plastimatch\nmetric=mse\nregularization_lambda=0.005"


def load() -> None:
    """Load the software."""
    import_module("plastimatch")


def register(scan: Scan, options: dict[str, Any]) -> DisplacementField:
    """B-splines within the fixed lung mask; the field on fixed's voxels."""
    given = prepared(scan)
    environment = dict(os.environ)
    if options.get("threads"):
        environment["OMP_NUM_THREADS"] = str(options["threads"])
    with TemporaryDirectory() as name:
        folder = Path(name)
        images = {"fixed": given.fixed, "moving": given.moving, "fixed_roi": given.mask}
        lines = ["[GLOBAL]", f"vf_out={folder / 'field.mha'}", "default_value=-1000"]
        for key, volume in images.items():
            sitk.WriteImage(volume.to_image(), str(folder / f"{key}.mha"))
            lines.append(f"{key}={folder / f'{key}.mha'}")
        for number, knots in enumerate(KNOTS):
            lines += ["[STAGE]", *([SETTINGS] if number == 0 else []), STAGE.format(*knots)]
        commands = folder / "commands.txt"
        commands.write_text("\n".join(lines) + "\n", encoding="utf-8")
        # Where pip put it, whether or not this Python's environment is active.
        places = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        program = shutil.which("plastimatch", path=places) or "plastimatch"
        command = [program, "register", str(commands)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace"
        )
        if not (folder / "field.mha").exists():
            raise InputError(f"plastimatch failed: {(done.stderr or done.stdout)[-300:]}")
        field = sitk.ReadImage(str(folder / "field.mha"))
    return given.field(sitk.GetArrayFromImage(field), scan.fixed.grid)
