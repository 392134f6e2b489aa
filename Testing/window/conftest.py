"""Window tests need Qt (no screen) and slicer-core; without them each file says so and skips."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, str(Path(__file__).parent))

try:
    from fixtures import app, dialogs, engine, pair, panel, phantom, registered, scene  # noqa: F401
except ImportError as error:
    REASON = (
        f"no window can be opened ({error}): pip install PySide6 slicer-core, and on Debian or "
        "Ubuntu apt-get install libegl1 libgl1 libxkbcommon0 libdbus-1-3 libfontconfig1 "
        "libglib2.0-0"
    )

    class Skipped(pytest.Module):
        """A test file that is not even imported."""

        def collect(self):
            pytest.skip(REASON, allow_module_level=True)

    def pytest_pycollect_makemodule(module_path, parent):
        """Called by pytest for each test file."""
        return Skipped.from_parent(parent, path=module_path)
