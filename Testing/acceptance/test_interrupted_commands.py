"""Ctrl-C in a registration: what was found is kept, and nothing half done is left."""

import json
import re
import signal
import sys

import pytest
import SimpleITK as sitk
from command_line import landmarks, register, started

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="signals are another matter on Windows"
)


def test_ctrl_c_keeps_the_best_field_so_far(data, tmp_path):
    output = tmp_path / "t.h5"
    endless = ("--method", "adam", "--iterations", "1000", "--json")
    process = started(*register(data, output), *landmarks(data), *endless)
    for line in process.stderr:
        if re.match(r" +[1-9]\d* +adam", line):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "best field so far" in err and "Traceback" not in err
    document = json.loads(out)
    assert document["cancelled"] and len(document["steps"]) < 1500
    assert sitk.ReadTransform(str(output)).GetDimension() == 3


def test_ctrl_c_before_the_first_step_leaves_nothing(data, tmp_path):
    process = started(*register(data, tmp_path / "t.h5", masks=False))
    for line in process.stderr:
        if "dissimilarity" in line:  # the head of the table, before the lungs are looked for
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err and not list(tmp_path.iterdir())
