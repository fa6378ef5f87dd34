"""Resources/paper_choices.md against the presets: each setting is the paper's or our choice, with the value it has."""

import json
import re
from dataclasses import asdict
from importlib import import_module

import pytest
import yaml

from LNSynthLib.experiment.plan import load_plan
from LNSynthLib.generators.model_folder import KINDS
from LNSynthLib.runtime.settings import build
from LNSynthLib.training.settings import load_preset

# What arXiv 2403.17770 says; nothing else may be called the paper's.
PAPER = {
    "generator.form.spacing_mm": 1.0, "generator.form.window": [-120.0, 240.0], "generator.form.patch": [128] * 3,
    "generator.form.anatomy_channels": 14, "generator.anatomy": True, "generator.denoiser.local_detail": "LD",
    "generator.timesteps": 300, "generator.schedule": "cosine", "generator.prediction": "noise", "generator.loss": "l1",
    "training.learning_rate": 1e-4, "training.betas": [0.9, 0.999], "training.batch": 1, "training.ema": 0.995,
    "training.steps": 45_000, "prepare.margin_mm": 100, "prepare.test_margin_mm": 50}
TITLES = {"pix2pix": "Pix2pix", "spade": "SPADE", "brainldm": "BrainLDM", "medddpm": "Med-DDPM", "nasdm": "NASDM",
          "echo": "Echo from noise"}


@pytest.fixture(scope="module")
def page(repository):
    """Heading -> what follows it."""
    text = (repository / "Resources" / "paper_choices.md").read_text()
    return {part.split("\n", 1)[0].strip(): part for part in re.split(r"^#+ ", text, flags=re.M)[1:]}


def flat(values, name=""):
    if isinstance(values, dict) and values:
        return {key: v for part, value in values.items()
                for key, v in flat(value, f"{name}.{part}" if name else part).items()}
    return {name: values}


def settings(kind):
    """Every setting of the preset `paper` of a kind, those that it leaves at their defaults too."""
    preset = load_preset("paper", kind=kind)
    values = dict(preset.generator)
    assert values.pop("kind") == kind
    module, _, cls = KINDS[kind]
    whole = build(getattr(import_module(f"LNSynthLib.generators{module}"), cls), values, kind)
    return flat(json.loads(json.dumps({"generator": asdict(whole), "training": asdict(preset.training)})))


def told(part):
    """Setting -> value of the tables that give them in columns of their own, the value before the setting."""
    found = {}
    for value, name in re.findall(r"\| `([^`]*)` \| `((?:generator|training|prepare)\.[^`]*)` \|", part):
        assert name not in found, name
        found[name] = number(value)
    return found


def number(text):
    return plain(yaml.safe_load(text))


def plain(value):
    """Lists with floats for whole numbers: a preset's [-120, 240] and a dataclass's (-120.0, 240.0) are one."""
    return [v if isinstance(v, bool) else float(v) for v in value] if isinstance(value, list) else value


def same(ours, theirs):
    return {name: plain(value) for name, value in ours.items()} == theirs


def test_the_table_of_the_paper_has_what_the_paper_says_and_nothing_else(page):
    assert same(PAPER, told(page["LN-DDPM: what the paper says"]))
    plan = load_plan("paper").prepare
    ours = settings("lnddpm")
    for name, value in PAPER.items():
        has = getattr(plan, name.removeprefix("prepare.")) if name.startswith("prepare.") else ours[name]
        assert has == value, name


def test_every_setting_of_the_preset_is_the_papers_or_named_as_our_choice(page):
    chosen = told(page["LN-DDPM: our choices"])
    assert not chosen.keys() & PAPER.keys()
    assert same({name: value for name, value in settings("lnddpm").items() if name not in PAPER}, chosen)


@pytest.mark.parametrize("kind", TITLES)
def test_every_setting_of_a_compared_method_is_named(kind, page):
    assert {"lnddpm", *TITLES} == set(KINDS)
    ours, lnddpm = settings(kind), settings("lnddpm")
    rows = re.findall(r"`((?:generator|training)\.[\w.]+): ([^`]*)`", page[TITLES[kind]])
    assert len(dict(rows)) == len(rows)
    named = {name: number(value) for name, value in rows}
    shared = {name for name in ours if name not in named}
    assert all(name.startswith(("generator.form.", "training.")) and ours[name] == lnddpm[name] for name in shared)
    assert not shared & {"training.steps", "training.batch", "training.learning_rate", "training.betas", "training.ema",
                         "training.rate_schedule", "training.rate_hold", "training.rate_factors", "training.warmup",
                         "training.clip_norm", "training.ema_warmup"}
    assert same({name: value for name, value in ours.items() if name in named}, named)


def test_files_that_it_names_are_there(page, repository):
    for name in re.findall(r"`([a-z_]+/[a-z_]+\.py)`", page["LN-DDPM: our choices"]):
        assert (repository / "LNSynthLib" / name).is_file(), name


def test_no_preset_claims_to_be_as_published(repository):
    for path in sorted((repository / "Resources").rglob("*.yaml")):
        assert "as published" not in path.read_text(), path
