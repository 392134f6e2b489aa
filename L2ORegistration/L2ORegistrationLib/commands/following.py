"""What `register` writes beside the transform: inverse, DICOM registration, ventilation."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import InputError
from ..core.files import WRITABLE_TRANSFORMS, write_transform
from ..core.geometry import Volume
from ..core.mixed_up import of_other_scan
from ..core.paths import made
from ..outputs.record import Record
from .console import checked_file, checked_folder

if TYPE_CHECKING:
    from ..engine.result import Result
    from ..outputs.ventilation import Ventilation
    from ..reporting.tables import LandmarkPairs

_REGION_POINTS = 20_000  # of each region, that are looked up in the lungs


@dataclass
class Written:
    """Files, a sentence about each, why some are missing, and measures for the JSON document."""

    paths: list[Path] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    measures: dict[str, Any] = field(default_factory=dict)


class Following:
    """The outputs asked for, checked before the registration and written after it.

    Raises InputError for places that cannot be written to, for a DICOM registration of images that
    are no DICOM folders, and for regions that are no label map.
    """

    def __init__(
        self,
        fixed: Path,
        moving: Path,
        inverse: Path | None,
        dicom: Path | None,
        ventilation: Path | None,
        regions: Path | None = None,
        report: bool = False,
    ):
        self._images = fixed, moving
        self._inverse = inverse and checked_file(inverse, WRITABLE_TRANSFORMS, "a transform")
        self._dicom = dicom and checked_file(dicom, (".dcm",), "a DICOM registration")
        self._ventilation = ventilation and checked_folder(ventilation)
        if regions and not (ventilation or report):
            raise InputError("--regions needs --ventilation or --report.")
        self._regions = None
        if regions:
            from ..outputs.labels import read_regions

            self._regions = read_regions(regions)
        self._filled: Ventilation | None = None
        if self._dicom:
            from ..outputs.dicom import slices_of

            for image in self._images:
                slices_of(image)

    def check_regions(self, fixed: Volume, moving: Volume, mask: Path | Volume | None) -> list[str]:
        """Why regions may have been drawn in moving, a sentence each; mask None: found here.

        Raises InputError for a region that does not touch the fixed lungs.
        """
        if not self._regions:
            return []
        from ..engine.arguments import as_mask
        from ..engine.images.lungs import lung_mask

        lungs = as_mask(mask, fixed, "fixed") or lung_mask(fixed)
        for name, region in self._regions.items():
            if not lungs.sample(region.marked_points(_REGION_POINTS), order=0, outside=0.0).any():
                raise InputError(
                    f"The region '{name}' lies outside the lungs of the fixed image: draw regions "
                    "in the fixed scan, and give them in its frame."
                )
        grid = next(iter(self._regions.values())).grid
        together = Volume(np.any([r.array for r in self._regions.values()], axis=0), grid)
        if found := of_other_scan(together, fixed, moving, "What --regions marks"):
            return [found]
        if grid.matches(moving.grid) and not grid.matches(fixed.grid):
            return ["--regions lies on the voxels of the moving scan: was it drawn in fixed?"]
        return []

    def write(self, result: Result) -> Written:
        """Write what was asked for and can be made: a folded field has no inverse, for one."""
        done = Written()
        for name, path, write in (
            ("--dicom", self._dicom, self._write_dicom),
            ("--ventilation", self._ventilation, self._write_ventilation),
            ("--inverse", self._inverse, self._write_inverse),
        ):
            try:
                if path:
                    write(result, path, done)
            except InputError as error:
                done.missing.append(f"{name} was not written: {error}")
        return done

    def _write_dicom(self, result: Result, path: Path, done: Written) -> None:
        from ..outputs.dicom import write_registration

        write_registration(result.field, *self._images, path)
        done.paths.append(path)

    def _write_ventilation(self, result: Result, folder: Path, done: Written) -> None:
        from ..reporting.ventilation import write

        filled = self._fill(result)
        done.paths += write(filled, result.fixed, result.fixed_mask, made(folder))
        done.sentences.append(filled.sentence())
        done.measures["ventilation"] = filled.regions

    def _write_inverse(self, result: Result, path: Path, done: Written) -> None:
        from ..outputs.inverse import invert

        points = result.fixed_mask.marked_points(most=300_000)
        found = invert(result.field, points, result.moving.grid)
        write_transform(found.field, path)
        Record.of(result, *self._images).inverted().write(path)
        done.paths.append(path)
        done.sentences.append(found.sentence())
        done.measures["inverse_round_trip_mm"] = found.summary()

    def sections(self, result: Result, pairs: LandmarkPairs | None) -> dict[str, str]:
        """What a report shows beside the registration itself: HTML by heading."""
        from ..outputs.quality import assess
        from ..reporting import certainty, quality, ventilation

        rows = assess(result.field, pairs, masks={"lungs": result.fixed_mask})
        verdict = " ".join((f"{result.verdict}.", *result.reasons))
        beside = {"Verdict": verdict, "Confidence": certainty.sentence(result.provenance)}
        try:
            filled = self._fill(result)
            change = ventilation.section(filled, result.fixed, result.fixed_mask)
        except InputError as error:
            change = f"<p>Not measured: {escape(str(error))}</p>"
        return {
            "How sure it is": certainty.section(result, pairs),
            "Quality after AAPM TG-132": quality.section(rows, beside),
            "How the lungs change their volume": change,
        }

    def _fill(self, result: Result) -> Ventilation:
        if self._filled is None:
            from ..outputs.ventilation import ventilation

            given = result.field, result.fixed, result.moving, result.fixed_mask
            self._filled = ventilation(*given, self._regions)
        return self._filled
