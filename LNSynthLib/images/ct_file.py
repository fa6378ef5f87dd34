"""Change a few voxels of a CT file; the stored numbers, type, scaling and position of all others stay."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.files import atomic_path
from . import itk_files, nifti
from .canvas import Canvas
from .checks import check_ct
from .synthetic import remember
from .volume import ITK, NIFTI, Volume, canonical_view, read, write

# Of a NIfTI's header: how the voxels are stored and where they lie. Free text, extensions and the keys of NRRD and
# MetaImage may name the patient, and do not go into a file that is made to be given away.
KEPT = {"sizeof_hdr", "dim_info", "dim", "intent_code", "datatype", "bitpix", "pixdim", "vox_offset", "scl_slope",
        "scl_inter", "cal_max", "cal_min", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c",
        "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "magic", "eol_check"}


@dataclass(frozen=True, eq=False)
class CTFile:
    """A CT in the numbers of its file: HU = scaling[0] * voxel + scaling[1]. `keep` writes a file of the same kind."""

    path: Path
    stored: Volume
    scaling: tuple[float, float]
    keep: Callable[[Path, np.ndarray, str], None] | None  # None: of a DICOM series there is no such file

    def hu(self) -> Volume:
        """In HU; the stored voxels themselves where they are that."""
        if self.scaling == (1.0, 0.0):
            return self.stored
        return Volume(Canvas(self.stored, *self.scaling).to_hu(self.stored.array), self.stored.affine)

    def write(self, path: Path, stored: Volume, description: str) -> None:
        """Writes changed voxels to another file, stored as in this one but without its texts; or, where the suffix
        asks for another kind of file, as a volume in HU."""
        if self.keep is not None and file_kind(path) == file_kind(self.path):
            self.keep(Path(path), stored.array, description)
            return
        slope, intercept = self.scaling
        if self.scaling != (1.0, 0.0):
            stored = Volume(stored.array * np.float32(slope) + np.float32(intercept), stored.affine)
        write(path, stored, description)

    def remember(self, made: Volume, patches: Sequence[dict]) -> None:
        """Keeps the hashes of the slices that `insert`'s patches changed, so that `images.synthetic` knows them again;
        to be called before there is a file of them. made: of which `self.stored` is the source."""
        boxes = [patch["box"][2] for patch in patches]
        if boxes:
            levels = slice(min(low for low, _ in boxes), max(high for _, high in boxes))
            before, after = (Volume(Canvas(view, *self.scaling).to_hu(view.array[:, :, levels]), view.affine)
                             for view in map(canonical_view, (self.stored, made)))
            remember(after, before=before)


def file_kind(path: Path) -> str:
    """nifti, itk, or folder (of a DICOM series)."""
    name = Path(path).name.lower()
    return "nifti" if name.endswith(NIFTI) else "itk" if name.endswith(ITK) else "folder"


def open_ct(path: Path) -> CTFile:
    """Opens NIfTI, NRRD, MetaImage or a DICOM folder; LNSynthError for what is no CT in HU."""
    path = Path(path)
    volume = read(path)
    check_ct(volume, str(path))
    kind = file_kind(path)
    if kind == "nifti":
        return _nifti(path, volume)
    return _itk(path, volume) if kind == "itk" else CTFile(path, volume, (1.0, 0.0), None)


def _nifti(path: Path, volume: Volume) -> CTFile:
    file = nifti.read_header(path)
    if file.scaled or volume.array.dtype != file.dtype.newbyteorder("="):
        volume = Volume(nifti.read_stored(path)[1], volume.affine)

    def keep(target: Path, array: np.ndarray, description: str) -> None:
        size = int(file.header["sizeof_hdr"])
        header = file.header.copy()
        for field in set(header.keys()) - KEPT:
            header[field] = 0 if header[field].dtype.kind in "iuf" else b""
        header["descrip"], header["vox_offset"] = description.encode(), size + 4
        with atomic_path(target) as beside, _packed(beside) as stream:
            stream.write(header.binaryblock[:size] + bytes(4))  # no extension: what others wrote there is not ours
            stream.write(array.astype(file.dtype, copy=False).tobytes(order="F"))

    return CTFile(path, volume, (file.slope, file.inter), keep)


@contextmanager
def _packed(path: Path):
    """To write to, as gzip where the name says so."""
    with open(path, "wb") as file:
        if path.name.lower().endswith(".gz"):
            # No name and no time inside: the same voxels give the same bytes.
            with gzip.GzipFile("", "wb", 4, file, mtime=0) as unpacked:
                yield unpacked
        else:
            yield file


def _itk(path: Path, volume: Volume) -> CTFile:
    import SimpleITK as sitk

    header = itk_files.read_information(path)
    if header.GetPixelID() == sitk.sitkFloat64:
        volume = Volume(itk_files.read_stored(path)[0], volume.affine)

    def keep(target: Path, array: np.ndarray, description: str) -> None:
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        image.SetSpacing(header.GetSpacing())
        image.SetOrigin(header.GetOrigin())
        image.SetDirection(header.GetDirection())
        image.SetMetaData("description", description)
        with atomic_path(target) as beside:
            sitk.WriteImage(image, str(beside), useCompression=True)

    return CTFile(path, volume, (1.0, 0.0), keep)
