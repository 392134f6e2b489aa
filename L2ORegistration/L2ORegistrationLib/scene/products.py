"""Volumes of the iteration shown, as Tasks: warped, its Jacobian determinant, a checkerboard."""

from __future__ import annotations

import SimpleITK as sitk

from ..core.geometry import Volume
from ..core.jacobian import jacobian_determinant
from . import display, transforms, volumes
from .following import images_of
from .nodes import OUTPUT_OF
from .tasks import Task


def products_task(transform, volume=None, jacobian=None, field=None) -> Task:
    """Fills the warped and the Jacobian volume node, where they are given.

    field: of the iteration that they are of, None: of the one shown.
    """
    field = transforms.field_of(transform) if field is None else field
    warped = None if volume is None else _warped(transform, field)
    images = None if volume is None else images_of(transform)

    filled = [node for node in (volume, jacobian) if node is not None]
    wanted = jacobian is not None  # the worker holds no node

    def compute() -> tuple:
        return warped and warped(), jacobian_determinant(field) if wanted else None

    def show(found: tuple) -> None:
        if volume is not None:
            window = volumes.window_of(images[1])
            volumes.set_volume(volume, found[0], like=images[0], window=window)
        if jacobian is not None:
            display.show_jacobian(jacobian, found[1])
        for node in filled:
            node.SetNodeReferenceID(OUTPUT_OF, transform.GetID())

    return Task(compute, show, (transform, *filled))


def checkerboard_task(transform, output, squares: int = 8) -> Task:
    """Fills a volume node with squares of the fixed and of the warped moving volume."""
    fixed, _moving = images_of(transform)
    first = volumes.to_volume(fixed)
    warped = _warped(transform, transforms.field_of(transform))

    def compute() -> Volume:
        return checkered(first, warped(), squares)

    def show(mixed: Volume) -> None:
        volumes.set_volume(output, mixed, like=fixed, window=volumes.window_of(fixed))

    return Task(compute, show, (transform, fixed, output))


def checkered(first: Volume, second: Volume, squares: int) -> Volume:
    """Squares of two images on one grid in turn, so many along each axis."""
    images = [sitk.Cast(v.to_image(), sitk.sitkFloat32) for v in (first, second)]
    images[1].CopyInformation(images[0])
    mixed = sitk.CheckerBoard(*images, [squares] * 3)
    return Volume(sitk.GetArrayFromImage(mixed), first.grid)


def _warped(transform, field):
    """A function without a node in it: the moving volume as seen on the fixed one's grid."""
    fixed, moving = images_of(transform)
    source, grid = volumes.to_volume(moving, below=transform), volumes.grid_of(fixed)
    return lambda: field.warp(source, grid)
