"""The ground floor: events, whole-or-absent files, seeds by name, strict settings, cancellation."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import psutil
import pytest

from LNSynthLib.runtime import files, seeds
from LNSynthLib.runtime.cancel import cancellable, kill_tree, run_child
from LNSynthLib.runtime.errors import Cancelled, LNSynthError
from LNSynthLib.runtime.events import Event, Progress, console, duration, json_lines, signs_of_life
from LNSynthLib.runtime.files import atomic_folder, atomic_path, read_json, sha256, write_json
from LNSynthLib.runtime.settings import build, override, preset_path, resources


def test_events_survive_the_way_through_a_pipe():
    stream = io.StringIO()
    sent = Event("sampling", 3, 25, 7.5, "node 2", {"file": "a.nii.gz"})
    json_lines(stream)(sent)
    assert stream.getvalue().count("\n") == 1
    assert Event.from_json(stream.getvalue()) == sent


@pytest.mark.parametrize("line", ["", "Downloading 5%", "[1, 2]", '{"a": 1}', '{"stage": "x", "what": 1}', "3"])
def test_other_output_is_no_event(line):
    assert Event.from_json(line) is None


def test_progress_counts_and_estimates():
    seen = []
    with Progress("work", 4, seen.append, interval_s=0) as progress:
        for _ in range(4):
            time.sleep(0.02)
            progress.step()
    assert [e.done for e in seen] == [0, 1, 2, 3, 4]
    assert seen[-1].eta_s == 0 and 0.03 < seen[1].eta_s < 1
    many = []
    with Progress("work", 10_000, many.append) as progress:
        for _ in range(10_000):
            progress.step()
    assert many[-1].done == 10_000 and len(many) < 100


def test_a_callback_can_stop_the_work():
    def stop(event):
        if event.done == 2:
            raise Cancelled

    with pytest.raises(Cancelled), Progress("work", 4, stop, interval_s=0) as progress:
        for _ in range(4):
            progress.step()


def test_a_log_gets_lines_and_no_control_characters():
    stream = io.StringIO()
    report = console(stream)
    report(Event("training", 1, 4, 200.0))
    report(Event("training", 2, 4, 90.0, "loss 0.5"))
    report(Event("training", 4, 4, 0.0))
    assert stream.getvalue().splitlines() == ["training: 2/4, 1 min 30 s left loss 0.5", "training: 4/4"]


@pytest.mark.parametrize("seconds, text", [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"),
                                           (7500, "2 h 05 min")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.nii.gz"
    with atomic_path(path) as beside:
        assert beside.parent == tmp_path and "".join(beside.suffixes[-2:]) == ".nii.gz"
        beside.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as beside:
        beside.write_text("half")
        1 / 0  # noqa: B018
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.nii.gz"]


def test_a_folder_is_replaced_whole(tmp_path):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "model", also=["old.txt"]) as beside:
            (beside / f"{text}.txt").write_text(text)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "model") as beside:
        (beside / "half.txt").write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["model"] and os.listdir(tmp_path / "model") == ["new.txt"]


def test_an_interrupted_replacement_brings_the_old_folder_back(tmp_path, monkeypatch):
    with atomic_folder(tmp_path / "model") as beside:
        (beside / "old.txt").write_text("old")
    monkeypatch.setattr(files, "_exchanged", lambda *_: False)  # where the system cannot do it in one step
    rename, calls = os.replace, []

    def interrupted(source, target):
        calls.append(target)
        if len(calls) == 2:  # between moving the old one aside and the new one in
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "model", also=["old.txt"]) as beside:
        (beside / "new.txt").write_text("new")
    assert os.listdir(tmp_path) == ["model"] and os.listdir(tmp_path / "model") == ["old.txt"]


def test_json_holds_numpy_and_names_what_is_broken(tmp_path):
    write_json(tmp_path / "a.json", {"a": np.float32(0.5), "b": np.arange(3), "c": tmp_path})
    assert read_json(tmp_path / "a.json") == {"a": 0.5, "b": [0, 1, 2], "c": str(tmp_path)}
    (tmp_path / "b.json").write_text('{"a": ')
    with pytest.raises(LNSynthError, match="b.json is not valid JSON"):
        read_json(tmp_path / "b.json")
    with pytest.raises(LNSynthError, match="c.json does not exist"):
        read_json(tmp_path / "c.json")


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_seeds_are_named_streams():
    assert seeds.derive(1, "noise", 2) == seeds.derive(1, "noise", 2) < 2**63
    assert len({seeds.derive(s, name, i) for s in range(5) for name in ("a", "b") for i in range(50)}) == 500
    assert seeds.derive(0, "a", "b") != seeds.derive(0, "ab")
    assert seeds.rng(1, "x").random() == seeds.rng(1, "x").random() != seeds.rng(1, "y").random()
    assert seeds.derive(7, "checked", 1) == 2888741168558110470  # a change would silently change every sample


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)
    mode: Literal["a", "b"] = "a"
    limit: float | None = None


@dataclass(frozen=True)
class Outer:
    rate: float
    inner: Inner = field(default_factory=Inner)
    on: bool = False


def test_settings_are_built_with_their_types():
    made = build(Outer, {"rate": "1e-4", "inner": {"sizes": [3, 4, 5], "limit": 2}, "on": True})
    assert made == Outer(1e-4, Inner((3, 4, 5), "a", 2.0), True)
    assert isinstance(made.inner.limit, float)


@pytest.mark.parametrize("values, message", [
    ({"rate": 1, "spped": 2}, "unknown setting 'spped'"),
    ({}, "setting 'rate' is missing"),
    ({"rate": "fast"}, "rate must be of type float"),
    ({"rate": 1, "inner": {"sizes": [1.5]}}, "sizes must be of type int"),
    ({"rate": 1, "inner": {"mode": "c"}}, "mode must be one of a, b"),
    ({"rate": 1, "inner": 3}, "inner: a mapping of settings is needed"),
    ({"rate": True}, "rate must be of type float"),
    ({"rate": 1, "on": 1}, "on must be of type bool"),
])
def test_wrong_settings_are_named(values, message):
    with pytest.raises(LNSynthError, match=f"^here: {message}|^here: .*{message}"):
        build(Outer, values, "here")


def test_override():
    values = {"a": {"b": 1}, "c": 2}
    assert override(values, ["a.b=[1, 2]", "a.d=x", "e.f=1.5"]) == {"a": {"b": [1, 2], "d": "x"}, "c": 2,
                                                                    "e": {"f": 1.5}}
    assert values == {"a": {"b": 1}, "c": 2}
    with pytest.raises(LNSynthError, match="key=value"):
        override(values, ["a"])
    with pytest.raises(LNSynthError, match="single value"):
        override(values, ["c.d=1"])


def test_presets_are_found_by_name():
    assert preset_path("presets", "paper") == resources() / "presets" / "paper.yaml"
    with pytest.raises(LNSynthError, match="choose one of .*paper"):
        preset_path("presets", "papre")


def test_signals_become_cancelled():
    handler = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Cancelled, match="SIGTERM"), cancellable():
        time.sleep(10)
    assert signal.getsignal(signal.SIGTERM) is handler


FAMILY = ("import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
          "print(p.pid, flush=True); time.sleep(60)")


def test_cancelling_ends_the_child_and_its_children():
    pids = []

    def stop(line):
        pids.append(int(line))
        raise Cancelled

    with pytest.raises(Cancelled):
        run_child([sys.executable, "-c", FAMILY], stop)
    assert not psutil.pid_exists(pids[0]) or psutil.Process(pids[0]).status() == psutil.STATUS_ZOMBIE


def test_kill_tree_kills_what_ignores_a_request():
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    kill_tree(process.pid, patience_s=0.3)
    assert not psutil.pid_exists(process.pid)
    process.stdout.close()


def test_run_child_hands_on_lines_environment_and_exit_code():
    lines = []
    code = "import os, sys; print(os.environ['LNSYNTH_X']); print('bad', file=sys.stderr); sys.exit(3)"
    assert run_child([sys.executable, "-u", "-c", code], lines.append, env={"LNSYNTH_X": "äß"}) == 3
    assert sorted(lines) == ["bad", "äß"]
    assert json.dumps(lines)


def test_a_child_that_ends_with_its_parent_does_so_when_that_is_killed(repository):
    child = "from LNSynthLib.runtime.cancel import end_with_parent; import time; end_with_parent(); time.sleep(60)"
    parent = ("import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); "
              "print(child.pid, flush=True); time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", parent, child], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": str(repository)})
    survivor = psutil.Process(int(process.stdout.readline()))
    time.sleep(2)
    assert survivor.is_running()
    process.kill()
    process.wait()
    process.stdout.close()
    psutil.wait_procs([survivor], timeout=20)
    assert not survivor.is_running() or survivor.status() == psutil.STATUS_ZOMBIE


def test_a_long_step_shows_that_it_is_still_going_on():
    seen, begun, repeated = [], threading.Event(), threading.Event()

    def callback(event):
        seen.append(event)
        if event.waited_s:
            (repeated if event.stage == "reading" else begun).set()

    with signs_of_life(callback, "verb", every_s=0.02) as report:
        assert begun.wait(20)
        report(Event("reading", 1, 4, 8.0, "ct.nii.gz"))
        assert repeated.wait(20)
        report(Event("writing"))
    count = len(seen)
    first, *rest = [event for event in seen if event.stage == "reading"]
    assert (seen[0].stage, seen[0].message) == ("verb", "") and first == Event("reading", 1, 4, 8.0, "ct.nii.gz")
    assert all((e.done, e.total, e.message) == (1, 4, "") and e.waited_s > 0 for e in rest) and rest
    assert len(seen) == count  # nothing comes after the block


def test_repetitions_keep_to_one_line_of_a_terminal_and_out_of_logs():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        report = console(stream)
        report(Event("sampling", 1, 4))
        before = stream.getvalue()
        report(Event("sampling", 1, 4, waited_s=3.2))
        added = stream.getvalue()[len(before):]
        assert ("1/4" in added and "(3 s)" in added and "\n" not in added) if shown else not added
        report(Event("sampling", 4, 4))
        assert stream.getvalue().count("\n") == 1
