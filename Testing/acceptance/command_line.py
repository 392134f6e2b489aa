"""Types command lines as a user would, and keeps what comes back."""

import csv
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from L2ORegistrationLib.cli import main

LIBRARY = Path(__file__).parents[2] / "L2ORegistration"
FAST = ("--spacing", "3", "--iterations", "2", "--device", "cpu", "--threads", "1")


def register(data, output, *others, masks=True):
    """The arguments of a fast registration."""
    roles = ("fixed", "moving") if masks else ()
    given = [a for role in roles for a in (f"--{role}-mask", data / f"{role}_mask.nii.gz")]
    images = (data / "fixed.nii.gz", data / "moving.nii.gz")
    return ("register", *images, "-o", output, *given, *FAST, *others)


def landmarks(data):
    """The options that give a registration or an evaluation the pair's landmarks."""
    return ("--fixed-landmarks", data / "fixed.csv", "--moving-landmarks", data / "moving.csv")


def run(*arguments):
    """Exit code, stdout and stderr of a command line in this process."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def refused(*arguments, within):
    """The sentence that refuses a command line, which must leave nothing in the folder `within`."""
    before = sorted(within.rglob("*"))
    code, out, err = run(*arguments)
    assert code == 2, out + err
    assert sorted(within.rglob("*")) == before
    assert not out and "Traceback" not in err
    (sentence,) = err.strip().splitlines()[-1:]
    return sentence


def started(*arguments):
    """The process of a command line in a Python of its own, its output piped as text."""
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-u", "-m", "L2ORegistrationLib.cli", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A background job ignores Ctrl-C and its children inherit that; a user's terminal doesn't.
        preexec_fn=_heed_interrupts if os.name == "posix" else None,
    )


def _heed_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def torchrun(count, *arguments):
    """What a command line returned that several processes ran together on the CPU."""
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", count, "-m", "L2ORegistrationLib.cli", *arguments]
    return subprocess.run(map(str, command), env=environment, capture_output=True, text=True)


def points_of(path):
    """The rows of a CSV file of landmarks as [x, y, z] in LPS mm."""
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    return [[float(row[axis]) for axis in "xyz"] for row in rows]
