"""Promises between files that nothing else checks: CMake, .ui, metadata, imports, boundaries."""

import ast
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "L2ORegistration"
LIBRARY = MODULE / "L2ORegistrationLib"
PYTHON = sorted(path for path in MODULE.rglob("*.py") if "__pycache__" not in path.parts)
# Where torch may be imported with the file; everywhere else within a function, or not at all.
TORCH = [LIBRARY / folder for folder in ("engine", "training", "benchmark")]
ENTRY = MODULE / "L2ORegistration.py"


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def at_file_scope(path):
    """The statements that run when a file is imported, also those under an if or a try."""
    for statement in tree_of(path).body:
        yield statement
        never_runs = ast.unparse(statement).startswith("if TYPE_CHECKING:")
        if isinstance(statement, ast.If | ast.Try) and not never_runs:
            yield from statement.body


def imported(statement):
    """The top-level modules that an import statement names; none for relative imports."""
    if isinstance(statement, ast.Import):
        return {alias.name.split(".")[0] for alias in statement.names}
    if isinstance(statement, ast.ImportFrom) and not statement.level:
        return {statement.module.split(".")[0]}
    return set()


def cmake_list(name):
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    found = re.search(rf"set\({name}\s(.*?)\)", text, re.DOTALL)[1]
    return [line.replace("${MODULE_NAME}", "L2ORegistration") for line in found.split()]


def metadata():
    """EXTENSION_... of the top CMakeLists.txt; each must be on one quoted line."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return dict(re.findall(r'^set\(EXTENSION_(\w+) "([^"\n]*)"\)$', text, re.MULTILINE))


def test_cmake_lists_every_script():
    on_disk = [path.relative_to(MODULE).as_posix() for path in PYTHON]
    assert sorted(cmake_list("MODULE_PYTHON_SCRIPTS")) == sorted(on_disk)


def test_cmake_lists_every_resource():
    on_disk = [
        path.relative_to(MODULE).as_posix()
        for path in (MODULE / "Resources").rglob("*")
        if path.is_file()
    ]
    assert sorted(cmake_list("MODULE_PYTHON_RESOURCES")) == sorted(on_disk)


def test_metadata_agree():
    cmake = metadata()
    old = dict(
        line.partition(" ")[::2]
        for line in (ROOT / "L2ORegistration.s4ext").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    entry = json.loads((ROOT / "Resources" / "L2ORegistration.json").read_text(encoding="utf-8"))
    for name in ("HOMEPAGE", "CATEGORY", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "TIER"):
        assert old[name.lower()] == cmake[name], name
    for name in ("DEPENDS", "SCREENSHOTURLS", "KEYWORDS"):
        assert old[name.lower()].split() == cmake[name].replace(";", " ").split(), name
    assert entry["category"] == cmake["CATEGORY"]
    assert entry["build_dependencies"] == cmake["DEPENDS"].split()
    assert str(entry["tier"]) == cmake["TIER"]
    assert entry["scm_url"] == old["scmurl"] == cmake["HOMEPAGE"] + ".git"
    assert entry["scm_revision"] == old["scmrevision"]
    assert entry["scm_type"] == old["scm"] == "git"
    assert entry["build_subdirectory"] == old["build_subdirectory"]
    assert str(int(entry["enabled"])) == old["enabled"]


def test_metadata_are_what_the_extensions_index_wants():
    cmake = metadata()
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"^project\(L2ORegistration\)$", text, re.MULTILINE)
    assert cmake["HOMEPAGE"].rsplit("/", 1)[1].startswith("Slicer")
    for url in [cmake["ICONURL"], *cmake["SCREENSHOTURLS"].split()]:
        host, _, path = url.partition("/main/")
        assert host.startswith("https://raw.githubusercontent.com/")
        assert path.startswith("Resources/") and path.endswith(".png")
        assert (ROOT / "Resources" / path.partition("/")[2]).read_bytes()[:4] == b"\x89PNG"
    raw = (ROOT / "Resources" / "L2ORegistration.json").read_bytes()
    assert b"\r" not in raw and set(json.loads(raw)) <= {
        *("$schema", "category", "scm_url", "scm_revision", "scm_type", "build_dependencies"),
        *("build_subdirectory", "enabled", "tier", "dicom_support_rule"),
    }


def ui_widgets():
    """{object name: element} of the panel's widgets."""
    tree = xml.parse(MODULE / "Resources" / "UI" / "L2ORegistration.ui")
    return {element.get("name"): element for element in tree.iter("widget")}


def test_ui_has_what_the_code_asks_for():
    """Names as in ui.somethingButton, also made as prefix + "Button" in a few places."""
    asked = set()
    endings = ("Button", "Selector", "Label", "CheckBox", "ComboBox", "Slider", "Table", "Bar")
    for path in [ENTRY, *(LIBRARY / "panel").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        asked |= set(re.findall(r"\bui\.(\w+)", text))
        asked |= {name for name in re.findall(r'"(\w+)"', text) if name.endswith(endings)}
    made = {"Button", "ComboBox", "SegmentSelector"}  # the endings of names put together
    assert asked - made - set(ui_widgets()) == set()


def test_ui_parameters_are_those_of_the_parameter_node():
    bound = {
        prop.find("string").text
        for element in ui_widgets().values()
        for prop in element.findall("property")
        if prop.get("name") == "SlicerParameterName"
    }
    (node,) = (
        statement
        for statement in tree_of(ENTRY).body
        if isinstance(statement, ast.ClassDef) and statement.name.endswith("ParameterNode")
    )
    fields = {field.target.id for field in node.body if isinstance(field, ast.AnnAssign)}
    by_hand = {"fixedSegment", "movingSegment", "device", "model"}
    assert bound | by_hand == fields and not bound & by_hand


def test_ui_hands_the_scene_to_every_mrml_widget():
    tree = xml.parse(MODULE / "Resources" / "UI" / "L2ORegistration.ui")
    connected = {connection.find("receiver").text for connection in tree.iter("connection")}
    mrml = {
        name
        for name, element in ui_widgets().items()
        if element.get("class").startswith("qMRML") and element.get("class") != "qMRMLWidget"
    }
    assert connected == mrml


def test_every_control_explains_itself():
    silent = ("QLabel", "ctkCollapsibleButton", "qMRMLWidget", "QProgressBar")
    missing = {
        name
        for name, element in ui_widgets().items()
        if element.get("class") not in silent
        and not any(prop.get("name") == "toolTip" for prop in element.findall("property"))
    }
    assert missing == {"registerButton"}  # its tooltip says why it is disabled


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.relative_to(MODULE).as_posix())
def test_imports_keep_to_the_rules(path):
    modules = set().union(*(imported(statement) for statement in at_file_scope(path)))
    if not any(folder in path.parents for folder in TORCH):
        assert not modules & {"torch"}
    assert not modules & {"torchvision"}
    everywhere = set().union(*(imported(node) for node in ast.walk(tree_of(path))))
    in_slicer = path == ENTRY or LIBRARY / "panel" in path.parents
    if not in_slicer:
        assert not everywhere & {"qt", "ctk", "PySide6"}
        if LIBRARY / "scene" not in path.parents:
            assert not everywhere & {"slicer", "vtk"}
    if LIBRARY / "engine" in path.parents:
        called = {node.func.id for node in ast.walk(tree_of(path)) if _is_call_of_name(node)}
        assert "print" not in called


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.relative_to(MODULE).as_posix())
def test_nothing_runs_when_a_file_is_imported(path):
    """Only definitions, (conditional) imports and constants; `if __name__ == ...` is no import."""
    quiet = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign)
    for statement in tree_of(path).body:
        text = ast.unparse(statement)
        docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        guarded = isinstance(statement, ast.If) and "__main__" in text
        choice = isinstance(statement, ast.If) and all(
            isinstance(inner, ast.Import | ast.ImportFrom)
            for inner in statement.body + statement.orelse
        )
        allowed = path == LIBRARY / "__init__.py" and text.startswith("os.environ.setdefault(")
        assert isinstance(statement, quiet) or docstring or guarded or choice or allowed, text[:200]


@pytest.mark.parametrize("own", [None, "5"])
def test_torch_is_told_to_spin_less_unless_the_user_says_how_much(own):
    environment = {name: os.environ[name] for name in os.environ if name != "GOMP_SPINCOUNT"}
    environment |= {"PYTHONPATH": str(MODULE)} | ({"GOMP_SPINCOUNT": own} if own else {})
    code = "import L2ORegistrationLib.cli, os; print(os.environ['GOMP_SPINCOUNT'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (own or "3000")


def test_slicer_util_functions_are_called_by_their_full_name():
    """slicer.arrayFromVolume exists in slicer-core, but not on the desktop."""
    util = pytest.importorskip("slicer.util")
    functions = set(util.__all__) - {"sys", "os", "vtk", "slicer"}
    for path in PYTHON:
        for node in ast.walk(tree_of(path)):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "slicer"
            ):
                assert node.attr not in functions, f"{path.name}: slicer.{node.attr}"
            if isinstance(node, ast.ImportFrom) and node.module == "slicer":
                assert not {alias.name for alias in node.names} & functions, path.name


# Gone, renamed or deprecated in Qt 6, to which Slicer 6 moves, or differently called there.
QT5_ONLY = r"""QRegExp QDesktopWidget QMatrix\b QTextCodec QStringRef QSignalMapper QGLWidget
\.desktop\(\) \.setMargin\( \.margin\(\) \.stateChanged fontMetrics\(\)\.width\( \.setResizeMode\(
\.currentIndexChanged\[ \.activated\[ \.valueChanged\[ \.buttonClicked\[ MidButton
\.globalPos\(\) \.toTime_t AA_EnableHighDpiScaling QPalette\.(Back|Fore)ground""".split()


def test_no_call_is_for_qt_5_only():
    in_slicer = [ENTRY, *sorted((LIBRARY / "panel").glob("*.py"))]
    files = [*in_slicer, MODULE / "Resources" / "UI" / "L2ORegistration.ui"]
    for path in files:
        found = re.findall("|".join(QT5_ONLY), path.read_text(encoding="utf-8"))
        assert not found, path.name
    sample = "QRegExp('a') layout.setMargin(0) box.stateChanged.connect(f) QDesktopWidget()"
    assert len(list(re.finditer("|".join(QT5_ONLY), sample))) == 4


def _is_call_of_name(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
