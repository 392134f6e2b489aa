"""Lungs that are thin, tiny, empty or metres large, images that show nothing, memory that ends."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.core.geometry import Grid, Volume  # noqa: E402
from L2ORegistrationLib.engine import registration as engine  # noqa: E402
from L2ORegistrationLib.engine.match import match  # noqa: E402
from L2ORegistrationLib.engine.registration import Registration, register  # noqa: E402
from L2ORegistrationLib.engine.resources import borrowed  # noqa: E402
from L2ORegistrationLib.engine.verdict import CHECK, judge  # noqa: E402
from L2ORegistrationLib.phantom.pair import make_pair  # noqa: E402


@pytest.fixture(scope="module")
def pair():
    return make_pair(0, spacing=6.0)


def given(pair, part=lambda volume: volume, **options):
    images = part(pair.fixed), part(pair.moving)
    masks = {f"{side}_mask": part(getattr(pair, f"{side}_mask")) for side in ("fixed", "moving")}
    return images, {**masks, "device": "cpu", **options}


def test_a_slab_of_lung_on_a_lattice_thinner_than_a_block_keeps_its_result(pair):
    """Eleven slices of 6 mm: four nodes of the field, of which confidence looks at five."""

    def slab(volume):
        z = volume.array.shape[0] // 2
        return volume.part(slice(z - 5, z + 6), *(slice(0, n) for n in volume.array.shape[1:]))

    images, options = given(pair, slab, spacing=6.0)
    result = register(*images, **options)
    assert np.isfinite(result.provenance["confidence_median_mm"])


@pytest.mark.parametrize(
    "radius, spacing, method",
    [(22, 6.0, "l2o"), (22, 6.0, "voxelmorph++"), (10, 2.0, "l2o"), (10, 2.0, "falta2022")],
)
def test_lungs_that_fill_no_voxel_of_a_level_are_refused(radius, spacing, method):
    grid = Grid((70, 70, 70), (2.0, 2.0, 2.0))
    ball = np.linalg.norm(grid.points() - 70, axis=-1) < radius
    rng = np.random.default_rng(0)
    image = Volume(np.where(ball, -800, 0) + rng.normal(0, 90, grid.shape).astype(np.float32), grid)
    mask = Volume(ball, grid)
    with pytest.raises(InputError, match="too thin for this working spacing"):
        register(
            image, image, fixed_mask=mask, moving_mask=mask, spacing=spacing, method=method,
            device="cpu",
        )  # fmt: skip


def test_lungs_of_metres_are_refused_before_memory_is_taken(pair):
    def large(volume):
        return replace(volume, grid=replace(volume.grid, spacing=(120.0,) * 3))

    images, options = given(pair, large)
    with pytest.raises(InputError, match=r"5\.\d m large: is the image's spacing in mm"):
        register(*images, **options)


def test_images_that_show_nothing_do_not_match(pair):
    flat = np.full(pair.fixed.grid.shape, -800, np.float32)
    flat[0, 0, 0] = 0
    image = Volume(flat, pair.fixed.grid)
    mask = pair.fixed_mask
    result = register(
        image, image, fixed_mask=mask, moving_mask=mask, spacing=4.0, device="cpu", iterations=1
    )
    assert result.verdict == "failed" and result.reasons[0].startswith("0% of the fixed lungs")


def test_what_nobody_knows_is_to_be_checked(pair):
    images, options = given(pair, spacing=4.0, iterations=1)
    run = Registration(*images, **options)
    list(run)
    with torch.inference_mode():
        found = match(run.finest, run.fields[-1], 1.0)
    assert judge(found, 0.0, 1.0).level == "good"
    assert judge(found, 0.0, 1.0, unsure=np.nan).level == CHECK


def test_folds_and_volumes_of_the_field_are_in_its_verdict(pair):
    images, options = given(pair, spacing=4.0, iterations=1)
    run = Registration(*images, **options)
    list(run)
    last = run.steps[-1]
    axis = last.field.grid.points()[..., 0]
    for slope, told in ((-2.0, "folds in 100.00%"), (2.0, "factor of 3.00"), (0.0, "")):
        field = replace(last.field, array=np.zeros_like(last.field.array))
        field.array[..., 0] = slope * (axis - axis.mean())
        run.steps[-1] = replace(last, field=field)
        reasons = " ".join(run.judgement.reasons)
        assert told in reasons
        assert bool(told) == any(word in reasons for word in ("folds", "factor"))


@pytest.mark.parametrize("pinned", [[(0, 0, np.nan)], (0, 0, 0), "here", [(1, 2)]])
def test_pinned_points_that_are_none_are_refused(pair, pinned):
    images, options = given(pair, initial_transform=np.eye(4), method="gauss-newton")
    with pytest.raises(InputError, match="Pinned points must be"):
        Registration(*images, **options, pinned=pinned)


def test_torch_has_its_threads_back_while_the_caller_has_the_step(pair):
    images, options = given(pair, spacing=4.0, iterations=1, threads=3)
    before = torch.get_num_threads()
    runs = [iter(Registration(*images, **options)) for _ in range(2)]
    for run in runs:
        next(run)
        assert torch.get_num_threads() == before
    for run in runs:  # the first begun ends first
        run.close()
        assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    "error, told",
    [
        (MemoryError(), "The computer ran out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "ran out of memory"),
        (RuntimeError("Failed to allocate memory for image."), "ran out of memory"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "The GPU ran out of memory"),
        (NotImplementedError("grid_sampler_3d_backward"), "cannot run this method"),
    ],
)
def test_what_a_device_cannot_is_a_sentence_also_of_the_result(pair, monkeypatch, error, told):
    def failing(*_, **__):
        raise error

    with pytest.raises(InputError, match=told), borrowed(None):
        failing()
    images, options = given(pair, spacing=4.0, iterations=1)
    run = Registration(*images, **options)
    list(run)
    monkeypatch.setattr(engine, "appraised", failing)
    with pytest.raises(InputError, match=told):
        run.result()
    with pytest.raises(RuntimeError, match="another"), borrowed(None):
        raise RuntimeError("another")


def test_a_run_that_is_made_again_warns_again(pair):
    """Voxels of 6 mm on a grid of 2 mm, which the network has not learned from."""
    images, options = given(pair, spacing=2.0, iterations=1)
    run = Registration(*images, **options)
    for _ in range(2):
        list(run)
        assert "plain Gauss-Newton" in run.warning


def test_cancelled_it_asks_nothing_more(pair, monkeypatch):
    """Noise matches nowhere, so that 48 orientations would be tried after the last step."""
    rng = np.random.default_rng(0)
    noise = Volume(
        rng.normal(-700, 100, pair.moving.grid.shape).astype(np.float32), pair.moving.grid
    )
    images, options = given(pair, spacing=4.0, iterations=1)
    stop, asked = [], []
    run = Registration(images[0], noise, **options, cancelled=lambda: bool(stop))
    rough = engine.Comparison.rough
    monkeypatch.setattr(
        engine.Comparison,
        "rough",
        lambda self, transform: asked.append(1) or rough(self, transform),
    )
    for step in run:
        if step.index == step.total:
            stop.append(1)
    assert not asked and run.result().cancelled
