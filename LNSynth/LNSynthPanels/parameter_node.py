"""What the module remembers in the scene: every choice of its panels, saved and restored with the scene."""

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


@parameterNodeWrapper
class LNSynthParameterNode:
    """Folders and files are paths, empty where none is chosen."""

    ct: vtkMRMLScalarVolumeNode
    nodes: vtkMRMLSegmentationNode           # one segment a lymph node
    nodesInCT: bool = False                  # the nodes of `nodes` are visible in the CT
    keptNodes: vtkMRMLSegmentationNode   # hidden copy of those nodes, as they were when nodesInCT was switched on
    anatomy: vtkMRMLSegmentationNode
    anatomyFast: bool = True
    device: str = "auto"
    generator: str = ""                      # a run or a folder of weights; empty: the demo weights
    mode: str = "in-place"                   # or "patch"
    sampler: str = "dpmpp"
    steps: Annotated[int, WithinRange(1, 1000)] = 25
    seed: Annotated[int, WithinRange(0, 2147483647)] = 0
    variants: Annotated[int, WithinRange(1, 100)] = 1
    vary: bool = False
    remake: bool = False
    samplesFolder: str = ""                  # where samples go, and what Review shows
    synthetic: vtkMRMLScalarVolumeNode       # the result that is compared with the CT
    blend: Annotated[float, WithinRange(0, 100)] = 100.0  # percent of it
    reviewer: str = ""
    segmenter: str = ""
    prediction: vtkMRMLSegmentationNode
    reference: vtkMRMLSegmentationNode
    batchInput: str = ""
    batchOutput: str = ""
    batchWork: str = "synthesis"             # or "anatomy", "segmentation"
