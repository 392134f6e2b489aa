"""Every peer that is installed gives its field in our frame: LPS, mm, from fixed to moving."""

from dataclasses import replace

import numpy as np
import pytest
from bodies import scanned
from L2ORegistrationLib.benchmark import peers
from L2ORegistrationLib.benchmark.peers.common import prepared
from L2ORegistrationLib.core.geometry import Volume
from L2ORegistrationLib.core.measures import target_registration_error

ELASTIX_FOR_SMALL_IMAGES = {
    "NumberOfResolutions": ["2"],
    "ImagePyramidSchedule": ["2"] * 3 + ["1"] * 3,
    "MaximumNumberOfIterations": ["200"],
    "MaximumStepLength": ["0.5"],
}


def test_peers_get_hounsfield_units_whatever_the_files_hold(tmp_path):
    scan = scanned(tmp_path)
    grid = scan.fixed.grid
    hu = np.where(np.arange(grid.size[0]) < 9, -1000, 0) + np.zeros(grid.shape, np.int16)
    stored = replace(scan, fixed=Volume(hu, grid), moving=Volume(hu + 1024, grid))
    given = prepared(stored)
    np.testing.assert_array_equal(given.fixed.array, hu)
    np.testing.assert_array_equal(given.moving.array, hu)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:builtin type", "ignore:Default grid_sample")  # not ours
@pytest.mark.parametrize("apart", [(0, 0, 0), (60, -30, 45)])
@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_gives_a_field_in_our_frame(tmp_path, monkeypatch, name, apart):
    """Oblique axes, and scans that lie far apart, which no peer alone would bring together."""
    if name not in peers.installed():
        pytest.skip(f"{peers.PEERS[name][2]} is not installed")
    peer = peers.peer(name)
    if name == "elastix":
        for key, values in ELASTIX_FOR_SMALL_IMAGES.items():
            monkeypatch.setitem(peer.SETTINGS, key, values)
    peer.load()
    scan = scanned(tmp_path, apart=apart)
    field = peer.register(scan, {"threads": 1, "device": "cpu"})
    errors = target_registration_error(field, scan.fixed_points, scan.moving_points)
    assert errors.mean() < 1.0
    assert peers.versions(name)["software"].startswith(peers.PEERS[name][2])
