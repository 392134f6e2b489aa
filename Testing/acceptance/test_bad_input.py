"""What cannot be registered is refused in one sentence that says what to do instead."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import L2ORegistrationLib as l2o  # noqa: E402
import SimpleITK as sitk  # noqa: E402
from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.core.geometry import DisplacementField, Grid, Volume  # noqa: E402
from L2ORegistrationLib.engine import devices  # noqa: E402
from L2ORegistrationLib.phantom.pair import make_pair  # noqa: E402

FAST = {"device": "cpu", "spacing": 3.0}


@pytest.fixture(scope="module")
def pair():
    return make_pair(5, spacing=6.0, amplitude_mm=15.0)


def refused(pattern, fixed, moving, **options):
    """Registers up to the first step, which must fail with a sentence like this."""
    with pytest.raises(InputError, match=pattern) as caught:
        next(iter(l2o.Registration(fixed, moving, **{**FAST, **options})))
    message = str(caught.value)
    assert 20 < len(message) < 400 and "\n" not in message
    return message


def written(array, path, spacing=(6.0, 6.0, 6.0), vector=False):
    image = sitk.GetImageFromArray(array, isVector=vector)
    if image.GetDimension() == 3:
        image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))
    return path


NOISE = np.random.default_rng(0).normal(-500, 300, (12, 12, 12)).astype(np.float32)


def text(path):
    path.write_text("no image at all")
    return path


def nothing(path):
    path.write_bytes(b"")
    return path


def cut_short(path):
    written(NOISE, path)
    path.write_bytes(path.read_bytes()[:600])
    return path


FILES = {
    "missing": (lambda folder: folder / "none.nii.gz", "none.nii.gz.*(exist|found)"),
    "unreadable": (lambda folder: text(folder / "text.nii.gz"), "text.nii.gz"),
    "empty": (lambda folder: nothing(folder / "empty.nrrd"), "empty.nrrd"),
    "cut short": (lambda folder: cut_short(folder / "short.nii"), "short.nii"),
    "2-D": (lambda folder: written(NOISE[0], folder / "slice.nrrd"), "slice.*give a 3-D image"),
    "4-D": (lambda folder: written(np.stack([NOISE] * 3), folder / "time.nii.gz"), "save one"),
    "colour": (
        lambda folder: written(np.zeros((8, 8, 8, 3), np.uint8), folder / "rgb.nrrd", vector=True),
        "values per voxel.*give an image with one",
    ),
    "constant": (lambda folder: written(0 * NOISE, folder / "flat.nii.gz"), "same value"),
    "not numbers": (lambda folder: written(np.nan * NOISE, folder / "nan.nrrd"), "NaN.*again"),
    "no folder of slices": (lambda folder: folder, "DICOM series: give"),
}


@pytest.mark.parametrize("role", ["fixed", "moving"])
@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_image(name, role, pair, tmp_path):
    make, pattern = FILES[name]
    images = {"fixed": pair.fixed, "moving": pair.moving, role: make(tmp_path)}
    refused(pattern, **images)


ARRAYS = {
    "constant": (np.zeros((20, 20, 20)), "same value everywhere"),
    "not numbers": (np.full((20, 20, 20), np.nan), "NaN"),
    "infinite": (np.full((20, 20, 20), np.inf), "NaN or infinite"),
    "a single slice": (NOISE[:1], "single slice: give a 3-D image"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_volumes_that_are_no_image(name, pair):
    array, pattern = ARRAYS[name]
    refused(pattern, Volume(array, Grid(array.shape[::-1])), pair.moving)


@pytest.mark.parametrize(
    "image",
    [
        sitk.Image(8, 8, sitk.sitkFloat32),
        sitk.Image([8, 8, 8], sitk.sitkVectorFloat32, 3),
        sitk.Image([8, 8, 8, 2], sitk.sitkFloat32),
        np.zeros((8, 8, 8)),
        None,
    ],
    ids=["2-D", "vectors", "4-D", "an array without a grid", "none"],
)
def test_objects_that_are_no_image(image, pair):
    refused("fixed image", image, pair.moving)


def test_an_image_without_lungs():
    soft = Volume(
        (NOISE.mean() + 500 + 20 * np.random.default_rng(1).normal(size=(40, 40, 40))).astype(
            np.float32
        ),
        Grid((40, 40, 40), (6.0, 6.0, 6.0)),
    )
    refused("No lung was found.*give a chest CT", soft, soft)


def test_empty_masks(pair, tmp_path):
    empty = Volume(np.zeros(pair.fixed.grid.shape, bool), pair.fixed.grid)
    refused("fixed mask is empty: mark", pair.fixed, pair.moving, fixed_mask=empty)
    path = written(empty.array.astype(np.uint8), tmp_path / "empty.nii.gz")
    refused("mask empty.nii.gz is empty: mark", pair.fixed, pair.moving, moving_mask=path)


def test_masks_of_next_to_nothing(pair):
    array = np.zeros(pair.fixed.grid.shape, bool)
    array[20, 20, 20] = True
    refused(
        "next to nothing: give a mask",
        pair.fixed,
        pair.moving,
        fixed_mask=Volume(array, pair.fixed.grid),
    )


def test_a_mask_file_on_another_grid(pair, tmp_path):
    path = written(np.ones((9, 9, 9), np.uint8), tmp_path / "other.nii.gz")
    for role in ("fixed", "moving"):
        refused(
            f"{role} mask other.nii.gz is on another grid.*fits no lungs there.*resample",
            pair.fixed,
            pair.moving,
            **{f"{role}_mask": path},
        )


def test_a_mask_beside_its_image(pair):
    grid = Grid((10, 10, 10), (6.0, 6.0, 6.0), (5000.0, 0.0, 0.0))
    mask = Volume(np.ones((10, 10, 10), bool), grid)
    refused("lies outside its image: give", pair.fixed, pair.moving, fixed_mask=mask)


@pytest.mark.parametrize("mask", [np.ones((3, 3, 3)), sitk.Image(4, 4, sitk.sitkUInt8) + 1, 7])
def test_objects_that_are_no_mask(mask, pair):
    refused("The moving mask", pair.fixed, pair.moving, moving_mask=mask)


def elsewhere(volume):
    grid = volume.grid
    return Volume(volume.array, Grid(grid.size, grid.spacing, np.add(grid.origin, 500)))


def test_images_that_do_not_overlap(pair):
    masks = {"fixed_mask": pair.fixed_mask, "moving_mask": elsewhere(pair.moving_mask)}
    message = refused("hardly overlap", pair.fixed, elsewhere(pair.moving), start="none", **masks)
    assert "Start from 'affine'" in message and "initial transform" in message
    matrix = np.eye(4)
    matrix[:3, 3] = -500
    refused("hardly overlap", pair.fixed, pair.moving, initial_transform=matrix)


P = np.random.default_rng(2).uniform(-50, 50, (6, 3))


@pytest.mark.parametrize(
    "landmarks, pattern",
    [
        (None, "needs landmarks in both images"),
        ((P, P[:5]), "at least four corresponding points"),
        ((P[:3], P[:3]), "at least four corresponding points"),
        ((P[:, :2], P[:, :2]), "at least four corresponding points"),
        ((P, np.where(P == P[2, 1], np.nan, P)), "no position: remove or place"),
        ((P, None), "at least four corresponding points"),
        (("a", "b"), "two lists of points"),
        (P, "two lists of points"),
        ((P * [1, 1, 0], P), "not all in one plane"),
        ((P[[0, 1, 2, 3, 4, 4]], P), "none twice"),
    ],
)
def test_landmarks_that_give_no_start(landmarks, pattern, pair):
    masks = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
    refused(pattern, pair.fixed, pair.moving, start="landmarks", landmarks=landmarks, **masks)


@pytest.mark.parametrize(
    "transform, pattern",
    [
        (np.eye(3), "invertible 4x4 matrix"),
        (np.zeros((4, 4)), "invertible 4x4 matrix"),
        (np.full((4, 4), np.nan), "invertible 4x4 matrix"),
        (object(), "path, a SimpleITK transform"),
        (sitk.AffineTransform(2), "is 2-D: give a 3-D one"),
        (sitk.AffineTransform([0.0] * 9, (0, 0, 0)), "flattens space: give another"),
        ("nowhere.h5", "nowhere.h5"),
    ],
    ids=["3x3", "zeros", "NaN", "an object", "2-D", "flat", "a missing file"],
)
def test_transforms_that_are_no_start(transform, pattern, pair):
    refused(pattern, pair.fixed, pair.moving, initial_transform=transform)


def test_a_transform_file_that_is_an_image(pair, tmp_path):
    path = written(NOISE, tmp_path / "image.nrrd")
    refused("not a displacement field", pair.fixed, pair.moving, initial_transform=path)


@pytest.mark.parametrize(
    "options, pattern",
    [
        ({"start": "middle"}, "Unknown start 'middle': use one of .*affine"),
        (
            {"method": "magic"},
            "Unknown method 'magic': use one of gauss-newton, l2o, .*adam",
        ),
        ({"iterations": 0}, "iterations must be a whole number from 1 to 1000, got 0"),
        ({"iterations": 1001}, "iterations must be a whole number"),
        ({"iterations": 2.5}, "iterations must be a whole number"),
        ({"iterations": "3"}, "iterations must be a whole number"),
        ({"iterations": (1, 0, 2)}, "iterations must be a whole number from 1 to 1000, got 0"),
        ({"iterations": (1, 2)}, "L2O has 3 levels: give one number of iterations"),
        ({"threads": 0}, "threads must be a whole number from 1"),
        ({"threads": 1.5}, "threads must be a whole number"),
        ({"spacing": 0.1}, "spacing must be between 0.5 and 6 mm"),
        ({"spacing": float("nan")}, "spacing must be between"),
        ({"model": "nothing"}, "no weights 'nothing': packaged are"),
        ({"device": "abacus"}, "device 'abacus' is not available here: choose one of .*cpu"),
    ],
    ids=str,
)
def test_settings_that_do_not_exist(options, pattern, pair):
    refused(pattern, pair.fixed, pair.moving, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_where_there_is_none(pair):
    refused("'cuda' is not available here: choose one of", pair.fixed, pair.moving, device="cuda")
    assert devices.choose_device("auto").type in ("cpu", "mps")


def test_options_that_nothing_would_use(pair):
    refused("used by the start 'landmarks' only", pair.fixed, pair.moving, landmarks=(P, P))
    refused("'adam' has no weights", pair.fixed, pair.moving, method="adam", model="l2o")


@pytest.mark.parametrize("slices, pattern", [(2, "12 mm"), (5, "at most")])
def test_slabs_too_thin_for_the_working_spacing(slices, pattern, pair):
    def slab(volume):
        middle, (_, y, x) = volume.array.shape[0] // 2, volume.array.shape
        return volume.part(slice(middle, middle + slices), slice(0, y), slice(0, x))

    masks = {"fixed_mask": slab(pair.fixed_mask), "moving_mask": slab(pair.moving_mask)}
    images = slab(pair.fixed), slab(pair.moving)
    refused(f"shows only .* mm of the lungs.*{pattern}", *images, spacing=6.0, **masks)


def test_a_field_with_displacements_that_are_no_numbers(pair):
    grid = Grid((5, 5, 5), (60.0, 60.0, 60.0), (-150.0, -120.0, -120.0))
    array = np.zeros((5, 5, 5, 3), np.float32)
    array[2, 2, 2] = np.nan
    field = DisplacementField(array, grid)
    for given in (field, field.to_transform(), sitk.CompositeTransform([field.to_transform()])):
        refused("not numbers", pair.fixed, pair.moving, initial_transform=given)
    empty = sitk.CompositeTransform(3)
    refused("empty composite", pair.fixed, pair.moving, initial_transform=empty)


def test_too_little_memory_is_known_before_it_is_used(pair, monkeypatch):
    masks = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
    monkeypatch.setattr(devices, "free_mb", lambda: 100)
    message = refused("needs about .* MB on cpu, but only 100 MB", pair.fixed, pair.moving, **masks)
    assert "choose a coarser spacing" in message


def test_the_estimate_grows_with_the_working_grid(pair, monkeypatch):
    masks = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
    monkeypatch.setattr(devices, "free_mb", lambda: 100)
    needed = [
        int(
            refused("MB", pair.fixed, pair.moving, spacing=s, **masks).split("about ")[1].split()[0]
        )
        for s in (1.0, 2.0, 4.0)
    ]
    assert needed == sorted(needed, reverse=True) and needed[0] > 2 * needed[2]
    monkeypatch.setattr(devices, "free_mb", lambda: None)  # unknown: try
    next(iter(l2o.Registration(pair.fixed, pair.moving, **FAST, **masks)))


def test_a_result_is_not_written_where_it_cannot_be(pair, tmp_path):
    masks = {"fixed_mask": pair.fixed_mask, "moving_mask": pair.moving_mask}
    registration = l2o.Registration(pair.fixed, pair.moving, **FAST, **masks)
    next(iter(registration))
    result = registration.result()
    assert isinstance(result.field, DisplacementField)
    for path in (tmp_path / "no" / "folder" / "t.h5", tmp_path / "t.docx"):
        with pytest.raises(InputError):
            result.save(path)
    assert list(tmp_path.iterdir()) == []
