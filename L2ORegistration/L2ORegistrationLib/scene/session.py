"""What the user steps through after (and during) a registration: history, preview and curve."""

from __future__ import annotations

import vtk

from ..core.errors import InputError
from . import display, nodes, transforms, unchanged
from .curve import Curve
from .history import History
from .lung_grid import LungGrid
from .nodes import PREFIX
from .preview import Preview


class Session:
    """Keeps preview and curve on the iteration that the browser shows, whoever moved it."""

    def __init__(self, history: History, moving=None):
        """moving: the volume node to preview; None: no preview."""
        self.history = history
        self.curve = Curve(history)
        self.preview = None
        self.lungs = None  # the mask of the fixed lungs, where a run of this session found it
        if moving is not None:
            self.preview = Preview(moving, history.transform)
        self._observed = history.browser.AddObserver(vtk.vtkCommand.ModifiedEvent, self._follow)

    @classmethod
    def of(cls, transform) -> Session | None:
        """The session of an output transform, also of a loaded one; None without a history."""
        history = History.of(transform)
        if history is None or not len(history):
            return None
        grid = transforms.displacement_grid(transform)
        if grid is not None:
            grid.SetInterpolationModeToLinear()  # reading a file leaves it cubic
        moving = transforms.roles(transform)[1]
        try:
            unchanged.check(transform)
            return cls(history, moving)
        except InputError:  # the moving volume has meanwhile become one that cannot be shown
            return cls(history)

    def select(self, index: int) -> None:
        """Show this iteration everywhere."""
        self.history.index = index

    @property
    def strength(self) -> float:
        """How much of the motion the preview shows, 0 to 1; settable."""
        return self.preview.strength if self.preview else 1.0

    @strength.setter
    def strength(self, value: float) -> None:
        if self.preview:
            self.preview.strength = value

    def draw(self, mode: str | None, lungs: LungGrid | None = None) -> None:
        """Draw the motion in the slices, as strong as the preview: "grid" or "arrows"; None: not.

        lungs: is drawn in place of Slicer's own grid, which goes on far beyond the body.
        """
        transform = self.history.transform
        above = self.preview.above if self.preview else transform
        if lungs is not None:
            lungs.put_under(above)
            mode = None
        if self.preview:
            self.preview.draw(mode)
        else:
            display.set_grid_visible(transform, mode is not None, mode or "grid")

    def close(self) -> None:
        """Remove the preview and stop following; history and curve stay in the scene."""
        self.history.browser.RemoveObserver(self._observed)
        if self.preview:
            self.preview.remove()
            self.preview = None

    def _follow(self, *_) -> None:
        if self.history.browser.GetScene() is not None and self.history.sequence is not None:
            self.curve.mark()


def forget(transform) -> None:
    """Take out of the scene what belongs to an output transform that is about to leave it.

    Its iterations, curve, tables and confidence; of a transform without iterations nothing. The
    browser would otherwise put another transform in its place, and all the rest would be saved.
    """
    history = History.of(transform)
    if history is None:
        return
    curve = Curve(history)
    history.remove()
    curve.remove()
    roles = [
        transform.GetNthNodeReferenceRole(k)
        for k in range(transform.GetNumberOfNodeReferenceRoles())
    ]
    nodes.remove(*(transform.GetNodeReference(role) for role in roles if role.startswith(PREFIX)))
