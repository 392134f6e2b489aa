"""`batch` on a real local cluster: faults, killed workers, resuming, two runs at once."""

import csv
import os
import re
import shutil
import signal
import threading
import time

import pytest
from command_line import refused, run, started

pytest.importorskip("distributed")

from L2ORegistrationLib.cohort.cluster import local_client  # noqa: E402
from L2ORegistrationLib.cohort.pair import register_pair  # noqa: E402
from L2ORegistrationLib.cohort.run import map_pairs  # noqa: E402
from L2ORegistrationLib.cohort.table import Row  # noqa: E402
from L2ORegistrationLib.core.errors import InputError  # noqa: E402
from L2ORegistrationLib.core.files import (  # noqa: E402
    Landmarks,
    read_landmarks,
    write_landmarks,
    write_volume,
)
from L2ORegistrationLib.phantom.pair import make_pair  # noqa: E402

FAST = {"method": "gauss-newton", "spacing": 6.0, "device": "cpu", "threads": 1}
OPTIONS = ("--method", "gauss-newton", "--spacing", "6", "--device", "cpu", "--quiet")
ROLES = ("fixed", "moving", "fixed_mask", "moving_mask")


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """A folder with a very coarse pair, its masks and landmarks."""
    folder = tmp_path_factory.mktemp("pair")
    made = make_pair(5, spacing=6.0, amplitude_mm=12.0, swap=False, noise_hu=10.0)
    for role in ROLES:
        write_volume(getattr(made, role), folder / f"{role}.nii.gz")
    for role in ("fixed", "moving"):
        points = getattr(made, f"{role}_landmarks")[::10]
        write_landmarks(Landmarks(points), folder / f"{role}_landmarks.csv")
    return folder


def row(pair, name, **others):
    return {"name": name, **{role: str(pair / f"{role}.nii.gz") for role in ROLES}, **others}


def table(folder, rows):
    columns = sorted({column for one in rows for column in one})
    path = folder / "table.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def results(out):
    with open(out / "results.csv", newline="", encoding="utf-8") as file:
        return {line["name"]: line for line in csv.DictReader(file)}


def kill_workers_of(folder, deaths):
    """Kill every process that begins with the pair in this folder, so many times."""
    seen = set()
    file = folder / "starts.txt"
    until = time.monotonic() + 120
    while len(seen) < deaths and time.monotonic() < until:
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        for line in lines:
            if line not in seen and line.count(" ") == 1 and line.split()[1].isdigit():
                seen.add(line)
                os.kill(int(line.split()[1]), signal.SIGKILL)
        time.sleep(0.005)


def test_iterations_of_each_level_are_not_made_again(pair, tmp_path):
    path, out = table(tmp_path, [row(pair, "x")]), tmp_path / "out"
    made = []
    for _ in range(2):
        code, _, err = run("batch", path, "-o", out, *OPTIONS, "--iterations", "1,1,2")
        assert code == 0, err
        made.append((out / results(out)["x"]["transform"]).stat().st_mtime_ns)
    assert made[0] == made[1]


def test_a_row_that_fails_after_a_change_leaves_nothing_of_its_pair(pair, tmp_path):
    given = {key: path for key, path in row(pair, "x").items() if key != "name"}
    home = tmp_path / "x"
    settings = {**FAST, "iterations": 1}
    line = register_pair(Row("x", **given), str(home), settings, "run")
    assert line["transform"], line["reasons"]
    assert len(list(home.iterdir())) == 8
    broken = tmp_path / "broken.nii.gz"
    broken.write_text("no image")
    changed = Row("x", **{**given, "moving": str(broken)})
    assert register_pair(changed, str(home), settings, "run")["verdict"] == "failed"
    assert [path.name for path in home.iterdir()] == ["pair.json"]


def test_a_table_that_is_locked_to_the_end_costs_no_pair(tmp_path, monkeypatch):
    (tmp_path / "no.nii").write_text("no image")
    rows = [Row(name, str(tmp_path / "no.nii"), str(tmp_path / "no.nii")) for name in "pq"]
    told, done, replace = [], [], os.replace

    def refusing(source, target):
        if os.path.basename(target) == "results.csv":
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    def map_all(client):
        return map_pairs(
            client, rows, tmp_path, on_row=lambda *a: done.append(a), on_warning=told.append, **FAST
        )

    def nobody(rows):
        raise AssertionError("nothing is left to do")

    with monkeypatch.context() as excel, local_client(1, 1) as client:
        excel.setattr(os, "replace", refusing)
        with pytest.raises(InputError, match="run the same command again"):
            map_all(client)
    assert len(done) == 2 and len(told) == 1
    assert [line["name"] for line in map_all(nobody)] == ["p", "q"] == list(results(tmp_path))


def test_ctrl_c_is_not_hidden_by_a_table_that_is_locked(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    (tmp_path / "results.csv").mkdir()  # as little to be replaced as a file in use
    told = []
    with local_client(1, 1) as client, pytest.raises(KeyboardInterrupt):
        rows = [Row("p", "nowhere.nii", "nowhere.nii")]
        map_pairs(client, rows, tmp_path, on_row=stop, on_warning=told.append, **FAST)
    assert len(told) == 1


@pytest.mark.slow
def test_a_table_with_faults_says_why_and_does_the_rest_once(pair, tmp_path):
    damaged = tmp_path / "damaged.nii.gz"
    damaged.write_bytes((pair / "fixed.nii.gz").read_bytes()[:5000])
    points = {f"{r}_landmarks": str(pair / f"{r}_landmarks.csv") for r in ("fixed", "moving")}
    rows = [
        row(pair, "good", **points),
        row(pair, "missing", moving=str(pair / "nowhere.nii.gz")),
        row(pair, "damaged", fixed=str(damaged)),
        row(pair, "unnamed", fixed=""),
        row(pair, "half", fixed_landmarks=points["fixed_landmarks"]),
        row(pair, "also good"),
    ]
    path, out = table(tmp_path, rows), tmp_path / "out"
    code, told, err = run("batch", path, "-o", out, *OPTIONS, "--workers", "2")
    assert code == 0, err
    assert re.search(r"\d good, \d to check, 0 failed, 4 could not be registered", told), told
    lines = results(out)
    assert list(lines) == [one["name"] for one in rows]
    for name, reason in {
        "missing": "nowhere.nii.gz does not exist",
        "damaged": "damaged or incomplete",
        "unnamed": "names no fixed image",
        "half": "landmarks in one image only",
    }.items():
        assert reason in lines[name]["reasons"] and lines[name]["verdict"] == "failed"
    good = lines["good"]
    assert float(good["error_mm"]) < 0.5 * float(good["error_before_mm"])
    assert float(good["seconds"]) > 0 and int(good["memory_mb"]) > 100
    assert re.fullmatch("[0-9a-f]{64}", good["fixed_sha256"])
    for file in ("transform.h5", "warped.nii.gz", "report.html", "before.png", "after.png"):
        assert (out / "also good" / file).stat().st_size > 1000
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.index("nowhere.nii.gz") < page.index('src="good/before.png"')
    assert 'href="also%20good/report.html"' in page

    def times():
        return {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.parent != out}

    before = times()
    code, told, _ = run("batch", path, "-o", out, *OPTIONS)  # nothing is left to do
    assert code == 0 and times() == before and results(out) == lines
    with open(pair / "fixed.nii.gz", "rb") as file:
        damaged.write_bytes(file.read())  # mended
    code, told, _ = run("batch", path, "-o", out, *OPTIONS, "--workers", "1")
    assert code == 0 and "3 could not be registered" in told
    changed = {p.parent.name for p, moment in times().items() if before.get(p) != moment}
    assert changed == {"damaged"}


@pytest.mark.slow
def test_a_killed_worker_costs_a_retry_and_then_its_row(pair, tmp_path):
    rows = [row(pair, name) for name in ("once", "twice", "spared")]
    out = tmp_path / "out"
    killers = [
        threading.Thread(target=kill_workers_of, args=(out / name, deaths), daemon=True)
        for name, deaths in (("once", 1), ("twice", 2))
    ]
    for killer in killers:
        killer.start()
    with local_client(2, 1) as client:
        lines = map_pairs(client, rows, out, **FAST)
    verdicts = {line["name"]: line["verdict"] for line in lines}
    assert verdicts["once"] != "failed" and verdicts["spared"] != "failed"
    assert verdicts["twice"] == "failed" and "killed 2 times" in lines[1]["reasons"]
    assert not (out / "twice" / "pair.json").exists()  # so that the next run tries it again


@pytest.mark.slow
def test_a_pair_that_needs_too_much_memory_is_a_row_that_says_so(pair, tmp_path):
    broken = row(pair, "refused", moving="nowhere.nii.gz")  # before anything large is loaded
    with local_client(1, 1, memory_mb=280) as client:  # less than torch and a pair take
        lines = map_pairs(client, [row(pair, "large"), broken], tmp_path / "out", **FAST)
    assert "killed 2 times" in lines[0]["reasons"] and "memory ran out" in lines[0]["reasons"]
    assert "nowhere.nii.gz does not exist" in lines[1]["reasons"]


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_a_second_run_is_refused(pair, tmp_path):
    path = table(tmp_path, [row(pair, f"p{k}") for k in range(30)])
    out = tmp_path / "out"
    command = ("batch", path, "-o", out, *OPTIONS[:-1], "--workers", "1")
    process = started(*command)
    try:
        until = time.monotonic() + 120
        while not list(out.glob("*/pair.json")) and time.monotonic() < until:
            time.sleep(0.05)
        code, _, err = run(*command)
        assert code == 2 and "Another run is working in" in err
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "the same command goes on" in err
    assert "Traceback" not in err
    done = {record.parent.name for record in out.glob("*/pair.json")}
    assert 1 <= len(done) < 30
    told = set(results(out))
    assert told <= done and len(done - told) <= 1  # the worker may end one while it is stopped


def test_a_scheduler_that_is_not_there_is_a_sentence(pair, tmp_path, monkeypatch):
    from L2ORegistrationLib.cohort import cluster

    monkeypatch.setattr(cluster.existing_client.__wrapped__, "__defaults__", (2.0,))
    path = table(tmp_path, [row(pair, "p")])
    code, _, err = run("batch", path, "-o", tmp_path / "out", "--scheduler", "tcp://127.0.0.1:9")
    assert code == 2 and "No scheduler answers at tcp://127.0.0.1:9" in err


def test_a_table_that_is_not_there_is_refused(tmp_path):
    assert "does not exist" in refused("batch", tmp_path / "t.csv", "-o", tmp_path, within=tmp_path)


def test_results_are_not_written_among_the_scans(pair, tmp_path):
    scans, mine = tmp_path / "scans" / "p", tmp_path / "scans" / "p" / "report.html"
    shutil.copytree(pair, scans)
    mine.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(scans.parent)
    rows = table(tmp_path, [row(scans, "p")])
    for given, out in ((scans.parent, scans.parent), (link, scans.parent), (rows, link)):
        said = refused("batch", given, "-o", out, *OPTIONS, within=tmp_path)
        assert "lies in the folder" in said and "give another --out" in said
    assert mine.read_text() == "mine"


def test_a_pair_of_one_scan_says_so(pair, tmp_path):
    same = Row("same", str(pair / "fixed.nii.gz"), str(pair / "fixed.nii.gz"))
    line = register_pair(same, str(tmp_path / "same"), FAST, "run")
    assert line["verdict"] == "good" and "are the same image" in line["reasons"]
    page = (tmp_path / "same" / "report.html").read_text(encoding="utf-8")
    assert "are the same image" in page


def test_a_start_that_leads_the_other_way_is_told_of(pair, tmp_path):
    settings, roles = {**FAST, "iterations": 1}, (*ROLES, "fixed_landmarks", "moving_landmarks")

    def registered(name, roles_of_files, **more):
        files = (next(pair.glob(f"{role}.*")) for role in roles_of_files)
        given = {role: str(file) for role, file in zip(roles, files)}
        line = register_pair(Row(name, **given, **more), str(tmp_path / name), settings, "run")
        return line["reasons"], (tmp_path / name / "report.html").read_text(encoding="utf-8")

    registered("there", roles)
    start = {"initial_transform": str(tmp_path / "there" / "transform.h5")}
    exchanged = ("moving", "fixed", "moving_mask", "fixed_mask", *roles[:3:-1])
    for said in registered("back", exchanged, **start):
        assert "transform.h5 leads from the moving to the fixed scan" in said
        assert "The start takes moving landmarks to fixed ones" in said
    for said in registered("again", roles, **start):
        assert "leads from" not in said and "The start takes" not in said


def test_landmarks_in_ras_are_told_of(pair, tmp_path):
    given = {role: str(pair / f"{role}.nii.gz") for role in ROLES}
    for role in ("fixed", "moving"):
        points = read_landmarks(pair / f"{role}_landmarks.csv").points * (-1, -1, 1)
        given[f"{role}_landmarks"] = str(tmp_path / f"{role}.csv")
        write_landmarks(Landmarks(points), tmp_path / f"{role}.csv")
    line = register_pair(Row("p", **given), str(tmp_path / "p"), FAST, "run")
    assert "The landmarks look like RAS" in line["reasons"]


def test_a_pipe_that_cannot_hold_a_name_ends_no_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")  # what Windows gives a pipe or a file
    path = table(tmp_path, [{"name": "\u0141za", "fixed": "a.nii", "moving": "b.nii"}])
    process = started("batch", path, "-o", tmp_path / "out", *OPTIONS, "--workers", "1")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "\\u0141za: " in out and "a.nii does not exist" in out


def test_what_travels_is_small(pair, tmp_path):
    cloudpickle = pytest.importorskip("cloudpickle")
    paths = {key: value for key, value in row(pair, "p").items() if key != "name"}
    task = register_pair, Row("p", **paths), str(tmp_path), FAST, "run"
    assert len(cloudpickle.dumps(task)) < 2000  # bytes: paths, not arrays
    shutil.rmtree(tmp_path)
