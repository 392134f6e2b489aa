"""PyTorch, the one package that Slicer does not bring: checked, installed and repaired.

Nothing is installed without asking, and nothing here makes the window wait for an import.
"""

import importlib
import importlib.metadata
import importlib.util
import platform
import re

import slicer
from slicer.i18n import tr as _

from .. import job
from .messages import errors_shown, show_error

_OLDEST = (2, 4)


def wanted(system):
    """The versions to ask for on a platform.system().

    From 2.13 on torch's paths are too long for Slicer's folder on Windows, and pip leaves half an
    installation behind.
    """
    return ">=2.4,<2.13" if system == "Windows" else ">=2.4"


class PyTorch:
    """Whether torch can be used; looks at what is installed, and imports it on the worker."""

    def __init__(self):
        self._loading = None

    def load(self):
        """Begin to import it, and what computes with it; where it is known not to work, nothing."""
        if self._loading is None and not self.problem():
            self._loading = job.warm_up()

    def problem(self):
        """What is wrong with it, in a sentence; "" as long as nothing is known to be wrong."""
        if importlib.util.find_spec("torch") is None:
            return _("PyTorch, which L2O Registration computes with, is not installed yet.")
        try:
            version = importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            version = None
        numbers = re.match(r"(\d+)\.(\d+)", version or "")
        if numbers is None:
            return _("PyTorch is installed only in part: an installation was interrupted.")
        if tuple(map(int, numbers.groups())) < _OLDEST:
            return _("PyTorch {version} is too old: L2O Registration needs {oldest}.").format(
                version=version, oldest=".".join(map(str, _OLDEST))
            )
        if self._loading is not None and self._loading.done and self._loading.error:
            return _("PyTorch {version} is installed, but cannot be loaded ({error}).").format(
                version=version, error=" ".join(str(self._loading.error).split())[:200]
            )
        return ""

    def ensure(self):
        """Install or repair it through the PyTorch extension, after asking, where that is needed.

        Returns whether it can be used now; where not, the user has been told what to do.
        """
        problem = self.problem()
        if not problem:
            return True
        if platform.system() == "Darwin" and platform.machine() == "x86_64":
            show_error(
                problem
                + " "
                + _(
                    "PyTorch 2.4 and later do not exist for Macs with Intel processors, nor for "
                    "a Slicer made for these: use Slicer for Apple silicon, or another computer."
                )
            )
            return False
        try:
            from PyTorchUtils import PyTorchUtilsLogic
        except ImportError:
            show_error(
                problem
                + " "
                + _(
                    "Install the 'PyTorch' extension (View > Extensions Manager), restart Slicer "
                    "and press Register again."
                )
            )
            return False
        if importlib.util.find_spec("torch") is not None:
            self._repair(PyTorchUtilsLogic(), problem)
            return False
        with errors_shown(
            _("PyTorch could not be installed. The 'PyTorch Utils' module may help.")
        ):
            given = {"askConfirmation": True, "torchVersionRequirement": wanted(platform.system())}
            if PyTorchUtilsLogic().installTorch(**given) is None:
                return False  # the user said no
            importlib.invalidate_caches()
        return not self.problem()

    def _repair(self, utils, problem):
        """Remove it and install it again; what is loaded of it stays so until Slicer restarts."""
        question = _("Install PyTorch again? Slicer has to be restarted then.")
        if not slicer.util.confirmOkCancelDisplay(f"{problem}\n\n{question}"):
            return
        done = False
        with errors_shown(
            _(
                "PyTorch could not be repaired. Restart Slicer, open the module 'PyTorch Utils' "
                "first, uninstall PyTorch there and install {wanted}."
            ).format(wanted=wanted(platform.system()))
        ):
            utils.uninstallTorch()
            utils.installTorch(torchVersionRequirement=wanted(platform.system()))
            done = True
        if done:
            slicer.util.infoDisplay(_("PyTorch was installed again: restart Slicer now."))
