"""A mask given in whatever form marks the lungs of its image, or is refused in one sentence."""

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("torch")

from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.core.geometry import Grid, Volume  # noqa: E402
from L2ORegistrationLib.engine.arguments import as_mask  # noqa: E402
from L2ORegistrationLib.engine.registration import Registration  # noqa: E402
from L2ORegistrationLib.phantom.pair import make_pair  # noqa: E402


@pytest.fixture(scope="module")
def chest():
    """A CT and its lungs."""
    pair = make_pair(5, spacing=(4.0, 4.0, 5.0))
    return pair.fixed, Volume(pair.fixed_mask.array > 0, pair.fixed.grid)


def cropped(mask):
    box = [slice(int(i.min()) - 1, int(i.max()) + 2) for i in np.nonzero(mask.array)]
    return mask.part(*box)


def reordered(mask):
    """Other axes, another direction of each, the same places."""
    image = sitk.PermuteAxes(sitk.Flip(mask.to_image(), (True, False, True)), (2, 0, 1))
    return Volume.of_image(image)


def resampled(mask):
    """As a resampler with linear interpolation leaves it: fractions at the edge, crumbs beyond."""
    soft = sitk.SmoothingRecursiveGaussian(sitk.Cast(mask.to_image(), sitk.sitkFloat32), 2.0)
    return Volume(sitk.GetArrayFromImage(soft) + np.float32(0.0001), mask.grid)


ACCEPTED = {
    "one": (lambda m: m, 1.0),
    "255": (lambda m: Volume(m.array.astype(np.uint8) * 255, m.grid), 1.0),
    "two labels": (lambda m: Volume(m.array * (1 + (np.arange(m.grid.size[0]) > 40)), m.grid), 1.0),
    "cropped": (cropped, 1.0),
    "reordered": (reordered, 1.0),
    "cropped and reordered": (lambda m: reordered(cropped(m)), 1.0),
    "resampled": (resampled, 0.98),
    "probabilities in bytes": (
        lambda m: Volume(np.uint8(np.clip(resampled(m).array * 255, 0, 255)), m.grid),
        0.98,
    ),
    "not everywhere a number": (lambda m: Volume(np.where(m.array, 1.0, np.nan), m.grid), 1.0),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_forms_of_the_same_mask(name, chest):
    image, lungs = chest
    form, least = ACCEPTED[name]
    found = as_mask(form(lungs), image, "fixed")
    assert found.grid.matches(image.grid) and found.array.dtype == bool
    overlap = 2 * (found.array & lungs.array).sum() / (found.array.sum() + lungs.array.sum())
    assert overlap >= least


def organs(mask):
    """A label map of the whole image in which lungs are number 3."""
    z, _, _ = np.indices(mask.array.shape)
    return Volume(np.where(mask.array, 3, 10 + z // 8).astype(np.uint8), mask.grid)


def moved(mask, *shift):
    grid = mask.grid
    part = mask.part(slice(1, grid.shape[0]), slice(0, grid.shape[1]), slice(0, grid.shape[2]))
    return Volume(part.array, Grid(part.grid.size, grid.spacing, np.add(part.grid.origin, shift)))


def one_slice(mask):
    array = np.zeros_like(mask.array)
    middle = array.shape[0] // 2
    array[middle] = mask.array[middle]
    return Volume(array, mask.grid)


REFUSED = {
    "organs": (organs, r"has \d+ labels that together are no lungs .*litres.*--mask-labels"),
    "a little elsewhere": (lambda m: moved(m, 60, 0, 0), "another grid .* fits no lungs there"),
    "far elsewhere": (lambda m: moved(m, 6000, 0, 0), "lies outside its image"),
    "one slice": (one_slice, "next to nothing: give a mask of the lungs in all slices"),
    "a single slice": (
        lambda m: cropped(one_slice(m)).part(slice(1, 2), slice(0, 30), slice(0, 30)),
        "next to nothing",
    ),
    "an image": (lambda m: Volume(np.where(m.array, -850, 40), m.grid), "negative values"),
    "crumbs": (lambda m: Volume(m.array * 0.0001, m.grid), "nowhere reaches one half"),
    "empty": (lambda m: Volume(m.array & False, m.grid), "is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_marks_no_lungs(name, chest):
    image, lungs = chest
    form, said = REFUSED[name]
    with pytest.raises(InputError, match=f"^The moving mask.*{said}"):
        as_mask(form(lungs), image, "moving")


@pytest.mark.parametrize("spacing, warned", [(1.0, True), (1.5, False), (3.0, False)])
def test_a_fine_working_spacing_is_warned_of(chest, spacing, warned):
    image, _ = chest
    warning = Registration(image, image, spacing=spacing).warning
    assert ("1 mm is finer than the usual 1.5 mm" in warning) == warned
    assert bool(warning) == warned
