"""What a registration found, in a small file beside its transform, for those who use that later.

No format of transforms has a place for it that SimpleITK writes. A record belongs to one transform,
which it knows by its checksum.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.dicom_series import frame_of_reference
from ..core.geometry import Grid
from ..core.paths import at_home, atomic, checksum
from ..engine.verdict import CHECK, FAILED

if TYPE_CHECKING:
    from ..engine.result import Result


@dataclass(frozen=True)
class Scan:
    """An image, or what lies in one: its grid, its path and, of DICOM, its frame of reference.

    None and "" where these are unknown.
    """

    grid: Grid | None
    path: str = ""
    frame: str = ""

    @classmethod
    def of(cls, grid: Grid | None, path: str | Path | None = None) -> Scan:
        """That of a grid, read from this path."""
        if path is None:
            return cls(grid)
        return cls(grid, str(at_home(path).resolve()), frame_of_reference(path))

    def is_one(self, this: Scan, not_this: Scan) -> bool:
        """Whether it is the first of two scans, by its path, or has its voxels and not the other's.

        Phases of a 4DCT have the same voxels: only the paths tell them apart.
        """
        if self.path and self.path in (this.path, not_this.path):
            return this.path != not_this.path and self.path == this.path
        known = (self.grid is not None and self.grid.matches(one.grid) for one in (this, not_this))
        return tuple(known) == (True, False)


@dataclass(frozen=True)
class Record:
    """The verdict on a transform, its reasons, and the scans that it leads from and to.

    cancelled: whether the registration was stopped early; inverse: whether the transform is the
    inverse of what was registered; provenance: as in `Result`.
    """

    verdict: str
    reasons: tuple[str, ...]
    fixed: Scan
    moving: Scan
    cancelled: bool = False
    inverse: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, result: Result, fixed: str | Path | None = None, moving: str | Path | None = None
    ) -> Record:
        """That of a result; fixed, moving: where its images came from."""
        return cls(
            result.verdict,
            result.reasons,
            Scan.of(result.fixed.grid, fixed),
            Scan.of(result.moving.grid, moving),
            result.cancelled,
            provenance=result.provenance,
        )

    def inverted(self) -> Record:
        """That of the inverse transform."""
        return replace(self, fixed=self.moving, moving=self.fixed, inverse=not self.inverse)

    def warnings(self, name: str) -> list[str]:
        """What somebody who uses the transform of this name should know, a sentence each."""
        reasons = " ".join(self.reasons)
        said = {
            FAILED: f"The registration that made {name} has failed: do not use it. {reasons}",
            CHECK: f"The registration that made {name} is to be checked. {reasons}",
        }
        found = [said[self.verdict].strip()] if self.verdict in said else []
        if self.cancelled:
            found.append(f"The registration that made {name} was stopped early.")
        return found

    def misplaced(self, thing: Scan, role: str, name: str) -> list[str]:
        """Why a thing of this name does not lie in the scan of this role, "fixed" or "moving"."""
        ours, theirs, other = self.fixed, self.moving, "moving"
        if role == "moving":
            ours, theirs, other = theirs, ours, "fixed"
        if thing.is_one(theirs, ours):
            found = f"{name} belongs to the {other} scan, not to the {role} one: "
            return [f"{found}were they exchanged?"]
        if thing.frame and ours.frame and thing.frame != ours.frame:
            whose = f", that of the {other} one" if thing.frame == theirs.frame else ""
            return [f"{name} has another frame of reference than the {role} scan{whose}."]
        return []

    def write(self, transform: str | Path) -> Path:
        """Write it beside the transform's file, which is there already; returns its path."""
        path = beside(transform)
        content = {"transform_sha256": checksum(transform), **asdict(self)}
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        return path


def beside(transform: str | Path) -> Path:
    """Where the record of a transform is: "t.h5.json" for "t.h5"."""
    transform = at_home(transform)
    return transform.with_name(f"{transform.name}.json")


def read_record(transform: str | Path) -> Record | None:
    """The record of a transform; None where none is there, or only that of another transform."""
    transform = at_home(transform)
    try:
        content = json.loads(beside(transform).read_text(encoding="utf-8"))
        if content.pop("transform_sha256") != checksum(transform):
            return None
        scans = {
            role: Scan(**{**content[role], "grid": Grid(**content[role]["grid"])})
            for role in ("fixed", "moving")
        }
        return Record(**{**content, **scans, "reasons": tuple(content["reasons"])})
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None
