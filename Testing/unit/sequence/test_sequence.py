"""Phases of a breath from files, and what follows from their fields, on exact small cases."""

import numpy as np
import pytest
import SimpleITK as sitk
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.files import write_volume
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.engine.verdict import Verdict
from L2ORegistrationLib.sequence import motion
from L2ORegistrationLib.sequence.outputs import _shades, doubts, phase_table, write_sequence
from L2ORegistrationLib.sequence.phases import read_phases
from L2ORegistrationLib.sequence.registration import (
    SequenceRegistration,
    SequenceResult,
    inverse,
    smooth_in_time,
    to_mean_position,
)

AXES = np.linalg.qr(np.array([[1, 0.2, 0.1], [-0.25, 1, 0.15], [-0.1, -0.2, 1]]))[0]
AXES = AXES * np.sign(np.diag(AXES))
GRID = Grid((9, 8, 7), (2.0, 2.2, 2.4), (-3.0, 4.0, 5.0), AXES)


def images(count=4, grid=GRID):
    rng = np.random.default_rng(1)
    return [
        Volume(rng.integers(-900, 100, grid.shape).astype(np.int16), grid) for _ in range(count)
    ]


def same(phases, volumes):
    assert len(phases) == len(volumes)
    for phase, volume in zip(phases, volumes, strict=True):
        assert phase.volume.grid.matches(volume.grid)
        assert np.array_equal(phase.volume.array, volume.array)


def test_phases_of_files_keep_their_order_and_a_folder_is_ordered_by_name(tmp_path):
    volumes = images()
    files = [tmp_path / f"phase_{10 * k:02d}.nii.gz" for k in range(4)]
    for file, volume in zip(files, volumes, strict=True):
        write_volume(volume, file)
    same(read_phases(files[::-1]), volumes[::-1])
    found = read_phases([tmp_path])
    same(found, volumes)
    assert [phase.name for phase in found] == ["phase_00", "phase_10", "phase_20", "phase_30"]
    assert [phase.path for phase in found] == files


def test_the_numbers_in_names_count(tmp_path):
    volumes = images(11)
    for number, volume in enumerate(volumes, start=1):
        write_volume(volume, tmp_path / f"Phase{number}.nii.gz")
    same(read_phases([tmp_path]), volumes)


def test_phases_of_a_tilted_gantry_are_refused_wherever_they_lie(tmp_path):
    for number, volume in enumerate(images(3), start=4):
        dicom(tmp_path / "study", volume, number, number, tilt=0.9)
    with pytest.raises(InputError, match="gantry tilt"):
        read_phases([tmp_path / "study"])


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".mha"])
def test_a_4d_image_holds_a_phase_in_each_frame(tmp_path, suffix):
    volumes = images()
    path = tmp_path / f"all{suffix}"
    sitk.WriteImage(sitk.JoinSeries([volume.to_image() for volume in volumes]), str(path))
    found = read_phases([path])
    same(found, volumes)
    assert {phase.path for phase in found} == {None}  # which of them it is, no path tells


def dicom(folder, volume, series, number, description="", position="", tilt=0.0):
    """Write a volume as DICOM slices, each so many mm aside of the one before."""
    folder.mkdir(exist_ok=True)
    image, writer = volume.to_image(), sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    direction = np.reshape(volume.grid.direction, (3, 3))
    tags = {
        "0008|0060": "CT",
        "0020|000d": "1.2.3",
        "0020|000e": f"1.2.3.{series}",
        "0020|0011": str(number),
        "0008|103e": description,
        "0020|0100": position,
        "0020|0037": "\\".join(f"{v:.10f}" for v in direction[:, :2].T.flat),
    }
    for k in range(image.GetSize()[2]):
        slice_ = image[:, :, k]
        for tag, value in {
            **tags,
            "0008|0018": f"1.2.3.{series}.{k}.{position or 0}",
            "0020|0032": "\\".join(
                f"{v:.6f}" for v in volume.grid.to_world((0, 0, k)) + [0, k * tilt, 0]
            ),
            "0020|0013": str(k),
        }.items():
            if value:
                slice_.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{series}-{number}-{position}-{k}.dcm"))
        writer.Execute(slice_)


def test_dicom_series_of_a_study_are_ordered_by_percentage(tmp_path):
    volumes = images(3)
    for number, (k, percent) in enumerate([(2, 60), (0, 0), (1, 30)], start=4):
        dicom(tmp_path / "study", volumes[k], number, number, f"Thorax gated {percent}.0%")
    found = read_phases([tmp_path / "study"])
    same_values(found, volumes)
    assert [phase.name for phase in found] == ["00", "30", "60"]
    assert {phase.path for phase in found} == {None}


def test_dicom_phases_in_folders_of_their_own_are_found_there(tmp_path):
    folders = [tmp_path / f"study/{name}" for name in "cab"]
    folders[0].parent.mkdir()
    for number, (folder, percent) in enumerate(zip(folders, (60, 0, 30), strict=True)):
        dicom(folder, images(3)[number], number, number, f"Thorax gated {percent}.0%")
    for given in ([tmp_path / "study"], [folders[k] for k in (1, 2, 0)]):
        assert [phase.path for phase in read_phases(given)] == [folders[k] for k in (1, 2, 0)]


def study(folder, descriptions, *, first=4):
    """A study of DICOM series with these descriptions, numbered in this order; their images."""
    volumes = images(len(descriptions))
    for number, (volume, text) in enumerate(zip(volumes, descriptions, strict=True), start=first):
        dicom(folder, volume, number, number, text)
    return volumes


@pytest.mark.parametrize(
    "name", ["AVG 0-90%", "AVE", "average", "MIP", "MinIP 50%", "AIP", "AveIP", "0-90%", "0% - 90%"]
)
def test_averages_and_projections_of_a_study_are_left_out_by_name(tmp_path, name):
    percents = [f"4DCT {percent}%" for percent in (60, 0, 30)]
    volumes = study(tmp_path / "study", [f"4DCT {name}", *percents])
    said = []
    found = read_phases([tmp_path / "study"], on_skip=said.append)
    assert [phase.name for phase in found] == ["00", "30", "60"]
    same_values(found, [volumes[2], volumes[3], volumes[1]])
    (sentence,) = said
    assert f"'4DCT {name}' (series 4)" in sentence and "series 5" not in sentence


def test_series_without_a_percentage_are_left_out_of_those_with_one(tmp_path):
    study(tmp_path / "study", ["", "T=0", "Topogram 0.6", "T=20", "T=10", "Chest 3.0"])
    with pytest.warns(UserWarning, match="series 4, 'Topogram 0.6' .*'Chest 3.0' .series 9"):
        found = read_phases([tmp_path / "study"])
    assert [phase.name for phase in found] == ["00", "10", "20"]


def test_percentages_count_before_other_numbers_of_a_description(tmp_path):
    volumes = study(tmp_path / "study", [f"Chest 3.0 B31f {n}%" for n in (20, 0, 10)])
    found = read_phases([tmp_path / "study"])
    assert [phase.name for phase in found] == ["00", "10", "20"]
    same_values(found, [volumes[1], volumes[2], volumes[0]])


def test_phases_that_are_ranges_themselves_stay(tmp_path):
    study(tmp_path / "study", ["Gated 30-60%", "Gated 60-90%", "Gated 0-30%"])
    assert [phase.name for phase in read_phases([tmp_path / "study"])] == ["30", "60", "90"]


def test_two_series_of_one_percentage_are_refused_by_name(tmp_path):
    study(tmp_path / "study", ["A 0%", "A 50%", "A 90%", "B 50%"])
    with pytest.raises(InputError, match=r"'A 50%' \(series 5\) and 'B 50%' \(series 7\)"):
        read_phases([tmp_path / "study"])


def test_breathing_in_and_out_at_one_percentage_are_two_phases(tmp_path):
    names = ["0%Ex", "50%In", "100%In", "50%Ex"]
    volumes = study(tmp_path / "study", [*names, "AVG"])
    with pytest.warns(UserWarning, match="'AVG'"):
        same_values(read_phases([tmp_path / "study"]), volumes[:4])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_4d_image_cut_short_is_refused(tmp_path, suffix):
    path = tmp_path / f"all{suffix}"
    sitk.WriteImage(sitk.JoinSeries([volume.to_image() for volume in images()]), str(path))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(InputError, match="all.*damaged or incomplete"):
        read_phases([path])


def test_a_dicom_series_with_all_phases_is_split(tmp_path):
    volumes = images(3)
    for k, volume in enumerate(volumes):
        dicom(tmp_path / "series", volume, 1, 1, position=str(k + 1))
    same_values(read_phases([tmp_path / "series"]), volumes)


def same_values(phases, volumes):
    """Equal at the same points of the world, whichever way the slices are stacked."""
    assert len(phases) == len(volumes)
    for phase, volume in zip(phases, volumes, strict=True):
        assert np.abs(phase.volume.sample(volume.grid.points()) - volume.array).max() < 1


def test_what_is_no_breath_is_refused(tmp_path):
    volumes = images(2)
    files = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", tmp_path / "c.nii.gz"]
    for file, volume in zip(files, [*volumes, *images(1, Grid((9, 8, 6)))]):
        write_volume(volume, file)
    with pytest.raises(InputError, match="from 3 to 100 phases"):
        read_phases(files[:2])
    with pytest.raises(InputError, match="different grids"):
        read_phases(files)
    with pytest.raises(InputError, match="single phase"):
        read_phases(files[:1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images and no DICOM series"):
        read_phases([tmp_path / "empty"])
    with pytest.raises(InputError, match="There is no phase 7"):
        SequenceRegistration(volumes, reference=7)


def uniform(shift, grid=GRID):
    array = np.empty((*grid.shape, 3), np.float32)
    array[:] = shift
    return DisplacementField(array, grid)


def test_smoothing_keeps_a_slow_swing_and_the_reference():
    angles = 2 * np.pi * np.arange(10) / 10
    fields = {k: uniform((0, 0, 5 * (1 - np.cos(a)))) for k, a in enumerate(angles)}
    jitter = {k: uniform((0, 0, f.array[0, 0, 0, 2] + (-1) ** k * 0.4 * (k > 0)))
              for k, f in fields.items()}  # fmt: skip
    smooth = smooth_in_time(fields, 0)
    assert not smooth[0].array.any()
    assert all(np.abs(smooth[k].array - fields[k].array).max() < 0.06 for k in fields)  # mm
    steadier = smooth_in_time(jitter, 0)
    left = [np.abs(steadier[k].array - smooth[k].array).max() for k in range(2, 9)]
    assert max(left) < 0.34


def test_inverse_of_a_field_leads_back():
    grid = Grid((30, 30, 30), (2.0, 2.0, 2.0))
    p = grid.points()
    wave = 2 * np.stack([np.sin(p[..., 1] / 9), np.cos(p[..., 2] / 8), np.sin(p[..., 0] / 10)], -1)
    field = DisplacementField(wave.astype(np.float32), grid)
    points = p[5:-5, 5:-5, 5:-5].reshape(-1, 3)
    assert (
        np.abs(field.transform_points(inverse(field).transform_points(points)) - points).max()
        < 0.05
    )


def test_inverse_of_a_field_that_stretches_leads_back():
    """Up to 2.5 times its length, where a plain fixed-point iteration runs away."""
    grid = Grid((40, 12, 12), (3.0, 3.0, 3.0), (-60.0, 0.0, 0.0))
    field = DisplacementField(np.zeros((*grid.shape, 3), np.float32), grid)
    field.array[..., 0] = 20 * np.tanh(grid.points()[..., 0] * 1.5 / 20)
    points = grid.points()[3:-3, 3:-3, 10:-10]
    back = inverse(field).transform_points(field.transform_points(points))
    assert np.abs(back - points).max() < 0.3


def test_mean_position_is_the_mean_of_the_phases():
    shifts = [(0, 0, 0), (3, 0, 0), (0, 6, 0)]
    moved = to_mean_position({k: uniform(s) for k, s in enumerate(shifts)})
    for k, shift in enumerate(shifts):
        assert np.allclose(moved[k].array, np.subtract(shift, (1, 2, 0)), atol=1e-5)


def shifted_breath():
    """Three phases that show one pattern, shifted by whole voxels along x."""
    grid = Grid((24, 20, 16), (2.0, 2.0, 2.0))
    pattern = np.random.default_rng(2).integers(-900, 100, (16, 20, 40)).astype(np.float32)
    phases = [Volume(np.ascontiguousarray(pattern[..., 8 - k : 32 - k]), grid) for k in (0, 1, 3)]
    fields = {n: uniform((2.0 * k, 0, 0), grid) for n, k in enumerate((0, 1, 3))}
    mask = Volume(np.zeros(grid.shape, bool), grid)
    mask.array[4:12, 4:16, 4:16] = True
    return SequenceResult(phases, [mask] * 3, fields, {}, 0, {}, 1.0, False, {})


def test_motion_compensated_mean_is_the_reference_and_sharper():
    result = shifted_breath()
    plain, mean = motion.means(result)
    inside = result.masks[0].array
    assert np.allclose(mean.array[inside], result.phases[0].array[inside], atol=0.01)
    sharp = [motion.sharpness(image, result.masks[0]) for image in (plain, mean)]
    assert sharp[1] > 1.5 * sharp[0]


def test_amplitude_and_trajectories_are_those_of_the_fields():
    result = shifted_breath()
    assert np.allclose(motion.amplitude(result).array, 6.0)
    paths = motion.trajectories(result, np.array([[10.0, 10.0, 10.0]]))
    assert np.allclose(paths[:, 0], [(10, 10, 10), (12, 10, 10), (16, 10, 10)])
    centre = motion.contour_points(result.masks[0]).mean(axis=0)
    assert np.allclose(centre, (19, 19, 15))


def test_a_colour_image_is_no_sequence(tmp_path):
    path = tmp_path / "colour.nrrd"
    sitk.WriteImage(sitk.Compose([volume.to_image() for volume in images(3)]), str(path))
    with pytest.raises(InputError, match="single phase"):
        read_phases([path])


def verdict(level):
    return Verdict(level, () if level == "good" else ("Why.",))


def test_the_verdict_of_a_breath_is_its_worst_and_doubts_are_told_by_name():
    result = shifted_breath()
    result.verdicts = {1: verdict("check"), 2: verdict("good")}
    assert result.verdict == "check"
    assert doubts(result, ["a", "b", "c"]) == ["Phase b: check. Why."]
    rows = phase_table(result, ["a", "b", "c"])
    assert [(r.get("verdict"), r.get("reasons")) for r in rows] == [
        (None, None),
        ("check", "Why."),
        ("good", ""),
    ]


class Trial(SequenceRegistration):
    """Registrations that are only said to be made, of which some fail."""

    def __init__(self, levels, **options):
        mask = Volume(np.ones(GRID.shape, bool), GRID)
        super().__init__(images(5), masks=[mask] * 5, **options)
        self.levels, self.starts = levels, []

    def _registered(self, fixed, moving, start):
        self.starts.append((moving, start and float(start.array[0, 0, 0, 0])))
        level = self.levels[len(self.starts) - 1] if fixed == 0 else "good"
        return uniform((len(self.starts), 0, 0), GRID), verdict(level)

    def followed(self):
        """The first number of each phase's field, without the closed loops."""
        steps = iter(self)
        for _ in range(5):
            next(steps)
        return {k: float(f.array[0, 0, 0, 0]) for k, f in self._fields.items()}


def test_after_a_failed_phase_the_next_begins_where_the_last_good_one_ended():
    """Phases 1, 2 one way round, 4, 3, 2 the other: the third field, of 4, has failed."""
    trial = Trial(["good", "good", "failed", "good", "good"])
    fields = trial.followed()
    assert trial.starts == [(1, None), (2, 1.0), (4, None), (3, None), (2, 4.0)]
    assert fields == {1: 1.0, 2: (2 + 5) / 2, 4: 3.0, 3: 4.0}
    trial._finished = True
    result = trial.result()
    assert result.verdict == "failed" and result.provenance["smoothness in time"] == 0
    assert float(result.fields[1].array[0, 0, 0, 0]) == 1.0  # not smoothed with what has failed


@pytest.mark.parametrize(
    "levels, kept, said, reasons",
    [
        (("good", "failed"), 2.0, "check", ("Only one of both ways round the cycle",)),
        (("failed", "check"), 5.0, "check", ("Why.", "Only one of both ways")),
        (("check", "good"), 5.0, "good", ()),
        (("check", "check"), 3.5, "check", ("Why.",)),
        (("failed", "failed"), 3.5, "failed", ("Why.",)),
    ],
)
def test_where_both_ways_meet_the_better_is_kept_or_the_mean(levels, kept, said, reasons):
    trial = Trial(["good", levels[0], "good", "good", levels[1]])
    assert trial.followed()[2] == kept
    found = trial._verdicts[2]
    assert found.level == said and len(found.reasons) == len(reasons)
    assert all(one.startswith(start) for one, start in zip(found.reasons, reasons, strict=True))


def test_the_closed_loop_does_not_begin_with_a_field_that_has_failed():
    for last, begin in (("good", 5.0), ("failed", 2.0)):
        trial = Trial(["good", "good", "good", "good", last])
        list(trial)
        assert trial.starts[-1] == (0, pytest.approx(-begin, abs=1e-4))


def test_what_is_said_of_the_whole_breath_leaves_a_failed_phase_out(tmp_path):
    result = shifted_breath()
    plain, mean = motion.means(result)
    before = motion.amplitude(result).array.max()
    spoilt = shifted_breath()
    spoilt.phases.append(Volume(np.full_like(spoilt.phases[0].array, 5000), spoilt.grid))
    spoilt.masks.append(spoilt.masks[0])
    spoilt.fields[3] = uniform((50.0, 0, 0), spoilt.grid)
    spoilt.verdicts = {1: verdict("good"), 2: verdict("check"), 3: verdict("failed")}
    assert sorted(spoilt.trusted) == [0, 1, 2]
    for found, expected in zip(motion.means(spoilt), (plain, mean), strict=True):
        assert np.array_equal(found.array, expected.array)
    assert motion.amplitude(spoilt).array.max() == before
    moved = to_mean_position(spoilt.fields, spoilt.trusted)
    for phase, field in to_mean_position(result.fields).items():
        assert np.allclose(moved[phase].array, field.array)
    write_sequence(spoilt, ["a", "b", "c", "d"], tmp_path, images=False)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<th>verdict</th>" in page and "without the 1 that failed" in page


def test_sharpness_and_pictures_know_hounsfield_units_that_are_stored_plus_1024():
    grid = Grid((30, 30, 30), (2.0, 2.0, 2.0))
    array = np.full(grid.shape, -1000.0, np.float32)
    array[5:25, 5:25, 5:25] = 0  # tissue, with a lung in it
    array[10:20, 10:20, 10:20] = -850
    mask = Volume(array == -850, grid)
    usual, stored = Volume(array, grid), Volume(array + 1024, grid)
    assert motion.sharpness(stored, mask) == pytest.approx(motion.sharpness(usual, mask))
    points = grid.points()[15]
    assert np.allclose(_shades(stored, points), _shades(usual, points))


def test_a_run_into_the_same_folder_leaves_no_phases_of_the_one_before(tmp_path):
    result, names = shifted_breath(), ["a", "b", "c"]
    write_sequence(result, names, tmp_path, contour=result.masks[0])
    (tmp_path / "transform-mine.h5").touch()
    fewer = shifted_breath()
    del fewer.fields[2]
    written = write_sequence(fewer, names, tmp_path, images=False)
    left = {path.name for path in tmp_path.iterdir()}
    records = {"transform-a.h5.json", "transform-b.h5.json"}  # of this run: they stay
    assert left == {path.name for path in written} | records | {"transform-mine.h5"}
    assert not {"transform-c.h5", "warped-a.nii.gz", "trajectories.csv"} & left


def test_a_run_to_the_mean_that_is_stopped_is_of_its_first_phase():
    trial = Trial(["good"] * 5, reference="mean")
    next(iter(trial))
    result = trial.result()
    assert result.mean_wanted and result.cancelled and result.reference == 0
