"""A file that a disk has no room for is told of, whatever writes it, and none is left."""

import numpy as np
import pytest
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.files import read_transform, read_volume, write_transform, write_volume
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume

RNG = np.random.default_rng(0)
GRID = Grid((6, 5, 4), (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    "suffix, compressed",
    [(".nii", True), (".nii.gz", True), (".nrrd", True), (".mha", True), (".nrrd", False)],
)
def test_an_image(tmp_path, room_for, suffix, compressed):
    image = Volume(RNG.normal(0, 1, GRID.shape).astype(np.float32), GRID)
    refused(tmp_path, lambda path: write_volume(image, path, compressed), suffix, room_for)
    write_volume(image, tmp_path / f"whole{suffix}", compressed)
    assert np.array_equal(read_volume(tmp_path / f"whole{suffix}").array, image.array)


@pytest.mark.parametrize("suffix", [".tfm", ".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_transform(tmp_path, room_for, suffix):
    field = DisplacementField(RNG.normal(0, 1, (*GRID.shape, 3)).astype(np.float32), GRID)
    refused(tmp_path, lambda path: write_transform(field, path), suffix, room_for)
    write_transform(field, tmp_path / f"whole{suffix}")
    assert read_transform(tmp_path / f"whole{suffix}").GetDimension() == 3


def refused(folder, write, suffix, room_for):
    """All sizes from nothing up to a byte less than the whole."""
    write(folder / f"measured{suffix}")
    whole = (folder / f"measured{suffix}").stat().st_size
    (folder / f"measured{suffix}").unlink()
    for room in (0, 100, whole // 2, whole - 1):
        path = folder / f"short{suffix}"
        with room_for(room), pytest.raises(InputError, match="could not be written .*space"):
            write(path)
        assert not list(folder.iterdir()), room
