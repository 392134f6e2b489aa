"""DICOM objects of a registration: structure sets, doses and deformable spatial registrations."""

from __future__ import annotations

import copy
import datetime
from pathlib import Path

import numpy as np

from .. import __version__
from ..core.errors import InputError
from ..core.geometry import DisplacementField, Volume
from ..core.paths import atomic, existing
from .contours import STRUCTURES_SOP, Structure
from .requires import pydicom

REGISTRATION_SOP = "1.2.840.10008.5.1.4.1.1.66.3"
_STUDY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
# Of a dose: what another anatomy made of it.
_OF_THE_OLD_DOSE = ("DVHSequence", "DVHNormalizationPoint", "DVHNormalizationDoseValue")


def slices_of(folder: str | Path) -> list:
    """The slices of a DICOM folder without their pixels, sorted along their normal.

    Raises InputError when the path is no folder with DICOM slices of one frame of reference.
    """
    folder = existing(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a DICOM folder, which DICOM output needs: give one.")
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_file():
            data = pydicom().dcmread(path, stop_before_pixels=True, force=True)
            if "ImagePositionPatient" in data and "FrameOfReferenceUID" in data:
                found.append(data)
    frames = {data.FrameOfReferenceUID for data in found}
    if len(frames) != 1:
        raise InputError(
            f"{folder} holds DICOM slices of {len(frames)} frames of reference: "
            "give the folder of one series."
        )
    row, column = np.reshape(np.asarray(found[0].ImageOrientationPatient, dtype=float), (2, 3))
    normal = np.cross(row, column)
    return sorted(found, key=lambda d: float(np.dot(d.ImagePositionPatient, normal)))


def structures_dataset(structures: list[Structure], source, reference: str | Path):
    """A structure set of the reference's frame; names, colours and types as in the source's."""
    slices = slices_of(reference)
    data = _new(STRUCTURES_SOP, "RTSTRUCT", slices[0])
    frame = str(slices[0].FrameOfReferenceUID)
    data.StructureSetLabel = str(source.get("StructureSetLabel", "") or "L2O")[:16]
    data.StructureSetName = str(source.get("StructureSetName", "") or "")
    data.StructureSetDescription = "Contours moved by a deformable registration"
    data.StructureSetDate, data.StructureSetTime = data.ContentDate, data.ContentTime
    data.ApprovalStatus, data.OperatorsName = "UNAPPROVED", ""
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = frame, ""
    data.ReferencedFrameOfReferenceSequence = [_referenced_frame(slices, frame)]
    normal = np.cross(*np.reshape(np.asarray(slices[0].ImageOrientationPatient, float), (2, 3)))
    heights = np.array([np.dot(s.ImagePositionPatient, normal) for s in slices], dtype=float)
    types = {int(o.ReferencedROINumber): o for o in source.get("RTROIObservationsSequence", [])}
    data.StructureSetROISequence, data.ROIContourSequence = [], []
    data.RTROIObservationsSequence = []
    for structure in structures:
        number = structure.number
        data.StructureSetROISequence.append(
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=frame,
                ROIName=structure.name,
                ROIGenerationAlgorithm="AUTOMATIC",
            )
        )
        contours = []
        for contour in structure.contours:
            nearest = slices[int(np.abs(heights - contour[0] @ normal).argmin())]
            contours.append(
                _item(
                    ContourImageSequence=[_reference(nearest)],
                    ContourGeometricType=structure.kind,
                    NumberOfContourPoints=len(contour),
                    ContourData=[_decimal(x) for x in contour.ravel()],
                )
            )
        moved = _item(ReferencedROINumber=number, ROIDisplayColor=list(structure.colour))
        if contours:
            moved.ContourSequence = contours
        data.ROIContourSequence.append(moved)
        kind = types.get(number)
        data.RTROIObservationsSequence.append(
            _item(
                ObservationNumber=number,
                ReferencedROINumber=number,
                RTROIInterpretedType=kind.get("RTROIInterpretedType", "") if kind else "",
                ROIInterpreter="",
            )
        )
    return data


def dose_dataset(dose: Volume, source, reference: str | Path):
    """An RT dose in the reference's frame, Gy in 32 bits; the plan that it names stays named."""
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    first = slices_of(reference)[0]
    data = copy.deepcopy(source)
    for name in _OF_THE_OLD_DOSE:
        if name in data:
            del data[name]
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian  # it may have been compressed
    for name in _STUDY:
        if name in first:
            setattr(data, name, first[name].value)
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.SeriesInstanceUID, data.InstanceNumber = generate_uid(), 1
    data.FrameOfReferenceUID = first.FrameOfReferenceUID
    data.SeriesDescription = "Dose moved by a deformable registration (interpolated)"
    axes = np.reshape(dose.grid.direction, (3, 3))
    data.Rows, data.Columns, data.NumberOfFrames = *dose.array.shape[1:], len(dose.array)
    data.ImageOrientationPatient = [f"{x:.8f}" for x in axes[:, :2].T.ravel()]
    data.ImagePositionPatient = [f"{x:.6f}" for x in dose.grid.origin]
    data.PixelSpacing = [f"{dose.grid.spacing[1]:.6f}", f"{dose.grid.spacing[0]:.6f}"]
    up = np.sign(np.cross(axes[:, 0], axes[:, 1]) @ axes[:, 2])
    data.GridFrameOffsetVector = [
        f"{up * k * dose.grid.spacing[2]:.6f}" for k in range(len(dose.array))
    ]
    scale = max(float(dose.array.max()), 1e-6) / 2**31
    data.DoseGridScaling = f"{scale:.10e}"
    stored = np.rint(dose.array.astype(float) / float(data.DoseGridScaling)).clip(0, 2**32 - 1)
    data.BitsAllocated = data.BitsStored = 32
    data.HighBit, data.PixelRepresentation = 31, 0
    data.PixelData = stored.astype("<u4").tobytes()
    data["PixelData"].VR = "OW"
    return data


def write_registration(
    field: DisplacementField, fixed: str | Path, moving: str | Path, output: str | Path
) -> None:
    """Write a Deformable Spatial Registration, which takes fixed points to moving ones.

    Both images are DICOM folders. The standard's direction, from the registered frame to the
    source's, is the field's own (PS3.3, C.20.3): grid and vectors are LPS mm, float32.
    Raises InputError when a folder holds no DICOM slices of one frame.
    """
    axes = np.reshape(field.grid.direction, (3, 3))
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4) or np.linalg.det(axes) < 0:
        raise InputError("DICOM wants a right-handed upright grid: resample the field first.")
    ours, theirs = slices_of(fixed), slices_of(moving)
    data = _new(REGISTRATION_SOP, "REG", ours[0])
    data.FrameOfReferenceUID = ours[0].FrameOfReferenceUID
    data.PositionReferenceIndicator = ""
    data.InstanceNumber = 1
    data.ContentLabel, data.ContentDescription = "REGISTRATION", "Fixed to moving, lungs"
    data.ContentCreatorName = "L2ORegistration"
    grid = _item(
        ImagePositionPatient=[f"{x:.10g}" for x in field.grid.origin],
        ImageOrientationPatient=[f"{x:.10g}" for x in axes[:, :2].T.ravel()],
        GridDimensions=list(field.grid.size),
        GridResolution=list(field.grid.spacing),
        VectorGridData=np.ascontiguousarray(field.array, dtype="<f4").tobytes(),
    )
    identity = ["1", "0", "0", "0", "0", "1", "0", "0", "0", "0", "1", "0", "0", "0", "0", "1"]
    matrix = {
        "FrameOfReferenceTransformationMatrixType": "RIGID",
        "FrameOfReferenceTransformationMatrix": identity,
    }
    code = _item(
        CodeValue="125024",
        CodingSchemeDesignator="DCM",
        CodeMeaning="Image Content-based Alignment",
    )
    data.DeformableRegistrationSequence = [
        _item(
            SourceFrameOfReferenceUID=theirs[0].FrameOfReferenceUID,
            RegistrationTypeCodeSequence=[code],
            PreDeformationMatrixRegistrationSequence=[_item(**matrix)],
            PostDeformationMatrixRegistrationSequence=[_item(**matrix)],
            DeformableRegistrationGridSequence=[grid],
            ReferencedImageSequence=[_reference(s) for s in theirs],
        )
    ]
    here = ours[0].StudyInstanceUID == theirs[0].StudyInstanceUID
    series = [_series(ours), _series(theirs)]
    if here:
        data.ReferencedSeriesSequence = series
    else:
        data.ReferencedSeriesSequence = series[:1]
        data.StudiesContainingOtherReferencedInstancesSequence = [
            _item(
                StudyInstanceUID=theirs[0].StudyInstanceUID,
                ReferencedSeriesSequence=series[1:],
            )
        ]
    with atomic(output) as temporary:
        data.save_as(temporary, enforce_file_format=True)


def _new(sop: str, modality: str, like):
    """A data set of this class, in the patient and study of another one."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop, generate_uid()
    # Explicit VR has 16 bits for the length of a decimal string: a long contour would be "unknown".
    meta.TransferSyntaxUID = (
        ImplicitVRLittleEndian if sop == STRUCTURES_SOP else ExplicitVRLittleEndian
    )
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SpecificCharacterSet = like.get("SpecificCharacterSet", "ISO_IR 100")
    data.SOPClassUID, data.SOPInstanceUID = sop, meta.MediaStorageSOPInstanceUID
    data.Modality = modality
    for name in _STUDY:
        setattr(data, name, like.get(name, ""))
    data.SeriesInstanceUID, data.SeriesNumber = generate_uid(), 1
    data.Manufacturer, data.ManufacturerModelName = "L2ORegistration", "L2ORegistration"
    data.DeviceSerialNumber, data.SoftwareVersions = "0", __version__
    now = datetime.datetime.now()
    data.ContentDate, data.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    data.InstanceCreationDate, data.InstanceCreationTime = data.ContentDate, data.ContentTime
    data.SeriesDate, data.SeriesTime = data.ContentDate, data.ContentTime
    return data


def _decimal(mm: float) -> str:
    """A coordinate to 0.1 micrometres, in the at most 16 characters of a decimal string."""
    return f"{round(float(mm), 4) + 0.0:.10g}"  # + 0.0: no minus before zero


def _item(**values):
    from pydicom.dataset import Dataset

    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _reference(image):
    return _item(
        ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID
    )


def _series(slices: list):
    return _item(
        SeriesInstanceUID=slices[0].SeriesInstanceUID,
        ReferencedInstanceSequence=[_reference(s) for s in slices],
    )


def _referenced_frame(slices: list, frame: str):
    series = _item(
        SeriesInstanceUID=slices[0].SeriesInstanceUID,
        ContourImageSequence=[_reference(s) for s in slices],
    )
    study = _item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=slices[0].StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])
