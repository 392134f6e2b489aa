"""Slicer quits in the middle of a run: the process ends as if nothing had been going on."""

import os
import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TRIES, AT_ONCE = 20, 4

# Each try is a process of its own; the moments reach from the import of torch to the last
# iterations.
QUIT = """
import pickle, sys
import slicer
from PySide6 import QtCore
from standin import application, held

application.start()
panel = application.open_panel()
from fixtures import add_phantom
with open(sys.argv[2], "rb") as file:
    add_phantom(slicer.mrmlScene, pickle.load(file))
held.process_events_for(0.05)
panel.ui.registerButton.click()
timer = QtCore.QTimer()
timer.timeout.connect(held.leave)
timer.start(int(sys.argv[1]))
held.run()
print("running" if panel._registration.running else "at rest", flush=True)
application.close_panel(panel)
"""


@pytest.mark.slow
def test_quitting_in_a_run_ends_the_process_properly(pair, tmp_path):
    (tmp_path / "pair").write_bytes(pickle.dumps(pair))
    path = os.pathsep.join([str(HERE), str(HERE.parents[1] / "L2ORegistration")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def leave(moment):
        command = [sys.executable, "-c", QUIT, str(moment), str(tmp_path / "pair")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)

    chance = random.Random(0)
    moments = [chance.randrange(50, 4000) for _ in range(TRIES)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tries = list(pool.map(leave, moments))
    for moment, done in zip(moments, tries, strict=True):
        assert done.returncode == 0, f"after {moment} ms: {done.stderr[-2000:]}"
    assert sum(done.stdout.startswith("running") for done in tries) > TRIES // 2
