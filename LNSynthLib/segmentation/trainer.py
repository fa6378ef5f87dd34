"""nnU-Net's trainer with our number of iterations, seed and progress events.

The class bears the stock trainer's name. nnU-Net keeps a trainer's name in each checkpoint and looks the class up in
its own package to build the network for prediction; a name of ours would make a model that only an installation with
our file in nnU-Net's folder could run (later versions can be pointed at a folder of trainers, 2.6 cannot). Nothing that
prediction needs differs here: the network is the plan's, and which axes may be mirrored is in the checkpoint.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as StockTrainer

from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Event, Progress, ignore
from ..runtime.files import add_hash, atomic_path, check_hash
from ..runtime.places import unplaced
from ..runtime.seeds import derive
from . import model
from .settings import SegmentSettings


class nnUNetTrainer(StockTrainer):
    """One fold of one run. `begin` once, then `run_training`."""

    # nnU-Net takes its arguments from this very signature
    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device):
        plans["continue_training"] = False  # asked for, and taken out again, from 2.7 on; it is about a logger
        super().__init__(plans, configuration, fold, dataset_json, device)
        plans.pop("continue_training", None)
        self.settings, self.callback, self.log, self.progress = SegmentSettings(), ignore, None, None
        # A figure of 30 x 54 inches after each epoch takes longer than a small epoch: once at the end is enough.
        self.draw, self.logger.plot_progress_png = self.logger.plot_progress_png, lambda *_: None

    def begin(self, settings: SegmentSettings, log, callback: Callback) -> None:
        """Takes the settings, makes the network, and goes on from the last checkpoint where there is one.

        log  called with the records of all epochs so far, after each
        """
        self.settings, self.log, self.callback = settings, log, callback
        trainer = settings.trainer
        self.num_epochs, self.save_every = trainer.epochs, trainer.save_every
        self.num_iterations_per_epoch = trainer.iterations
        self.num_val_iterations_per_epoch = trainer.val_iterations
        self.oversample_foreground_percent = trainer.foreground
        self.initial_lr = trainer.learning_rate
        self._seed("weights")
        self.initialize()
        self._resume()
        left = (self.num_epochs - self.current_epoch) * self.num_iterations_per_epoch
        self.progress = Progress("training", left, callback)

    def _save_debug_information(self) -> None:
        """Nothing: nnU-Net would write this computer's name and folders beside the weights."""

    def print_to_log_file(self, *args, **named) -> None:
        """As nnU-Net does, but for this computer's folders: the log lies beside the weights."""
        run = Path(self.output_folder).parents[len(model.MODEL.parts)]
        super().print_to_log_file(*(unplaced(a, run) if isinstance(a, str) else a for a in args), **named)

    def _resume(self) -> None:
        """Goes on from the last checkpoint, or from the best one where that is damaged; raises LNSynthError where
        both are."""
        latest, best = (Path(self.output_folder) / f"checkpoint_{name}.pth" for name in ("latest", "best"))
        if not latest.is_file():
            return
        try:
            self.load_checkpoint(str(latest))
        except LNSynthError as error:
            if not best.is_file():
                raise
            self.load_checkpoint(str(best))
            self.callback(Event("training", message=f"{error} The best checkpoint before it, of epoch "
                                                    f"{self.current_epoch}, is used instead."))

    def _seed(self, *keys: str | int) -> None:
        seed = derive(self.settings.seed, "segmenter", *keys)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)

    def configure_optimizers(self):
        optimizer, schedule = super().configure_optimizers()
        for group in optimizer.param_groups:
            group["momentum"] = self.settings.trainer.momentum
        return optimizer, schedule

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        rotation, flat, initial_patch, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if self.settings.trainer.augmentation == "none":
            initial_patch = self.configuration_manager.patch_size
        if self.settings.trainer.augmentation == "none" or not self.settings.trainer.mirror:
            axes = self.inference_allowed_mirroring_axes = None
        return rotation, flat, initial_patch, axes

    def get_training_transforms(self, patch_size, rotation_for_DA, deep_supervision_scales, *arguments, **named):
        if self.settings.trainer.augmentation == "none":
            return self.get_validation_transforms(deep_supervision_scales)
        transforms = super().get_training_transforms(patch_size, rotation_for_DA, deep_supervision_scales, *arguments,
                                                     **named)
        for transform in transforms.transforms:
            # The blur times two ways to compute it and takes the faster, so that runs would differ in their last bits.
            if hasattr(inner := getattr(transform, "transform", transform), "benchmark"):
                inner.benchmark = False
        return transforms

    def get_dataloaders(self):
        loaders = super().get_dataloaders()
        self._seed("epoch", self.current_epoch)  # that took a batch of each
        return loaders

    def on_epoch_start(self):
        # Each epoch has its own stream, so that a run that was killed goes on as if it had not been.
        self._seed("epoch", self.current_epoch)
        super().on_epoch_start()

    def train_step(self, batch: dict) -> dict:
        result = super().train_step(batch)
        self.progress.step()
        return result

    def on_epoch_end(self):
        super().on_epoch_end()
        rows = self.records()
        self.log(rows)
        last = rows[-1]
        self.progress.step(0, f"epoch {last['epoch']} of {self.num_epochs}: loss {last['train_loss']:.3f}, validation "
                              f"{last['val_loss']:.3f}, pseudo Dice {last['pseudo_dice'] or 0:.3f}")

    def on_train_end(self):
        super().on_train_end()
        self.draw(self.output_folder)

    def records(self) -> list[dict]:
        """Of each epoch so far: epoch (1, 2, ...), train_loss, val_loss, pseudo_dice, ema_dice, learning_rate, seconds.

        Losses are cross-entropy minus Dice, so below 0 when good. The pseudo Dice is over validation patches, not
        images; None where no patch had nodes.
        """
        kept = self.logger.get_checkpoint()
        columns = {"train_loss": kept["train_losses"], "val_loss": kept["val_losses"],
                   "pseudo_dice": kept["mean_fg_dice"], "ema_dice": kept["ema_fg_dice"], "learning_rate": kept["lrs"],
                   "seconds": np.subtract(kept["epoch_end_timestamps"], kept["epoch_start_timestamps"])}
        return [{"epoch": n + 1} | {name: _number(column[n]) for name, column in columns.items()}
                for n in range(self.current_epoch)]

    def save_checkpoint(self, filename: str) -> None:
        with atomic_path(filename) as beside:
            super().save_checkpoint(str(beside))
            add_hash(Path(filename), beside)

    def load_checkpoint(self, filename: str) -> None:
        """What nnU-Net's own does in one process, but for how the file is read."""
        check_hash(Path(filename))
        state = model.load(Path(filename), self.device)
        epoch = state["current_epoch"]
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise LNSynthError(f"{filename} is damaged: its epoch is {epoch!r}; copy the folder again.")
        network = getattr(self.network, "_orig_mod", self.network)  # torch.compile wraps it
        network.load_state_dict(state["network_weights"])
        self.optimizer.load_state_dict(state["optimizer_state"])
        if self.grad_scaler is not None and state["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(state["grad_scaler_state"])
        self.logger.load_checkpoint(state["logging"])
        self.current_epoch, self._best_ema = state["current_epoch"], state["_best_ema"]


def _number(value) -> float | None:
    """A plain number for JSON, which has no NaN."""
    return round(float(value), 6) if np.isfinite(value) else None
