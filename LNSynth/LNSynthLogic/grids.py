"""Grids of the scene: which voxel of a labelmap is which voxel of the CT, whatever lies between them."""

from __future__ import annotations

import itertools

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from LNSynthLib.images.boxes import box_at, box_of, common, shifted
from LNSynthLib.runtime.errors import LNSynthError

Box = tuple[slice, slice, slice]  # start and stop along i, j and k, in voxels

NOWHERE = (slice(0, 0),) * 3
SAME = 0.1  # grids whose outer corners lie closer than this, in voxels, have the same voxels in nearest neighbour


def affine_of(volume_node) -> np.ndarray:
    """4x4 float64: (i, j, k, 1) of the volume to RAS mm, without its parent transform."""
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def to_world(node) -> np.ndarray:
    """4x4 float64: the node's own coordinates to world. Raises LNSynthError where that is not a matrix (a warp)."""
    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    matrix = vtk.vtkMatrix4x4()
    if not transform.IsTransformToWorldLinear() or not transform.GetMatrixTransformToWorld(matrix):
        raise LNSynthError(f"{node.GetName()} lies under the transform {transform.GetName()}, which warps; "
                           "harden it first (Transforms module, Harden transform).")
    return slicer.util.arrayFromVTKMatrix(matrix)


def ct_in(segmentation, ct) -> np.ndarray:
    """4x4 float64: (i, j, k, 1) of the CT to the segmentation's own coordinates."""
    if segmentation.GetParentTransformNode() == ct.GetParentTransformNode():
        return affine_of(ct)  # bit for bit, and right even under a warp that both share
    return np.linalg.inv(to_world(segmentation)) @ to_world(ct) @ affine_of(ct)


def shape_of(volume_node) -> tuple[int, int, int]:
    """(X, Y, Z) of a volume. Raises LNSynthError where it has no voxels."""
    image = volume_node.GetImageData()
    if image is None or min(image.GetDimensions()) < 1:
        raise LNSynthError(f"{volume_node.GetName()} has no voxels; load it again.")
    return tuple(image.GetDimensions())


def voxels(image) -> tuple[tuple[int, int, int], np.ndarray]:
    """(start, array) of a vtkImageData: a view (X, Y, Z) of its voxels, and the index of the first; may be empty."""
    extent = image.GetExtent()
    scalars = image.GetPointData().GetScalars()
    if scalars is None or any(extent[2 * a] > extent[2 * a + 1] for a in range(3)):
        return (0, 0, 0), np.zeros((0, 0, 0), np.uint8)
    shape = tuple(extent[2 * a + 1] - extent[2 * a] + 1 for a in range(3))
    return tuple(extent[::2]), vtk_to_numpy(scalars).reshape(shape[::-1]).T


def oriented_image(array: np.ndarray, start, affine: np.ndarray):
    """A vtkOrientedImageData with a copy of `array` (X, Y, Z), whose first voxel has the index `start`."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent([bound for a in range(3) for bound in (int(start[a]), int(start[a]) + array.shape[a] - 1)])
    scalars = numpy_to_vtk(np.ascontiguousarray(array.T).ravel(), deep=True)
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(affine))
    return image


def image_affine(image) -> np.ndarray:
    """4x4 float64 of a vtkOrientedImageData: (i, j, k, 1) to the coordinates of its segmentation."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def on_grid(image, part: Box, target: np.ndarray, shape, box: Box | None = None) -> tuple[tuple, np.ndarray]:
    """The voxels of `image` inside `part` (indices of the image) on another grid, by nearest neighbour.

    target  4x4, indices of the other grid to the image's coordinates
    shape   size of the other grid; box: only this part of it
    Returns (start, array): what of the other grid `part` covers, (X, Y, Z), the image's dtype, 0 outside `part`. A grid
    that only begins elsewhere gives a view, without copy. Work in proportion to what `part` and `box` share.
    """
    box = box or box_of(shape)
    start, array = voxels(image)
    across = np.linalg.inv(target) @ image_affine(image)  # indices of the image to indices of the other grid
    part = _common(part, box_at(start, array.shape))
    part = _common(part, _around(_corners(box), np.linalg.inv(across)))
    if part == NOWHERE:
        return (0, 0, 0), array[NOWHERE]
    corners = _corners(part)
    there = (across @ corners)[:3]
    shift = np.rint((there - corners[:3]).mean(axis=1)).astype(int)
    if np.abs(there - corners[:3] - shift[:, None]).max() < SAME:
        wanted = _common(box, shifted(part, shift))
        first = [w.start - s - o for w, s, o in zip(wanted, shift, start, strict=True)]
        cut = tuple(slice(f, f + w.stop - w.start) for f, w in zip(first, wanted, strict=True))
        return tuple(w.start for w in wanted), array[NOWHERE if wanted == NOWHERE else cut]
    wanted = _common(box, _around(corners, across))
    if wanted == NOWHERE:
        return (0, 0, 0), array[NOWHERE]
    cut = tuple(slice(p.start - s, p.stop - s) for p, s in zip(part, start, strict=True))
    return tuple(w.start for w in wanted), _nearest(array[cut], [p.start for p in part], across, wanted)


def boxes(array: np.ndarray) -> dict[int, Box]:
    """The smallest box of each value above 0, in one pass. array: whole numbers (X, Y, Z), i fastest in memory.

    Looks at the ends of runs of equal voxels along i only, which takes a fraction of scipy's find_objects.
    """
    length, rows, _slices = array.shape
    flat = array.T.reshape(-1)
    new = np.ones(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=new[1:])
    new[::length] = True
    first = np.flatnonzero(new)
    last, values = np.append(first[1:], flat.size) - 1, flat[first]
    order = np.flatnonzero(values > 0)
    order = order[np.argsort(values[order], kind="stable")]
    first, last, values = first[order], last[order], values[order]
    if not len(values):
        return {}
    groups = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    row = first // length
    k, j = np.divmod(row, rows)
    low = [np.minimum.reduceat(c, groups) for c in (first - row * length, j, k)]
    high = [np.maximum.reduceat(c, groups) + 1 for c in (last - row * length, j, k)]
    return {int(value): tuple(slice(int(a[n]), int(b[n])) for a, b in zip(low, high, strict=True))
            for n, value in enumerate(values[groups])}


def tight(start, mask: np.ndarray) -> tuple[tuple, np.ndarray]:
    """The smallest crop around the True voxels; an empty one at (0, 0, 0) where there are none."""
    box = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(hit):
            return (0, 0, 0), np.zeros((0, 0, 0), bool)
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(int(s) + b.start for s, b in zip(start, box, strict=True)), mask[tuple(box)]


def _corners(box: Box) -> np.ndarray:
    """(4, 8): the outer corners of a box of voxels, homogeneous."""
    return np.array([[*c, 1.0] for c in itertools.product(*((b.start - 0.5, b.stop - 0.5) for b in box))]).T


def _around(corners: np.ndarray, matrix: np.ndarray) -> Box:
    """A box that holds every voxel whose centre lies between the corners on another grid."""
    there = (matrix @ corners)[:3]
    low, high = np.floor(there.min(axis=1)).astype(int), np.ceil(there.max(axis=1)).astype(int) + 1
    return tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))


def _common(a: Box, b: Box) -> Box:
    """What two boxes share; NOWHERE where that is nothing."""
    both = common(a, b)
    return NOWHERE if any(x.start >= x.stop for x in both) else both


def _nearest(array: np.ndarray, start, across: np.ndarray, wanted: Box) -> np.ndarray:
    """Nearest neighbour of `array` (its first voxel has the index `start`) at each index of the box `wanted`."""
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(oriented_image(array, start, np.eye(4)))
    back = vtk.vtkTransform()
    back.SetMatrix(slicer.util.vtkMatrixFromArray(np.linalg.inv(across)))
    reslice.SetResliceTransform(back)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputExtent([bound for w in wanted for bound in (w.start, w.stop - 1)])
    reslice.SetInterpolationModeToNearestNeighbor()
    reslice.SetBackgroundLevel(0)
    reslice.Update()
    return voxels(reslice.GetOutput())[1].copy()  # the filter's memory goes with the filter
