"""Numbers on the command line: what makes no sense is refused before any work, whatever the verb."""

import argparse
from dataclasses import fields

import pytest

from LNSynthLib import cli
from LNSynthLib.options import Sampling, real, whole


def parsers(parser, name):
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for way, sub in action.choices.items():
                yield from parsers(sub, f"{name} {way}")


def options():
    for verb in cli.VERBS:
        parser = argparse.ArgumentParser()
        cli.verb_module(verb).add_arguments(parser)
        for name, some in parsers(parser, verb):
            for action in some._actions:
                yield name, action


def test_every_number_has_a_range():
    """A number is read by `options`, or chosen from a list: nothing is a plain int or float."""
    plain = [f"{name} {action.option_strings}" for name, action in options()
             if action.type in (int, float) and not action.choices]
    assert plain == []


def test_every_default_is_in_its_range():
    for name, action in options():
        if action.type is not None and action.default not in (None, [], argparse.SUPPRESS) and callable(action.type):
            values = action.default if isinstance(action.default, tuple) else (action.default,)
            for value in values:
                assert action.type(str(value)) == value, f"{name} {action.option_strings}"


@pytest.mark.parametrize("read, right, wrong", [
    (whole(1), {"1": 1, "25": 25}, ["0", "-1", "1.5", "nan", "x", "", "99999999"]),
    (whole(0), {"0": 0}, ["-1", "inf"]),
    (real(0.3, 10), {"1": 1.0, "0.3": 0.3}, ["0", "-2", "nan", "inf", "1e9", "mm"]),
    (real(above=0), {"1e-3": 0.001}, ["0", "-0.0", "-1", "nan", "inf"]),
])
def test_ranges(read, right, wrong):
    assert {text: read(text) for text in right} == right
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError):
            read(text)


@pytest.mark.parametrize("line", [
    "insert --ct a --nodes b --out c.nii --steps 0", "insert --ct a --nodes b --out c.nii --seed -1",
    "insert --ct a --nodes b --out c.nii --margin nan", "insert --ct a --nodes b --out c.nii --only 0",
    "variants --ct a --nodes b --out c --count 0", "demo --steps 0", "synthesize --data d --out o --per-case 0",
    "synthesize --data d --out o --workers -1", "synthesize --data d --out o --threshold 2", "prepare d --spacing 0",
    "prepare d --margin -5", "prepare d --window nan 240", "prepare d --workers -1", "phantom --out o --spacing 0",
    "phantom --out o --cases 0", "pseudo --ct a --anatomy b --out c --nodes 0 3",
    "fetch ct_lymph_nodes --out o --limit 0",
    "pseudo --ct a --anatomy b --out c --variants 0", "train --max-minutes 0", "train --max-minutes inf",
    "segment train --real d --out o --multiple 0", "experiment run --plan mini --out o --workers 0",
    "nodes --nodes n --remove 0 --out o.nii", "nodes --ct c --anatomy a --add -1 --out o.nii",
    "review filter f --model m --threshold nan",
])
def test_a_number_out_of_range_is_one_sentence(line, capsys):
    assert cli.main(line.split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "argument --" in said and ("it must be" in said or "finite" in said)


def test_what_was_asked_of_sampling_is_asked_again_in_the_same_words():
    parser = argparse.ArgumentParser()
    Sampling.add_to(parser)
    assert Sampling.of(parser.parse_args([])) == Sampling()
    asked = Sampling("runs/mine", "ddim", 7, 2**40, "cuda:1")
    assert Sampling.of(parser.parse_args(asked.to_argv())) == asked
    assert {word for word in asked.to_argv() if word.startswith("--")} == {f"--{f.name}" for f in fields(Sampling)}


def test_the_version_of_anatomy_labels_is_asked_as_everywhere_and_as_before():
    for words, version in ((["--anatomy-version", "1"], 1), (["--version", "1"], 1), ([], 2)):
        args = cli.parse(["anatomy", "--ct", "ct.nii", "--out", "out.nii", *words], argparse.Namespace())
        assert args.anatomy_version == version
