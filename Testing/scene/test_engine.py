"""The real engine, from the sample's nodes to a better aligned pair of nodes."""

import numpy as np
import pytest

pytest.importorskip("torch")

from L2ORegistrationLib.scene import landmarks, transforms, volumes  # noqa: E402
from L2ORegistrationLib.scene.logic import SceneLogic  # noqa: E402
from L2ORegistrationLib.scene.sample import add_phantom_pair  # noqa: E402


def test_the_phantom_is_registered_where_it_lies(scene, add_linear, askew):
    """Moving is under a transform that lays the patient elsewhere, as a second table would."""
    sample = add_phantom_pair(spacing=4.0)
    askew[:3, :3] = np.eye(3)
    elsewhere = add_linear(askew)
    for role in ("moving", "movingLandmarks"):
        sample[role].SetAndObserveTransformNodeID(elsewhere.GetID())
    out = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "warped")
    stages = []
    outcome = SceneLogic().register(
        sample["fixed"],
        sample["moving"],
        outputVolume=out,
        method="adam",
        iterations=3,
        device="cpu",
        spacing=3.0,
        fixedLandmarks=sample["fixedLandmarks"],
        movingLandmarks=sample["movingLandmarks"],
        onStep=lambda step: stages.append(step.stage),
    )
    assert stages == ["initial", "start"] + 6 * ["adam"]
    assert len(outcome.metrics) == 8
    before, after = outcome.metrics[0]["error"], outcome.metrics[outcome.result.best]["error"]
    pair = landmarks.pairs(sample["fixedLandmarks"], sample["movingLandmarks"])
    raw = np.linalg.norm(pair[0].points - pair[1].points, axis=1).mean()
    assert before == pytest.approx(raw, abs=1e-3)
    assert after < 0.5 * before
    assert outcome.transform.GetAttribute("L2ORegistration.run.method") == "adam"
    assert (
        transforms.field_of(outcome.transform)
        .grid.contains(volumes.grid_of(sample["fixed"]).corners())
        .all()
    )

    fixed = volumes.to_volume(sample["fixed"]).array.astype(float)
    moved = volumes.to_volume(out).array.astype(float)
    outside = outcome.result.fixed_mask.array == 0
    assert np.abs(moved - fixed)[~outside].mean() < 120
