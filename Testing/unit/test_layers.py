"""The rooms of the library stand above each other: no import runs in a circle, none runs up."""

import ast
import graphlib
from pathlib import Path

import L2ORegistrationLib

ROOT = Path(L2ORegistrationLib.__file__).parent
# Rooms of one floor may use each other. The package's own __init__, which imports nothing at once,
# lies below all of them.
FLOORS = (
    {""},
    {"core"},
    {"phantom", "engine"},
    {"outputs"},
    {"reporting"},
    {"datasets"},
    {"training", "benchmark", "cohort", "sequence"},
    {"commands", "job", "scene"},
    {"panel", "cli"},
)
TORCH_FREE = "engine.catalogue"


def name_of(path):
    return (
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").strip(".")
    )


MODULES = {name_of(path): path for path in ROOT.rglob("*.py")}


def imports(name):
    """The modules of the library that this one imports, wherever in its text."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    return set().union(*(targets(name, node) for node in ast.walk(tree)))


def targets(name, node):
    """The modules of the library that a node of this one's text imports."""
    if isinstance(node, ast.Import):
        return {a.name.partition(".")[2] for a in node.names if a.name.startswith(ROOT.name)}
    if not isinstance(node, ast.ImportFrom):
        return set()
    if not node.level:
        first, _, rest = (node.module or "").partition(".")
        if first != ROOT.name:
            return set()
        whole = {f"{rest}.{alias.name}".strip(".") for alias in node.names}
        return {one if one in MODULES else rest for one in whole}
    package = MODULES[name].relative_to(ROOT).parent.parts
    parts = package[: len(package) + 1 - node.level]
    base = ".".join([*parts, *(node.module or "").split(".")]).strip(".")
    whole = (f"{base}.{alias.name}".strip(".") for alias in node.names)
    return {one if one in MODULES else base for one in whole}


def others(node):
    """The packages that a node imports from outside, by their first name."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return (
        {node.module.split(".")[0]} if isinstance(node, ast.ImportFrom) and node.module else set()
    )


GRAPH = {name: imports(name) for name in MODULES}


def room(name):
    return name.split(".")[0]


def floor(name):
    return next(number for number, rooms in enumerate(FLOORS) if room(name) in rooms)


def test_every_import_leads_to_a_module_and_every_module_has_a_floor():
    for name, found in GRAPH.items():
        assert found <= set(MODULES), name
        floor(name)
    assert sum(map(len, GRAPH.values())) > 200  # the imports are seen at all


def test_imports_by_the_full_name_are_seen_too():
    def of(text):
        return targets("engine.match", ast.parse(text).body[0])

    assert of("from L2ORegistrationLib.panel import widgets") == {"panel.widgets"}
    assert of("import L2ORegistrationLib.scene.run") == {"scene.run"}
    assert of("from L2ORegistrationLib.scene.run import Run") == {"scene.run"}
    assert of("from ..scene.run import Run") == {"scene.run"}
    assert of("import numpy") == of("from scipy import ndimage") == set()


def test_no_import_runs_in_a_circle():
    graphlib.TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the circle


def test_no_import_runs_up():
    up = [(name, other) for name in GRAPH for other in GRAPH[name] if floor(other) > floor(name)]
    assert not up


def test_the_catalogue_imports_no_torch():
    """Slicer's module reads it when Slicer starts, perhaps before torch is installed."""
    seen, waiting = set(), [TORCH_FREE]
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting += GRAPH[name] - seen
        tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
        assert "torch" not in set().union(*map(others, ast.walk(tree))), name


def test_slicer_waits_for_nothing_large_when_it_starts():
    """What the module's file imports at once, and what that imports at once."""
    file = ast.parse((ROOT.parent / "L2ORegistration.py").read_text(encoding="utf-8"))
    prefix = f"{ROOT.name}."
    waiting = {
        f"{node.module.removeprefix(prefix)}.{alias.name}"
        for node in file.body
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(prefix)
        for alias in node.names
    }
    waiting = {name if name in MODULES else name.rpartition(".")[0] for name in waiting}
    waiting = {name.removeprefix(ROOT.name).strip(".") for name in waiting}
    seen = set()
    while waiting:
        name = waiting.pop()
        parents = {".".join(name.split(".")[:k]) for k in range(name.count(".") + 1)}
        seen.add(name)
        for node in ast.parse(MODULES[name].read_text(encoding="utf-8")).body:
            assert not others(node) & {"torch", "scipy", "matplotlib"}, name
            waiting |= targets(name, node)
        waiting = (waiting | parents) - seen
    assert {"core.geometry", "engine.catalogue", "scene.logic"} <= seen
