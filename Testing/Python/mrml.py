"""Real MRML for tests (slicer-core): a scene as Slicer sets it up, and CTs, nodes and transforms to put into it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="slicer-core (Slicer's MRML) is not installed")
vtk = pytest.importorskip("vtk")

REAL = ("r01142_abd_ct.nii.gz", "crlm1004_ct.nii.gz", "ts_example_ct.nii.gz", "ts_slab_dicom")  # CTs of shared_data


def new_scene():
    """A scene with the classes, the subject hierarchy and the singletons that Slicer has when it starts."""
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkMRMLApplicationLogic()
    application.SetMRMLScene(scene)  # selection and interaction nodes
    for logic in (slicer.vtkSlicerSegmentationsModuleLogic(), slicer.vtkSlicerMarkupsLogic()):
        logic.SetMRMLScene(scene)  # registers its node classes
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    return scene


@cache
def phantom(seed: int = 5, spacing: tuple = (3.0, 3.0, 4.0), nodes: int = 5):
    """A drawn abdomen (`phantom.phantom.Phantom`: ct, anatomy, nodes on one grid); do not change its arrays."""
    from LNSynthLib.phantom.phantom import phantom as draw

    return draw(seed, spacing, nodes)


def read_real(shared_data: Path, name: str = REAL[0]):
    """A real CT (or labels) of `shared_data` as a LNSynthLib Volume."""
    from LNSynthLib.images.volume import read

    return read(shared_data / name)


def oblique_affine(spacing=(0.8, 1.3, 2.5), degrees=(12.0, -7.0, 25.0), origin=(-80.5, 30.25, 11.125), flip=(1, 1, 1)):
    """4x4 affine of an anisotropic grid, turned about R, A and S in this order; -1 in `flip` reverses an axis."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(*degrees) @ np.diag(np.asarray(spacing, float) * flip)
    affine[:3, 3] = origin
    return affine


def rotation(about_r: float, about_a: float, about_s: float) -> np.ndarray:
    """3x3 rotation by angles in degrees, about R first."""
    turn = np.eye(3)
    for axis, degrees in enumerate((about_r, about_a, about_s)):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        step = np.eye(3)
        a, b = [x for x in range(3) if x != axis]
        step[a, a], step[b, b], step[a, b], step[b, a] = c, c, -s, s
        turn = step @ turn
    return turn


def add_ct(scene, array=None, affine=None, name: str = "CT"):
    """A scalar volume node with exactly these voxels (X, Y, Z) at `affine`; the phantom's CT where none are given."""
    if array is None:
        array, affine = phantom().ct.array, phantom().ct.affine
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.eye(4) if affine is None else affine))
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array.T))
    node.CreateDefaultDisplayNodes()
    return node


def add_nodes(scene, ct, array=None, in_ct: bool = False, name: str = "Nodes"):
    """A node segmentation on the CT's grid with one segment a value of `array` (the phantom's nodes by default).

    in_ct: the CT shows them."""
    from LNSynthLogic import nodes_in_ct, segments

    segmentation = segments.new_segmentation(scene, ct, name)
    segments.add_instances(segmentation, ct, phantom().nodes.array if array is None else array)
    if in_ct:
        nodes_in_ct.keep(segmentation, ct)
    return segmentation


def add_anatomy(scene, ct, array=None, name: str = "Anatomy"):
    """An anatomy segmentation from TotalSegmentator v2 ids on the CT's grid (the phantom's by default)."""
    from LNSynthLogic import anatomy, volumes

    from LNSynthLib.images.volume import Volume

    array = phantom().anatomy.array if array is None else array
    return anatomy.add_anatomy(scene, ct, Volume(array, volumes.volume_of(ct).affine), name)


def ball(shape, center, radius_mm: float, spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    """Boolean array (X, Y, Z) of a ball; the centre is in voxels."""
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    return sum(((a - c) * s) ** 2 for a, c, s in zip(axes, center, spacing, strict=True)) <= radius_mm**2


def add_transform(scene, matrix: np.ndarray, name: str = "Transform"):
    """A linear transform node (4x4, to its parent)."""
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def rigid(degrees=(10.0, -20.0, 5.0), shift=(12.0, -3.0, 40.0)) -> np.ndarray:
    """4x4 rotation and translation."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation(*degrees), shift
    return matrix


def move(node, transform) -> None:
    """Puts a node under a transform node (None: out of any)."""
    node.SetAndObserveTransformNodeID(transform.GetID() if transform else None)


def add_patient(scene, node, name: str = "Patient"):
    """Subject hierarchy as a DICOM import makes it: patient, study, the node in it. Returns (patient, study) items."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), name)
    study = hierarchy.CreateStudyItem(patient, "Study")
    hierarchy.CreateItem(study, node)
    return patient, study
