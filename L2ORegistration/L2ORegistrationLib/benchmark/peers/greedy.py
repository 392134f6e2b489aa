"""Greedy: a dense field by local correlation, smoothed in each step, by ITK-SNAP's authors."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import SimpleITK as sitk

from ...core.geometry import DisplacementField, Volume
from .common import prepared

if TYPE_CHECKING:
    from ..scan import Scan

# Correlation in cubes of five voxels, four resolutions; the widths that smooth a step and the sum.
SETTINGS = "-m WNCC 2x2x2 -n 100x100x50x20 -s 2vox 0.5vox"


def load() -> None:
    """Load the software."""
    import_module("picsl_greedy")


def register(scan: Scan, options: dict[str, Any]) -> DisplacementField:
    """Greedy with the lung settings, within the fixed lung mask; the field on fixed's voxels."""
    from picsl_greedy import Greedy3D

    given = prepared(scan)
    threads = f"-threads {options['threads']}" if options.get("threads") else ""
    images = {"fixed": given.fixed, "moving": given.moving, "mask": given.mask}
    greedy = Greedy3D()
    greedy.execute(
        f"-i fixed moving -gm mask {SETTINGS} -o warp -V 0 {threads}",
        **{name: _float(volume) for name, volume in images.items()},
        warp=None,
    )
    return given.field(sitk.GetArrayFromImage(greedy["warp"]), scan.fixed.grid)


def _float(volume: Volume) -> sitk.Image:
    return sitk.Cast(volume.to_image(), sitk.sitkFloat32)
