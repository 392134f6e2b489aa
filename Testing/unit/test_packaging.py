"""What a newcomer installs is whole: every package, weights included, and the tested versions."""

import re
import subprocess
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "L2ORegistration" / "L2ORegistrationLib"


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def bash_blocks():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_every_package_is_installed():
    found = {
        ".".join(path.parent.relative_to(LIBRARY.parent).parts)
        for path in LIBRARY.rglob("__init__.py")
    }
    setuptools = project()["tool"]["setuptools"]
    resources = {"weights": {".json", ".pt"}, "experiments": {".toml"}}
    names = {f"L2ORegistrationLib.{name}": kinds for name, kinds in resources.items()}
    assert set(setuptools["packages"]) == found | set(names)
    for name, suffixes in names.items():
        folder = ROOT / setuptools["package-dir"][name]
        assert {path.suffix for path in folder.iterdir()} == suffixes


def test_every_direct_dependency_is_pinned():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {name.lower() for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}
    metadata = project()["project"]
    wanted = [*metadata["dependencies"], *metadata["optional-dependencies"]["test"]]
    assert {re.match(r"[\w.-]+", line)[0].lower() for line in wanted} <= pinned


def test_readme_starts_with_the_two_commands():
    demo, tests = bash_blocks()[:2]
    for command in (demo, tests):
        assert command.count("\n") == 1  # one line to copy
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints")
    assert demo.rstrip().endswith("l2o-registration demo")
    assert tests.rstrip().endswith("python -m pytest -n 2 --dist loadfile")


def test_continuous_integration_runs_the_second_command():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    extract = next(line for line in script.splitlines() if line.startswith("command="))
    shown = subprocess.run(
        ["bash", "-c", f'{extract}; printf "%s\\n" "$command"'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == bash_blocks()[1]
