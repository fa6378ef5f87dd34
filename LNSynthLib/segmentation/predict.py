"""Segmenting a CT with a trained nnU-Net: any geometry in, lymph nodes on the CT's own grid out."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..cases.fingerprint import fingerprint
from ..cases.prepare import AIR_FILL_HU
from ..cases.sides import member_of
from ..cases.trained_on import TrainedOn
from ..images.checks import check_ct, check_finite
from ..images.synthetic import kind, mark
from ..images.volume import Volume, canonical, check_target, isotropic_grid, read, resample_to, write
from ..masks.body import LOWEST_HU
from ..masks.nodes import numbered, records
from ..runtime.content import check
from ..runtime.devices import pick
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Event, Progress, ignore
from ..runtime.files import check_apart, check_hash, check_hashes, read_json
from . import model

model.check_installed()
with contextlib.redirect_stdout(io.StringIO()):  # it tells that its folders are unset, which prediction does not need
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


@dataclass(frozen=True, eq=False)
class Prediction:
    """On the grid of the volume that was segmented.

    probability  float32 (X, Y, Z), of being a lymph node
    instances    uint16 (X, Y, Z), 1..n: connected voxels (26 neighbours) whose probability is above one half, which is
                 where nnU-Net's two classes have node as their larger one
    """

    probability: np.ndarray
    instances: np.ndarray


class Predictor(nnUNetPredictor):
    """nnU-Net's, some tiles at once and in this thread, telling how far it is.

    nnU-Net's own loop has a second thread fetch the tiles, which waits for ever, and keeps the process alive, when the
    first is stopped. The arithmetic is the same: with one tile at a time so are the results, with more all but the last
    bits.
    """

    callback: Callback
    tiles: int

    @torch.inference_mode()
    def _internal_predict_sliding_window_return_logits(self, data, slicers, do_on_device=True):
        device = self.device if do_on_device else torch.device("cpu")
        gaussian = compute_gaussian(tuple(self.configuration_manager.patch_size), sigma_scale=1 / 8,
                                    value_scaling_factor=10, device=device)
        heads = self.label_manager.num_segmentation_heads
        logits = torch.zeros((heads, *data.shape[1:]), dtype=torch.half, device=device)
        weights = torch.zeros(data.shape[1:], dtype=torch.half, device=device)
        with Progress("segmenting", len(slicers), self.callback) as progress:
            for first in range(0, len(slicers), self.tiles):
                some = slicers[first:first + self.tiles]
                # As many as always, since a lone tile would fall to a slower kernel of the CPU
                filled = [*some, *[some[-1]] * (self.tiles - len(some))]
                predicted = self._internal_maybe_mirror_and_predict(
                    torch.stack([data[tile] for tile in filled]).to(self.device)).to(device)
                for tile, prediction in zip(some, predicted, strict=False):
                    logits[tile] += prediction * gaussian
                    weights[tile[1:]] += gaussian
                progress.step(len(some))
        return logits / weights


def _network(configuration) -> torch.nn.Module:
    return get_network_from_plans(
        configuration.network_arch_class_name, configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import, 1, 2, allow_init=False, deep_supervision=False)


class Segmenter:
    """A trained segmenter, ready to segment any number of CTs.

    identity    SHA-256 of its weights
    window      HU beyond which CTs are clipped
    spacing_mm  isotropic voxel side that it works at
    trained_on  what it has seen
    """

    def __init__(self, predictor: Predictor, window: tuple[float, float], identity: str,
                 trained_on: TrainedOn):
        self.predictor, self.window, self.identity, self.trained_on = predictor, window, identity, trained_on
        self.spacing_mm = float(predictor.configuration_manager.spacing[0])
        self._preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)

    @classmethod
    def open(cls, path: Path, device: str = "auto") -> Segmenter:
        """The segmenter of a run of `lnsynth segment train`, or of nnU-Net's model folder in it.

        Raises LNSynthError where there is none, or a file of it is damaged or holds more than weights.
        """
        device = pick(device)
        folder = model.model_folder(path)
        check_hashes(folder)
        dataset = model.read_dataset(folder)
        ours = dataset.get("lnsynth")
        if ours is None:
            raise LNSynthError(f"{folder}: this model was not trained by `lnsynth segment train`, so that its window "
                               "and labels are unknown; predict with nnU-Net's own commands.")
        plans = PlansManager(check(read_json(folder / "plans.json"), model.PLAN, folder / "plans.json"))
        check_hash(folder / "fold_0" / ours["checkpoint"])
        state = model.load(folder / "fold_0" / ours["checkpoint"])
        configuration = plans.get_configuration(model.CONFIGURATION)
        layers = configuration.network_arch_init_kwargs
        model.check_network(configuration.network_arch_class_name,
                            [layers.get(n) for n in configuration.network_arch_init_kwargs_req_import], folder)
        try:
            with torch.device("meta"):  # takes no memory, whatever size the plan announces
                blank = _network(configuration)
            model.check_shapes(blank, state["network_weights"])
            network = _network(configuration)
            network.load_state_dict(state["network_weights"])
        except (RuntimeError, KeyError, ImportError, TypeError, ValueError, AttributeError, AssertionError,
                IndexError) as error:
            raise LNSynthError(f"{folder}: its weights do not fit its plan ({str(error).partition(chr(10))[0]}); copy "
                               "the folder again.") from None
        with contextlib.redirect_stdout(io.StringIO()):  # it tells that a CPU is no GPU
            predictor = Predictor(use_mirroring=ours["mirror"], device=device, allow_tqdm=False,
                                  perform_everything_on_device=device.type == "cuda")
        predictor.tiles = ours["tiles"]
        predictor.manual_initialization(network, plans, configuration, [state["network_weights"]], dataset,
                                        "nnUNetTrainer", state["inference_allowed_mirroring_axes"])
        return cls(predictor, tuple(ours["window"]), model.identity([state["network_weights"]]),
                   TrainedOn.read(ours.get("trained_on"), folder, f"the segmenter {folder}"))

    def predict(self, volume: Volume, callback: Callback = ignore) -> Prediction:
        """Segments a CT in HU of any geometry: oblique, flipped, anisotropic, as large as it is.

        As in training (`cases.prepare`) it is brought to axes in RAS order and to the model's spacing, and clipped to
        its window; probabilities come back to the volume's grid by linear interpolation. Raises LNSynthError for voxels
        that are NaN or infinite.
        """
        check_finite(volume, "the CT")
        upright = canonical(volume)
        measured = Volume(np.maximum(upright.array, LOWEST_HU), upright.affine)
        affine, shape = isotropic_grid(upright, self.spacing_mm)
        hu = resample_to(measured, affine, shape, order=1, cval=AIR_FILL_HU).array
        inside = self._probability(np.clip(hu, *self.window), callback)
        # Without smoothing: a voxel is a node's where its centre is, in thick slices too.
        back = resample_to(Volume(inside, affine), upright.affine, upright.shape, order=1, antialias=False)
        probability = _oriented_as(volume, back.array)
        return Prediction(probability, numbered(Volume(probability > 0.5, volume.affine)).array)

    def _probability(self, hu: np.ndarray, callback: Callback) -> np.ndarray:
        """Of being a node, float32 (X, Y, Z), of a CT that is at the model's spacing."""
        predictor = self.predictor
        predictor.callback = callback
        plans, configuration = predictor.plans_manager, predictor.configuration_manager
        # nnU-Net counts axes as SimpleITK's arrays do: z, y, x.
        data, _, about = self._preprocessor.run_case_npy(
            hu.T[None], None, {"spacing": [self.spacing_mm] * 3}, plans, configuration, predictor.dataset_json)
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
        if not torch.isfinite(logits).all():
            raise LNSynthError("The segmenter's output is not finite, so its weights are unusable; train it again "
                               "with a lower trainer.learning_rate.")
        _, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, plans, configuration, predictor.label_manager, about, return_probabilities=True,
            num_threads_torch=torch.get_num_threads())
        return np.ascontiguousarray(probabilities[1].T, dtype=np.float32)


def _oriented_as(volume: Volume, array: np.ndarray) -> np.ndarray:
    """An array with axes in RAS order, as the volume has its own."""
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    ras = np.array([[0, 1], [1, 1], [2, 1]])
    return np.ascontiguousarray(apply_orientation(array, ornt_transform(ras, io_orientation(volume.affine))))


def predict_file(path: Path, ct: Path, out: Path, *, probability: Path | None = None, device: str = "auto",
                 callback: Callback = ignore) -> dict:
    """Segments the CT file (or DICOM folder) `ct` with the segmenter of `path`, into a file of instances on its grid.

    probability  also write the probability, float32, here
    Returns {"mask", "nodes", "seen"}: the file, for each node what `masks.nodes.records` tells, and how it is known
    that the segmenter was trained on this CT ("": it is not known to be). Raises LNSynthError for what is no CT in HU,
    and for a result that would be written onto an input.
    """
    written = [file for file in (out, probability) if file]
    check_apart(written, [ct, path])
    for file in written:
        check_target(file)
    callback(Event("loading the segmenter"))
    segmenter = Segmenter.open(path, device)
    callback(Event("reading the CT"))
    volume = read(ct)
    low, high = segmenter.window
    if volume.array.min() < low or volume.array.max() > high:  # else it was clipped before, and shows no air
        check_ct(volume, str(ct))
    itself = member_of(ct, lambda: fingerprint(volume))
    seen = next((how for _, how in segmenter.trained_on.seen([itself])), "")
    if seen:
        callback(Event("segmenting", message=f"note: the segmenter was trained on {seen}: its result says nothing "
                                             "about CTs that it has not seen"))
    prediction = segmenter.predict(volume, callback)
    callback(Event("writing the nodes"))
    said = f"LNSynth: lymph nodes by nnU-Net {segmenter.identity[:12]}, for research"
    if kind(ct, volume):
        said = mark(f"nodes by nnU-Net {segmenter.identity[:12]} in such a CT")
    write(out, Volume(prediction.instances, volume.affine), said)
    if probability:
        write(probability, Volume(prediction.probability, volume.affine), said)
    upright = canonical(Volume(prediction.instances, volume.affine))
    return {"mask": str(out), "nodes": records(upright.array, upright.affine), "seen": seen}
