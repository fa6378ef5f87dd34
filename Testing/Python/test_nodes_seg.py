"""`lnsynth nodes --out seg.dcm`: a mask as DICOM SEG on the real CT that it was drawn on, and on nothing else."""

import highdicom
import numpy as np
import pytest
from test_dicom import AXIAL, edit, nodes_on, read_seg, real_series, tissue, write_series  # noqa: F401

from LNSynthLib import cli
from LNSynthLib.images.volume import Volume, canonical, read, write


def test_a_real_mask_becomes_one_segment_a_node(shared_data, real_series, tmp_path, capsys):  # noqa: F811
    """Two vertebrae of the labels stand for nodes: numbers 3 and 7 of a mask whose rows count the other way."""
    labels = read(shared_data / "ts_slab_labels.nii.gz")
    ids = [i for i in np.unique(labels.array) if i and (labels.array == i).sum() > 300][:2]
    mask = np.where(labels.array == ids[0], 3, 0) + np.where(labels.array == ids[1], 7, 0)
    write(tmp_path / "nodes.nii.gz", Volume(mask.astype(np.uint16), labels.affine))
    out = tmp_path / "seg.dcm"
    assert cli.main(["nodes", "--nodes", str(tmp_path / "nodes.nii.gz"), "--ct", str(real_series), "--out",
                     str(out), "--anyway"]) == 0
    seg = highdicom.seg.segread(out)
    assert [seg.get_segment_description(n).segment_label for n in seg.segment_numbers] == ["lymph node 3",
                                                                                         "lymph node 7"]
    found = canonical(read_seg(out, read(real_series))).array
    expected = canonical(Volume(mask, labels.affine)).array
    assert np.array_equal(found, np.where(expected == 7, 2, expected > 0))
    assert "short mm" in capsys.readouterr().out


def test_one_value_is_told_apart_by_its_pieces(tmp_path):
    folder = write_series(tmp_path / "ct", tissue(), AXIAL)
    nodes = nodes_on(AXIAL)
    nodes.array[:] = 0
    nodes.array[2:4, 2:4, 2], nodes.array[8:10, 2:4, 2:4] = 5, 5
    write(tmp_path / "nodes.nrrd", nodes)
    assert cli.main(["nodes", "--nodes", str(tmp_path / "nodes.nrrd"), "--ct", str(folder), "--out",
                     str(tmp_path / "seg.dcm")]) == 0
    assert len(highdicom.seg.segread(tmp_path / "seg.dcm").segment_numbers) == 2


@pytest.mark.parametrize("what, said", [
    ("a file as CT", "DICOM series"), ("no CT", "DICOM series"), ("a marked series", "it is SYNTHETIC"),
    ("a marked mask", "it is SYNTHETIC"), ("another grid", "not the CT's"), ("no identifiers", "export"),
    ("no node", "empty"), ("a change", "must end in")])
def test_what_no_seg_is_written_of(tmp_path, capsys, what, said):
    folder = write_series(tmp_path / "ct", tissue(), AXIAL)
    nodes, ct, more = nodes_on(AXIAL), str(folder), []
    if what == "another grid":
        nodes = Volume(nodes.array, AXIAL @ np.diag([1.3, 1, 1, 1]))
    if what == "no node":
        nodes.array[:] = 0
    write(tmp_path / "nodes.nii.gz", nodes, "SYNTHETIC: LNSynth x" if what == "a marked mask" else "")
    for file in folder.iterdir():
        if what == "a marked series":
            edit(file, SeriesDescription="SYNTHETIC CT 1")
        if what == "no identifiers":
            edit(file, FrameOfReferenceUID="", StudyInstanceUID="")
    if what == "a file as CT":
        write(tmp_path / "ct.nii.gz", Volume(tissue(), AXIAL))
        ct = str(tmp_path / "ct.nii.gz")
    if what == "a change":
        more = ["--remove", "1"]
    arguments = ["nodes", "--nodes", str(tmp_path / "nodes.nii.gz"), "--out", str(tmp_path / "seg.dcm"), *more]
    assert cli.main(arguments + ([] if what == "no CT" else ["--ct", ct])) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "seg.dcm").exists()


def test_a_series_whose_identifiers_were_blanked_is_refused_in_words(shared_data, tmp_path, capsys):
    labels = read(shared_data / "ts_slab_labels.nii.gz")
    write(tmp_path / "nodes.nii.gz", Volume((labels.array == 52).astype(np.uint8), labels.affine))
    assert cli.main(["nodes", "--nodes", str(tmp_path / "nodes.nii.gz"), "--ct", str(shared_data / "ts_slab_dicom"),
                     "--out", str(tmp_path / "seg.dcm")]) == 2
    assert "identifiers" in capsys.readouterr().err
