"""elastix: B-splines and normalised correlation, by ITK's elastix."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import InputError
from ...core.geometry import DisplacementField, Volume
from .common import prepared

if TYPE_CHECKING:
    from ..scan import Scan

# A lung preset: B-splines, normalised correlation, five resolutions down to 10 mm between knots.
SETTINGS = {
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


def load() -> None:
    """Load the software; itk loads when it is first asked."""
    import itk

    if not hasattr(itk, "elastix_registration_method"):
        raise InputError("itk is installed without elastix: pip install itk-elastix.")
    itk.ParameterObject.New()


def register(scan: Scan, options: dict[str, Any]) -> DisplacementField:
    """elastix with the lung preset and the fixed lung mask; the field on `scan.lattice`."""
    import itk

    given = prepared(scan)
    moving = _itk(given.moving)
    parameters = itk.ParameterObject.New()
    parameters.AddParameterMap(SETTINGS)
    _, found = itk.elastix_registration_method(
        _itk(given.fixed),
        moving,
        parameter_object=parameters,
        fixed_mask=_itk(given.mask),
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
    return given.field(np.asarray(field), lattice)


def _itk(volume: Volume):
    import itk

    array = volume.array
    image = itk.image_from_array(array if array.dtype == np.uint8 else array.astype(np.float32))
    image.SetSpacing(volume.grid.spacing)
    image.SetOrigin(volume.grid.origin)
    image.SetDirection(np.reshape(volume.grid.direction, (3, 3)))
    return image
