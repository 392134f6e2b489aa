"""The confidence: a distance for each place, larger where less is known, calibrated on phantoms."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from L2ORegistrationLib.core.geometry import Grid, Volume  # noqa: E402
from L2ORegistrationLib.engine import appraisal, confidence  # noqa: E402
from L2ORegistrationLib.engine.catalogue import METHODS  # noqa: E402
from L2ORegistrationLib.engine.field.levels import MindLevel  # noqa: E402

LATTICE = Grid((10, 9, 8), (6.0, 6.0, 6.0), (-30.0, -20.0, 5.0))


def level_of(fixed, moving):
    """Lungs everywhere but in the first two planes along x; features (C, D, H, W)."""
    distance = torch.full(LATTICE.shape, -20.0)
    distance[..., :2] = 20.0
    return MindLevel.of(fixed, moving, distance, LATTICE)


def waves(seed=0, shape=(16, 18, 20)):
    """Features (12, D, H, W) that change smoothly."""
    noise = torch.from_numpy(np.random.default_rng(seed).random((12, 4, 4, 5), np.float32))
    return torch.nn.functional.interpolate(noise[None], shape, mode="trilinear")[0]


def test_each_score_has_its_distance_and_larger_ones_a_larger_one():
    first = np.array(confidence.WEIGHTS)
    scores = np.linspace(0, 8, 50)
    found = first[:, None] * scores / (first**2).sum()  # whose weighted sum is the score
    told = confidence.distances(found, np.ones(50, bool))
    assert (np.diff(told) >= 0).all()
    assert told[0] == np.float32(confidence.DISTANCES_MM[0])
    assert told[-1] == np.float32(confidence.DISTANCES_MM[-1])
    knot = first * confidence.SCORES[4] / (first**2).sum()
    told = confidence.distances(knot[:, None], np.ones(1, bool))
    assert told[0] == pytest.approx(confidence.DISTANCES_MM[4])
    middle = first * np.mean(confidence.SCORES[4:6]) / (first**2).sum()
    told = confidence.distances(middle[:, None], np.ones(1, bool))
    assert told[0] == pytest.approx(np.sqrt(np.prod(confidence.DISTANCES_MM[4:6])))


def test_where_it_looked_closer_its_own_distances_hold_and_between_both_their_middle():
    first = np.array(confidence.WEIGHTS)
    score = confidence.CLOSE_SCORES[3]
    found = (first * score / (first**2).sum())[:, None]
    usual, closely, halfway = (
        confidence.distances(found, np.ones(1, bool), closest)[0]
        for closest in (1.5, confidence.CLOSEST_MM, np.sqrt(1.5 * confidence.CLOSEST_MM))
    )
    assert closely == pytest.approx(confidence.CLOSE_DISTANCES_MM[3])
    assert halfway == pytest.approx(np.sqrt(usual * closely))
    assert confidence.distances(found, np.ones(1, bool), 0.5)[0] == closely


@pytest.mark.parametrize("best, closest", [(12, 1.5), (13, 1.0), (15, 1.0)])
def test_a_step_before_the_closer_look_has_not_looked_closer(best, closest):
    """Of fifteen steps the last three look closer."""
    plan = METHODS["gauss-newton"].plan()[-1:]
    run = SimpleNamespace(plan=plan, total=15, closer_ratio=Fraction(3, 2), spacing=1.5)
    assert appraisal._closest(run, best) == closest


def test_beyond_the_moving_image_little_is_known_and_where_nothing_is_it_stays_so():
    found = np.tile([[-5.0, -8.0, np.nan]], (4, 1))
    told = confidence.distances(found, np.array([True, False, False]))
    assert told[1] == confidence.OUTSIDE_MM > told[0] and np.isnan(told[2])


def test_the_evidence_is_measured_per_place():
    level, still = level_of(waves(), waves()), torch.zeros((3, *LATTICE.shape))
    settled = confidence.evidence(level, still, still, 2.0)
    known = ~torch.isnan(settled[0])
    assert known[..., 2:].all()
    assert settled[1][known].numpy() == pytest.approx(np.log(0.01), abs=1e-4)
    assert settled[2][known].numpy() == pytest.approx(np.log(2.0))
    assert not confidence.evidence(level, still, still, 1.0)[2][known].any()


def test_the_way_is_a_mean_over_the_lungs_around():
    """An image that lies on itself asks for no step: it is what the last stage has moved."""
    still = torch.zeros((3, *LATTICE.shape))
    before = torch.zeros_like(still)
    before[1, :4] = 2.0  # mm along y in four of eight layers
    before[0, ..., :2] = 50.0  # no lung
    way = confidence.evidence(level_of(waves(), waves()), still, before, 1.0)[1]
    two, least = np.log(2.0), np.log(0.01)
    for layer, share in enumerate((1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0)):
        expected = share * two + (1 - share) * least
        assert way[layer, :, 2:].numpy() == pytest.approx(expected, abs=1e-5)


def test_the_surface_is_felt_a_few_millimetres_deep():
    level, still = level_of(waves(), waves()), torch.zeros((3, *LATTICE.shape))
    level.distance[..., 2] = -4.0
    near = confidence.evidence(level, still, still, 1.0)[3]
    assert near[..., 1].numpy() == pytest.approx(1.0)  # outside
    assert near[..., 2].numpy() == pytest.approx(np.exp(-1.0))
    assert near[..., 3:].max() < 0.01


def test_the_sharpness_grows_with_the_square_of_the_features():
    fixed = waves()
    still = torch.zeros((3, *LATTICE.shape))
    plain, strong = (
        confidence.evidence(level_of(k * fixed, k * waves(1) * 0.1 + k * fixed), still, still, 1.0)
        for k in (1, 2)
    )
    known = ~torch.isnan(plain[0])
    change = (strong - plain)[0][known].numpy()
    assert change == pytest.approx(np.log(4.0), abs=1e-3)


def test_it_reaches_a_little_beyond_the_lungs_and_no_further():
    distance = torch.full(LATTICE.shape, 20.0)
    distance[..., :2] = -20.0
    features = waves()
    level = MindLevel.of(features, features.clone(), distance, LATTICE)
    still = torch.zeros((3, *LATTICE.shape))
    told = confidence.confidence(level, still, still, 1.0, np.ones(LATTICE.shape, bool))
    assert told.grid == LATTICE and told.array.dtype == np.float32
    known = ~np.isnan(told.array)
    assert known[..., :5].all() and not known[..., 5:].any()  # lung, a block, one more


def test_the_summary_counts_places_of_the_lungs_alone():
    told = np.full(LATTICE.shape, 1.0, np.float32)
    told[4:] = 9.0
    told[..., 0] = np.nan
    mask = np.zeros(LATTICE.shape, np.uint8)
    mask[3:6, 2:7, 3:8] = 1
    found = confidence.summary(Volume(told, LATTICE), Volume(mask, LATTICE))
    assert found == {"median": 9.0, "p95": 9.0, "unsure": pytest.approx(2 / 3)}
    outside = Volume((mask * 0).astype(np.uint8), LATTICE)
    outside.array[:, :, 0] = 1
    assert np.isnan(confidence.summary(Volume(told, LATTICE), outside)["median"])
