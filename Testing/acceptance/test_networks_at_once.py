"""VoxelMorph++ and LapIRN as methods and as a start: frames, refusals, and training by command."""

import json
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import L2ORegistrationLib as l2o  # noqa: E402
from chests import MOTION, breath  # noqa: E402
from command_line import run  # noqa: E402
from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.core.files import write_volume  # noqa: E402
from L2ORegistrationLib.core.geometry import Grid, Volume  # noqa: E402
from L2ORegistrationLib.engine import packaged, registration  # noqa: E402
from L2ORegistrationLib.engine.models import export_model, load_model  # noqa: E402
from L2ORegistrationLib.engine.optimise.lapirn import LapIRN  # noqa: E402
from L2ORegistrationLib.engine.optimise.voxelmorph import VoxelMorph  # noqa: E402

FAST = {"device": "cpu", "spacing": 3.0}  # so that the networks' voxels are 6 mm
CARD = {"version": "1", "licence": "Apache-2.0", "iterations": (1,), "trained_iterations": (1, 1)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of weights that training has not touched."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    export_model(VoxelMorph(), folder / "voxelmorph++.pt", **CARD)
    export_model(LapIRN(), folder / "lapirn.pt", **CARD)
    return folder


def lungs(image):
    array = (image.array > -940) & (image.array < -200)
    return Volume(array.astype(np.uint8), image.grid)


def oblique(volume):
    """The same image stored along other axes: z first, y from back to front."""
    array = np.ascontiguousarray(volume.array.transpose(1, 2, 0)[::-1])
    z, y, x = volume.array.shape
    direction = np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0]], float)
    last = volume.grid.to_world((0, y - 1, 0))
    spacing = volume.grid.spacing
    grid = Grid(array.shape[::-1], (spacing[2], spacing[0], spacing[1]), tuple(last), direction)
    return Volume(array, grid)


class MovesVoxels(VoxelMorph):
    """Weights that move everything by (1, -0.5, 2) voxels."""

    def forward(self, fixed, moving, points, unit):
        return torch.tensor([1.0, -0.5, 2.0]).expand(len(points), 3)


class MovesAtOnce(LapIRN):
    def forward(self, fixed, moving, levels=3):
        return torch.tensor([1.0, -0.5, 2.0]).view(3, 1, 1, 1).expand(3, *fixed.shape), None


@pytest.fixture
def moving_networks(monkeypatch, weights):
    def load(name):
        card, _ = load_model(name)
        return card, {"voxelmorph++": MovesVoxels, "lapirn": MovesAtOnce}[card.variant]()

    monkeypatch.setattr(registration, "load_model", load)
    return weights


@pytest.mark.parametrize("method", ["voxelmorph++", "lapirn"])
@pytest.mark.parametrize("stored", [lambda v: v, oblique], ids=["upright", "turned"])
def test_a_networks_voxels_become_millimetres_of_the_patient(moving_networks, method, stored):
    """Voxels of 6 mm on the patient's axes, however the images are stored."""
    fixed, mask = (stored(v) for v in (breath(), lungs(breath())))
    loop = registration.Registration(
        fixed,
        fixed,
        fixed_mask=mask,
        moving_mask=mask,
        method=method,
        model=moving_networks / f"{method}.pt",
        start="none",
        refine=False,
        **FAST,
    )
    steps = list(loop)
    assert [step.stage for step in steps] == ["initial", "start", method]
    inside = mask.marked_points(most=200)
    moved = steps[-1].field.sample(inside)
    np.testing.assert_allclose(moved, np.broadcast_to([6, -3, 12], moved.shape), atol=1e-3)


def test_weights_say_on_which_voxels_their_network_looks(moving_networks):
    """Those of a coarse training see voxels of twice the size: 12 mm on a working grid of 3 mm."""
    path = moving_networks / "voxelmorph++.pt"
    card = path.with_suffix(".json")
    usual = card.read_text("utf-8")
    fixed, mask = breath(), lungs(breath())
    options = {"fixed_mask": mask, "moving_mask": mask, "refine": False, **FAST}
    try:
        card.write_text(usual.replace('"compares": ""', '"compares": "lung images, coarse"'))
        loop = registration.Registration(
            fixed, fixed, method="voxelmorph++", model=path, start="none", **options
        )
        begun = registration.Registration(
            fixed, fixed, method="adam", start="voxelmorph++", start_model=path, **options
        )
        *_, last = loop
        started = next(step for step in begun if step.stage == "start")
    finally:
        card.write_text(usual)
    inside = mask.marked_points(most=200)
    moved = last.field.sample(inside)
    np.testing.assert_allclose(moved, np.broadcast_to([12, -6, 24], moved.shape), atol=1e-3)
    np.testing.assert_allclose(started.field.sample(inside).mean(axis=0), [12, -6, 24], atol=0.3)


def test_a_network_starts_another_method(moving_networks):
    fixed, mask = breath(), lungs(breath())
    loop = registration.Registration(
        fixed,
        fixed,
        fixed_mask=mask,
        moving_mask=mask,
        method="adam",
        start="voxelmorph++",
        start_model=moving_networks / "voxelmorph++.pt",
        iterations=1,
        **FAST,
    )
    steps = list(loop)
    inside = mask.marked_points(most=200)
    moved = steps[1].field.sample(inside)  # the affine of a scan with itself is next to nothing
    np.testing.assert_allclose(moved.mean(axis=0), [6, -3, 12], atol=0.3)
    provenance = loop.result().provenance
    assert provenance["start"] == "voxelmorph++"
    assert provenance["start_model"] == "voxelmorph++ 1"


@pytest.mark.slow
def test_adam_follows_the_network_and_keeps_the_better(weights):
    """Untrained weights change nothing to speak of; Adam finds the motion."""
    fixed, moving = breath(), breath(MOTION)
    found = l2o.register(
        fixed,
        moving,
        fixed_mask=lungs(fixed),
        moving_mask=lungs(moving),
        method="lapirn",
        model=weights / "lapirn.pt",
        start="none",
        **{**FAST, "spacing": 1.5},
    )
    assert [s.stage for s in found.steps[2:]] == ["lapirn", *["adam"] * 50]
    points = lungs(fixed).marked_points(most=300)
    left = np.linalg.norm(found.field.sample(points) - MOTION, axis=1)
    assert left.mean() < 0.5 * np.linalg.norm(MOTION)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"start": "affine", "start_model": "voxelmorph++"}, "'affine' has no weights"),
        ({"start": "voxelmorph++", "start_model": "lapirn"}, "one of lapirn, not of voxelmorph"),
        ({"start": "voxelmorph++", "start_model": "nothing"}, "no weights"),
    ],
)
def test_wrong_start_models_are_refused(weights, options, message):
    model = options["start_model"]
    if (weights / f"{model}.pt").exists():
        options = {**options, "start_model": weights / f"{model}.pt"}
    with pytest.raises(InputError, match=message):
        registration.Registration(breath(), breath(), **options, **FAST)


@pytest.fixture
def nothing_packaged(tmp_path, monkeypatch):
    (tmp_path / "none").mkdir()
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "none")


UNTRAINED = [
    ({"method": "voxelmorph++"}, "method 'voxelmorph++' .* --config voxelmorph.* as --model, or"),
    ({"method": "lapirn"}, "method 'lapirn' .* --config lapirn.* as --model, or"),
    (
        {"start": "voxelmorph++", "method": "gauss-newton"},
        "start 'voxelmorph++' .*voxelmorph.* as --start-model, or",
    ),
    ({}, "method 'l2o' .* --config l2o.* as --model, or choose another"),
]
UNTRAINED = [(options, message.replace("++", r"\+\+")) for options, message in UNTRAINED]


@pytest.mark.parametrize("options, message", UNTRAINED)
def test_what_has_no_weights_says_how_to_get_some(nothing_packaged, tmp_path, options, message):
    """The same sentence from Python and from the command line, which writes nothing."""
    with pytest.raises(InputError, match=message):
        l2o.register(breath(), breath(), **options, **FAST)
    write_volume(breath(), tmp_path / "a.nii.gz")
    write_volume(breath(MOTION), tmp_path / "b.nii.gz")
    command = ["register", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    for option, name in options.items():
        command += [f"--{option}", name]
    code, _, told = run(*command, "--output", tmp_path / "t.h5", "--quiet")
    assert code == 2 and re.search(message, " ".join(told.split()))
    assert not (tmp_path / "t.h5").exists()


def test_own_weights_need_none_packaged(nothing_packaged, weights):
    for options in (
        {"method": "lapirn", "model": weights / "lapirn.pt"},
        {
            "start": "voxelmorph++",
            "start_model": weights / "voxelmorph++.pt",
            "method": "gauss-newton",
        },
    ):
        registration.Registration(breath(), breath(), **options, **FAST)


@pytest.mark.slow
@pytest.mark.parametrize("name, parameters", [("voxelmorph++", 1_364_305), ("lapirn", 923_748)])
def test_train_makes_weights_and_goes_on(tmp_path, name, parameters):
    """One command, stopped after a step, continued by the same command."""
    (tmp_path / "pairs/chest").mkdir(parents=True)
    for role, image in (("fixed", breath()), ("moving", breath(MOTION))):
        write_volume(image, tmp_path / f"pairs/chest/{role}.nii.gz")
        write_volume(lungs(image), tmp_path / f"pairs/chest/{role}_mask.nii.gz")
    points = lungs(breath()).marked_points(most=50)
    for role, there in (("fixed", points), ("moving", points + MOTION)):
        text = "".join(f"{x},{y},{z}\n" for x, y, z in there)
        (tmp_path / f"pairs/chest/{role}_keypoints.csv").write_text("x,y,z\n" + text)
    config = tmp_path / "tiny.toml"
    values = {"variant": f'"{name}"', "iterations": "[1, 1]", "accumulate": 1}
    values |= {"checkpoint_every": 1, "steps": 2}
    values |= {"keypoints": 3} if name == "voxelmorph++" else {}
    config.write_text("\n".join(f"{k} = {v}" for k, v in values.items()))
    command = ["train", "--config", config, "--data", f"pairs={tmp_path / 'pairs'}"]
    command += ["--out", tmp_path / "out", "--name", name, "--device", "cpu"]
    assert run(*command, "--steps", "1")[0] == 0
    first = (tmp_path / f"out/{name}.pt").read_bytes()
    assert run(*command)[0] == 0
    assert (tmp_path / f"out/{name}.pt").read_bytes() != first
    card = json.loads((tmp_path / f"out/{name}.json").read_text("utf-8"))
    assert card["parameters"] == parameters and card["facts"]["steps"] == 2
    assert card["variant"] == name and card["iterations"] == 1


def test_weights_bring_the_start_of_their_method():
    """Named or not, the method is that of the weights, and so is where it begins."""
    still, moved = breath(), breath(MOTION)
    for given in ({"model": "voxelmorph++"}, {"method": "voxelmorph++"}):
        made = registration.Registration(still, moved, device="cpu", **given)
        assert (made.name, made.start_name) == ("voxelmorph++", "affine")
    assert registration.Registration(still, moved, device="cpu").start_name == "search"
