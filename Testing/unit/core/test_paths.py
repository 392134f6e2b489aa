"""Paths of every kind; what Windows does with files: it blocks what is read, ITK finds not all."""

import ctypes
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from L2ORegistrationLib.core import paths
from L2ORegistrationLib.core.errors import InputError
from L2ORegistrationLib.core.files import read_transform, read_volume, write_transform
from L2ORegistrationLib.core.geometry import DisplacementField, Grid
from L2ORegistrationLib.core.paths import at_home, atomic, check_writable, existing


@pytest.fixture
def windows(monkeypatch):
    """As if this were Windows with the code page that is given."""

    def with_code_page(number=1252):
        kernel = SimpleNamespace(GetACP=lambda: number)
        monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setattr(paths, "_PATIENCE", (0.0, 0.0, 0.0))

    return with_code_page


@pytest.fixture
def scanner(monkeypatch):
    """Somebody who reads every new file so often that os.replace is refused this many times."""
    refusals, replace = [], os.replace

    def refusing(source, target):
        if refusals:
            raise refusals.pop()
        replace(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    return refusals


def test_a_file_that_is_blocked_for_a_moment_is_written_on_windows(tmp_path, windows, scanner):
    windows()
    scanner += [PermissionError(13, "Permission denied")] * 3
    with atomic(tmp_path / "t.txt") as temporary:
        temporary.write_text("new", encoding="utf-8")
    assert not scanner
    assert [path.read_text("utf-8") for path in tmp_path.iterdir()] == ["new"]


def test_a_file_that_stays_blocked_is_a_sentence(tmp_path, windows, scanner):
    windows()
    scanner += [PermissionError(13, "Permission denied")] * 9
    with pytest.raises(InputError, match="could not be written.*close programs that use it"):
        with atomic(tmp_path / "t.txt") as temporary:
            temporary.write_text("new", encoding="utf-8")
    assert len(scanner) == 5 and not list(tmp_path.iterdir())


def test_elsewhere_a_refusal_is_told_at_once(tmp_path, scanner):
    scanner += [PermissionError(13, "Permission denied")] * 2
    with pytest.raises(InputError, match="could not be written"), atomic(tmp_path / "t.txt") as new:
        new.write_text("new", encoding="utf-8")
    assert len(scanner) == 1


def test_that_a_temporary_file_is_blocked_does_not_hide_what_is_wrong(tmp_path, monkeypatch):
    def blocked(*_):
        raise PermissionError(13, "Permission denied")

    with pytest.raises(InputError, match="No space left"), atomic(tmp_path / "t.txt"):
        monkeypatch.setattr(type(tmp_path), "unlink", blocked)
        raise OSError(28, "No space left on device")


def test_whether_a_folder_can_be_written_to_leaves_nothing_there(tmp_path):
    check_writable(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_path_that_itk_cannot_open_on_windows_says_so(tmp_path, windows):
    folder = tmp_path / "Bär"
    folder.mkdir()
    for name in ("ct.nrrd", "t.tfm"):
        (folder / name).write_text("nothing that is read", encoding="utf-8")
    reads = (
        (read_volume, folder / "ct.nrrd"),
        (read_transform, folder / "t.tfm"),
        (read_volume, folder),
    )
    for number, told in ((1252, True), (65001, False)):
        windows(number)
        for read, path in reads:
            with pytest.raises(InputError, match="Bär") as refusal:
                read(path)
            assert ("letters such as ä" in str(refusal.value)) == told


def test_paths_of_any_letters_are_read_and_written(tmp_path):
    folder = tmp_path / "Łódź 東京"
    folder.mkdir()
    grid = Grid((4, 5, 6), (2.0, 2.0, 2.0))
    field = DisplacementField(np.full((*grid.shape, 3), 3, np.float32), grid)
    for name in ("ä.h5", "ä.tfm", "ä.nrrd", "ä.nii.gz", "ä.mha"):
        write_transform(field, folder / name)
        moved = read_transform(folder / name).TransformPoint((4.0, 4.0, 4.0))
        np.testing.assert_allclose(moved, 7, atol=1e-5)


def test_a_name_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home("~/scan.nii") == tmp_path / "scan.nii"
    assert at_home("~1.nii") == Path("~1.nii")
    with pytest.raises(InputError, match="~1.nii"):
        existing("~1.nii")


def test_on_windows_it_is_no_other_users_home(tmp_path, monkeypatch, windows):
    """Python takes ~1.nii there for the home of a user 1.nii, beside that of this user."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home("~root/scan.nii") != Path("~root/scan.nii")
    windows()
    assert at_home("~root/scan.nii") == Path("~root/scan.nii")
    assert at_home("~/scan.nii") == tmp_path / "scan.nii"
