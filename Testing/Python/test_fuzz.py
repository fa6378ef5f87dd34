"""A small Benchmarks/fuzz_readers.py: damaged inputs are refused in one sentence, or read for what they are."""

import sys

import pytest


@pytest.fixture
def fuzz(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "Testing" / "Benchmarks"))
    yield __import__("fuzz_readers")
    for name in ("fuzz_readers", "fuzz_damages", "fuzz_images", "fuzz_records"):
        sys.modules.pop(name, None)


@pytest.mark.filterwarnings("ignore")
def test_damaged_inputs_are_refused_or_read_for_what_they_are(tmp_path, fuzz):
    """In this process, which saves the start of another one; the benchmark watches time and memory too."""
    names, faults, outcomes = list(fuzz.kinds()), [], []
    wholes = {}
    for number in range(2 * len(names)):
        name = names[number % len(names)]
        kind, template = fuzz.kinds()[name], tmp_path / "whole" / name
        if name not in wholes:
            template.mkdir(parents=True)
            kind.make(template)
            wholes[name] = kind.read(template)
        folder = tmp_path / str(number)
        how = fuzz.damage(name, template, folder, [7, number])
        outcome, what = fuzz.judge(kind, wholes[name], folder)
        outcomes.append(outcome)
        if outcome == "WRONG":
            faults.append(f"{name}, {how}: {what}")
    assert faults == [] and outcomes.count("clean") > len(names)


def test_what_is_wrong_is_seen(tmp_path, fuzz):
    """The benchmark's judge itself: an exception, an error without the file's name, other content."""
    from fuzz_damages import Kind

    from LNSynthLib.runtime.errors import LNSynthError

    def fails(error):
        def read(_):
            raise error
        return read

    (tmp_path / "a.txt").write_text("1")
    for read, other, wanted in (
            (fails(KeyError("x")), None, "WRONG"), (fails(LNSynthError("it is damaged.")), None, "WRONG"),
            (fails(LNSynthError(f"{tmp_path}/a.txt: two\nlines")), None, "WRONG"),
            (fails(LNSynthError("a.txt: it is damaged.")), None, "clean"), (lambda _: 1, None, "right"),
            (lambda _: 2, None, "WRONG"), (lambda _: 2, lambda _: 3, "WRONG"),
            (lambda _: 2, lambda _: 2, "undetectable")):
        assert fuzz.judge(Kind(lambda _: None, read, (), other), 1, tmp_path)[0] == wanted


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path, fuzz):
    rows, faults = fuzz.run(tmp_path, 6, only=["nii.gz", "model.json", "checkpoint"])
    assert faults == [] and [sum(row.values()) for row in rows.values()] == [2, 2, 2]
