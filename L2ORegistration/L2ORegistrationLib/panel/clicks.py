"""One click, one action: a wait cursor and a popup let further clicks in before the first ends."""

import time

_ONE_CLICK_SECONDS = 0.5  # clicks that follow sooner belong to the one before


class Clicks:
    """What a button does, but not for clicks that come while it does it, or right after."""

    def __init__(self, action):
        self._action = action
        self._last = float("-inf")

    def __call__(self):
        if time.monotonic() - self._last < _ONE_CLICK_SECONDS:
            return
        self._last = float("inf")
        try:
            self._action()
        finally:
            self._last = time.monotonic()
