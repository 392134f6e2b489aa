"""The one Session that the panel shows, that of the chosen output transform, in every section."""

from dataclasses import replace

import slicer

from ..scene import outputs, transforms
from ..scene.session import forget


class ShownSession:
    """Holds the Session and keeps the sections on it, whether it begins, ends or is removed."""

    def __init__(self, logic, parameters, settings, registering):
        """parameters(): the parameter node, None if none; settings(): the Settings of what was
        chosen, None when there are none; registering(): whether a registration runs."""
        self.logic = logic
        self._parameters, self._settings = parameters, settings
        self._registering = registering
        self.session = None
        self._told = None  # the transform that the sections tell of, also between two sessions

    def lead(self, registration, iterations, evaluation, sections, of_result):
        """Keep these up to date from now on; called once, when all of them are there.

        registration, iterations, evaluation: the panels of these names; sections: all others;
        of_result: those of them where something is said or chosen that is of one result.
        """
        self._registration, self._iterations = registration, iterations
        self._evaluation, self._of_result = evaluation, of_result
        self._sections = iterations, *sections

    def finished(self):
        """The session, but while a registration runs none: its iterations may all be discarded."""
        return None if self._registering() else self.session

    def settings(self):
        """The settings; without masks and landmarks where these are of other volumes than shown."""
        settings = self._settings()
        transform = self.session.history.transform if self.session is not None else None
        if settings is None or transform is None:
            return settings
        if transforms.roles(transform) == (settings.fixed, settings.moving):
            return settings
        of_volumes = ("fixedMask", "movingMask", "fixedLandmarks", "movingLandmarks")
        return replace(settings, **dict.fromkeys(of_volumes))

    def landmarks(self):
        """The (fixed, moving) markups nodes chosen for what is shown, None for neither."""
        settings = self.settings()
        return (settings.fixedLandmarks, settings.movingLandmarks) if settings else (None, None)

    def lungs(self, fixed):
        """What finds the fixed lungs: the mask that was chosen, else that of the last run."""
        settings = self.settings()
        given = settings.fixedMask if settings is not None else None
        if given is None and self.session is not None:
            given = self.session.lungs
        return outputs.lungs_of(fixed, given)

    def show(self, session):
        """Show this Session (None: nothing), and close the one before."""
        if self.session is not None and self.session is not session:
            self._iterations.set_session(None)
            self.session.close()
        self.session = session
        self._evaluation.set_session(None)
        self._iterations.set_session(session)
        transform = session.history.transform if session is not None else None
        if transform is not self._told:  # what is said and chosen there is of another result
            self._told = transform
            for section in self._of_result:
                section.abandon()
        self.refresh()

    def follow_output(self):
        """Show the iterations of the chosen output transform."""
        transform = self._parameters().outputTransform
        shown = self.session.history.transform if self.session else None
        if transform is not shown:
            self.show(self.logic.restore(transform) if transform else None)
            self._evaluation.set_session(self.session)
        else:
            self._iterations.refresh()  # a volume may be gone
            self._evaluation.update_soon()

    def refresh(self):
        """Bring the sections up to date."""
        for section in self._sections:
            section.refresh()

    def evaluate_soon(self):
        """Another iteration is shown."""
        if not self._registering():
            self._evaluation.update_soon()

    def points_moved(self):
        """A landmark was placed, moved or removed."""
        if not self._registering():
            self._registration.refresh()
            self._evaluation.update_soon()

    def began(self, session):
        """The first iteration of a registration is in the scene."""
        if session is not self.session:  # else an earlier result goes on
            self.show(session)
            if self._parameters():  # else the user looks at something else, in another module
                slicer.util.resetSliceViews()
        self.refresh()

    def ended(self, outcome):
        """A registration has ended; outcome is None where nothing came of it."""
        node = self._parameters()
        if outcome is None:
            lungs = self.session.lungs if self.session is not None else None
            if self.session is not None:
                self.session.close()
            transform = node.outputTransform if node else None
            self.show(self.logic.restore(transform) if transform else None)
            self._evaluation.set_session(self.session)
            if self.session is not None:  # of a correction that came to nothing
                self.session.lungs = lungs
            return
        node = node or self.logic.getParameterNode()  # None: another module is open
        node.outputTransform = outcome.transform
        self._evaluation.set_session(self.session)
        self.refresh()

    def undone(self):
        """Iterations were taken back."""
        self._registration.refresh()
        self._iterations.refresh()
        self._iterations.update_outputs()

    def node_leaves(self, node):
        """An output transform takes its iterations with it; without iterations nothing is shown."""
        if self.session is not None and not self._registering():
            history = self.session.history
            if any(node is one for one in (history.browser, history.sequence, history.transform)):
                self.show(None)
        elif self.session is not None and node is self.session.history.transform:
            return  # a run looks after its own
        if node.IsA("vtkMRMLTransformNode"):
            forget(node)

    def node_left(self):
        """A volume to compare with may be gone, or iterations that the console's run replaced."""
        parameters = self._parameters()
        if parameters and not self._registering() and self.session is None:
            self.follow_output()
        elif parameters:
            self._iterations.refresh()
