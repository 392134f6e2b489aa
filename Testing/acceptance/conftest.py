"""What is registered: a small phantom; for command lines on disk, with one registration of it."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from L2ORegistrationLib.core.files import Landmarks, write_landmarks, write_volume
from L2ORegistrationLib.core.geometry import Volume
from L2ORegistrationLib.phantom.pair import make_pair

sys.path.insert(0, str(Path(__file__).parent))

from command_line import landmarks, register, run  # noqa: E402

TURN = np.linalg.qr(np.array([[1, 0.1, 0.05], [-0.12, 1, 0.08], [-0.05, -0.1, 1]]))[0]
TURN = TURN * np.sign(np.diag(TURN))  # a patient who lies a little askew


@pytest.fixture(scope="session")
def pair():
    """Two breaths 20 mm apart at the base, the patient elsewhere in the second: 15 mm mean."""
    return make_pair(3, spacing=4.0, amplitude_mm=20.0, noise_hu=15.0, shift_mm=10.0)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with an oblique phantom pair, its masks and its landmarks."""
    folder = tmp_path_factory.mktemp("data")
    pair = make_pair(3, spacing=3.0, amplitude_mm=20.0, swap=False, noise_hu=10.0)
    for role in ("fixed", "moving"):
        write_volume(turned(getattr(pair, role)), folder / f"{role}.nii.gz")
        write_volume(turned(getattr(pair, f"{role}_mask")), folder / f"{role}_mask.nii.gz")
        points = getattr(pair, f"{role}_landmarks")[::20] @ TURN.T
        write_landmarks(Landmarks(points), folder / f"{role}.csv")
    return folder


@pytest.fixture(scope="session")
def registered(data, tmp_path_factory):
    """The folder of a registration that wrote everything it can, and its JSON."""
    folder = tmp_path_factory.mktemp("registered")
    options = (
        "--warped",
        folder / "warped.nii.gz",
        "--confidence",
        folder / "sure.nrrd",
        "--history",
        folder / "history",
    )
    code, out, err = run(
        *register(data, folder / "t.h5"), *landmarks(data), *options,
        "--report", folder / "report", "--json",
    )  # fmt: skip
    assert code == 0, err
    return folder, json.loads(out)


def turned(volume):
    """The same voxels on a grid that is turned about the world's origin."""
    direction = TURN @ np.reshape(volume.grid.direction, (3, 3))
    grid = replace(volume.grid, direction=direction, origin=tuple(TURN @ volume.grid.origin))
    return Volume(volume.array, grid)
