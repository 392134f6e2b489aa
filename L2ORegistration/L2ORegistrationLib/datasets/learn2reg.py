"""Learn2Reg's lung tasks, LungCT and NLST: images with masks, keypoints and, where given, lobes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.geometry import Grid
from .cases import (
    Case,
    Entry,
    Points,
    image_grid,
    image_of,
    labels_of,
    mask_of,
    matching,
    required,
)


def lung_ct(folder: Path) -> list[Entry]:
    """Expiration (fixed) and inspiration (moving): the pairs that LungCT_dataset.json lists."""
    return _pairs(folder, "LungCT")


def nlst(folder: Path) -> list[Entry]:
    """Two scans of a screened patient: the pairs that NLST_dataset.json lists."""
    return _pairs(folder, "NLST")


def _pairs(folder: Path, task: str) -> list[Entry]:
    """The pairs that TASK_dataset.json lists, with masksTr, keypointsTr, landmarksTr and labelsTr.

    All have the name and the folder's ending (Tr, Ts) of their image; points are .csv rows x,y,z of
    voxel indices from 0. All but the masks may be missing.
    """
    name = f"{task}_dataset.json"
    folder = next((p.parent for p in sorted(folder.rglob(name))), folder)
    path = required(folder / name)
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        found = {
            _name(pair["fixed"]): pair
            for part in ("training_paired_images", "registration_val", "registration_test")
            for pair in listed.get(part, ())
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged: copy it again.") from error
    return [
        Entry(name, lambda name=name, pair=pair: _case(folder, name, pair))
        for name, pair in sorted(found.items())
    ]


def _name(image: str) -> str:
    return Path(image).name.removesuffix(".nii.gz").removesuffix("_0000")


def _case(folder: Path, name: str, pair: dict) -> Case:
    images = [folder / pair[side] for side in ("fixed", "moving")]
    masks = [_beside(image, "masks", ".nii.gz") for image in images]
    return Case(
        name,
        *(image_of(name, path) for path in images),
        *(mask_of(name, path) for path in masks),
        landmarks=_points(images, "landmarks"),
        keypoints=_points(images, "keypoints"),
        labels=labels_of(name, *(_beside(image, "labels", ".nii.gz") for image in images)),
    )


def _beside(image: Path, kind: str, suffix: str) -> Path:
    """imagesTr/NAME.nii.gz -> KINDTr/NAME with another suffix."""
    folder = image.parent.name.replace("images", kind)
    return image.parent.parent / folder / (image.name.removesuffix(".nii.gz") + suffix)


def _points(images: list[Path], kind: str) -> Points | None:
    paths = [_beside(image, kind, ".csv") for image in images]
    if not any(path.exists() for path in paths):
        return None
    points = tuple(_voxels(path, image_grid(i)) for path, i in zip(paths, images, strict=True))
    return matching(points, *paths)


def _voxels(path: Path, grid: Grid) -> np.ndarray:
    required(path)
    try:
        index = np.loadtxt(path, delimiter=",", ndmin=2)
        if index.shape[1:] != (3,) or not np.isfinite(index).all():
            raise ValueError(index.shape)
    except ValueError as error:
        raise InputError(f"{path} is damaged: its rows must be voxel indices x,y,z.") from error
    return grid.to_world(index)
