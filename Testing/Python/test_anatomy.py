"""TotalSegmentator up to the seam: arguments, weights, the child's failures, and label files that exist already."""
import inspect
import json
import sys

import numpy as np
import pytest

from LNSynthLib.cases.labels import LabelTable
from LNSynthLib.cases.volume import Volume, read, write
from LNSynthLib.conditions import anatomy
from LNSynthLib.runtime.errors import LNSynthError

TABLE = LabelTable.load("abdomen14")
totalsegmentator = pytest.importorskip("totalsegmentator")


@pytest.fixture
def ct():
    array = np.full((12, 10, 8), -1000, np.int16)
    array[3:9, 3:8] = 50
    return Volume(array, np.array([[-2.0, 0, 0, 5], [0, 2, 0, -7], [0, 0, 3, 100], [0, 0, 0, 1]]))


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A weights folder of our own, empty; `weights(fast)` fills it with empty model folders."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(folder))

    def fill(fast):
        for name in anatomy.missing_weights(fast):
            (folder / name).mkdir()
    return fill


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package that the child imports in place of TotalSegmentator; returns a function that writes its body."""
    package = tmp_path / "stand_in" / "totalsegmentator"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))

    def body(code):
        (package / "python_api.py").write_text(
            "def send_usage_stats(*a): raise SystemExit('usage statistics were sent')\n"
            "def totalsegmentator(**k):\n" + "".join(f"    {line}\n" for line in code.splitlines()))
    return body


@pytest.mark.parametrize("environment, expected", [
    ({"TOTALSEG_WEIGHTS_PATH": "/a/w", "TOTALSEG_HOME_DIR": "/b"}, "/a/w"),
    ({"TOTALSEG_HOME_DIR": "/b"}, "/b/nnunet/results"), ({}, "/users/x/.totalsegmentator/nnunet/results"),
    ({"HOME": "/"}, "/tmp/.totalsegmentator/nnunet/results")])
def test_weights_are_sought_where_totalsegmentator_seeks_them(monkeypatch, environment, expected):
    from totalsegmentator.config import get_weights_dir
    for name in ("TOTALSEG_WEIGHTS_PATH", "TOTALSEG_HOME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/users/x", **environment}.items():
        monkeypatch.setenv(name, value)
    assert str(anatomy.weights_folder()) == expected == str(get_weights_dir())


@pytest.mark.parametrize("fast, models", [(True, [297, 298]), (False, [291, 292, 293, 294, 295, 298])])
def test_the_weights_needed_are_those_totalsegmentator_would_download(weights, fast, models):
    from totalsegmentator.bin.totalseg_download_weights import TASK_TO_ID
    names = anatomy.missing_weights(fast)
    assert [int(name[7:10]) for name in names] == models == TASK_TO_ID["total_fast" if fast else "total"]
    weights(fast)
    assert anatomy.missing_weights(fast) == []


def test_missing_weights_are_reported_before_any_work(ct, weights, monkeypatch):
    monkeypatch.setattr(anatomy, "run_child", lambda *a: pytest.fail("a child was started"))
    with pytest.raises(LNSynthError) as error:
        anatomy.segment(ct, TABLE, fast=True, device="cpu")
    for word in ("Dataset297", "Dataset298", str(anatomy.weights_folder()), "totalseg_download_weights -t total_fast",
                 anatomy.DOWNLOADS):
        assert word in str(error.value)


def test_arguments_are_ones_the_api_takes(tmp_path):
    from totalsegmentator.map_to_binary import class_map
    from totalsegmentator.python_api import totalsegmentator, validate_device_type_api
    keywords = anatomy.arguments(tmp_path / "ct.nii.gz", tmp_path / "out.nii.gz", TABLE, True, "gpu:1")
    bound = inspect.signature(totalsegmentator).bind(**keywords).arguments
    assert bound["ml"] is True and bound["fast"] is True and bound["task"] == "total"
    assert bound["roi_subset"] == TABLE.totalsegmentator_rois() and len(bound["roi_subset"]) == 12
    assert set(bound["roi_subset"]) <= set(class_map["total"].values())
    assert validate_device_type_api(bound["device"]) == "gpu:1"
    assert json.loads(json.dumps(keywords)) == keywords


def test_devices_in_totalsegmentators_words(monkeypatch):
    import torch
    assert anatomy.device_name("cpu") == "cpu"
    for name, word in (("cuda", "gpu"), ("cuda:1", "gpu:1"), ("mps", "mps")):
        monkeypatch.setattr(anatomy, "pick", torch.device)
        assert anatomy.device_name(name) == word


def test_a_run_reaches_the_api_and_its_labels_come_back(ct, weights, stand_in):
    weights(True)
    stand_in("import nibabel as nib, numpy as np\n"
             "image = nib.load(k['input'])\n"
             "print('10%|#', end='\\r'); print('Predicting part 1 of 1 ...')\n"
             "labels = np.where(np.asarray(image.dataobj) > 0, 5, 0).astype('uint8')\n"
             "nib.save(nib.Nifti1Image(labels, image.affine), k['output'])\n"
             "import totalsegmentator.python_api as api; api.send_usage_stats({}, {})")
    messages = []
    labels = anatomy.segment(ct, TABLE, fast=True, device="cpu", callback=lambda e: messages.append(e.message))
    assert labels.array.dtype == np.uint8
    assert np.array_equal(labels.array, np.where(ct.array > 0, 5, 0)) and np.allclose(labels.affine, ct.affine)
    assert "Predicting part 1 of 1 ..." in messages


@pytest.mark.parametrize("code, words", [
    ("raise RuntimeError('CUDA out of memory')", "RuntimeError: CUDA out of memory"),
    ("import sys; print('It requires a license.'); sys.exit(1)", "exit status 1.*requires a license"),
    ("pass", "ended without labels")])
def test_the_childs_own_words_are_shown_when_it_fails(ct, weights, stand_in, code, words):
    weights(True)
    stand_in(code)
    with pytest.raises(LNSynthError, match=words):
        anatomy.segment(ct, TABLE, fast=True, device="cpu")


def test_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "totalsegmentator.map_tasks_config", None)
    with pytest.raises(LNSynthError, match="pip install TotalSegmentator"):
        anatomy.missing_weights()


def test_an_mr_or_a_raw_image_is_refused_before_weights_are_looked_for(ct):
    with pytest.raises(LNSynthError, match="Hounsfield"):
        anatomy.segment(Volume(ct.array + 1000, ct.affine), TABLE)


def test_existing_labels_of_both_versions(ct, tmp_path):
    v2 = np.where(ct.array > 0, 52, 0).astype(np.uint8)   # aorta
    v1 = np.where(ct.array > 0, 7, 0).astype(np.uint8)    # aorta too
    v1[0, 0, 0] = 55                                      # small bowel: not in the table
    for array, version in ((v2, 2), (v1, 1)):
        write(tmp_path / "labels.nii.gz", Volume(array, ct.affine))
        labels = anatomy.load(tmp_path / "labels.nii.gz", ct, version)
        assert np.array_equal(labels.array, v2) and labels.array.dtype == np.uint8


def test_labels_that_cannot_be_are_refused(ct, tmp_path):
    path = tmp_path / "labels.nii.gz"
    write(path, Volume(np.full(ct.shape, 118, np.uint8), ct.affine))
    with pytest.raises(LNSynthError, match="0 to 117"):
        anatomy.load(path, ct)
    write(path, Volume(np.full(ct.shape, 5, np.uint8), ct.affine + np.eye(4)[:, [3, 0, 1, 2]]))
    with pytest.raises(LNSynthError, match="grid"):
        anatomy.load(path, ct)


def test_verb_maps_an_existing_file(ct, tmp_path, capsys):
    from LNSynthLib.cli import main
    write(tmp_path / "ct.nii.gz", ct)
    write(tmp_path / "v1.nii.gz", Volume(np.where(ct.array > 0, 10, 0).astype(np.uint8), ct.affine))
    out = tmp_path / "out" / "anatomy.nii.gz"
    assert main(["anatomy", "--ct", str(tmp_path / "ct.nii.gz"), "--labels", str(tmp_path / "v1.nii.gz"),
                 "--version", "1", "--out", str(out)]) == 0
    assert set(np.unique(read(out).array)) == {0, 7}      # pancreas
    assert "pancreas" in capsys.readouterr().out


def test_verb_without_weights_says_what_to_do(ct, tmp_path, weights, capsys):
    from LNSynthLib.cli import main
    write(tmp_path / "ct.nii.gz", ct)
    out = tmp_path / "anatomy.nii.gz"
    assert main(["anatomy", "--ct", str(tmp_path / "ct.nii.gz"), "--out", str(out), "--device", "cpu"]) == 2
    assert "totalseg_download_weights -t total`" in capsys.readouterr().err and not out.exists()
