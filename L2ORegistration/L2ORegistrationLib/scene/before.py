"""What a run may have to put back: the output transform that it was given, and the slice views."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import display, transforms


@dataclass
class Before:
    """A transform as it was, None for none, and the layers of all slice views."""

    transform: Any = None
    from_parent: Any = None
    attributes: dict = field(default_factory=dict)
    roles: tuple = (None, None)
    layers: list = field(default_factory=list)

    @classmethod
    def of(cls, transform, layers: list | None = None) -> Before:
        """The transform as it is now."""
        return cls(
            transform=transform,
            from_parent=transform.GetTransformFromParent(),
            attributes={
                name: transform.GetAttribute(name) for name in transform.GetAttributeNames()
            },
            roles=transforms.roles(transform),
            layers=layers or [],
        )

    def put_back(self, scene) -> None:
        """As it was, if the transform is still there."""
        transform = self.transform
        if transform is not None and transform.GetScene() is scene:
            transform.SetAndObserveTransformFromParent(self.from_parent)
            for name in transform.GetAttributeNames():
                if name not in self.attributes:
                    transform.RemoveAttribute(name)
            for name, value in self.attributes.items():
                transform.SetAttribute(name, value)
            for role, node in zip(("fixed", "moving"), self.roles, strict=True):
                transforms.set_role(transform, role, node)
        display.set_layers(self.layers, scene)
