"""Other programs on the same case, all optional: a module each, with `load` and `register`."""

from __future__ import annotations

from importlib import import_module, metadata
from importlib.util import find_spec
from types import ModuleType

# Key -> its title, the module that is imported, what pip calls the package.
PEERS = {
    "elastix": ("elastix", "itk", "itk-elastix"),
    "convexadam": ("convexAdam", "convexAdam", "convexAdam"),
    "greedy": ("Greedy", "picsl_greedy", "picsl-greedy"),
    "ants": ("ANTs SyN", "ants", "antspyx"),
    "plastimatch": ("plastimatch", "plastimatch", "plastimatch"),
}


def installed() -> list[str]:
    """The keys of those peers that can run here."""
    return [name for name, (_, module, _) in PEERS.items() if find_spec(module)]


def missing() -> list[str]:
    """The pip names of those that are not installed."""
    return [pip for _, module, pip in PEERS.values() if not find_spec(module)]


def versions(name: str) -> dict[str, str]:
    """The installed version of a peer's package."""
    package = PEERS[name][2]
    return {"software": f"{package} {metadata.version(package)}"}


def peer(name: str) -> ModuleType:
    """The module of a peer: `load()` loads its software, `register(scan, options)` runs it."""
    return import_module(f".{name}", __package__)
