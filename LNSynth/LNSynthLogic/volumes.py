"""Volumes between the scene and the library: the same voxels, the same geometry, both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from LNSynthLib.runtime.errors import LNSynthError

from .grids import affine_of, shape_of, to_world, voxels
from .synthetic import HEADER, is_synthetic

RIGID = 1e-4                       # how far a rotation may be from one, as transforms read from text files are
SHOWN_AS = {"bool": np.uint8, "float16": np.float32, "int64": np.int32, "uint64": np.int32}  # what Slicer cannot show


def volume_of(node):
    """The node as a LNSynthLib Volume: `array` (X, Y, Z) is a view of its voxels, `affine` leaves out its transform.

    Raises LNSynthError for a node without voxels or with several values a voxel.
    """
    from LNSynthLib.images.volume import Volume

    shape_of(node)
    image = node.GetImageData()
    if image.GetNumberOfScalarComponents() != 1:
        raise LNSynthError(f"{node.GetName()} has {image.GetNumberOfScalarComponents()} values a voxel (colour); "
                           "choose the CT itself, one number a voxel.")
    return Volume(voxels(image)[1], affine_of(node))


def check_transform(node) -> None:
    """LNSynthError where the node's parent transform is more than a rotation and a shift: sizes would change."""
    linear = to_world(node)[:3, :3]
    if np.abs(linear.T @ linear - np.eye(3)).max() > RIGID or np.linalg.det(linear) < 0:
        name = node.GetParentTransformNode().GetName()
        raise LNSynthError(f"{node.GetName()} lies under the transform {name}, which scales, shears or mirrors; harden "
                           "it first (Transforms module, Harden transform).")


def state_of(node) -> tuple:
    """Another one after each change of the node's voxels, geometry or transform: for what is kept about it."""
    image, transform = node.GetImageData(), node.GetParentTransformNode()
    return (node.GetID(), node.GetName(), image.GetMTime() if image is not None else 0, affine_of(node).tobytes(),
            (transform.GetID(), transform.GetTransformToWorldMTime()) if transform is not None else None)


def write_volume(node, path: Path) -> None:
    """Writes the node's voxels as NIfTI (an uncompressed .nii is quickest), in the node's own place, untransformed.

    A synthetic one is marked in the header. Raises LNSynthError for a node without voxels, and for a transform that is
    not rigid.
    """
    from LNSynthLib.images import synthetic, volume

    check_transform(node)
    marked = synthetic.mark() if is_synthetic(node) else ""
    header = node.GetAttribute(HEADER) or ""  # out of a scene's file, like all attributes
    volume.write(Path(path), volume_of(node), header if synthetic.kind_of(header) and len(header.encode()) <= 79
                 else marked)


def add_volume(scene, volume, name: str, like=None, class_name: str = "vtkMRMLScalarVolumeNode"):
    """A new volume node with exactly these voxels; returns it.

    volume  LNSynthLib Volume. bool, float16 and 64-bit integers, which Slicer does not show, get a type that it shows;
            a value that does not fit is an LNSynthError.
    like    a volume node: on the same grid its geometry is taken bit for bit (files keep 32-bit numbers); its parent
            transform, place in the subject hierarchy and, for a scalar volume, window and colours always.
    """
    array = _shown(volume.array, name)
    node = scene.CreateNodeByClass(class_name)
    node.UnRegister(None)  # CreateNodeByClass hands over a reference
    node.SetName(scene.GenerateUniqueName(name))
    image = vtk.vtkImageData()
    image.SetDimensions(array.shape)
    scalars = numpy_to_vtk(np.ascontiguousarray(array.T).ravel(), deep=True)
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    if like is not None and _same_grid(volume, like):
        node.CopyOrientation(like)
    else:
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(volume.affine))
    node.SetAndObserveImageData(image)
    scene.AddNode(node)
    if like is not None and class_name == like.GetClassName() == "vtkMRMLScalarVolumeNode":
        display = scene.AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
        display.SetAutoWindowLevel(False)  # it is copied below, and looking at all voxels for it takes a second or two
        node.SetAndObserveDisplayNodeID(display.GetID())
    node.CreateDefaultDisplayNodes()
    if like is not None:
        node.SetAndObserveTransformNodeID(like.GetTransformNodeID())
        if class_name == like.GetClassName() == "vtkMRMLScalarVolumeNode":
            copy_display(like, node)
        place_beside(node, like)
    return node


def copy_display(source, target) -> None:
    """Window, level, colours and interpolation of one scalar volume for another."""
    a, b = source.GetDisplayNode(), target.GetDisplayNode()
    if a is None or b is None:
        return
    if a.GetColorNodeID():
        b.SetAndObserveColorNodeID(a.GetColorNodeID())
    b.SetAutoWindowLevel(False)
    b.SetWindowLevel(a.GetWindow(), a.GetLevel())
    b.SetInterpolate(a.GetInterpolate())


def place_beside(node, other) -> None:
    """Puts a node where another is in the subject hierarchy (the same patient and study)."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    none = hierarchy.GetInvalidItemID()
    beside = hierarchy.GetItemByDataNode(other)
    parent = hierarchy.GetItemParent(beside) if beside != none else none
    item = hierarchy.GetItemByDataNode(node)
    if item == none:  # plain Python; the application makes an item as it sees the node
        item = hierarchy.CreateItem(parent if parent != none else hierarchy.GetSceneItemID(), node)
    elif parent != none:
        hierarchy.SetItemParent(item, parent)


def take_out(node) -> None:
    """A node leaves its scene, with its display and storage nodes and its item in the subject hierarchy; nothing
    happens where it has left already."""
    scene = node.GetScene()
    if scene is None:
        return
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(node)
    if item != hierarchy.GetInvalidItemID():
        hierarchy.RemoveItem(item, False, True)
    own = [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
    own += [node.GetNthStorageNode(index) for index in range(node.GetNumberOfStorageNodes())]
    scene.RemoveNode(node)
    for part in own:
        if part is not None and scene.IsNodePresent(part):
            scene.RemoveNode(part)


def _shown(array: np.ndarray, name: str) -> np.ndarray:
    wanted = np.dtype(SHOWN_AS.get(array.dtype.name, array.dtype))
    if wanted.kind == "i" and array.dtype.itemsize == 8 and array.size:
        limits = np.iinfo(wanted)
        if array.min() < limits.min or array.max() > limits.max:
            raise LNSynthError(f"{name} has values from {array.min()} to {array.max()}, more than 32 bits hold; "
                               "check that it is an image or a mask.")
    return array.astype(wanted.newbyteorder("="), copy=False)


def _same_grid(volume, node) -> bool:
    from LNSynthLib.images.volume import Volume, same_grid

    grid = Volume(np.broadcast_to(np.uint8(0), shape_of(node)), affine_of(node))
    return same_grid(volume, grid, tol=1e-3)[0]
