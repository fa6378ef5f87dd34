"""A volume: an array indexed (i, j, k) and the 4x4 affine that places it in the patient (RAS+, mm)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.errors import LNSynthError
from ..runtime.files import atomic_path
from . import dicom_series, itk_files, nifti
from .affine import LPS, furthest_apart, nearly_orthonormal, rotation_of, spacing_of, straightened
from .boxes import Box, box_of

NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
WRITTEN = (*NIFTI, ".nrrd", ".mha")
SIDE_MM = (0.01, 100.0)  # what a voxel of a CT can measure
REACH_MM = 100_000.0     # what an origin can lie away from the scanner's


@dataclass(eq=False)
class Volume:
    """One image or mask with its place in the patient.

    array   (X, Y, Z), any dtype
    affine  4x4 float64, maps (i, j, k, 1) to RAS+ millimetres; rotation, flips, anisotropy and shear are all allowed
    """

    array: np.ndarray
    affine: np.ndarray

    def __post_init__(self):
        self.affine = np.asarray(self.affine, dtype=np.float64)

    @property
    def shape(self) -> tuple[int, int, int]:
        i, j, k = self.array.shape
        return int(i), int(j), int(k)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along i, j and k: the column norms of the affine, never its diagonal."""
        i, j, k = spacing_of(self.affine)
        return float(i), float(j), float(k)

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Outer size in mm along i, j and k, from voxel edge to voxel edge."""
        i, j, k = (n * s for n, s in zip(self.shape, self.spacing, strict=True))
        return i, j, k


def is_volume_file(path: Path) -> bool:
    """True for the file names `read` understands (NIfTI, NRRD, MetaImage)."""
    return Path(path).name.lower().endswith(NIFTI + ITK)


def stem(path: Path) -> str:
    """The file name without its (double) suffix: case1.nii.gz and case1.seg.nrrd are both case1."""
    name = Path(path).name
    for suffix in (".nii.gz", ".seg.nrrd", *NIFTI, *ITK):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def read(path: Path) -> Volume:
    """Read a 3D scalar volume: NIfTI, NRRD, MetaImage, or a folder that holds one DICOM CT series (in HU).

    Integers keep their type, floating point becomes float32. Raises LNSynthError for everything that is not one
    complete scalar 3D volume with a known place in space.
    """
    path = Path(path)
    if path.is_dir():
        volume = Volume(*dicom_series.read_ct_series(path))
    elif not path.is_file():
        raise LNSynthError(f"{path}: there is no such file; check the path.")
    elif path.name.lower().endswith(NIFTI):
        volume = Volume(*nifti.read_values(path))
    elif path.name.lower().endswith(ITK):
        volume = Volume(*itk_files.read_values(path))
    else:
        raise LNSynthError(
            f"{path}: this file type is not read; convert it to NIfTI (.nii, .nii.gz), NRRD or MHA, "
            "or give the folder of a DICOM series."
        )
    _check_place(path, volume)
    return volume


def _check_place(path: Path, volume: Volume) -> None:
    if not np.isfinite(volume.affine).all() or abs(np.linalg.det(volume.affine[:3, :3])) < 1e-12:
        raise LNSynthError(f"{path}: its affine is singular, so no voxel has a place; export it with its geometry.")
    if min(volume.shape) < 1:
        raise LNSynthError(f"{path}: the volume has no voxels (shape {volume.shape}); export it again.")
    if min(volume.spacing) < SIDE_MM[0] or max(volume.spacing) > SIDE_MM[1]:
        raise LNSynthError(
            f"{path}: its voxels measure {' x '.join(f'{s:.4g}' for s in volume.spacing)} mm, which no CT has; "
            "export it again with its voxel size in mm."
        )
    if np.abs(volume.affine[:3, 3]).max() > REACH_MM:
        raise LNSynthError(f"{path}: its origin lies {np.abs(volume.affine[:3, 3]).max():.3g} mm away, which no CT "
                           "does; export it again with its geometry.")


def write(path: Path, volume: Volume, description: str = "", dtype=None) -> None:
    """Write NIfTI, NRRD or MetaImage atomically: an interrupted write leaves no file.

    description  goes into the file's header (NIfTI: at most 79 bytes)
    dtype        the type on disk; None keeps the array's (bool becomes uint8, float16 float32, 64-bit integers int32);
                 floating point is rounded on its way to an integer type, and a value that does not fit is an error
    """
    path = Path(path)
    check_target(path)
    array = _as_type(volume.array, dtype, path)
    if path.name.lower().endswith(NIFTI):
        save = nifti.save
    else:
        save = _save_itk
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save(temporary, array, volume.affine, description)


def check_target(path: Path) -> None:
    """Raises LNSynthError for a name that no volume can be written to: better before the work than after it."""
    if not Path(path).name.lower().endswith(WRITTEN):
        raise LNSynthError(f"{path}: this file type is not written; use {', '.join(WRITTEN[:-1])} or {WRITTEN[-1]}.")


def description(path: Path) -> str:
    """What a file's header says about it, as `write` puts it there: NIfTI's description, or NRRD's and MetaImage's."""
    path = Path(path)
    if path.name.lower().endswith(NIFTI):
        return nifti.description(path)
    return itk_files.description(path) if path.name.lower().endswith(ITK) else ""


def canonical(volume: Volume) -> Volume:
    """The same voxels, axes reordered and flipped so that i, j, k run closest to right, anterior, superior."""
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    orientation = io_orientation(volume.affine)
    array = apply_orientation(volume.array, orientation)
    return Volume(np.ascontiguousarray(array), volume.affine @ inv_ornt_aff(orientation, volume.shape))


def canonical_view(volume: Volume) -> Volume:
    """The volume with its axes in RAS order and direction, without a copy: writing to it writes to the volume."""
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    orientation = io_orientation(volume.affine)
    return Volume(apply_orientation(volume.array, orientation),
                  volume.affine @ inv_ornt_aff(orientation, volume.shape))


def crop(volume: Volume, box: Box) -> Volume:
    """The part of the volume inside the box, at the same place in the patient. The box must lie inside the volume."""
    for bounds, size in zip(box, volume.shape, strict=True):
        if not 0 <= bounds.start < bounds.stop <= size:
            raise ValueError(f"box {box} does not lie inside a volume of shape {volume.shape}")
    affine = volume.affine.copy()
    affine[:3, 3] = (volume.affine @ [*(bounds.start for bounds in box), 1.0])[:3]
    return Volume(volume.array[box], affine)


def same_grid(a: Volume, b: Volume, tol: float = 0.1) -> tuple[bool, str]:
    """Whether two volumes share one grid: equal shapes, corners at most `tol` times the smallest voxel side apart.

    Returns (True, "") or (False, what differs).
    """
    if a.shape != b.shape:
        return False, f"the shapes are {a.shape} and {b.shape}"
    apart = furthest_apart(a.affine, b.affine, a.shape)
    if apart > tol * min(*a.spacing, *b.spacing):
        return False, f"their voxels lie up to {apart:.3g} mm apart"
    return True, ""


def isotropic_grid(volume: Volume, spacing_mm: float) -> tuple[np.ndarray, tuple[int, int, int]]:
    """(affine, shape) of the isotropic, orthogonal grid that covers the volume along its own axes.

    The volume's directions are kept (a gantry-tilted, sheared one gets the nearest rotation), its outer faces coincide
    with the new grid's to within half a new voxel, centred.
    """
    directions = rotation_of(volume.affine)
    edges = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in volume.shape))))
    along = (edges @ volume.affine[:3, :3].T + volume.affine[:3, 3]) @ directions
    low, high = along.min(axis=0), along.max(axis=0)
    shape = np.maximum(1, np.round((high - low) / spacing_mm)).astype(int)
    first = (low + high) / 2 - (shape - 1) / 2 * spacing_mm
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_mm
    affine[:3, 3] = directions @ first
    i, j, k = shape.tolist()
    return affine, (i, j, k)


def resample_to(
    volume: Volume, affine: np.ndarray, shape: tuple, order: int = 1, cval: float = 0.0, antialias: bool = True
) -> Volume:
    """The volume on another grid, whatever the two affines.

    order      0 nearest (labels and masks: the dtype stays), 1 linear or 3 cubic (float32)
    cval       the value outside the source's outer voxel faces
    antialias  with order >= 1: smooth before going to larger voxels (Gaussian, sigma = (factor - 1) / 2 source voxels)
    """
    from scipy import ndimage

    matrix = np.linalg.inv(volume.affine) @ affine
    matrix[np.abs(matrix) < 1e-12] = 0.0
    array = volume.array if order == 0 else volume.array.astype(np.float32, copy=False)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if order > 0 and antialias:
        sigma = np.maximum(0.0, (np.linalg.norm(matrix[:3, :3], axis=1) - 1) / 2)
        if sigma.max() > 0.05:
            array = ndimage.gaussian_filter(array, sigma, mode="nearest")
    linear = matrix[:3, :3]
    diagonal = np.array_equal(linear, np.diag(np.diag(linear)))
    result = ndimage.affine_transform(
        array,
        np.diag(linear) if diagonal else linear,  # a vector takes the fast separable path
        matrix[:3, 3],
        output_shape=tuple(shape),
        order=order,
        mode="nearest",
    )
    _fill_outside(result, matrix, volume.shape, cval)
    return Volume(result.astype(volume.array.dtype) if order == 0 else result, affine)


def _fill_outside(result: np.ndarray, matrix: np.ndarray, source_shape: tuple, cval: float) -> None:
    """Set every voxel whose centre maps outside the source's outer faces (index < -0.5 or > n - 0.5)."""
    axes = np.ogrid[box_of(result.shape)]
    for row, size in zip(matrix[:3], source_shape, strict=True):
        index = row[3] + sum(c * axis for c, axis in zip(row[:3], axes, strict=True) if c)
        outside = (index < -0.5 - 1e-6) | (index > size - 0.5 + 1e-6)
        if np.any(outside):
            result[np.broadcast_to(outside, result.shape)] = cval


def to_sitk(volume: Volume):
    """The volume as a SimpleITK image, without the slight shear of a rounded affine.

    Raises LNSynthError for a sheared affine (a tilted gantry), which ITK cannot carry.
    """
    import SimpleITK as sitk

    if not nearly_orthonormal(volume.affine, volume.shape):
        raise LNSynthError("The volume is sheared (a tilted gantry), which NRRD and MHA cannot hold; write NIfTI.")
    affine = LPS @ straightened(volume.affine)
    array = volume.array.astype(np.uint8) if volume.array.dtype == bool else volume.array
    # SimpleITK takes numbers of another byte order for its own.
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T, dtype=array.dtype.newbyteorder("=")))
    image.SetSpacing(volume.spacing)
    image.SetOrigin([float(x) for x in affine[:3, 3]])
    image.SetDirection([float(x) for x in (affine[:3, :3] / np.array(volume.spacing)).ravel()])
    return image


def _save_itk(path: Path, array: np.ndarray, affine: np.ndarray, description: str) -> None:
    import SimpleITK as sitk

    image = to_sitk(Volume(array, affine))
    if description:
        image.SetMetaData("description", description)
    sitk.WriteImage(image, str(path), useCompression=True)


def _as_type(array: np.ndarray, dtype, path: Path) -> np.ndarray:
    if dtype is None:
        widened = {"bool": np.uint8, "float16": np.float32, "int64": np.int32, "uint64": np.int32}
        dtype = widened.get(array.dtype.name, array.dtype)
    dtype = np.dtype(dtype)
    if dtype.kind in "iu" and dtype != array.dtype and array.size:
        if array.dtype.kind == "f":
            array = np.rint(array)
        limits = np.iinfo(dtype)
        low, high = array.min(), array.max()
        if not (limits.min <= low and high <= limits.max):
            raise LNSynthError(f"{path}: values {low} to {high} do not fit {dtype.name}; write it with a wider type.")
    return array.astype(dtype, copy=False)
