"""What one registered case leaves on disk, for every command that registers: transform and more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.files import write_volume
from ..core.paths import made
from ..outputs.record import Record
from ..outputs.registry import OUTPUTS
from .tables import LandmarkPairs, write_history

if TYPE_CHECKING:
    from ..engine.result import Result


@dataclass(frozen=True)
class CaseFiles:
    """Where to write what; None: not at all.

    transform: file of the field, its record is written beside it; warped: of the moving image in
    the fixed geometry; images: (key of OUTPUTS, file) each; history: folder of every step's field
    and measures; report: folder of the HTML report. Folders are made.
    """

    transform: Path
    warped: Path | None = None
    images: tuple[tuple[str, Path], ...] = ()
    history: Path | None = None
    report: Path | None = None

    def write(
        self,
        results: Mapping[str, Result],
        pairs: LandmarkPairs | None = None,
        scans: tuple[str | Path, str | Path] | None = None,
        **page: Any,
    ) -> list[Path]:
        """Write what follows from the first result and return the files that users look for.

        results: by the names of their methods; the report compares them. pairs: landmarks for
        errors; scans: where fixed and moving came from; page: further arguments of
        `html.write_report`. Raises InputError where something cannot be written.
        """
        result = next(iter(results.values()))
        result.save(self.transform)
        Record.of(result, *(scans or ())).write(self.transform)
        written = [self.transform]
        warped = [("warped", self.warped)] if self.warped else []
        for name, path in (*warped, *self.images):
            write_volume(OUTPUTS[name].compute(result), path)
            written.append(path)
        if self.history:
            written.append(write_history(result, made(self.history), pairs)[-1])  # the table
        if self.report:
            from .html import write_report  # matplotlib takes a second to import

            written.append(write_report(dict(results), made(self.report), pairs, **page)[0])
        return written
