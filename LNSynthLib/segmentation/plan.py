"""nnU-Net's own preparation of a raw data set: fingerprint, plan and preprocessing, without worker processes.

Runs in the process that trains, whose nnUNet_* environment names the run's folders.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.dummy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

from ..runtime.events import Callback, Progress, ignore
from ..runtime.files import read_json, write_json
from .model import CONFIGURATION, DATASET, PLANS
from .settings import SegmentSettings, TrainerSettings

# Drawn from the nodes for their intensity statistics. nnU-Net's 10^8 take a gigabyte and more time than all the rest of
# the planning; the quantiles of a million are known to a few thousandths of a standard deviation.
FINGERPRINT_VOXELS = 1e6


def plan(preprocessed: Path, settings: SegmentSettings) -> dict:
    """Fingerprint and plan of the raw data set, edited as the settings say; returns the plan's 3d_fullres part.

    preprocessed  nnUNet_preprocessed of the run; the plan lies there as nnUNetPlans.json
    """
    # The planner estimates memory with this number of threads, so it must not be 0 here.
    os.environ["nnUNet_n_proc_DA"] = "1"
    extractor = DatasetFingerprintExtractor(DATASET, num_processes=1)
    extractor.num_foreground_voxels_for_intensitystats = FINGERPRINT_VOXELS
    with threads_for_processes():
        extractor.run(overwrite_existing=True)
    spacing = [float(settings.spacing_mm)] * 3
    planner = ExperimentPlanner(DATASET, settings.trainer.gpu_memory_gb, plans_name=PLANS,
                                overwrite_target_spacing=spacing)
    if settings.trainer.patch is not None:
        planner.lowres_creation_threshold = 0  # its low-resolution plan is not used, and costs a minute on a CPU
    plans = planner.plan_experiment()
    path = preprocessed / DATASET / f"{PLANS}.json"
    plans = read_json(path)
    edit(plans["configurations"][CONFIGURATION], settings.trainer)
    write_json(path, plans)
    return plans["configurations"][CONFIGURATION]


def edit(configuration: dict, trainer: TrainerSettings) -> None:
    """Changes one configuration of a plan to what the settings fix."""
    if trainer.batch is not None:
        configuration["batch_size"] = trainer.batch
    if trainer.batch_dice is not None:
        configuration["batch_dice"] = trainer.batch_dice
    network = configuration["architecture"]["arch_kwargs"]
    if trainer.patch is not None:
        configuration["patch_size"] = list(trainer.patch)
        _, strides, kernels, _, _ = get_pool_and_conv_props(configuration["spacing"], trainer.patch, 1, 99)
        stages = len(trainer.features)
        network |= {"n_stages": stages, "features_per_stage": list(trainer.features),
                    "strides": [list(stride) for stride in strides[:stages]],
                    "kernel_sizes": [list(kernel) for kernel in kernels[:stages]],
                    "n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1)}
    if trainer.convolutions is not None:
        for name in ("n_conv_per_stage", "n_conv_per_stage_decoder"):
            network[name] = [trainer.convolutions] * len(network[name])


class Preprocessor(DefaultPreprocessor):
    """nnU-Net's, telling how far it is."""

    progress: Progress

    def run_case_save(self, *arguments) -> None:
        super().run_case_save(*arguments)
        self.progress.step()


def preprocess(cases: int, callback: Callback = ignore) -> None:
    """Normalises and stores every image of the data set under nnUNet_preprocessed."""
    preprocessor = Preprocessor(verbose=False)
    with threads_for_processes(), Progress("preprocessing", cases, callback) as preprocessor.progress:
        preprocessor.run(DATASET, CONFIGURATION, PLANS, num_processes=1)


@contextmanager
def threads_for_processes() -> Iterator[None]:
    """Within the block, nnU-Net's pools of spawned processes are pools of threads of this process.

    Spawned processes hang under PythonSlicer and take seconds each to import torch; a pool of threads has the same
    methods.
    """
    real = multiprocessing.get_context
    multiprocessing.get_context = lambda *_: multiprocessing.dummy
    try:
        yield
    finally:
        multiprocessing.get_context = real
