"""PyTorch: missing, old, half installed or broken, it is said in a sentence and offered to mend."""

import importlib
import importlib.metadata
import importlib.util
import platform
import sys
import types

import pytest
from fixtures import process_events, wait_for
from standin import widgets


@pytest.fixture
def requirements(app):
    """The module; it can be imported once there is an application."""
    return importlib.import_module("L2ORegistrationLib.panel.requirements")


@pytest.fixture
def installed(monkeypatch):
    """installed(version) makes it look as if that torch were there: None: none, "": half of one."""
    find, version_of = importlib.util.find_spec, importlib.metadata.version

    def look(version):
        def found(name, *given):
            return (None if version is None else True) if name == "torch" else find(name, *given)

        def told(name):
            if name == "torch" and not version:
                raise importlib.metadata.PackageNotFoundError(name)
            return version if name == "torch" else version_of(name)

        monkeypatch.setattr(importlib.util, "find_spec", found)
        monkeypatch.setattr(importlib.metadata, "version", told)

    monkeypatch.delitem(sys.modules, "PyTorchUtils", raising=False)
    return look


class Utils:
    """What the PyTorch extension offers; `install` is called in place of its installTorch."""

    def __init__(self, install=lambda: object()):
        self.calls, self.install = [], install

    def installTorch(self, **given):  # noqa: N802 (the extension's name)
        self.calls.append(given)
        return self.install()

    def uninstallTorch(self):  # noqa: N802 (the extension's name)
        self.calls.append("uninstalled")


def offer(monkeypatch, utils):
    module = types.SimpleNamespace(PyTorchUtilsLogic=lambda: utils)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    return utils


def test_what_is_wrong_is_one_sentence(requirements, installed):
    sentences = []
    for version in (None, "", "1.13.1+cu117", "2.3.9"):
        installed(version)
        sentences.append(requirements.PyTorch().problem())
    assert "is not installed yet" in sentences[0]
    assert "only in part" in sentences[1]
    assert "1.13.1+cu117 is too old" in sentences[2] and "needs 2.4" in sentences[3]
    for version in ("2.4.0", "2.10.1+cpu", "3.0"):
        installed(version)
        assert requirements.PyTorch().problem() == ""


def test_one_that_cannot_be_loaded_is_found_out_by_the_worker(requirements, installed, monkeypatch):
    installed("2.9.0")
    torch = requirements.PyTorch()
    monkeypatch.setitem(sys.modules, "torch", None)  # makes its import fail
    torch.load()
    assert torch._loading.wait(30)
    assert "cannot be loaded" in torch.problem()


def test_a_torch_that_cannot_work_is_not_imported(requirements, installed):
    for version in (None, "", "2.3"):
        installed(version)
        torch = requirements.PyTorch()
        torch.load()
        assert torch._loading is None


def test_without_the_pytorch_extension_the_user_is_told(panel, engine, dialogs, installed):
    installed(None)
    engine()
    panel.ui.registerButton.click()
    assert len(dialogs) == 1 and "Install the 'PyTorch' extension" in dialogs[0]
    assert not panel._registration.running and panel.ui.registerButton.enabled


def test_torch_is_installed_on_register_after_asking(
    panel, engine, dialogs, installed, monkeypatch
):
    installed(None)
    utils = offer(monkeypatch, Utils(lambda: installed("2.9.0") or object()))
    engine()
    assert utils.calls == []
    panel.ui.registerButton.click()
    assert utils.calls == [{"askConfirmation": True, "torchVersionRequirement": ">=2.4"}]
    wait_for(lambda: not panel._registration.running)
    assert panel.ui.iterationSlider.enabled and dialogs == []


def test_windows_gets_a_torch_whose_paths_are_short_enough(requirements):
    assert requirements.wanted("Windows") == ">=2.4,<2.13"
    assert requirements.wanted("Linux") == requirements.wanted("Darwin") == ">=2.4"


def test_declining_torch_starts_nothing(panel, engine, dialogs, installed, monkeypatch):
    installed(None)
    offer(monkeypatch, Utils(lambda: None))
    engine()
    panel.ui.registerButton.click()
    assert not panel._registration.running and dialogs == []


def test_a_failing_installation_is_shown(panel, engine, dialogs, installed, monkeypatch):
    def install():
        raise TypeError("corrupt")

    installed(None)
    offer(monkeypatch, Utils(install))
    engine()
    panel.ui.registerButton.click()
    assert len(dialogs) == 1 and "PyTorch could not be installed" in dialogs[0]
    assert "corrupt" in dialogs[0] and not panel._registration.running


@pytest.mark.parametrize("version", ["", "2.3.1"])
def test_half_an_installation_is_repaired_after_asking(
    panel, engine, dialogs, installed, monkeypatch, version
):
    installed(version)
    utils = offer(monkeypatch, Utils())
    engine()
    panel.ui.registerButton.click()
    assert utils.calls == ["uninstalled", {"torchVersionRequirement": ">=2.4"}]
    assert len(dialogs) == 2 and "Install PyTorch again?" in dialogs[0]
    assert "restart Slicer" in dialogs[1] and not panel._registration.running


def test_a_repair_that_is_declined_touches_nothing(panel, engine, dialogs, installed, monkeypatch):
    installed("2.3.1")
    utils = offer(monkeypatch, Utils())
    monkeypatch.setattr(
        widgets.ctkMessageBox, "answer", staticmethod(lambda box: widgets.ctkMessageBox.Cancel)
    )
    engine()
    panel.ui.registerButton.click()
    assert utils.calls == [] and len(dialogs) == 1
    assert "2.3.1 is too old" in dialogs[0] and not panel._registration.running


def test_a_mac_with_an_intel_processor_is_told_that_there_is_none(
    panel, engine, dialogs, installed, monkeypatch
):
    installed("2.2.2")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    engine()
    panel.ui.registerButton.click()
    process_events()
    assert len(dialogs) == 1 and "2.2.2 is too old" in dialogs[0] and "Intel" in dialogs[0]
    assert not panel._registration.running


def test_a_run_that_fails_because_of_torch_offers_the_repair(
    panel, engine, dialogs, installed, monkeypatch
):
    engine(fail={0: ImportError("DLL load failed")})
    panel.ui.registerButton.click()
    installed("")
    utils = offer(monkeypatch, Utils())
    wait_for(lambda: not panel._registration.running)
    assert len(utils.calls) == 2 and "only in part" in dialogs[0]
