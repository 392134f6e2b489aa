"""MIND and local contrast: exact on tiny images, blind to brightness, the same however computed."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from L2ORegistrationLib.engine.images import features as module  # noqa: E402
from L2ORegistrationLib.engine.images.features import (  # noqa: E402
    CHANNELS,
    local_contrast,
    mind_ssc,
    pool,
)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_nothing_to_see_in_a_constant_image():
    assert torch.equal(mind_ssc(torch.full((5, 6, 7), 3.0)), torch.ones(CHANNELS, 5, 6, 7))


def test_a_channel_for_each_two_neighbours_that_are_not_opposite():
    pairs = module._PAIRS
    assert len(pairs) == CHANNELS == len(set(pairs))
    assert all(np.dot(a, b) == 0 for a, b in pairs)


def test_the_step_between_two_halves_by_hand():
    """Values 0 and 1 split along x, radius 0: only pairs of different halves are apart.

    At the last voxel of the 0 half the neighbour one voxel on is the only 1. It is in 4 of the 12
    pairs, whose distance is 1; the mean is 1/3 and the descriptor exp(-1 / (1/3)) there.
    """
    image = torch.zeros(7, 7, 8)
    image[..., 4:] = 1
    mind = mind_ssc(image, radius=0, dilation=1)
    expected = [np.exp(-3.0) if (0, 0, 1) in pair else 1.0 for pair in module._PAIRS]
    assert mind[:, 3, 3, 3].tolist() == pytest.approx(expected, abs=1e-6)
    assert sum(e < 1 for e in expected) == 4
    assert torch.equal(mind[:, 3, 3, 1], torch.ones(CHANNELS))


def test_patches_are_averaged_over_their_cube():
    """Against the definition, patch by patch, at one voxel away from the border."""
    image, at = noise(11, 12, 13), np.array((5, 6, 6))
    cube = [np.array((z, y, x)) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    distances = np.array(
        [
            np.mean(
                [
                    float(image[tuple(at + 2 * np.array(a) + c)])
                    - float(image[tuple(at + 2 * np.array(b) + c)])
                    for c in cube
                ]
                ** np.array(2)
            )
            for a, b in module._PAIRS
        ]
    )
    distances -= distances.min()
    expected = np.exp(-distances / distances.mean())
    np.testing.assert_allclose(mind_ssc(image)[(slice(None), *at)], expected, rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(0.5, 20), offset=st.floats(-5, 5), sign=st.sampled_from((-1, 1)))
def test_brightness_and_contrast_do_not_matter(scale, offset, sign):
    image = noise(8, 9, 10)
    torch.testing.assert_close(
        mind_ssc(sign * scale * image + offset, floor=1e-9),
        mind_ssc(image, floor=1e-9),
        atol=2e-3,
        rtol=0,
    )


def test_values_lie_in_zero_to_one_and_the_best_channel_is_one():
    mind = mind_ssc(noise(8, 8, 8))
    assert mind.min() > 0 and torch.equal(mind.amax(dim=0), torch.ones(8, 8, 8))


def test_the_floor_calms_weak_noise():
    weak = 1e-3 * noise(8, 8, 8)
    assert mind_ssc(weak, floor=1e-4).min() > 0.9 > mind_ssc(weak, floor=1e-9).min()


def test_shifting_the_image_shifts_the_descriptor():
    image = noise(14, 14, 14)
    moved = torch.roll(image, (1, 2, 3), (0, 1, 2))
    inner = (slice(None), *3 * (slice(6, 11),))
    expected = torch.roll(mind_ssc(image), (1, 2, 3), (1, 2, 3))
    torch.testing.assert_close(mind_ssc(moved)[inner], expected[inner])


@pytest.mark.parametrize("depth, factor", [(40, 1), (33, 1), (64, 2), (16, 2), (50, 2)])
def test_slab_by_slab_is_the_whole(depth, factor):
    """More voxels than one slab: as if the whole padded image were done at once."""
    image = noise(depth, 8, 10)
    padded = torch.nn.functional.pad(image[None, None], (3,) * 6, mode="replicate")[0, 0]
    whole = module._mind(padded, 1, 2, 1e-6)
    assert whole.shape == (CHANNELS, depth, 8, 10)
    torch.testing.assert_close(mind_ssc(image, factor=factor), pool(whole, factor))


def test_pooling_averages_blocks():
    values = torch.arange(64.0).view(1, 4, 4, 4)
    assert pool(values, 1) is values
    pooled = pool(values, 2)
    assert pooled.shape == (1, 2, 2, 2)
    assert pooled[0, 1, 0, 1] == values[0, 2:, :2, 2:].mean()


def test_contrast_is_blind_to_brightness_and_scale():
    image = noise(16, 16, 16)
    weight = torch.ones(16, 16, 16)
    base = local_contrast(image, weight, floor=1e-6)
    assert base.shape == (1, 16, 16, 16)
    torch.testing.assert_close(
        local_contrast(5 * image + 2, weight, floor=1e-6), base, atol=1e-3, rtol=0
    )
    assert local_contrast(torch.full((16, 16, 16), 7.0), weight).abs().max() < 1e-4


def test_contrast_ignores_what_has_no_weight():
    """A bright half without weight leaves the statistics of the other half as they were."""
    image = noise(16, 16, 32)
    weight = torch.ones(16, 16, 32)
    weight[..., 16:] = 0
    drowned = image.clone()
    drowned[..., 16:] = 1.5
    a, b = (local_contrast(i, weight)[..., :14] for i in (image, drowned))
    assert (a - b).abs().max() < 0.05
    everything = local_contrast(drowned, torch.ones_like(weight))[..., :14]
    assert (a - everything).abs().max() > 0.2
