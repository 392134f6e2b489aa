"""What is written of a breath is right to the last slice, and is there whatever happens then."""

import tracemalloc

import numpy as np
import pytest
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.core.landmarks import Landmarks
from L2ORegistrationLib.outputs.record import Scan, read_record
from L2ORegistrationLib.sequence import motion, outputs
from L2ORegistrationLib.sequence.outputs import doubts, write_sequence
from L2ORegistrationLib.sequence.registration import SequenceResult

GRID = Grid((24, 20, 16), (2.0, 2.0, 2.0))
NAMES = ["a", "b", "c", "d"]


def breath(slices=(0, 0, 0, 3), grid=GRID, **more):
    """Phases that show one pattern, each from another slice of it on."""
    x, y, z = grid.size
    pattern = np.random.default_rng(2).integers(-900, 100, (z + max(slices), y, x)).astype(np.int16)
    phases = [Volume(pattern[k : k + z].copy(), grid) for k in slices]
    fields = {}
    for number, k in enumerate(slices):
        fields[number] = DisplacementField.zeros(Grid.covering(grid.corners(), 8.0))
        fields[number].array[..., 2] = -2.0 * k
    mask = Volume(np.ones(grid.shape, bool), grid)
    values = {"reference": 0, "cancelled": False, **more}
    return SequenceResult(
        phases, [mask] * len(slices), fields, {}, loops={}, seconds=1.0, provenance={}, **values
    )


def test_the_mean_is_that_of_the_phases_that_show_a_point():
    """The first three slices are beyond the last phase, whose air has no part in them."""
    result = breath()
    mean = motion.means(result)[1].array
    assert np.abs(mean - result.phases[0].array).max() < 0.5
    warped = dict(motion.warped(result))[3].array
    assert (warped[:3] == result.phases[3].array.min()).all() and np.isfinite(warped).all()


def test_more_phases_take_no_more_memory_for_means_and_lungs():
    grid = Grid((64, 64, 48), (2.0, 2.0, 2.0))
    size = 4 * np.prod(grid.size)  # bytes of an image in float32
    for compute in (motion.means, motion.reference_mask):
        result = breath((0,) * 16, grid, reference=None)
        tracemalloc.start()
        compute(result)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 7 * size


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("Failed to allocate memory for image.")]
)
def test_all_but_the_images_is_there_when_memory_runs_out(error, tmp_path, monkeypatch):
    def full(*_):
        raise error

    monkeypatch.setattr(motion, "warped", full)
    points = Landmarks([[5.0, 5.0, 5.0]])
    with pytest.raises(InputError, match="memory ran out .* transforms are written"):
        write_sequence(breath(), NAMES, tmp_path, landmarks=points)
    expected = {"fields.nrrd", "loops.json", "phases.csv", "trajectories.csv"}
    expected |= {f"transform-{name}.h5{end}" for name in NAMES for end in ("", ".json")}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_phases_that_are_exchanged_later_are_noticed(tmp_path):
    """All have the same voxels: only the paths in the records tell them apart."""
    paths = [tmp_path / f"{name}.nrrd" for name in NAMES]
    first, second, _, last = (Scan.of(GRID, path) for path in paths)
    write_sequence(breath(), NAMES, tmp_path, images=False, paths=paths)
    record = read_record(tmp_path / "transform-b.h5")
    assert record.misplaced(first, "fixed", "a") == record.misplaced(second, "moving", "b") == []
    assert "belongs to the moving scan" in record.misplaced(second, "fixed", "b")[0]
    assert "belongs to the fixed scan" in record.misplaced(first, "moving", "a")[0]
    assert record.misplaced(last, "fixed", "d") == []  # may be something that lies in a
    write_sequence(breath(reference=None), NAMES, tmp_path, images=False, paths=paths)
    record = read_record(tmp_path / "transform-a.h5")
    assert record.misplaced(first, "moving", "a") == []
    assert "belongs to the moving scan" in record.misplaced(first, "fixed", "a")[0]


@pytest.mark.parametrize("stopped", [True, False])
def test_points_of_the_mean_are_not_followed_from_a_phase(tmp_path, stopped):
    """A run to the mean position that was stopped knows only fields from the first phase."""
    result = breath(reference=0 if stopped else None, cancelled=stopped, mean_wanted=True)
    points = Landmarks([[5.0, 5.0, 5.0]])
    write_sequence(result, NAMES, tmp_path, landmarks=points, images=False)
    assert (tmp_path / "trajectories.csv").exists() is not stopped
    page = (tmp_path / "report.html").read_text("utf-8")
    assert ("all is of phase a instead" in page) is stopped
    assert len(doubts(result, NAMES)) == stopped


def test_a_disk_that_is_full_is_told_of_the_fields_too(tmp_path, room_for):
    result = breath()
    lattice = Grid.covering(GRID.corners(), 1.0)
    noise = np.random.default_rng(0).normal(0, 1, (*lattice.shape, 3)).astype(np.float32)
    for number in result.fields:
        result.fields[number] = DisplacementField(noise, lattice)
    with pytest.raises(InputError, match="fields.nrrd could not be written .*space left"):
        with room_for(100):
            outputs._write_fields(result, tmp_path / "fields.nrrd")
    assert not list(tmp_path.iterdir())
