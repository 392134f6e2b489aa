"""Work on nodes that takes long, cut where a thread may be changed: compute, then show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core.errors import InputError


@dataclass(frozen=True)
class Task:
    """Made on the main thread, from nodes.

    compute(): on any thread, touches no node; show(found): on the main thread, puts what was found
    into the scene and returns what the caller gets; needs: nodes that must be there until then;
    torch: whether PyTorch is needed. Both raise InputError.
    """

    compute: Callable[[], Any]
    show: Callable[[Any], Any]
    needs: tuple = ()
    torch: bool = False

    def finish(self, found: Any) -> Any:
        """show(), where all nodes are still there."""
        for node in self.needs:
            if node is not None and node.GetScene() is None:
                raise InputError(f"'{node.GetName()}' was taken from the scene meanwhile.")
        return self.show(found)

    def now(self) -> Any:
        """Everything at once, for scripts."""
        return self.finish(self.compute())
