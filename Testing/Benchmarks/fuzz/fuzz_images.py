"""Images and masks for fuzz_readers.py: whole ones, LNSynth's readers, and independent ones (nibabel, ITK, pydicom)."""

import gzip
import math
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk
from fuzz_damages import NUMBERS, Kind, any_file, files, on_bytes, on_lines
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from LNSynthLib.images.volume import LPS, Volume, read, write
from LNSynthLib.masks.dicom_seg import write_seg
from LNSynthLib.masks.read import read_anatomy, read_segmentation

AFFINE = np.array([[-0.7, 0, 0, 40], [0, -0.9, 0, 30], [0, 0, 2.5, -100], [0, 0, 0, 1.0]])
SHAPE = (16, 12, 9)


def ct() -> Volume:
    return Volume(np.random.default_rng(0).integers(-1000, 1500, SHAPE).astype(np.int16), AFFINE)


def mask(dtype=np.uint8) -> Volume:
    array = np.zeros(SHAPE, dtype)
    array[2:6, 2:6, 2:5], array[9:12, 6:10, 4:7] = 1, 2
    return Volume(array, AFFINE)


def the_file(folder: Path, *endings: str) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.name.endswith(endings))


def volume_of(*endings: str):
    def content(folder: Path):
        volume = read(the_file(folder, *endings))
        return volume.array.astype(np.float64), volume.affine
    return content


def by_nibabel(folder: Path):
    image = nibabel.load(the_file(folder, ".nii", ".nii.gz"))
    array = np.asanyarray(image.dataobj)
    return array.reshape(array.shape[:3]).astype(np.float64), image.affine


def by_itk(*endings: str):
    def content(folder: Path):
        image = sitk.ReadImage(str(the_file(folder, *endings)))
        affine = np.eye(4)
        affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        return sitk.GetArrayFromImage(image).T.astype(np.float64), LPS @ affine
    return content


def nifti_field(random, folder: Path) -> None:
    """A number of the header is another; in a .nii.gz it is packed again, with a checksum that is right."""
    path = the_file(folder, ".nii", ".nii.gz")
    content = path.read_bytes()
    packed = content[:2] == b"\x1f\x8b"
    content = bytearray(gzip.decompress(content) if packed else content)
    fields = nibabel.Nifti1Header.template_dtype.fields
    numeric = [name for name, (kind, _) in fields.items() if kind.base.kind in "if"]
    kind, at = fields[numeric[random.integers(len(numeric))]]
    at += kind.base.itemsize * int(random.integers(math.prod(kind.shape) if kind.shape else 1))
    value = NUMBERS[random.integers(len(NUMBERS))]
    with np.errstate(all="ignore"):
        if kind.base.kind == "f":
            said = np.array(float(value), kind.base).tobytes()
        else:
            limits = np.iinfo(kind.base)
            whole = 0 if value != value else min(max(value, limits.min), limits.max)
            said = np.array(int(whole), kind.base).tobytes()
    content[at:at + len(said)] = said
    path.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))


def detached(ending: str, name: str):
    """Header and voxels in two files."""
    def make(folder: Path) -> None:
        image = sitk.GetImageFromArray(ct().array.T)
        sitk.WriteImage(image, str(folder / f"ct{ending}"))
        if ending == ".nhdr":
            write(folder / "x.nrrd", ct())
            content = (folder / "x.nrrd").read_bytes()
            at = content.index(b"\n\n")
            (folder / "ct.nhdr").write_bytes(content[:at] + f"\ndata file: {name}\n\n".encode())
            (folder / name).write_bytes(content[at + 2:])
            (folder / "x.nrrd").unlink()
    return make


def write_raw_nrrd(folder: Path) -> None:
    write(folder / "ct.nrrd", ct())
    sitk.WriteImage(sitk.ReadImage(str(folder / "ct.nrrd")), str(folder / "ct.nrrd"), useCompression=False)


def write_segmentation(folder: Path) -> None:
    image = sitk.GetImageFromArray(mask().array.T)
    image.SetSpacing([0.7, 0.9, 2.5])
    for n, name in enumerate(("lymph node", "other")):
        for key, value in (("ID", f"s{n}"), ("Name", name), ("LabelValue", str(n + 1)), ("Layer", "0")):
            image.SetMetaData(f"Segment{n}_{key}", value)
    sitk.WriteImage(image, str(folder / "nodes.seg.nrrd"), useCompression=True)


def segments_of(*endings: str):
    def content(folder: Path):
        found = read_segmentation(the_file(folder, *endings))
        if found is None:  # no names: what `masks` takes for a mask of plain numbers
            volume = read(the_file(folder, *endings))
            return [], volume.affine
        return sorted((s.name, int(s.mask.sum()), [b.start for b in s.box] if s.mask.any() else [])
                      for s in found.segments), found.affine
    return content


def segments_by_itk(folder: Path):
    image = sitk.ReadImage(str(the_file(folder, ".seg.nrrd")))
    array, found, n = sitk.GetArrayFromImage(image).T, [], 0
    fields = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    left = set(np.unique(array[array > 0]).tolist())
    while f"Segment{n}_ID" in fields or f"Segment{n}_Name" in fields:
        value = int(fields.get(f"Segment{n}_LabelValue", n + 1))
        found.append((fields.get(f"Segment{n}_Name", f"segment {n + 1}"), value if value in left else 0))
        left.discard(value)
        n += 1
    found += [(f"label {value}", value) for value in left] if n else []
    where = [(name, np.argwhere(array == value) if value else np.zeros((0, 3), int)) for name, value in found]
    return sorted((name, len(at), at.min(0).tolist() if len(at) else []) for name, at in where), \
        by_itk(".seg.nrrd")(folder)[1]


def write_labels(folder: Path) -> None:
    image = nibabel.Nifti1Image(np.where(mask().array == 2, 5, mask().array).astype(np.uint8), AFFINE)
    image.header.set_xyzt_units("mm")
    table = "".join(f'<Label Key="{key}" Red="1" Green="0" Blue="0" Alpha="1"><![CDATA[{name}]]></Label>'
                    for key, name in ((1, "spleen"), (5, "liver")))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(
        "comment", f"<CaretExtension><VolumeInformation><LabelTable>{table}</LabelTable></VolumeInformation>"
                   "</CaretExtension>".encode()))
    nibabel.save(image, folder / "labels.nii.gz")


def anatomy(folder: Path):
    labels, version = read_anatomy(the_file(folder, ".nii.gz"), None, 2, lambda _: None)
    return labels.array.astype(np.float64), labels.affine, version


def anatomy_by_nibabel(folder: Path):
    array, affine = by_nibabel(folder)
    table = {}
    for extension in nibabel.load(the_file(folder, ".nii.gz")).header.extensions:
        tree = ElementTree.fromstring(extension.get_content())
        table |= {int(label.get("Key")): label.text for label in tree.iter("Label")}
    ids = {"spleen": 1, "liver": 5}
    if not table:
        return array, affine, 2
    return np.vectorize(lambda value: ids.get(table.get(int(value)), 0) if value else 0)(array), affine, 2


# DICOM

def write_series(folder: Path) -> None:
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(SHAPE[2]):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.Modality, data.PatientID, data.PatientName, data.StudyID = "CT", "P1", "Doe^Jane", "1"
        data.PatientBirthDate = data.PatientSex = data.StudyDate = data.StudyTime = data.AccessionNumber = ""
        data.SeriesNumber, data.InstanceNumber = 1, k + 1
        data.Manufacturer, data.PositionReferenceIndicator, data.SliceThickness = "test", "", 3
        data.Rows, data.Columns, data.SamplesPerPixel = SHAPE[1], SHAPE[0], 1
        data.PhotometricInterpretation, data.BitsAllocated, data.BitsStored, data.HighBit = "MONOCHROME2", 16, 16, 15
        data.PixelRepresentation, data.RescaleSlope, data.RescaleIntercept = 0, 1, -1024
        data.ImageOrientationPatient, data.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.9, 0.7]
        data.ImagePositionPatient = [-40, -30, -100 + 2.5 * k]
        data.PixelData = (ct().array[:, :, k].T + 1024).astype(np.uint16).tobytes()
        data.save_as(folder / f"{k:03d}.dcm", enforce_file_format=True)


def series(folder: Path):
    volume = read(folder)
    return volume.array.astype(np.float64), volume.affine


def series_by_pydicom(folder: Path):
    slices = [pydicom.dcmread(path) for path in files(folder, "*.dcm")]
    slices = sorted((s for s in slices if s.get("Modality") == "CT"), key=lambda s: np.dot(
        s.ImagePositionPatient, np.cross(s.ImageOrientationPatient[:3], s.ImageOrientationPatient[3:])))
    planes = []
    for s in slices:  # bits above the stored ones are no part of a number
        numbers = s.pixel_array.astype(np.int64) & ((1 << s.BitsStored) - 1)
        if s.PixelRepresentation:
            numbers -= (numbers >> (s.BitsStored - 1)) << s.BitsStored
        planes.append((numbers * float(s.RescaleSlope) + float(s.RescaleIntercept)).T)
    first, last, affine = slices[0], slices[-1], np.eye(4)
    affine[:3, 0] = np.array(first.ImageOrientationPatient[:3], float) * first.PixelSpacing[1]
    affine[:3, 1] = np.array(first.ImageOrientationPatient[3:], float) * first.PixelSpacing[0]
    affine[:3, 2] = np.subtract(last.ImagePositionPatient, first.ImagePositionPatient) / (len(slices) - 1)
    affine[:3, 3] = first.ImagePositionPatient
    return np.stack(planes, 2), LPS @ affine


def dicom_field(random, folder: Path) -> None:
    """A field is gone, or has another value; or a slice is gone, or there twice."""
    path = any_file(random, folder, "*.dcm")
    way = random.integers(8)
    if way == 0 and len(files(folder)) > 1:
        path.unlink()
        return
    if way == 1:
        shutil.copy(path, path.with_name(f"again-{path.name}"))
        return
    data = pydicom.dcmread(path)
    elements = [element for element in data if element.keyword != "PixelData" and element.VR != "SQ"]
    element = elements[random.integers(len(elements))]
    if way == 2:
        del data[element.tag]
    elif element.VR in ("US", "UL"):
        element.value = int(random.choice([0, 1, 2, 7, 8, 32, 255, 4096, 65535]))
    elif element.VR in ("DS", "IS", "FD"):
        value = random.choice([0.0, -1.0, 1e-9, 1e15, 2.0, 65536.0])
        count = element.VM if random.random() < 0.7 else int(random.integers(0, 8))
        element.value = [int(value) if element.VR == "IS" else float(value)] * count
    else:
        element.value = str(random.choice(["", "x", "MR", "1.2.3", "../..", "é" * 20]))[:60]
    data.save_as(path)


def write_dicom_seg(folder: Path) -> None:
    write_series(folder)
    write_seg(folder / "seg.dcm", mask(), folder)
    for path in files(folder, "0*.dcm"):
        path.unlink()


def seg_segments(folder: Path):
    path, rows = the_file(folder, ".dcm"), []
    found = read_segmentation(path) or read(path)  # as `masks.read.read_nodes`

    for s in found.segments:
        at = np.argwhere(s.mask) + [b.start for b in s.box]
        rows.append((s.name, len(at), (at @ found.affine[:3, :3].T + found.affine[:3, 3]).mean(0) if len(at) else []))
    return sorted(rows, key=lambda row: (row[0], row[1]))


def seg_by_pydicom(folder: Path):
    data = pydicom.dcmread(the_file(folder, ".dcm"))
    pixels = data.pixel_array.reshape(-1, data.Rows, data.Columns)
    shared = data.SharedFunctionalGroupsSequence[0]
    order = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    names = {s.SegmentNumber: s.SegmentLabel for s in data.SegmentSequence}
    found = {number: [] for number in names}
    for plane, frame in zip(pixels, data.PerFrameFunctionalGroupsSequence, strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        found[number] += [place + order[:3] * spacing[1] * x + order[3:] * spacing[0] * y
                          for y, x in np.argwhere(plane)]
    return sorted(((names[n], len(at), LPS[:3, :3] @ np.mean(at, 0) if at else []) for n, at in found.items()),
                  key=lambda row: (row[0], row[1]))


IMAGE = on_bytes()

KINDS = {
    "nii": Kind(lambda f: write(f / "ct.nii", ct()), volume_of(".nii"), (*IMAGE, *(nifti_field,) * 6), by_nibabel),
    "nii.gz": Kind(lambda f: write(f / "ct.nii.gz", ct()), volume_of(".nii.gz"), (*IMAGE, *(nifti_field,) * 6),
                   by_nibabel),
    "nrrd": Kind(write_raw_nrrd, volume_of(".nrrd"), (*IMAGE, *on_lines("*.nrrd")), by_itk(".nrrd")),
    "nrrd, gzip": Kind(lambda f: write(f / "ct.nrrd", ct()), volume_of(".nrrd"), (*IMAGE, *on_lines("*.nrrd")),
                       by_itk(".nrrd")),
    "nhdr": Kind(detached(".nhdr", "ct.raw.gz"), volume_of(".nhdr"), (*IMAGE, *on_lines("*.nhdr") * 2),
                 by_itk(".nhdr")),
    "seg.nrrd": Kind(write_segmentation, segments_of(".seg.nrrd"), (*IMAGE, *on_lines("*.nrrd") * 2), segments_by_itk),
    "mha": Kind(lambda f: write(f / "ct.mha", ct()), volume_of(".mha"), (*IMAGE, *on_lines("*.mha")), by_itk(".mha")),
    "mhd": Kind(detached(".mhd", ""), volume_of(".mhd"), (*IMAGE, *on_lines("*.mhd") * 2), by_itk(".mhd")),
    "DICOM series": Kind(write_series, series, (*on_bytes("*.dcm"), *(dicom_field,) * 6), series_by_pydicom),
    "DICOM SEG": Kind(write_dicom_seg, seg_segments, (*on_bytes("*.dcm"), *(dicom_field,) * 4), seg_by_pydicom),
    "label table": Kind(write_labels, anatomy, (*IMAGE, *(nifti_field,) * 3), anatomy_by_nibabel),
}
