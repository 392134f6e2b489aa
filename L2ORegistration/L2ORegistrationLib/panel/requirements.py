"""PyTorch, the one package that Slicer does not bring: installed when needed, after asking."""

import importlib
import importlib.util

from slicer.i18n import tr as _

from .messages import errors_shown, show_error

_TORCH = ">=2.4"


def torch_ready():
    """Whether torch can be imported; nothing is imported or installed."""
    return importlib.util.find_spec("torch") is not None


def ensure_torch():
    """Install torch if it is missing, through the PyTorch extension, after asking.

    Returns whether it is there; the user is told what to do where it cannot be installed.
    """
    if torch_ready():
        return True
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError:
        show_error(
            _(
                "L2O Registration computes with PyTorch, which is not installed yet. Install the "
                "'PyTorch' extension (View > Extensions Manager), restart Slicer and press "
                "Register again."
            )
        )
        return False
    with errors_shown(_("PyTorch could not be installed. The 'PyTorch Utils' module may help.")):
        if (
            PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=_TORCH)
            is None
        ):
            return False  # the user said no
        importlib.invalidate_caches()
    return torch_ready()
