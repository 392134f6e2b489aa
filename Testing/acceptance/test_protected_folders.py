"""A folder that cannot be written to ends in one sentence, at once, and nothing is half-written."""

import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.files import write_transform, write_volume
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.outputs.quality import assess
from L2ORegistrationLib.reporting.quality import write_page

sys.path.insert(0, str(Path(__file__).parent))

from command_line import refused, run  # noqa: E402

NOBODY = 65534
FIELD = DisplacementField.zeros(Grid((8, 8, 8), (4.0, 4.0, 4.0)))

pytestmark = pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs Linux's user IDs")


@pytest.fixture
def open_folder():
    """A folder in which everybody may write; pytest's own may not even be entered."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def protected(open_folder):
    """A folder in it in which nobody but root may write."""
    folder = open_folder / "protected"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


@contextmanager
def as_nobody(asked: bool, writing: bool):
    """Root may write everywhere: be somebody else when access is asked for, or when writing."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(NOBODY if asked else 0, NOBODY if writing else 0, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--inverse", "i.h5"),
        ("--ventilation", "v"),
        ("--report", "r"),
        ("--history", "h"),
        ("--warped", "w.nrrd"),
    ],
)
def test_outputs_of_a_registration_are_refused_before_it_begins(
    option, name, open_folder, protected
):
    images = [open_folder / "fixed.nii.gz", open_folder / "moving.nii.gz"]
    for image in images:
        image.touch()  # they are not looked at
    command = ("register", *images, "-o", open_folder / "t.h5", option, protected / name)
    with as_nobody(asked=True, writing=False):
        sentence = refused(*command, within=open_folder)
    assert "cannot be written to" in sentence


def test_other_commands_say_it_as_well(open_folder, protected):
    transform = open_folder / "t.nrrd"
    write_transform(FIELD, transform)
    with as_nobody(asked=True, writing=False):
        for command in (
            ("invert", transform, "-o", protected / "i.h5"),
            ("evaluate", transform, "--qa", protected / "qa.html"),
        ):
            assert "cannot be written to" in refused(*command, within=open_folder)


def test_a_folder_that_is_protected_meanwhile_keeps_nothing(protected):
    rows = assess(FIELD)
    image = Volume(np.zeros(FIELD.grid.shape, np.float32), FIELD.grid)
    with as_nobody(asked=False, writing=True):
        for write in (
            lambda: write_transform(FIELD, protected / "t.h5"),
            lambda: write_volume(image, protected / "v.nii.gz"),
            lambda: write_page(rows, protected / "qa.html", "QA"),
        ):
            with pytest.raises(InputError, match="could not be written|cannot be written"):
                write()
    assert not list(protected.iterdir())
    assert run("--help")[0] == 0  # and all rights are back
