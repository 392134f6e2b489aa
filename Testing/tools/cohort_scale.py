"""What 10,000 pairs ask of the scheduler: python Testing/tools/cohort_scale.py [ROWS]

A table of ROWS pairs whose images are missing goes through everything but the registration itself:
scheduler, workers, folders, results.csv and index.html. Printed are the sizes of what travels, the
memory of the process that holds the scheduler, and seconds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import cloudpickle
import psutil
from L2ORegistrationLib.cohort.cluster import local_client
from L2ORegistrationLib.cohort.pair import register_pair
from L2ORegistrationLib.cohort.results import Results
from L2ORegistrationLib.cohort.run import map_pairs
from L2ORegistrationLib.cohort.table import checked_rows

SETTINGS = {"method": "l2o", "device": "auto", "threads": 1}


def main(count: int = 10_000) -> None:
    """Run and print."""
    megabytes = [_memory()]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        rows = checked_rows(
            {
                "name": f"patient-{k:05d}",
                **{r: f"/data/study/patient-{k:05d}/{r}.nii.gz" for r in ("fixed", "moving")},
            }
            for k in range(count)
        )
        task = cloudpickle.dumps((register_pair, rows[0], str(home / rows[0].name), SETTINGS, "r"))
        with local_client(2, 1) as client:
            megabytes.append(_memory())
            began = time.monotonic()
            peak = 0

            def watch(line, done, total):
                nonlocal peak
                if done % 500 == 0:
                    peak = max(peak, _memory())

            lines = map_pairs(client, rows, home, on_row=watch, **SETTINGS)
            seconds = time.monotonic() - began
        assert len(lines) == count and not any(line["transform"] for line in lines)
        began = time.monotonic()
        map_pairs(_no_client, rows, home, **SETTINGS)
        resumed = time.monotonic() - began
        results = Results(home, rows)
        for line in lines:
            results._lines[line["name"]] = line
        began = time.monotonic()
        results.write()
        writing = time.monotonic() - began
        page = (home / "index.html").stat().st_size
    print(f"a task: {len(task)} bytes, a line: {len(cloudpickle.dumps(lines[0]))} bytes")
    print(
        f"memory with the scheduler: {megabytes[0]} MB before, {megabytes[1]} MB with workers, "
        f"{peak} MB at most with {count} pairs"
    )
    print(f"{count} pairs: {seconds:.1f} s, {1000 * seconds / count:.1f} ms each")
    print(f"to find that all are done: {resumed:.1f} s")
    print(f"results.csv and index.html ({page >> 10} kB): {writing:.2f} s each time")


def _no_client(rows):
    raise AssertionError(f"{len(rows)} pairs would be done again")


def _memory() -> int:
    return psutil.Process().memory_info().rss >> 20


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
