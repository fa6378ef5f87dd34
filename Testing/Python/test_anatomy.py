"""TotalSegmentator up to the seam: arguments, weights, the child's failures, and label files that exist already."""
import inspect
import json
import sys

import numpy as np
import pytest

from LNSynthLib.conditions import anatomy
from LNSynthLib.images.volume import Volume, read, write
from LNSynthLib.masks.labels import LabelTable
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
             "print('Predicting part 1 of 1 ...')\n"
             "print(' 25%|##5       | 1/4 [00:00<00:01,  2.1it/s]', end='\\r')\n"
             "print('100%|##########| 4/4 [00:02<00:00,  2.1it/s]')\n"
             "labels = np.where(np.asarray(image.dataobj) > 0, 5, 0).astype('uint8')\n"
             "nib.save(nib.Nifti1Image(labels, image.affine), k['output'])\n"
             "import totalsegmentator.python_api as api; api.send_usage_stats({}, {})")
    events = []
    labels = anatomy.segment(ct, TABLE, fast=True, device="cpu", callback=events.append)
    assert labels.array.dtype == np.uint8
    assert np.array_equal(labels.array, np.where(ct.array > 0, 5, 0)) and np.allclose(labels.affine, ct.affine)
    told = [(e.done, e.total, e.message) for e in events]
    assert told == [(0, 0, "Predicting part 1 of 1 ..."), (1, 4, ""), (4, 4, "")]


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


@pytest.mark.parametrize("out", ["ct.nii.gz", "labels.nii.gz"])
def test_verb_never_writes_over_what_it_was_given(ct, tmp_path, capsys, out):
    from LNSynthLib.cli import main
    write(tmp_path / "ct.nii.gz", ct)
    write(tmp_path / "labels.nii.gz", Volume(np.where(ct.array > 0, 5, 0).astype(np.uint8), ct.affine))
    before = (tmp_path / out).read_bytes()
    assert main(["anatomy", "--ct", str(tmp_path / "ct.nii.gz"), "--labels", str(tmp_path / "labels.nii.gz"), "--out",
                 str(tmp_path / out)]) == 2
    assert "would change the input" in capsys.readouterr().err and (tmp_path / out).read_bytes() == before


def test_verb_refuses_labels_without_any_structure(ct, tmp_path, capsys):
    from LNSynthLib.cli import main
    write(tmp_path / "ct.nii.gz", ct)
    write(tmp_path / "empty.nii.gz", Volume(np.zeros(ct.shape, np.uint8), ct.affine))
    out = tmp_path / "out.nii.gz"
    assert main(["anatomy", "--ct", str(tmp_path / "ct.nii.gz"), "--labels", str(tmp_path / "empty.nii.gz"),
                 "--out", str(out)]) == 2
    assert "empty.nii.gz: it holds none of the structures" in capsys.readouterr().err and not out.exists()


def test_verb_labels_the_cases_of_a_data_set_that_have_no_labels(ct, tmp_path, weights, stand_in, capsys):
    from LNSynthLib.cases.dataset import Case, Dataset
    from LNSynthLib.cli import main
    nodes = Volume((ct.array > 0).astype(np.uint16), ct.affine)
    dataset = Dataset.create(tmp_path / "data")
    for id, own in (("a", None), ("b", Volume(np.full(ct.shape, 6, np.uint8), ct.affine)), ("c", None)):
        dataset.add(Case(id, ct, nodes, own, {"patient": id, "split": "train", "source": "test"}))
    weights(True)
    log = tmp_path / "calls"
    stand_in("import nibabel as nib, numpy as np\n"
             f"calls = open({str(log)!r}, 'a'); print('x', file=calls); calls.close()\n"
             f"if len(open({str(log)!r}).readlines()) == 2: raise SystemExit('out of memory')\n"
             "image = nib.load(k['input'])\n"
             "labels = np.where(np.asarray(image.dataobj) > 0, 5, 0).astype(np.uint8)\n"
             "nib.save(nib.Nifti1Image(labels, image.affine), k['output'])")
    command = ["anatomy", "--data", str(tmp_path / "data"), "--fast", "--device", "cpu"]
    assert main(command) == 2 and "out of memory" in capsys.readouterr().err  # the second of them fails
    assert main(command) == 0 and main(command) == 0  # goes on with what is left; then nothing is
    assert len(log.read_text().split()) == 3
    loaded = Dataset.open(tmp_path / "data")
    assert [int(loaded.load(id).anatomy.array.max()) for id in "abc"] == [5, 6, 5]
    assert loaded.entry("c")["anatomy_version"] == 2


def test_verb_without_weights_says_what_to_do(ct, tmp_path, weights, capsys):
    from LNSynthLib.cli import main
    write(tmp_path / "ct.nii.gz", ct)
    out = tmp_path / "anatomy.nii.gz"
    assert main(["anatomy", "--ct", str(tmp_path / "ct.nii.gz"), "--out", str(out), "--device", "cpu"]) == 2
    assert "totalseg_download_weights -t total`" in capsys.readouterr().err and not out.exists()


def random_model(folder, model, spacing_mm):
    """A TotalSegmentator model folder with a tiny network of random weights in place of the trained one."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from totalsegmentator.map_tasks_config import TASK_ID_WEIGHTS_CONFIGS
    from totalsegmentator.map_to_binary import class_map

    modules = {"conv_op": "torch.nn.modules.conv.Conv3d", "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
               "dropout_op": None, "nonlin": "torch.nn.LeakyReLU"}
    network = {"n_stages": 2, "features_per_stage": [4, 8], "kernel_sizes": [[3, 3, 3]] * 2,
               "strides": [[1, 1, 1], [2, 2, 2]], "n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1],
               "conv_bias": True, "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op_kwargs": None,
               "nonlin_kwargs": {"inplace": True}, **modules}
    unet = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    resampling = {}
    for what in ("data", "seg", "probabilities"):
        options = {"is_seg": what == "seg", "order": 1, "order_z": 0, "force_separate_z": None}
        resampling |= {f"resampling_fn_{what}": "resample_data_or_seg_to_shape",
                       f"resampling_fn_{what}_kwargs": options}
    configuration = {
        "data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": [32] * 3,
        "median_image_size_in_voxels": [48] * 3, "spacing": [spacing_mm] * 3, "batch_dice": False,
        "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False], **resampling,
        "architecture": {"network_class_name": unet, "arch_kwargs": network, "_kw_requires_import": list(modules)}}
    intensities = {"max": 1e3, "mean": 0.0, "median": 0.0, "min": -1e3, "percentile_00_5": -1e3,
                   "percentile_99_5": 1e3, "std": 400.0}
    name = TASK_ID_WEIGHTS_CONFIGS[model]["foldername"]
    plans = {"dataset_name": name, "plans_name": "nnUNetPlans",
             "original_median_spacing_after_transp": [spacing_mm] * 3,
             "original_median_shape_after_transp": [48] * 3, "image_reader_writer": "NibabelIOWithReorient",
             "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "label_manager": "LabelManager",
             "configurations": {"3d_fullres": configuration}, "experiment_planner_used": "ExperimentPlanner",
             "foreground_intensity_properties_per_channel": {"0": intensities}}
    labels = {"background": 0, **{name: index for index, name in class_map["total"].items()}}
    trainer = "nnUNetTrainer_4000epochs_NoMirroring"
    target = folder / name / f"{trainer}__nnUNetPlans__3d_fullres"
    (target / "fold_0").mkdir(parents=True)
    (target / "plans.json").write_text(json.dumps(plans))
    (target / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1,
                                                     "file_ending": ".nii.gz"}))
    torch.manual_seed(model)
    weights = get_network_from_plans(unet, network, list(modules), 1, len(labels), deep_supervision=False).state_dict()
    torch.save({"network_weights": weights, "init_args": {"configuration": "3d_fullres"}, "trainer_name": trainer,
                "inference_allowed_mirroring_axes": None}, target / "fold_0" / "checkpoint_final.pth")


@pytest.mark.slow
def test_the_real_totalsegmentator_runs_with_stand_in_weights(tmp_path, monkeypatch):
    """TotalSegmentator's own pipeline, from our child to labels on the CT's grid; only the weights are random."""
    pytest.importorskip("nnunetv2")
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "weights"))
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "home"))
    random_model(tmp_path / "weights", 297, 3.0)
    random_model(tmp_path / "weights", 298, 6.0)
    array = np.random.default_rng(0).normal(40, 30, (44, 40, 36)).astype(np.int16)
    array[:6], array[-6:], array[:, -6:] = -1000, -1000, -1000
    ct = Volume(array, np.array([[-3.1, 0, 0, 60], [0, -3.1, 0, 50], [0, 0, 4, -100], [0, 0, 0, 1]]))
    events = []
    labels = anatomy.segment(ct, TABLE, fast=True, device="cpu", callback=events.append)
    assert labels.shape == ct.shape and np.allclose(labels.affine, ct.affine)
    assert {0} < set(np.unique(labels.array)) <= {0, *(i for label in TABLE.labels for i in label.totalsegmentator_v2)}
    assert any(e.total and e.done == e.total for e in events)
