"""Synthetic samples on disk, brought into the scene and taken out of it again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import vtk

from LNSynthLib.review.samples import PAIR, read_record
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import sha256

from . import nodes_in_ct, segments, volumes
from .grids import boxes
from .synthetic import SYNTHETIC, mark_synthetic, provenance_of
from .words import _

SAMPLE = "LNSynth.Sample"          # attribute of a sample's nodes: the folder that they were loaded from
MADE = "LNSynth.Made"              # tag of a segment: "1" where the generator made this node, not the patient
AS_LOADED = "LNSynth.NodesLoaded"  # attribute of its segmentation: SHA-256 of the nodes as they were in the files

SAME_SHARE = 0.9  # of the voxels, at least, that a CT made in place has from its source: air alone is about half


@dataclass(frozen=True, eq=False)
class Sample:
    """What was read of a sample's folder: volumes of the library."""

    folder: Path
    provenance: dict
    ct: object
    nodes: object
    values: list[int]  # of the nodes, rising


def load_sample(scene, folder: Path, like=None):
    """`read_sample` and `add_sample` in one."""
    return add_sample(scene, read_sample(folder), like)


def read_sample(folder: Path) -> Sample:
    """A sample from its folder. It touches no scene, so a full CT, which takes seconds, may be read in a thread.

    Raises LNSynthError where a file is missing, damaged or not the one that the provenance tells of: a verdict would
    be about something else.
    """
    from LNSynthLib.images.volume import read, same_grid

    folder = Path(folder)
    provenance = read_record(folder)
    for name in PAIR:
        _check_file(folder / name, provenance)
    ct, nodes = (read(folder / name) for name in PAIR)
    same, difference = same_grid(ct, nodes)
    if not same:
        raise LNSynthError(f"{folder}: the CT and its nodes do not lie on one grid ({difference}); make it again.")
    if nodes.array.dtype.kind not in "iu":
        raise LNSynthError(f"{folder / PAIR[1]}: the node mask does not hold whole numbers; make the sample again.")
    return Sample(folder, provenance, ct, nodes, list(boxes(nodes.array)))


def add_sample(scene, sample: Sample, like=None):
    """(volume, segmentation): the CT of a sample, marked SYNTHETIC, and its nodes, one segment each.

    like  the CT that it was made from, for geometry, transform, window and place in the subject hierarchy
    """
    folder, provenance, ct, nodes = sample.folder, sample.provenance, sample.ct, sample.nodes
    volume = volumes.add_volume(scene, ct, folder.name, like)
    volume.SetName(folder.name)  # as it is called in its folder, also when it is loaded again
    mark_synthetic(volume, provenance)
    volume.SetAttribute(SAMPLE, str(folder))
    segmentation = segments.new_segmentation(scene, volume, _("Nodes of {name}").format(name=volume.GetName()))
    ids = segments.add_instances(segmentation, volume, nodes.array)
    made = {node["id"] for node in provenance.get("nodes", ()) if node.get("state") == "made"}
    for value, segment_id in zip(sample.values, ids, strict=True):
        segmentation.GetSegmentation().GetSegment(segment_id).SetTag(MADE, "1" if value in made else "0")
    segmentation.SetAttribute(SYNTHETIC, "1")
    segmentation.SetAttribute(SAMPLE, str(folder))
    segmentation.SetAttribute(AS_LOADED, _digest(segmentation, volume))
    nodes_in_ct.keep(segmentation, volume)
    return volume, segmentation


def unload_sample(volume, segmentation) -> bool:
    """Takes what `load_sample` brought out of the scene. False where its nodes were changed since: then both stay."""
    if segmentation.GetScene() is not None and segmentation.GetAttribute(AS_LOADED) != _digest(segmentation, volume):
        return False
    if segmentation.GetScene() is not None:
        nodes_in_ct.forget(segmentation)
    volumes.take_out(segmentation)
    volumes.take_out(volume)
    return True


def loaded(scene, folder: Path):
    """(volume, segmentation) of a sample that is in the scene already, as it is in its files; else None."""
    outputs = read_record(folder).get("outputs")
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")):
        volume = scene.GetNthNodeByClass(index, "vtkMRMLScalarVolumeNode")
        if volume.GetAttribute(SAMPLE) == str(folder) and provenance_of(volume).get("outputs") == outputs:
            segmentation = nodes_of(volume)
            if segmentation is not None and segmentation.GetAttribute(AS_LOADED) == _digest(segmentation, volume):
                return volume, segmentation
    return None


def nodes_to_look_at(segmentation) -> list[str]:
    """Segment ids, those that the generator made before those that the source CT showed already."""
    def kept(segment_id):
        value = vtk.reference("")
        return not (segmentation.GetSegmentation().GetSegment(segment_id).GetTag(MADE, value) and value.get() == "1")

    return sorted(segments.node_ids(segmentation), key=kept)


def nodes_of(volume):
    """The segmentation that was drawn on a volume (a sample's own before others), or None."""
    scene = volume.GetScene()
    found = [node for node in (scene.GetNthNodeByClass(index, "vtkMRMLSegmentationNode")
                               for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")))
             if node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is volume]
    return min(found, key=lambda node: node.GetAttribute(SAMPLE) is None, default=None)


def is_source(ct, synthetic, folder: Path | None, exported: Callable[[], Path]) -> bool:
    """Whether a synthetic CT was made from a CT node: another patient's beside it would be no comparison.

    synthetic  a volume of the library. Made in place, it has the CT's grid, and its voxels but for a few
    folder     of the sample: its provenance tells the SHA-256 of the CT's file; None where there is no sample
    exported   gives the CT as a file for jobs, written where it has to be
    """
    from LNSynthLib.images.volume import same_grid

    source = volumes.volume_of(ct)
    if same_grid(source, synthetic)[0]:
        few = tuple(slice(None, None, max(1, n // 64)) for n in source.shape)
        if (source.array[few] == synthetic.array[few]).mean() > SAME_SHARE:
            return True
    if folder is None or not (Path(folder) / "provenance.json").is_file():
        return False
    file = file_of(ct)
    return made_from(folder, [file] if file else []) or made_from(folder, [exported()])


def made_from(folder: Path, files: Iterable[Path]) -> bool:
    """Whether a sample was made from one of these files, as the SHA-256 in its provenance tell."""
    told = set(_texts(read_record(folder).get("source")))
    return any(Path(file).is_file() and _sha256(file) in told for file in files)


def file_of(volume) -> Path | None:
    """The file that a volume was loaded from, None where there is none or the volume was changed since."""
    storage = volume.GetStorageNode()
    if storage is None or not storage.GetFileName() or volume.GetModifiedSinceRead():
        return None
    return Path(storage.GetFileName())


def _sha256(path: Path) -> str:
    """Read anew only where the file is another one: a CT takes a while, and every sample asks."""
    stat = Path(path).stat()
    return _sha256_of(str(path), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _sha256_of(path: str, changed: int, size: int) -> str:
    return sha256(path)


def _texts(value) -> Iterable[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str):
        yield value


def _check_file(path: Path, provenance: dict) -> None:
    if not path.is_file():
        raise LNSynthError(f"{path}: the file is missing, so this is not a whole sample; make it again.")
    try:
        wanted = provenance["outputs"][path.name]
    except (KeyError, TypeError):
        raise LNSynthError(f"{path.parent / 'provenance.json'}: it does not record the SHA-256 of {path.name}; make "
                           "the sample again.") from None
    if sha256(path) != wanted:
        raise LNSynthError(f"{path}: the file is not the one that provenance.json beside it tells of, so a verdict "
                           "would be about something else; make the sample again.")


def _digest(segmentation, volume) -> str:
    """Of every node's name and voxels."""
    digest = hashlib.sha256()
    for segment_id in segments.node_ids(segmentation):
        start, mask = segments.node_crop(segmentation, segment_id, volume)
        digest.update(f"{segment_id} {start} {mask.shape}".encode() + mask.tobytes())
    return digest.hexdigest()
