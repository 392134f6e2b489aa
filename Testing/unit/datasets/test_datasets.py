"""Every data set is read from files in its own published format, in the patient's frame."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume
from L2ORegistrationLib.core.measures import target_registration_error
from L2ORegistrationLib.datasets import dirlab
from L2ORegistrationLib.datasets import registry as datasets
from L2ORegistrationLib.datasets.cases import Case
from L2ORegistrationLib.datasets.folds import folds, folds_of
from L2ORegistrationLib.datasets.registry import DATASETS, load_dataset
from L2ORegistrationLib.phantom.seeds import learned, measured

SMALL = dirlab.Geometry((6, 5, 4), (0.97, 0.97, 2.5))


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def write_raw(path, hu):
    """hu (z, y, x), z from head to foot, as DIR-Lab stores it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (hu + 1024).astype("<i2").tofile(path)


def write_points(path, index):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + " \n" for row in np.asarray(index)))


@pytest.fixture
def four_d(tmp_path, monkeypatch, rng):
    """Two small 4DCT cases whose packs are named as differently as the real ones."""
    hu = rng.integers(-1000, 200, (4, 5, 6))
    for name, image, points in (
        ("Case1Pack", "Images/case1_T{}_s.img", "ExtremePhases/Case1_300_T{}_xyz.txt"),
        ("Case8Deploy", "Images/case8_T{}.img", "extremePhases/case8_dirLab300_T{}_xyz.txt"),
    ):
        for phase in ("00", "50"):
            write_raw(tmp_path / name / image.format(phase), hu)
            write_points(tmp_path / name / points.format(phase), [[1, 1, 1], [6, 5, 4], [2, 3, 4]])
    use(monkeypatch, "4dct", lambda f: dirlab.four_d(f, {"case1": SMALL, "case8": SMALL}))
    return tmp_path, hu


def use(monkeypatch, name, entries):
    given = DATASETS[name]
    monkeypatch.setitem(
        datasets.DATASETS, name, datasets.Dataset(given.title, entries, given.source)
    )


def test_published_geometries_are_complete():
    assert [g.size[2] for g in dirlab.FOUR_D.values()] == [
        94, 112, 104, 99, 106, 128, 136, 128, 128, 120,
    ]  # fmt: skip
    assert {g.size[:2] for g in dirlab.COPD.values()} == {(512, 512)}
    assert len(dirlab.COPD) == 10


def test_dirlab_is_read_into_the_patients_frame(four_d):
    """Voxel (1, 1, 1) is right, anterior, superior: smallest x and y, largest z of LPS."""
    folder, hu = four_d
    case, other = load_dataset("4dct", folder)
    assert (case.name, other.name) == ("case1", "case8")
    image = case.fixed()
    corner, opposite, third = case.landmarks[0]
    assert image.grid.direction == Grid((1, 1, 1)).direction
    np.testing.assert_array_equal(image.array, hu[::-1])
    assert (corner[:2] < opposite[:2]).all() and corner[2] > opposite[2]
    np.testing.assert_allclose(opposite - corner, [5 * 0.97, 4 * 0.97, -3 * 2.5])
    for point, index in zip(case.landmarks[0], ((0, 0, 0), (5, 4, 3), (1, 2, 3)), strict=True):
        x, y, z = index
        assert image.sample(point[None])[0] == pytest.approx(hu[z, y, x])


def test_dirlab_errors_are_in_millimetres(four_d):
    folder, _ = four_d
    path = folder / "Case1Pack/ExtremePhases/Case1_300_T50_xyz.txt"
    write_points(path, [[2, 1, 1], [6, 4, 4], [2, 3, 2]])
    case = load_dataset("4dct", folder, cases=["case1"])[0]
    still = DisplacementField.zeros(case.fixed().grid)
    errors = target_registration_error(still, *case.landmarks)
    np.testing.assert_allclose(errors, [0.97, 0.97, 5.0], atol=1e-6)


def test_copdgene(tmp_path, monkeypatch, rng):
    hu = rng.integers(-1000, 200, (2, 4, 5, 6))
    for breath, array in zip("ie", hu, strict=True):
        write_raw(tmp_path / f"copd1/copd1/copd1_{breath}BHCT.img", array)
        write_points(tmp_path / f"copd1/copd1/copd1_300_{breath}BH_xyz_r1.txt", [[1, 2, 3]] * 2)
    use(monkeypatch, "copd", lambda f: dirlab.copd(f, {"copd1": SMALL}))
    (case,) = load_dataset("copd", tmp_path)
    np.testing.assert_array_equal(case.fixed().array, hu[0, ::-1])
    np.testing.assert_array_equal(case.moving().array, hu[1, ::-1])
    assert case.fixed_mask is None and case.landmarks[0].shape == (2, 3)


def test_a_copy_in_plain_hu_is_noticed(four_d):
    folder, hu = four_d
    for path in (folder / "Case1Pack/Images").iterdir():
        hu.astype("<i2").tofile(path)
    (case,) = load_dataset("4dct", folder, cases=["case1"])
    np.testing.assert_array_equal(case.fixed().array, hu[::-1])


def test_a_missing_case_stops_or_is_skipped(four_d):
    folder, _ = four_d
    (folder / "Case1Pack/Images/case1_T50_s.img").unlink()
    with pytest.raises(
        InputError, match=r"DIR-Lab 4DCT: Case case1: .*case1_T50.* is missing.*emory"
    ):
        load_dataset("4dct", folder)
    skipped = []
    assert [c.name for c in load_dataset("4dct", folder, "skip", on_skip=skipped.append)] == [
        "case8"
    ]
    assert "case1_T50" in skipped[0]
    assert [c.name for c in load_dataset("4dct", folder, cases=["case8"])] == ["case8"]


@pytest.mark.parametrize("damage", ["image", "outside", "count", "text"])
def test_a_damaged_case_names_the_file(four_d, damage):
    folder, _ = four_d
    points = folder / "Case8Deploy/extremePhases/case8_dirLab300_T50_xyz.txt"
    file = points
    if damage == "image":
        file = folder / "Case8Deploy/Images/case8_T00.img"
        file.write_bytes(file.read_bytes()[:-10])
    elif damage == "outside":
        write_points(points, [[1, 1, 1], [6, 5, 5], [1, 1, 1]])
    elif damage == "count":
        write_points(points, [[1, 1, 1]])
    else:
        points.write_text("<html>not found</html>")
    with pytest.raises(InputError, match=f"case8.*{file.name}"):
        load_dataset("4dct", folder)


def test_nothing_there_says_where_to_ask(tmp_path):
    with pytest.raises(InputError, match="no complete case.*emory"):
        load_dataset("copd", tmp_path, "skip", on_skip=lambda m: None)
    with pytest.raises(InputError, match="does not exist.*emory"):
        load_dataset("copd", tmp_path / "nowhere")
    with pytest.raises(InputError, match="LungCT_dataset.json is missing.*learn2reg"):
        load_dataset("learn2reg", tmp_path)
    with pytest.raises(InputError, match="use one of 4dct"):
        load_dataset("dirlab", tmp_path)
    with pytest.raises(InputError, match="no case copd11"):
        load_dataset("copd", tmp_path, cases=["copd11"])


RAS = Grid((6, 5, 4), (1.75, 1.25, 1.75), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))


def write_image(path, array, grid=RAS, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(Volume(array, grid).to_image(), str(path), **options)


@pytest.fixture
def learn2reg(tmp_path, rng):
    folder = tmp_path / "LungCT"
    listed = {"training_paired_images": [], "registration_val": []}
    for case in ("0001", "0002"):
        pair = {}
        for side, phase in (("fixed", "0000"), ("moving", "0001")):
            name = f"LungCT_{case}_{phase}"
            array = rng.integers(-1000, 200, RAS.shape).astype(np.int16)
            write_image(folder / "imagesTr" / f"{name}.nii.gz", array)
            write_image(folder / "masksTr" / f"{name}.nii.gz", (array < 0).astype(np.uint8))
            (folder / "keypointsTr").mkdir(exist_ok=True)
            (folder / f"keypointsTr/{name}.csv").write_text(
                "0.000,1.000,2.000\n5.000,4.000,3.000\n"
            )
            pair[side] = f"./imagesTr/{name}.nii.gz"
        listed["training_paired_images"].append(pair)
    listed["registration_val"].append(pair)
    (folder / "LungCT_dataset.json").write_text(json.dumps(listed))
    return folder


def test_learn2reg(learn2reg):
    cases = load_dataset("learn2reg", learn2reg.parent)
    assert [c.name for c in cases] == ["LungCT_0001", "LungCT_0002"]
    case = cases[0]
    np.testing.assert_allclose(case.keypoints[0], [[0, -1.25, 3.5], [-8.75, -5, 5.25]])
    image = case.fixed()
    assert image.sample(case.keypoints[0])[1] == image.array[3, 4, 5]
    assert case.fixed_mask().array.dtype == bool and case.landmarks is None


def test_nlst_has_lobes_in_the_same_layout(learn2reg, tmp_path):
    text = (learn2reg / "LungCT_dataset.json").read_text("utf-8")
    (learn2reg / "NLST_dataset.json").write_text(text)
    lobes = np.zeros(RAS.shape, np.uint8)
    lobes[1:3, 2, 3] = 4
    for phase in ("0000", "0001"):
        write_image(learn2reg / f"labelsTr/LungCT_0001_{phase}.nii.gz", lobes)
    with_lobes, without = load_dataset("nlst", tmp_path)
    assert [np.unique(read().array).tolist() for read in with_lobes.labels] == [[0, 4], [0, 4]]
    assert without.labels is None
    (learn2reg / "labelsTr/LungCT_0001_0001.nii.gz").unlink()
    with pytest.raises(InputError, match="LungCT_0001_0001.nii.gz is missing"):
        load_dataset("nlst", tmp_path)
    with pytest.raises(InputError, match="NLST_dataset.json is missing.*task NLST"):
        load_dataset("nlst", learn2reg / "imagesTr")


@pytest.mark.parametrize(
    "part", ["imagesTr/LungCT_0002_0001.nii.gz", "keypointsTr/LungCT_0002_0000.csv"]
)
def test_learn2reg_damage(learn2reg, part):
    path = learn2reg / part
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match=f"LungCT_0002.*{path.name}"):
        load_dataset("learn2reg", learn2reg)
    path.unlink()
    with pytest.raises(InputError, match=f"LungCT_0002.*{path.name} is missing"):
        load_dataset("learn2reg", learn2reg)


def test_a_volume_cut_short_is_noticed_before_it_is_read(learn2reg, rng):
    path = learn2reg / "imagesTr/LungCT_0001_0000.nii.gz"
    grid = Grid((40, 40, 40))
    write_image(path, rng.integers(-1000, 200, grid.shape).astype(np.int16), grid)
    path.write_bytes(path.read_bytes()[:30000])
    with pytest.raises(InputError, match="LungCT_0001.*0000.nii.gz is damaged"):
        load_dataset("learn2reg", learn2reg)


def test_empire10(tmp_path, rng):
    grid = Grid((6, 5, 4), (0.7, 0.7, 0.7), (1, 2, 3))
    for part, name in (("01to06/scans", "01"), ("07to14/scans", "07")):
        for side in ("Fixed", "Moving"):
            array = rng.integers(-1000, 200, grid.shape).astype(np.int16)
            write_image(tmp_path / part / f"{name}_{side}.mhd", array, grid)
            masks = (tmp_path / part).parent / "lungMasks"
            write_image(masks / f"{name}_{side}.mhd", (array < 0).astype(np.uint8), grid)
    first, second = load_dataset("empire10", tmp_path, cases=["01", "07"])
    assert first.fixed().grid.matches(grid) and second.moving_mask().array.any()
    with pytest.raises(InputError, match="Case 08: .*08_Fixed.mhd is missing.*empire10"):
        load_dataset("empire10", tmp_path)
    raw = tmp_path / "07to14/scans/07_Moving.raw"
    raw.write_bytes(raw.read_bytes()[:-2])
    with pytest.raises(InputError, match="Case 07: .*07_Moving.raw is shorter"):
        load_dataset("empire10", tmp_path, cases=["07"])


def test_pairs_in_folders(tmp_path, rng):
    for name in ("a", "b"):
        array = rng.integers(-1000, 200, RAS.shape).astype(np.int16)
        for side in ("fixed", "moving"):
            write_image(tmp_path / name / f"{side}.nii.gz", array)
            (tmp_path / name / f"{side}_landmarks.csv").write_text("x,y,z\n-1,-2,3\n-4,-5,6\n")
    write_image(tmp_path / "a/fixed_mask.nii.gz", (array < 0).astype(np.uint8))
    a, b = load_dataset("pairs", tmp_path)
    assert a.fixed_mask().array.any() and a.moving_mask is None and b.fixed_mask is None
    np.testing.assert_array_equal(b.landmarks[1], [[-1, -2, 3], [-4, -5, 6]])
    assert load_dataset("pairs", tmp_path / "a")[0].name == "a"
    (tmp_path / "b/moving_landmarks.csv").write_text("x,y,z\n1,2,3\n")
    with pytest.raises(InputError, match="Case b: .*2 points but moving_landmarks.csv 1"):
        load_dataset("pairs", tmp_path)
    (tmp_path / "b/moving.nii.gz").unlink()
    with pytest.raises(InputError, match="Case b: .*moving.nii.gz is missing"):
        load_dataset("pairs", tmp_path)


def test_landmarks_of_pairs_belong_together_by_their_labels_and_lie_in_their_image(tmp_path, rng):
    array = rng.integers(-1000, 200, RAS.shape).astype(np.int16)
    for side, rows in (("fixed", "-1,-2,3,a\n-4,-5,4,b\n"), ("moving", "-4,-5,5,b\n-1,-2,4,a\n")):
        write_image(tmp_path / "a" / f"{side}.nii.gz", array)
        (tmp_path / "a" / f"{side}_landmarks.csv").write_text(f"x,y,z,label\n{rows}")
    fixed, moving = load_dataset("pairs", tmp_path)[0].landmarks
    np.testing.assert_array_equal(moving - fixed, [[0, 0, 1], [0, 0, 1]])
    (tmp_path / "a/moving_landmarks.csv").write_text("x,y,z,label\n-400,-5,5,b\n-1,-2,4,a\n")
    with pytest.raises(InputError, match="Case a: 1 of 2 moving landmarks lie outside"):
        load_dataset("pairs", tmp_path)


def test_pairs_take_segmentations_for_masks_and_labels(tmp_path, rng):
    array = rng.integers(-1000, 200, RAS.shape).astype(np.int16)
    regions = (array < 0).astype(np.uint8) + (array < -500)
    for side in ("fixed", "moving"):
        write_image(tmp_path / "a" / f"{side}.nii.gz", array)
        write_image(tmp_path / "a" / f"{side}_mask.seg.nrrd", (array < 0).astype(np.uint8))
        write_image(tmp_path / "a" / f"{side}_labels.seg.nrrd", regions.astype(np.uint8))
    (case,) = load_dataset("pairs", tmp_path)
    np.testing.assert_array_equal(case.fixed_mask().array, array < 0)
    np.testing.assert_array_equal(case.moving_mask().array, array < 0)
    np.testing.assert_array_equal(case.labels[1]().array, regions)


@pytest.mark.parametrize("name", ["fixed_mask.stl", "moving_keypoints.xlsx", "fixed_labels.seg"])
def test_a_file_of_a_pair_that_nobody_reads_is_refused_by_name(tmp_path, rng, name):
    array = rng.integers(-1000, 200, RAS.shape).astype(np.int16)
    for case in ("a", "b"):
        for side in ("fixed", "moving"):
            write_image(tmp_path / case / f"{side}.nii.gz", array)
            (tmp_path / case / f"{side}.json").touch()  # notes beside what is read
    (tmp_path / "b" / name).touch()
    with pytest.raises(InputError, match=f"Case b: .*{name} is not read"):
        load_dataset("pairs", tmp_path)
    said = []
    assert len(load_dataset("pairs", tmp_path, "skip", on_skip=said.append)) == 1
    assert name in said[0]


def test_pairs_of_images_that_nobody_reads_are_refused_by_name(tmp_path):
    (tmp_path / "a").mkdir()
    for side in ("fixed", "moving"):
        (tmp_path / "a" / f"{side}.jpg").touch()
    with pytest.raises(InputError, match="Case a: .*fixed.jpg is not read"):
        load_dataset("pairs", tmp_path)


def test_damage_within_the_voxels_names_the_case(tmp_path, rng):
    array = rng.integers(-1000, 200, (40, 40, 40)).astype(np.int16)
    for side in ("fixed", "moving"):
        write_image(tmp_path / "a" / f"{side}.nii.gz", array, Grid((40, 40, 40)))
    path = tmp_path / "a/moving.nii.gz"
    content = bytearray(path.read_bytes())
    content[2000:60000] = bytes(58000)
    path.write_bytes(content)
    with pytest.raises(InputError, match="Case a: .*moving.nii.gz"):
        load_dataset("pairs", tmp_path)[0].moving()


def test_phantoms_are_named_by_their_seeds():
    with pytest.raises(InputError, match="seeds such as 0-4"):
        load_dataset("phantom", "many")
    assert [e.name for e in DATASETS["phantom"].entries("2-4")] == ["seed2", "seed3", "seed4"]


@given(st.integers(0, 10), st.integers(0, 49_000), st.integers(0, 1_100_000))
def test_nothing_is_measured_on_a_phantom_that_networks_learn_from(training, number, seed):
    assert learned(training, number) != measured(seed)
    assert measured(measured(seed)) == measured(seed)


def test_the_papers_folds():
    cases = [f"copd{i}" for i in range(1, 11)] + [f"case{i}" for i in range(1, 11)]
    empire = [f"e{i}" for i in range(8)]
    found = folds(cases + empire)
    assert [len(train) for train, _ in found] == [24] * 5
    assert found[0][1] == ["copd1", "copd2", "case6", "case7"]
    assert sorted(sum((test for _, test in found), [])) == sorted(cases)
    assert all(set(empire) <= set(train) and not set(train) & set(test) for train, test in found)
    assert [test for _, test in folds(cases)] == [test for _, test in found]
    with pytest.raises(InputError, match="28 cases"):
        folds(cases[:5])


def test_folds_of_fewer_cases_are_refused_though_others_make_up_the_number():
    """28 of them, but all that follow the missing one would be tested in other folds."""
    titles = [DATASETS[name].title for name in ("copd", "4dct", "empire10")]
    counts = dict(zip(titles, (9, 10, 9), strict=True))
    with pytest.raises(InputError, match="all 10 cases of DIR-Lab COPDgene, here are 9"):
        folds_of(
            {title: [Case(f"{k}", None, None) for k in range(n)] for title, n in counts.items()}
        )
    whole = {title: [Case(f"{k}", None, None) for k in range(10)] for title in titles[:2]}
    assert [len(fold.test[titles[0]]) for fold in folds_of(whole)] == [2] * 5
