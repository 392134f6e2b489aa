"""A cohort's run: what is refused before any pair is begun."""

import pytest
from L2ORegistrationLib.cohort import run
from L2ORegistrationLib.cohort.pair import RECORD
from L2ORegistrationLib.core.errors import InputError

pytest.importorskip("distributed")


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"model": "typo"}, "There are no weights 'typo'"),
        ({"spacing": 0.2}, "working spacing"),
        ({"iterations": [1, 2]}, "3 levels"),
        ({"method": "adam", "model": "l2o"}, "has no weights"),
        ({"model": "missing.pt"}, "missing.pt"),
    ],
)
def test_settings_that_no_pair_can_be_registered_with_take_no_results_away(
    tmp_path, settings, sentence
):
    home = tmp_path / "out" / "x"
    home.mkdir(parents=True)
    for name in (RECORD, "transform.h5", "report.html"):
        (home / name).write_text("before")
    rows = [{"name": "x", "fixed": "a.nii", "moving": "b.nii"}]
    with pytest.raises(InputError, match=sentence):
        run.map_pairs(lambda rows: pytest.fail("begun"), rows, tmp_path / "out", **settings)
    assert {path.read_text() for path in home.iterdir()} == {"before"}


def test_weights_in_a_file_are_found_by_workers_that_run_elsewhere(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(run, "check_settings", seen.append)
    monkeypatch.setattr(
        run, "_run", lambda client, rows, out, settings: seen.append(settings) or []
    )
    monkeypatch.chdir(tmp_path)
    rows = [{"name": "x", "fixed": "a.nii", "moving": "b.nii"}]
    run.map_pairs(lambda rows: object(), rows, tmp_path / "out", model="my.pt")
    assert [one["model"] for one in seen] == 2 * [str(tmp_path / "my.pt")]
