"""README's own commands: every option in it exists, and its sequence runs from the top to the bottom."""

import argparse
import re
import shlex
import shutil
from pathlib import Path

import pytest

from LNSynthLib import cli
from LNSynthLib.images.volume import write
from LNSynthLib.phantom.phantom import phantom

README = Path(__file__).resolve().parents[2] / "README.md"

# Appended to a command, so that it ends in seconds. The last of an option that is given twice counts.
TINY_GENERATOR = ("--set generator.form.spacing_mm=4 generator.form.patch=[16,16,16] generator.denoiser.blocks=1 "
                  "generator.denoiser.channels=[8,16] generator.denoiser.groups=4 generator.denoiser.heads=2 "
                  "generator.denoiser.head_width=8 generator.denoiser.token_width=8 training.steps=4 "
                  "training.checkpoint_every=2 training.sample_every=0 training.workers=0")
TINY_SEGMENTER = ("--trainer-preset mini --set spacing_mm=4 trainer.epochs=1 trainer.iterations=2 "
                  "trainer.val_iterations=1")
SMALLER = {
    "lnsynth demo": "--steps 2",
    "lnsynth phantom": "--cases 4 --spacing 4 --nodes 3",
    "lnsynth prepare DATASET": "--spacing 4",
    "lnsynth anatomy --ct": "--labels labels.nii.gz",       # its weights are not here; its fast model takes minutes
    "lnsynth insert": "--steps 2",
    "lnsynth pseudo": "--variants 1",
    "lnsynth train --preset paper --data": TINY_GENERATOR,
    "lnsynth synthesize --generator": "--steps 2 --per-case 4 --threshold 0",
    "lnsynth synthesize --data": "--steps 2 --per-case 1",
    "lnsynth segment train --real DATASET --strategy": TINY_SEGMENTER,
    # Two steps of training find no node, and the filter leaves nothing.
    "lnsynth segment train --real DATASET --synthetic": f"{TINY_SEGMENTER} filtered=false",
}
# One of four ways to make DATASET is taken, the last; the others make a data set of their own.
INSTEAD = {"lnsynth import": ("--out DATASET", "--out IMPORTED"), "lnsynth pseudo": ("--out DATASET", "--out PAINTED")}
NOT_RUN = {
    "make demo": "installs gigabytes; `lnsynth demo` is run, and test_demo.py runs it whole",
    "lnsynth fetch": "needs the internet",
    "Slicer": "needs Slicer; test_train_cli.py runs the script as Slicer does",
    "lnsynth experiment": "takes more than an hour; test_experiment_smoke.py runs the smallest plan",
}


def commands() -> list[str]:
    """The lines of README's code blocks that are commands, without their comments, in order."""
    blocks = re.findall(r"^```\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines = [" ".join(shlex.split(line, comments=True)) if '"' not in line else line.split("  #")[0].rstrip()
             for line in lines if line.strip()]
    return [line.removeprefix(".venv/bin/") for line in lines
            if line.split()[0].removeprefix(".venv/bin/") in ("lnsynth", "make", "Slicer", "python", "torchrun")]


def mentions() -> list[str]:
    """What README says about commands in the text: `lnsynth VERB ...` between backquotes."""
    text = re.sub(r"^```.*?^```", "", README.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = (" ".join(quoted.split()) for quoted in re.findall(r"`([^`]+)`", text))
    return [quoted for quoted in found if quoted.startswith("lnsynth ") and quoted.split()[1] in cli.VERBS]


def reason_not_to_run(command: str) -> str:
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), "")


def arguments(command: str) -> list[str]:
    """What `lnsynth` is given: the command itself, or what Slicer hands to its script."""
    words = shlex.split(command)
    return ["train", *words[words.index("--") + 1:]] if words[0] == "Slicer" else words[1:]


def test_the_commands_are_found():
    found = commands()
    assert len(found) > 25 and {line.split()[1] for line in found if line.startswith("lnsynth")} > {
        "phantom", "prepare", "train", "synthesize", "insert", "segment", "evaluate", "experiment"}
    assert len(mentions()) > 5
    for start in (*SMALLER, *INSTEAD, *NOT_RUN):
        assert any(command.startswith(start) for command in found), f"{start} is in README no more"


@pytest.mark.parametrize("command", [c for c in commands() if not c.startswith("make")])
def test_every_command_is_one_that_the_parser_takes(command):
    cli.parse(arguments(command), argparse.Namespace())


@pytest.mark.parametrize("mention", mentions())
def test_every_option_that_is_mentioned_exists(mention):
    words = shlex.split(mention)[1:]
    parser = cli._Parser()
    cli.verb_module(words[0]).add_arguments(parser)
    known, waiting = set(), [parser]
    while waiting:
        for action in waiting.pop()._actions:
            known.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                known.update(action.choices)
                waiting += action.choices.values()
    assert {word for word in words if word.startswith("--")} <= known


def test_every_verb_is_in_the_table():
    table = re.findall(r"^\| `([a-z]+)` \|", README.read_text(encoding="utf-8"), re.M)
    assert [verb for verb in cli.VERBS if verb not in table] == []


@pytest.mark.slow
def test_the_sequence_runs_from_the_top_to_the_bottom(tmp_path, monkeypatch, capsys):
    """Every command that can run here is typed in README's order, in one folder, on a CT and masks of a phantom."""
    monkeypatch.chdir(tmp_path)
    drawn = phantom(7, spacing=4.0, nodes=4)
    for name, volume in (("ct", drawn.ct), ("labels", drawn.anatomy), ("truth", drawn.nodes)):
        write(tmp_path / f"{name}.nii.gz", volume)
    for folder, name in (("CTS", "ct"), ("MASKS", "truth"), ("LABELS", "labels"), ("TRUTH", "truth")):
        (tmp_path / folder).mkdir()
        shutil.copy(tmp_path / f"{name}.nii.gz", tmp_path / folder / "case7.nii.gz")
    run = [command for command in commands() if not reason_not_to_run(command)]
    for command in run:
        for start, (old, new) in INSTEAD.items():
            if command.startswith(start):
                assert old in command
                command = command.replace(old, new)
        more = next((more for start, more in SMALLER.items() if command.startswith(start)), "")
        status = cli.main([*arguments(command), *shlex.split(more)])
        told = capsys.readouterr()
        assert status == 0, f"{command}\n{told.out}\n{told.err}"
        assert "Traceback" not in told.err and "Warning" not in told.err, f"{command}\n{told.err}"
    assert len(run) > 20
