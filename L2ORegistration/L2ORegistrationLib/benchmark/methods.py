"""The rows of the table: what each method is called and how it registers a case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from ..core.geometry import DisplacementField
from ..engine import catalogue
from .peers import PEERS, installed, peer, versions

if TYPE_CHECKING:
    from .scan import Scan


PREREGISTRATION = "voxelmorph++"  # the paper's


@dataclass
class Outcome:
    """What a method did: its field, fixed -> moving, and its steps (empty for peers)."""

    field: DisplacementField
    steps: list
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Method:
    """A row: title; group: the name that --methods knows; run(scan, options) registers.

    prepare(): loads the software, before the clock starts.
    """

    title: str
    group: str
    run: Callable[[Scan, dict[str, Any]], Outcome]
    prepare: Callable[[], object] = lambda: None


def chosen(groups: list[str], peers: bool) -> list[str]:
    """The keys of METHODS, in the table's order. Raises InputError for unknown groups."""
    known = list(dict.fromkeys(m.group for m in METHODS.values() if m.group != "peers"))
    unknown = [group for group in groups if group not in known]
    if unknown or not groups:
        raise InputError(
            f"There is no method '{', '.join(unknown)}': use some of {', '.join(known)}."
        )
    found = [key for key, method in METHODS.items() if method.group in groups]
    return found + (installed() if peers else [])


def _initial(scan: Scan, options: dict[str, Any]) -> Outcome:
    return Outcome(DisplacementField.zeros(scan.fixed.grid), [], {})


def _ours(method: str, start: str, *, only_start: bool = False, refine: bool = True) -> Callable:
    def run(scan: Scan, options: dict[str, Any]) -> Outcome:
        from ..engine.registration import Registration

        weights = options.get("weights") or {}
        model = options.get("model") if method == catalogue.DEFAULT else None
        registration = Registration(
            scan.fixed,
            scan.moving,
            fixed_mask=scan.fixed_mask,
            moving_mask=scan.moving_mask,
            method=method,
            start=start,
            model=model or weights.get(method),
            start_model=weights.get(start),
            refine=refine,
            iterations=options.get("iterations"),
            landmarks=_keypoints(scan) if start == "landmarks" else None,
            device=options.get("device", "auto"),
            threads=options.get("threads"),
        )
        for step in registration:
            if only_start and step.index == 1:
                return Outcome(step.field, [], registration.result().provenance)
        result = registration.result()
        return Outcome(result.field, result.steps, result.provenance)

    return run


def _keypoints(scan: Scan):
    from ..engine.images.lungs import lung_mask
    from ..training.keypoints import find_keypoints

    moving_mask = scan.moving_mask or lung_mask(scan.moving)
    return find_keypoints(scan.fixed, scan.moving, scan.region, moving_mask)


def _engine():
    from ..engine import registration

    return registration


def _peer(name: str) -> Method:
    def run(scan: Scan, options: dict[str, Any]) -> Outcome:
        return Outcome(peer(name).register(scan, options), [], versions(name))

    return Method(PEERS[name][0], "peers", run, lambda: peer(name).load())


def _rows() -> dict[str, Method]:
    """The rows of the table in order: of each method in the catalogue one from every start."""
    default = catalogue.DEFAULT
    rows = {"initial": Method("Initial", "initial", _initial)}
    for start, title in (("affine", "lung affine"), ("search", "pre-registration")):
        run = _ours(default, start, only_start=True)
        rows[f"start-{start}"] = Method(f"Start: {title}", "start", run, _engine)
    starts = (("affine", "w/o pre-reg."), ("search", "with pre-reg."))
    for name in reversed(catalogue.METHODS):
        for start, text in starts:
            title = f"{catalogue.METHODS[name].title} {text}"
            rows[f"{name}-{start}"] = Method(title, name, _ours(name, start), _engine)
    title = f"{catalogue.METHODS[default].title} from keypoints"
    rows[f"{default}-keypoints"] = Method(title, "keypoints", _ours(default, "landmarks"), _engine)
    for name in reversed(catalogue.METHODS):
        if name != PREREGISTRATION:
            titles = (catalogue.METHODS[key].title for key in (name, PREREGISTRATION))
            title = " after ".join(titles)
            run = _ours(name, PREREGISTRATION)
            rows[f"{name}-{PREREGISTRATION}"] = Method(title, "preregistered", run, _engine)
    for name in ("lapirn", PREREGISTRATION):
        title = f"{catalogue.METHODS[name].title} network alone"
        run = _ours(name, "affine", refine=False)
        rows[f"{name}-network"] = Method(title, "networks", run, _engine)
    return rows | {name: _peer(name) for name in PEERS}


METHODS = _rows()
