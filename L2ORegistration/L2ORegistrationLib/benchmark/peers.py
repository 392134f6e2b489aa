"""Other programs on the same case: elastix and convexAdam, both optional.

Both know nothing of scans that lie far apart: there, the lungs' centres are brought together
first, which costs no time worth counting.
"""

from __future__ import annotations

from importlib import import_module, metadata
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..core.errors import InputError
from ..core.geometry import DisplacementField, Grid, Volume

if TYPE_CHECKING:
    from .scan import Scan

APART_MM = 20.0  # centres of the lungs further apart than this are aligned first
MASK_DILATION = 3  # voxels, of elastix's fixed mask: the lung's surface shows the motion as well

PACKAGES = {
    "elastix": ("itk", "itk-elastix"),
    "convexadam": ("convexAdam", "convexAdam"),
}

# A lung preset: B-splines, normalised correlation, five resolutions down to 10 mm between knots.
ELASTIX = {
    "Registration": ["MultiResolutionRegistration"],
    "Metric": ["AdvancedNormalizedCorrelation"],
    "Transform": ["BSplineTransform"],
    "Optimizer": ["AdaptiveStochasticGradientDescent"],
    "ImageSampler": ["RandomCoordinate"],
    "Interpolator": ["LinearInterpolator"],
    "ResampleInterpolator": ["FinalLinearInterpolator"],
    "Resampler": ["DefaultResampler"],
    "FixedImagePyramid": ["FixedRecursiveImagePyramid"],
    "MovingImagePyramid": ["MovingRecursiveImagePyramid"],
    "NumberOfResolutions": ["5"],
    "ImagePyramidSchedule": [s for s in ("8", "4", "4", "2", "1") for _ in range(3)],
    "FinalGridSpacingInPhysicalUnits": ["10", "10", "10"],
    "MaximumNumberOfIterations": ["1000"],
    "NumberOfSpatialSamples": ["3000"],
    "NewSamplesEveryIteration": ["true"],
    "AutomaticParameterEstimation": ["true"],
    "ASGDParameterEstimationMethod": ["DisplacementDistribution"],
    "AutomaticTransformInitialization": ["false"],
    "HowToCombineTransforms": ["Compose"],
    "ErodeMask": ["false"],
    "RequiredRatioOfValidSamples": ["0.05"],
    "RandomSeed": ["1"],
    "WriteResultImage": ["false"],
}


def missing() -> list[str]:
    """The pip names of those peers that are not installed."""
    return [pip for module, pip in PACKAGES.values() if find_spec(module) is None]


def versions(name: str) -> dict[str, str]:
    """The installed version of the peer's package."""
    package = PACKAGES[name][1]
    return {"software": f"{package} {metadata.version(package)}"}


def load(name: str) -> None:
    """Load the peer's software, which takes many seconds: itk loads when it is first asked."""
    if name == "convexadam":
        import_module("convexAdam.convex_adam_MIND")
        return
    import itk

    if not hasattr(itk, "elastix_registration_method"):
        raise InputError("itk is installed without elastix: pip install itk-elastix.")
    itk.ParameterObject.New()


def elastix(scan: Scan, options: dict[str, Any]) -> DisplacementField:
    """elastix with the lung preset and the fixed lung mask; the field on `scan.lattice`."""
    import itk

    fixed_mask, shift = _prepared(scan)
    ball = ndimage.generate_binary_structure(3, 1)
    mask = ndimage.binary_dilation(fixed_mask.array, ball, iterations=MASK_DILATION)
    moving = _itk(Volume(scan.moving.array, _moved(scan.moving.grid, -shift)))
    parameters = itk.ParameterObject.New()
    parameters.AddParameterMap(ELASTIX)
    _, found = itk.elastix_registration_method(
        _itk(scan.fixed),
        moving,
        parameter_object=parameters,
        fixed_mask=_itk(Volume(mask.astype(np.uint8), fixed_mask.grid)),
        log_to_console=False,
        **({"number_of_threads": options["threads"]} if options.get("threads") else {}),
    )
    lattice = scan.lattice
    for key, values in (
        ("Size", lattice.size),
        ("Index", (0, 0, 0)),
        ("Spacing", lattice.spacing),
        ("Origin", lattice.origin),
        ("Direction", np.reshape(lattice.direction, (3, 3)).T.ravel()),
    ):
        found.SetParameter(0, key, [str(value) for value in values])
    with TemporaryDirectory() as folder:  # transformix writes a file as well, wherever it runs
        field = itk.transformix_deformation_field(moving, found, output_directory=folder)
    return DisplacementField(np.asarray(field, np.float32) + np.float32(shift), lattice)


def convexadam(scan: Scan, options: dict[str, Any]) -> DisplacementField:
    """convexAdam with its defaults, moving resampled to the fixed voxels; the field on those."""
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    if options.get("threads"):
        torch.set_num_threads(options["threads"])
    _, shift = _prepared(scan)
    moving = Volume(scan.moving.array, _moved(scan.moving.grid, -shift))
    outside = float(moving.array.min())
    there = sitk.Resample(
        moving.to_image(), scan.fixed.to_image(), sitk.Transform(), sitk.sitkLinear, outside
    )
    device = "cuda" if options.get("device") != "cpu" and torch.cuda.is_available() else "cpu"
    displacement = convex_adam_pt(
        img_fixed=scan.fixed.array.astype(np.float32),
        img_moving=sitk.GetArrayFromImage(there).astype(np.float32),
        dtype=torch.float32,
        device=torch.device(device),
    )
    voxels = displacement[..., ::-1].astype(np.float32)  # array axes (z, y, x) to (x, y, z)
    world = voxels @ scan.fixed.grid.matrix[:3, :3].T.astype(np.float32)
    return DisplacementField(world + np.float32(shift), scan.fixed.grid)


def _prepared(scan: Scan) -> tuple[Volume, np.ndarray]:
    """The fixed mask on fixed's grid, and the way (3,), mm, from fixed to moving lungs if far."""
    from ..engine.images.lungs import lung_mask

    fixed = scan.fixed_mask or lung_mask(scan.fixed)
    moving = scan.moving_mask or lung_mask(scan.moving)
    way = _centre(moving) - _centre(fixed)
    if not fixed.grid.matches(scan.fixed.grid):
        inside = fixed.sample(scan.fixed.grid.points(), order=0, outside=0.0) > 0
        fixed = Volume(inside, scan.fixed.grid)
    return fixed, way if np.linalg.norm(way) > APART_MM else np.zeros(3)


def _centre(mask: Volume) -> np.ndarray:
    return mask.marked_points().mean(axis=0)


def _moved(grid: Grid, by: np.ndarray) -> Grid:
    return Grid(grid.size, grid.spacing, tuple(np.add(grid.origin, by)), grid.direction)


def _itk(volume: Volume):
    import itk

    array = volume.array
    image = itk.image_from_array(array if array.dtype == np.uint8 else array.astype(np.float32))
    image.SetSpacing(volume.grid.spacing)
    image.SetOrigin(volume.grid.origin)
    image.SetDirection(np.reshape(volume.grid.direction, (3, 3)))
    return image
