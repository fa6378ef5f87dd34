"""Presets of segmenters and what is refused in their settings."""

import pytest

from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.segmentation.settings import SegmentSettings, TrainerSettings, load_settings, load_trainer


def test_paper_is_the_papers_and_nnunets_own():
    paper = load_settings("paper")
    assert (paper.spacing_mm, paper.margin_mm, paper.window) == (1.0, 100.0, (-120.0, 240.0))
    assert paper.trainer == TrainerSettings(workers=8, save_every=10)
    assert (paper.trainer.epochs, paper.trainer.iterations, paper.trainer.patch) == (1000, 250, None)


def test_choices_go_before_the_preset_and_assignments_before_both():
    mini = load_settings("mini", ["trainer.epochs=3", "multiple=20"], strategy="both", multiple=5)
    assert (mini.strategy, mini.multiple, mini.trainer.epochs) == ("both", 20, 3)
    assert load_trainer("mini", ["epochs=3"]) == mini.trainer
    assert mini.plain()["trainer"]["patch"] == list(mini.trainer.patch)


@pytest.mark.parametrize("wrong, said", [
    ({"epochs": 0}, "at least 1"),
    ({"patch": (32, 32, 32)}, "features and patch go together"),
    ({"patch": (32, 32, 30), "features": (4, 8, 16)}, "multiples of 4"),
    ({"patch": (32, 32, 4), "features": (4, 8, 16)}, "at least 8"),
    ({"patch": (32, 32, 32), "features": (4, 8)}, "3 resolutions"),
    ({"foreground": 0.0}, "foreground"),
    ({"momentum": 1.0}, "momentum")])
def test_trainers_that_cannot_be(wrong, said):
    with pytest.raises(LNSynthError, match=said):
        TrainerSettings(**wrong)


def test_segmenters_that_cannot_be():
    with pytest.raises(LNSynthError, match="multiple is 0"):
        SegmentSettings(multiple=0)
    with pytest.raises(LNSynthError, match="unknown setting 'epoch'"):
        load_settings("mini", ["trainer.epoch=3"])
    with pytest.raises(LNSynthError, match="choose one of mini, paper"):
        load_settings("large")
