"""How the panel tells the user that something went wrong: one sentence, details on demand."""

import contextlib
import logging
import traceback

import slicer

from ..core.errors import InputError


@contextlib.contextmanager
def errors_shown(message):
    """Show what is raised within as an error, with a wait cursor until then; nothing is re-raised.

    An InputError is shown as it is; anything else after `message`, with the traceback as details.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(slicer.util.WaitCursor())
        try:
            yield
        except InputError as error:
            stack.close()
            show_error(str(error))
        except Exception as error:
            stack.close()
            show_error(f"{message}\n\n{type(error).__name__}: {error}", traceback.format_exc())


def show_error(text, details=""):
    """An error popup, none for ""; details go behind its button and into the log."""
    if not text:
        return
    if details:
        logging.error(details)
        slicer.util.errorDisplay(text, detailedText=details)
    else:
        slicer.util.errorDisplay(text)
