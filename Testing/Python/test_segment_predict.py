"""Prediction: equal to nnU-Net's own, in any geometry, stoppable, and never running what a checkpoint says."""

import io
import json
import os
import subprocess
import sys
import threading
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

from LNSynthLib.cli import main
from LNSynthLib.images.volume import Volume, read, same_grid, write
from LNSynthLib.runtime.errors import Cancelled, LNSynthError
from LNSynthLib.runtime.files import write_json
from LNSynthLib.segmentation import model
from LNSynthLib.segmentation.predict import Segmenter, nnUNetPredictor, predict_file

SPACING, SIDE, THRESHOLD = 2.0, 16, 50.0
ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {"n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[3, 3, 3]] * 3, "strides": [[1] * 3, [2] * 3, [2] * 3],
                    "n_conv_per_stage": [1] * 3, "n_conv_per_stage_decoder": [1] * 2, "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}},
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]}


def plans():
    """A plan as nnU-Net writes it."""
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": [SIDE] * 3, "spacing": [SPACING] * 3, "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False], "batch_dice": True, "architecture": ARCHITECTURE} | {
        f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg", "probabilities")} | {
        f"resampling_fn_{what}_kwargs": {**resampling, "is_seg": what == "seg"}
        for what in ("data", "seg", "probabilities")}
    return {"dataset_name": model.DATASET, "plans_name": model.PLANS, "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "label_manager": "LabelManager",
            "configurations": {model.CONFIGURATION: configuration},
            "foreground_intensity_properties_per_channel": {"0": {
                "mean": 80.0, "std": 40.0, "percentile_00_5": -100.0, "percentile_99_5": 200.0}}}


def checkpoint(network):
    return {"network_weights": network.state_dict(), "optimizer_state": {}, "grad_scaler_state": None,
            "logging": {"train_losses": [np.float32(1.5)], "lrs": [0.01], "mean_fg_dice": [np.float64(0.5)]},
            "_best_ema": np.float64(0.5), "current_epoch": 1, "trainer_name": "nnUNetTrainer",
            "init_args": {"plans": {}, "configuration": model.CONFIGURATION, "device": torch.device("cpu")},
            "inference_allowed_mirroring_axes": (0, 1, 2)}


def make_model(folder: Path, mirror: bool, tiles: int = 1) -> Path:
    """A model folder of nnU-Net with random weights, whose answers are as odd as they are definite."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    torch.manual_seed(0)
    network = get_network_from_plans(ARCHITECTURE["network_class_name"], ARCHITECTURE["arch_kwargs"],
                                     ARCHITECTURE["_kw_requires_import"], 1, 2, deep_supervision=True)
    write_json(folder / "plans.json", plans())
    write_json(folder / "dataset.json", {
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "node": 1}, "file_ending": ".nii.gz",
        "numTraining": 1, "lnsynth": {"window": [-120, 240], "checkpoint": "checkpoint_final.pth", "mirror": mirror,
                                      "tiles": tiles}})
    (folder / "fold_0").mkdir()
    torch.save(checkpoint(network), folder / "fold_0" / "checkpoint_final.pth")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"), mirror=False)


class Threshold(torch.nn.Module):
    """A network whose answer is known: the more above THRESHOLD HU a voxel is, the more a node."""

    def forward(self, x):
        hu = x * 40.0 + 80.0
        return torch.cat([torch.zeros_like(x), (hu - THRESHOLD) / 10], 1)


@pytest.fixture
def threshold(folder):
    segmenter = Segmenter.open(folder, "cpu")
    segmenter.predictor.network, segmenter.predictor.list_of_parameters = Threshold(), [{}]
    return segmenter


def balls(shape, affine, centres, radius=8.0, inside=180.0):
    """Soft balls of `inside` HU in fat of -80, drawn where they are in the patient."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    at = index @ affine[:3, :3].T + affine[:3, 3]
    away = np.min([np.linalg.norm(at - np.array(c), axis=-1) for c in centres], axis=0) - radius
    return Volume((-80 + (inside + 80) / (1 + np.exp(away / 1.5))).astype(np.float32), affine)


def scene(seed=0, shape=(30, 22, 26)):
    return Volume(np.random.default_rng(seed).uniform(-200, 300, shape).astype(np.float32),
                  np.diag([SPACING] * 3 + [1.0]))


@pytest.mark.parametrize("mirror", [False, True])
def test_it_equals_what_nnunets_own_predictor_says(tmp_path, mirror):
    folder = make_model(tmp_path / "model", mirror)
    volume = scene()
    ours = Segmenter.open(folder, "cpu").predict(volume)
    with redirect_stdout(io.StringIO()):
        stock = nnUNetPredictor(use_mirroring=mirror, device=torch.device("cpu"), allow_tqdm=False)
        stock.initialize_from_trained_model_folder(str(folder), ("0",), "checkpoint_final.pth")
    # nnU-Net's own normalisation clips to less than the window, so it gets the CT as it is
    mask, probabilities = stock.predict_single_npy_array(volume.array.T[None], {"spacing": [SPACING] * 3}, None, None,
                                                         True)
    np.testing.assert_array_equal(ours.instances > 0, mask.T > 0)
    np.testing.assert_allclose(ours.probability, probabilities[1].T, atol=1e-6)
    assert 0.01 < (mask > 0).mean() < 0.99


def test_tiles_at_once_change_the_last_bits_alone(tmp_path, folder):
    one, four = (Segmenter.open(path, "cpu") for path in (folder, make_model(tmp_path / "model", False, tiles=4)))
    seen = []
    volume = scene(shape=(30, 22, 16))  # 3 x 2 tiles
    many = four.predict(volume, seen.append)
    np.testing.assert_allclose(many.probability, one.predict(volume).probability, atol=2e-3)
    assert seen[-1].done == seen[-1].total == 6


def test_the_network_sees_hu_within_the_window_and_no_scanners_padding(threshold):
    # A plan whose own limits are wide, so that the window alone can clip.
    normalisation = threshold.predictor.plans_manager.plans["foreground_intensity_properties_per_channel"]["0"]
    normalisation |= {"percentile_00_5": -5000.0, "percentile_99_5": 5000.0}
    seen = []

    class Looking(Threshold):
        def forward(self, x):
            seen.append(x * 40.0 + 80.0)
            return super().forward(x)

    threshold.predictor.network = Looking()
    volume = scene(shape=(30, 22, 26))
    volume.affine[:3, :3] *= 0.8  # interpolated, so that padding could reach its neighbours
    found = []
    for padding in (-1024, -3024):
        volume.array[:9] = padding
        found.append(threshold.predict(volume).probability)
    shown = torch.cat(seen)
    assert float(shown.min()) == pytest.approx(-120, abs=1e-3) and float(shown.max()) == pytest.approx(240, abs=1e-3)
    np.testing.assert_array_equal(*found)


def test_a_faint_node_in_one_thick_slice_is_found_there_at_its_size(threshold):
    affine = np.diag([SPACING, SPACING, 3 * SPACING, 1.0])  # the network's voxels have their centres at the slices'
    volume = balls((20, 20, 7), affine, [(20, 20, 18)], radius=7.0, inside=85.0)
    found = threshold.predict(volume).instances
    assert found[..., [0, 1, 2, 4, 5, 6]].sum() == 0
    assert (found[..., 3] > 0).sum() == pytest.approx((volume.array[..., 3] > THRESHOLD).sum(), rel=0.1)


def test_it_needs_no_environment_and_leaves_none(folder):
    Segmenter.open(folder, "cpu").predict(scene())
    assert not [name for name in os.environ if name.startswith("nnUNet")]


def test_turned_and_flipped_axes_give_the_same_answer_turned_and_flipped(folder):
    segmenter, volume = Segmenter.open(folder, "cpu"), scene()
    plain = segmenter.predict(volume)
    array, affine = volume.array.transpose(2, 0, 1)[::-1, :, ::-1], volume.affine[:, [2, 0, 1, 3]]
    affine = affine @ np.array([[-1, 0, 0, array.shape[0] - 1], [0, 1, 0, 0], [0, 0, -1, array.shape[2] - 1],
                                [0, 0, 0, 1.0]])
    turned = segmenter.predict(Volume(array, affine))
    np.testing.assert_allclose(turned.probability, plain.probability.transpose(2, 0, 1)[::-1, :, ::-1], atol=1e-6)


@pytest.mark.parametrize("name, spacing, angle, flip", [
    ("as the model", (2, 2, 2), 0, False), ("fine", (1, 1, 1.25), 0, False), ("thick slices", (0.9, 0.9, 5), 0, True),
    ("oblique", (1.5, 1.5, 2), 25, False), ("oblique, flipped, thick", (1.2, 1.2, 4), -20, True)])
def test_balls_are_found_where_they_are_in_any_geometry(threshold, name, spacing, angle, flip):
    turn = np.deg2rad(angle)
    axes = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    axes = axes @ np.diag([-1, 1, -1]) if flip else axes
    affine, shape = np.eye(4), tuple(int(70 / s) for s in spacing)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2 + (5, -3, 40)
    centres = [(-6, -9, 40), (15, 8, 44)]
    volume = balls(shape, affine, centres)
    found = threshold.predict(volume)
    truth = volume.array > THRESHOLD
    hit = found.instances > 0
    assert found.instances.max() == 2 and found.instances.shape == shape
    assert 2 * (hit & truth).sum() / (hit.sum() + truth.sum()) > 0.93
    for centre in centres:  # each ball's own centre of mass, in the patient
        near = [(affine @ [*np.argwhere(found.instances == i).mean(0), 1])[:3] for i in (1, 2)]
        assert min(np.linalg.norm(np.array(n) - centre) for n in near) < 0.5 * max(spacing)


def test_what_is_beyond_the_window_counts_as_its_end(folder):
    segmenter, volume = Segmenter.open(folder, "cpu"), scene()
    clipped = segmenter.predict(Volume(np.clip(volume.array, -120, 240), volume.affine))
    extreme = np.where(volume.array >= 240, 3000, np.where(volume.array <= -120, -3024, volume.array))
    np.testing.assert_array_equal(segmenter.predict(Volume(extreme, volume.affine)).probability, clipped.probability)


def test_tiles_are_counted_and_a_stop_ends_it_at_once(folder):
    segmenter, seen = Segmenter.open(folder, "cpu"), []
    segmenter.predict(scene(), seen.append)
    assert seen[-1].stage == "segmenting" and seen[-1].done == seen[-1].total > 1
    threads = threading.active_count()

    def stop(event):
        if event.done:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        segmenter.predict(scene(), stop)
    assert threading.active_count() == threads


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


@pytest.mark.parametrize("how", ["evil", "truncated", "foreign", "absent"])
def test_checkpoints_that_are_no_weights_are_refused_and_not_run(tmp_path, folder, monkeypatch, how):
    monkeypatch.setenv("EVIL", str(tmp_path / "was here"))
    copy = make_model(tmp_path / "model", False)
    path = copy / "fold_0" / "checkpoint_final.pth"
    if how == "evil":
        torch.save({**torch.load(folder / "fold_0" / path.name, weights_only=False), "logging": Evil()}, path)
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    elif how == "foreign":
        torch.save({"state_dict": {}}, path)
    else:
        path.unlink()
    with pytest.raises(LNSynthError, match="checkpoint_final.pth"):
        Segmenter.open(copy, "cpu")
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize("place, name", [
    ("class", "torch.hub.load"), ("class", "dynamic_network_architectures.architectures.unet.nn.Module"),
    ("layer", "torch.nn.functional.torch.hub.load"), ("layer", "antigravity")])
def test_plans_that_name_more_than_networks_and_layers_are_refused(tmp_path, place, name):
    copy = make_model(tmp_path / "model", False)
    plan = plans()
    architecture = plan["configurations"][model.CONFIGURATION]["architecture"] = json.loads(json.dumps(ARCHITECTURE))
    if place == "class":
        architecture["network_class_name"] = name
    else:
        architecture["arch_kwargs"]["conv_op"] = name
    write_json(copy / "plans.json", plan)
    with pytest.raises(LNSynthError, match=f"names {name}, which is not a network or layer"):
        Segmenter.open(copy, "cpu")


def test_without_nnunet_the_cure_is_told(folder, repository):
    script = "import sys; sys.modules['nnunetv2'] = None; from LNSynthLib.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["segment", "predict", "--model", str(folder), "--ct", "x.nii.gz", "--out", "y.nii.gz"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 2 and "pip install nnunetv2" in done.stderr, done.stderr


def test_folders_that_are_no_segmenter_are_refused(tmp_path, folder):
    with pytest.raises(LNSynthError, match="no trained segmenter here"):
        Segmenter.open(tmp_path, "cpu")
    foreign = make_model(tmp_path / "foreign", False)
    dataset = json.loads((foreign / "dataset.json").read_text())
    del dataset["lnsynth"]
    write_json(foreign / "dataset.json", dataset)
    with pytest.raises(LNSynthError, match="was not trained by"):
        Segmenter.open(foreign, "cpu")
    other = make_model(tmp_path / "other", False)
    plan = json.loads((other / "plans.json").read_text())
    plan["configurations"][model.CONFIGURATION]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 8, 16]
    write_json(other / "plans.json", plan)
    with pytest.raises(LNSynthError, match="weights do not fit its plan"):
        Segmenter.open(other, "cpu")


def test_identity_is_of_the_weights_alone(tmp_path, folder):
    same = make_model(tmp_path / "same", True)
    assert Segmenter.open(same, "cpu").identity == Segmenter.open(folder, "cpu").identity
    path = same / "fold_0" / "checkpoint_final.pth"
    state = model.load(path)
    next(iter(state["network_weights"].values())).mul_(1.0001)
    torch.save(state, path)
    assert Segmenter.open(same, "cpu").identity != Segmenter.open(folder, "cpu").identity


def test_files_and_the_command(tmp_path, folder, capsys):
    volume = scene()
    volume.array[:, :, :4] = -950 + volume.array[:, :, :4] / 10  # a CT shows air
    write(tmp_path / "ct.nii.gz", volume)
    arguments = ["segment", "predict", "--model", str(folder), "--ct", str(tmp_path / "ct.nii.gz"), "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "mask.nrrd"), "--probability", str(tmp_path / "p.nii.gz")]) == 0
    mask, probability = read(tmp_path / "mask.nrrd"), read(tmp_path / "p.nii.gz")
    assert same_grid(mask, volume)[0] and same_grid(probability, volume)[0]
    np.testing.assert_array_equal(mask.array > 0, probability.array > 0.5)
    assert f"{mask.array.max()} lymph nodes" in capsys.readouterr().out
    assert main([*arguments, "--out", str(tmp_path / "ct.nii.gz")]) == 2
    assert "would change the input" in capsys.readouterr().err
    write(tmp_path / "raw.nii.gz", Volume(volume.array + 1024, volume.affine))
    with pytest.raises(LNSynthError, match="raw.nii.gz: .* not in Hounsfield units"):
        predict_file(folder, tmp_path / "raw.nii.gz", tmp_path / "never.nii.gz", device="cpu")
    assert not (tmp_path / "never.nii.gz").exists()
    broken = Volume(volume.array.copy(), volume.affine)
    broken.array[1, 1, 1] = np.nan
    with pytest.raises(LNSynthError, match="1 voxels are NaN"):
        Segmenter.open(folder, "cpu").predict(broken)
