"""Lungs are found in what hospitals scan: cushions, couches, arms, narrow views, illness, padding.

The chest is drawn in HU with noise, so that no value repeats by chance; the lungs are known.
"""

import re

import numpy as np
import pytest
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.geometry import Grid, Volume
from L2ORegistrationLib.engine.images.lungs import lung_mask
from L2ORegistrationLib.engine.images.plausibility import implausible
from scipy import ndimage

SPACING = (3.5, 3.5, 4.0)
GRID = Grid((120, 110, 80), SPACING, (-208.25, -190.75, -158.0))


class Chest:
    """A patient on a couch, drawn into `hu`; `lungs` are the voxels that a mask should mark."""

    def __init__(self, grid=GRID, seed=0):
        self.grid = grid
        self.x, self.y, self.z = np.moveaxis(grid.points(), -1, 0)
        self.hu = np.full(grid.shape, -1000.0)
        self.lungs = np.zeros(grid.shape, bool)
        self.noise = np.random.default_rng(seed).normal(0, 15, grid.shape)
        self.paint(self.ellipse(165, 112), -100)
        self.paint(self.ellipse(152, 100), 40)
        for side in (-1, 1):
            self.lung(side)
        self.paint(self.tube(0, 75, 16), 500)  # spine
        self.trachea = self.tube(0, 15, 8) & (self.z > 20)
        self.paint(self.tube(0, 15, 12) & (self.z > 20), 40)
        self.paint(self.trachea, -995)

    def ellipse(self, a, b, x=0.0, y=0.0):
        return ((self.x - x) / a) ** 2 + ((self.y - y) / b) ** 2 < 1

    def tube(self, x, y, radius):
        return self.ellipse(radius, radius, x, y)

    def ball(self, x, y, z, *radii):
        return ((self.x - x) / radii[0]) ** 2 + ((self.y - y) / radii[1]) ** 2 + (
            (self.z - z) / radii[2]
        ) ** 2 < 1

    def lung(self, side):
        part = self.ball(side * 78, 0, -20, 60, 80, 130) & ~self.ball(15, -35, -60, 60, 50, 60)
        part &= ~self.ball(side * 70, 0, -170, 90, 110, 90)  # diaphragm
        self.lungs |= part
        self.paint(part, -840)
        vessels = np.zeros(part.shape, bool)
        for k in range(6):
            vessels |= np.hypot(self.y + 50 - 20 * k, self.z - 15 * k + 50) < 4
        self.paint(vessels & part, 30)

    def one(self, side):
        return self.lungs & (self.x * side > 0)

    def paint(self, where, value):
        self.hu[where] = value

    def fill(self, where, value=20):
        """Fluid or consolidation in the lungs, which a mask then need not mark."""
        where = where & self.lungs
        self.paint(where, value)
        self.lungs &= ~where

    def volume(self):
        soft = ndimage.gaussian_filter(self.hu, 0.5) + self.noise
        return Volume(np.round(soft).astype(np.int16), self.grid)


def couch(chest):
    """Shells around foam that is as dark as lungs, closer to the back than the ribs are thick."""
    below = chest.y - 122 - chest.x**2 / 2500
    chest.paint((below > 0) & (below < 45) & (abs(chest.x) < 190), -880)
    chest.paint((abs(below) < 3) & (abs(chest.x) < 190), 50)
    chest.paint((abs(below - 45) < 3) & (abs(chest.x) < 190), 300)


def cushions(chest):
    """Foam around head, arms and sides, blankets above."""
    chest.paint((chest.hu < -990) & (chest.y > -60) & (abs(chest.x) > 120), -930)
    chest.paint((chest.hu < -990) & (chest.y < -118), -955)


def arms(chest):
    for side in (-1, 1):
        chest.paint(chest.tube(side * 183, 20, 22), 40)
        chest.paint(chest.tube(side * 183, 20, 9), 700)


def arms_and_cushions(chest):
    arms(chest)
    couch(chest)
    cushions(chest)


def bowel(chest):
    chest.paint(chest.ball(75, -30, -128, 38, 38, 22), -995)
    chest.paint(chest.ball(-60, -50, -145, 55, 25, 10), -700)


def pneumonectomy(chest):
    chest.fill(chest.x > 0, 10)


def effusion(share):
    def drawn(chest):
        lung = chest.one(1)
        chest.fill(lung & (chest.z < np.quantile(chest.z[lung], share)), 15)

    return drawn


def consolidation(chest):
    chest.fill((chest.x < 0) & (abs(chest.z + 25) < 22), 30)


def metal(chest):
    chest.paint(chest.tube(60, -95, 8), 3000)


ODD = {
    "plain": lambda chest: None,
    "couch": couch,
    "cushions": cushions,
    "arms": arms,
    "arms, couch and cushions": arms_and_cushions,
    "bowel": bowel,
    "metal": metal,
    "pneumonectomy": pneumonectomy,
    "effusion of 15 %": effusion(0.15),
    "effusion of 30 %": effusion(0.3),
    "effusion of 60 %": effusion(0.6),
    "effusion of 100 %": effusion(1.0),
    "consolidation across a lung": consolidation,
}


def dice(a, b):
    return 2 * np.sum(a & b) / (a.sum() + b.sum())


def assert_found(volume, lungs, least=0.93):
    mask = lung_mask(volume)
    assert dice(mask.array, lungs) > least
    assert implausible(mask, volume) == []


@pytest.mark.parametrize("name", ODD)
def test_lungs_among_other_dark_things_and_in_illness(name):
    chest = Chest()
    ODD[name](chest)
    assert_found(chest.volume(), chest.lungs)


def circle(chest):
    return np.hypot(chest.x, chest.y) > 150  # cuts skin and muscles at both sides


PADDING = {
    "-3024 beyond a circle": (circle, -3024),
    "-2000 beyond a circle": (circle, -2000),
    "-1024 beyond a circle": (circle, -1024),
    "-1000 beyond a circle": (circle, -1000),
    "0 beyond a circle": (circle, 0),
    "0 beside a turned image": (lambda c: c.x + 0.5 * c.y > 180, 0),
    "0 in slices at the end": (lambda c: c.z > 140, 0),
    "-1024 in slices at the end": (lambda c: c.z < -140, -1024),
}


@pytest.mark.parametrize("name", PADDING)
def test_padding_of_every_kind(name):
    chest = Chest()
    couch(chest)
    where, value = PADDING[name]
    array = chest.volume().array
    beyond = where(chest)
    array[beyond] = value
    assert_found(Volume(array, GRID), chest.lungs & ~beyond)


@pytest.mark.parametrize(
    "box",
    {
        "slab of 40 mm": np.s_[35:45, :, :],
        "upper half": np.s_[40:, :, :],
        "bases only": np.s_[8:30, :, :],
        "view that cuts a lung at the side": np.s_[:, :, 30:],
        "view that cuts both lungs at the sides": np.s_[:, :, 28:92],
        "view that cuts the back": np.s_[:, :72, :],
        "one lung": np.s_[:, :, 62:],
    }.items(),
    ids=lambda item: item[0],
)
def test_scans_of_a_part(box):
    chest = Chest()
    couch(chest)
    part = box[1]
    array = chest.volume().array[part]
    origin = GRID.to_world([s.start or 0 for s in part[::-1]])
    assert_found(Volume(array, Grid(array.shape[::-1], SPACING, tuple(origin))), chest.lungs[part])


def test_thick_slices():
    chest = Chest(Grid((120, 110, 32), (3.5, 3.5, 10.0), (-208.25, -190.75, -155.0)))
    arms_and_cushions(chest)
    assert_found(chest.volume(), chest.lungs, 0.91)


def test_from_the_neck_to_the_pelvis():
    grid = Grid((100, 90, 150), (4.2, 4.2, 6.0), (-207.9, -186.9, -650.0))
    chest = Chest(grid)
    couch(chest)
    chest.paint((chest.z > 150) & ~chest.tube(0, 10, 60) & (chest.y < 118), -1000)
    chest.paint(chest.ball(60, -40, -350, 70, 45, 90), -995)  # gas in the bowel
    chest.paint(chest.ball(-60, -40, -450, 60, 45, 60), -650)
    assert_found(chest.volume(), chest.lungs, 0.92)


def test_no_lungs_in_a_scan_of_the_belly_on_a_couch():
    chest = Chest()
    arms_and_cushions(chest)
    chest.paint(chest.lungs | chest.trachea, 40)
    with pytest.raises(InputError, match="No lung was found"):
        lung_mask(chest.volume())


# What cannot be lungs


@pytest.fixture(scope="module")
def scan():
    chest = Chest()
    arms_and_cushions(chest)
    return chest


WRONG = {
    "everything": (lambda c: np.ones_like(c.lungs), "litres; lungs hold"),
    "the room": (lambda c: c.hu < -900, "outside the body"),
    "the couch's foam": (lambda c: abs(c.hu + 880) < 1, "outside the body"),
    "the body": (lambda c: c.ellipse(150, 100) & ~c.lungs, "too dense for lungs"),
    "a block": (lambda c: (abs(c.x) < 90) & (abs(c.y) < 60) & (abs(c.z) < 60), "is a block"),
    "mirrored": (lambda c: c.lungs[::-1], "mirrored or shifted|too dense"),
    "shifted": (lambda c: np.roll(c.lungs, 12, axis=2), "mirrored or shifted"),
    "far off": (lambda c: np.roll(c.lungs, 40, axis=1), "Only .* of the mask lies on the lungs"),
    "the trachea": (lambda c: c.trachea & (c.z > 100), "litres|air"),
    "one voxel": (
        lambda c: (c.x == c.x[0, 0, 60]) & (c.y == c.y[0, 55, 0]) & (c.z == 0),
        "nothing",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_masks_that_no_chest_can_have_are_told_in_plain_sentences(name, scan):
    make, said = WRONG[name]
    reasons = implausible(Volume(make(scan), GRID), scan.volume())
    assert reasons and re.search(said, " ".join(reasons)), reasons
    assert all(re.fullmatch(r"[A-Z0-9].*[.?]", reason) for reason in reasons)


RIGHT = {
    "both": lambda c: c.lungs,
    "right": lambda c: c.one(-1),
    "with airways": lambda c: c.lungs | c.trachea,
    "generous": lambda c: ndimage.binary_dilation(c.lungs),
    "upper thirds": lambda c: c.lungs & (c.z > 20),
}


def test_a_mask_that_holds_a_lung_full_of_fluid_is_plausible():
    chest = Chest()
    whole = chest.lungs.copy()
    effusion(1.0)(chest)
    assert implausible(Volume(whole, GRID), chest.volume()) == []


@pytest.mark.parametrize("name", RIGHT)
def test_masks_of_lungs_are_plausible(name, scan):
    assert implausible(Volume(RIGHT[name](scan), GRID), scan.volume()) == []


def test_masks_on_another_grid_are_judged_where_they_lie(scan):
    mask = Volume(scan.lungs, GRID)
    part = mask.part(slice(5, 75), slice(10, 100), slice(5, 115))
    assert implausible(part, scan.volume()) == []
    moved = Volume(part.array, Grid(part.grid.size, SPACING, np.add(part.grid.origin, 100)))
    assert implausible(moved, scan.volume())
