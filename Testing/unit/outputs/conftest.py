"""Lets the tests of this folder import what they share, and gives them a transform."""

import sys
from pathlib import Path

import pytest
from L2ORegistrationLib.core.files import write_transform

sys.path.insert(0, str(Path(__file__).parent))

from moved import shift  # noqa: E402


@pytest.fixture
def transform(tmp_path):
    write_transform(shift(), tmp_path / "t.h5")
    return tmp_path / "t.h5"
