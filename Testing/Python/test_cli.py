"""The command line: answers at once, ends with the right status, and keeps stdout to events when asked to."""

import argparse
import ast
import errno
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from LNSynthLib import __version__, cli
from LNSynthLib.runtime.errors import Cancelled, LNSynthError
from LNSynthLib.runtime.events import Progress

HEAVY = ("torch", "monai", "numpy", "nibabel", "SimpleITK", "scipy", "matplotlib", "blosc2", "skimage", "highdicom",
         "pydicom", "accelerate", "psutil", "yaml")


def lnsynth(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "LNSynthLib", *arguments], capture_output=True, text=True, **options)


@pytest.fixture
def verb(monkeypatch):
    """Installs a function as the verb `doctor`, so that the frame around verbs is tested without any one of them."""
    def install(run, add_arguments=lambda parser: None):
        module = SimpleNamespace(__doc__="A verb.", run=run, add_arguments=add_arguments)
        monkeypatch.setattr(cli, "verb_module", lambda name: module)
    return install


@pytest.mark.parametrize("verb_name", ["", *cli.VERBS])
def test_help_is_quick_and_imports_nothing_heavy(verb_name):
    """Processor time is measured, which is what the clock shows on an idle machine, and is the same on a busy one."""
    code = ("import resource, sys\n"
            "from LNSynthLib.cli import main\n"
            "try:\n    main(sys.argv[1:])\n"
            "except SystemExit as end:\n    assert not end.code\n"
            "used = resource.getrusage(resource.RUSAGE_SELF)\n"
            f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
            "print('\\n' + repr((used.ru_utime + used.ru_stime, heavy)))\n")
    seconds = []
    for _ in range(3):  # the first may still have to compile the modules
        done = subprocess.run([sys.executable, "-c", code, *filter(None, [verb_name]), "--help"], capture_output=True,
                              text=True)
        assert done.returncode == 0, done.stderr
        assert "usage: lnsynth" in done.stdout
        used, heavy = ast.literal_eval(done.stdout.splitlines()[-1])
        assert heavy == []
        seconds.append(used)
    assert min(seconds) < 0.3


def test_overview_names_every_verb():
    shown = lnsynth("--help").stdout
    assert all(f"  {name} " in shown and text in shown for name, text in cli.VERBS.items())
    assert lnsynth().stdout == shown
    assert lnsynth("--version").stdout.strip() == f"lnsynth {__version__}"


@pytest.mark.parametrize("arguments, said", [
    (["fly"], "'fly'"),
    (["phantom", "--no-such-option"], "--out"),
    (["--events", "morse", "doctor"], "'morse'"),
])
def test_wrong_arguments_are_refused_in_one_line(arguments, said):
    done = lnsynth(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr and "--help" in done.stderr
    assert done.stderr.startswith("lnsynth: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("error, status, line", [
    (LNSynthError("a.nii.gz is empty; export it again."), 2, "lnsynth: a.nii.gz is empty; export it again."),
    (Cancelled("stopped by SIGINT"), 130, "lnsynth: cancelled"),
    (KeyboardInterrupt(), 130, "lnsynth: cancelled"),
    (ValueError("odd\nand long"), 1, "lnsynth: ValueError: odd (--debug shows where)"),
])
@pytest.mark.parametrize("as_json", [False, True])
def test_how_errors_end(verb, capsys, error, status, line, as_json):
    def run(args, callback):
        print("a verb's own words")
        raise error
    verb(run)
    assert cli.main(["doctor", *(["--events", "json"] if as_json else [])]) == status
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == line and "Traceback" not in err
    if as_json:
        assert [json.loads(x).get("error") for x in out.splitlines()] == [line.removeprefix("lnsynth: ")]
    else:
        assert out == "a verb's own words\n"


def test_debug_shows_the_traceback(verb, capsys):
    def run(args, callback):
        raise LNSynthError("no.")
    verb(run)
    assert cli.main(["--debug", "doctor"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("lnsynth: no.\n")


@pytest.mark.parametrize("order", [["--events", "json", "doctor", "--cases", "2"],
                                   ["doctor", "--events=json", "--cases", "2"],
                                   ["doctor", "--cases", "2", "--events", "json"]])
def test_events_are_all_that_stdout_carries(verb, capsys, order):
    def run(args, callback):
        print("not an event")
        with Progress("counting", args.cases, callback) as progress:
            for _ in range(args.cases):
                progress.step()
        return {"cases": args.cases}
    verb(run, lambda parser: parser.add_argument("--cases", type=int))
    assert cli.main(order) == 0
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    assert [e["stage"] for e in events][-2:] == ["counting", "doctor"]
    assert events[-1]["result"] == {"cases": 2}
    assert "not an event" in err


def test_a_wrong_argument_is_an_event_too():
    done = lnsynth("--events", "json", "fly")
    assert done.returncode == 2
    assert "'fly'" in json.loads(done.stdout.splitlines()[-1])["error"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_cancel(number):
    code = ("import sys, time\n"
            "from types import SimpleNamespace\n"
            "from LNSynthLib import cli\n"
            "def run(args, callback):\n"
            "    try:\n        print('running', file=sys.stderr, flush=True)\n        time.sleep(60)\n"
            "    finally:\n        print('cleaned up', file=sys.stderr, flush=True)\n"
            "cli.verb_module = lambda name: SimpleNamespace(__doc__='', run=run, add_arguments=lambda parser: None)\n"
            "sys.exit(cli.main(['doctor', '--events', 'json']))\n")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        assert process.stderr.readline() == "running\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines() == ["cleaned up", "lnsynth: cancelled"]
    assert json.loads(out)["error"] == "cancelled"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_job_ends_when_the_application_that_asked_for_it_is_killed(repository, tmp_path, stubborn):
    """Application, launcher, job: the launcher lives on and would keep the job, as Slicer's does."""
    job = ("import os, sys, time, subprocess\n"
           "from pathlib import Path\n"
           "from types import SimpleNamespace\n"
           "from LNSynthLib import cli\n"
           "from LNSynthLib.runtime import cancel\n"
           "cancel.LAST_WORDS_S = 1.0\n"
           "def run(args, callback):\n"
           "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
           "    Path('pids').write_text(f'{os.getpid()} {child.pid}')\n"
           "    try:\n        time.sleep(60)\n"
           "    finally:\n"
           "        Path('clean').touch()\n"
           f"        {'time.sleep(60)' if stubborn else 'child.kill()'}\n"
           "cli.verb_module = lambda name: SimpleNamespace(__doc__='', run=run, add_arguments=lambda parser: None)\n"
           "cli.main(['doctor'])\n")
    launcher = "import subprocess, sys; subprocess.call([sys.executable, '-c', sys.argv[1]])"
    application = ("import os, subprocess, sys, time\n"
                   "subprocess.Popen([sys.executable, '-c', *sys.argv[1:]],\n"
                   "                 env={**os.environ, 'LNSYNTH_PARENT_PID': str(os.getpid())})\n"
                   "time.sleep(60)\n")
    process = subprocess.Popen([sys.executable, "-c", application, launcher, job], cwd=tmp_path,
                               env={**os.environ, "PYTHONPATH": str(repository)}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running = [psutil.Process(int(pid)) for pid in (tmp_path / "pids").read_text().split()]
    time.sleep(1.5)
    assert all(p.is_running() for p in running), "it ends with the application, not before"
    process.kill()
    process.wait()
    psutil.wait_procs(running, timeout=15)
    assert not [p for p in running if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert (tmp_path / "clean").exists()


def test_a_job_whose_application_has_gone_does_not_begin(verb, monkeypatch, capsys):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    verb(lambda args, callback: pytest.fail("it ran"))
    monkeypatch.setenv("LNSYNTH_PARENT_PID", str(ended.pid))
    assert cli.main(["doctor"]) == 130


def test_without_psutil_a_job_runs_unwatched(verb, monkeypatch):
    verb(lambda args, callback: {})
    monkeypatch.setenv("LNSYNTH_PARENT_PID", str(os.getpid()))
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert cli.main(["doctor"]) == 0


WRITING = {  # of every verb that writes, what it takes to be asked for {out}
    "phantom": "--out {out}", "import": "--images x --nodes x --out {out}", "fetch": "ct_lymph_nodes --out {out}",
    "prepare": "{out}", "anatomy": "--ct x --out {out}", "nodes": "--nodes x --out {out}",
    "pseudo": "--ct x --anatomy x --out {out}", "train": "--preset demo --data x --out {out}",
    "synthesize": "--data x --out {out}", "insert": "--ct x --nodes x --out {out}",
    "variants": "--ct x --nodes x --out {out}", "review": "export x --as nifti --out {out}",
    "segment": "train --real x --out {out}", "evaluate": "segmentation --predicted x --truth x --out {out}",
    "experiment": "run --plan smoke --out {out}", "demo": "--out {out}", "export": "bundle g --out {out}"}


@pytest.mark.parametrize("name", [name for name in cli.VERBS if name not in ("doctor", "inspect")])  # which only tell
def test_every_verb_looks_first_whether_it_will_be_able_to_write(name, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out, why in (("file/a.nii.gz", "is a file and not a folder"), ("x" * 300, "a name of more than 255 bytes")):
        assert cli.main([name, *WRITING[name].format(out=tmp_path / out).split()]) == 2
        assert f"it cannot be written: {'' if 'x' * 300 == out else tmp_path}" in (said := capsys.readouterr().err)
        assert why in said and said.count("\n") == 1
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_and_full_memory_are_refusals(verb, capsys):
    failures = []

    def full(args, callback):
        raise failures[-1]

    verb(full)
    for failure, said in ((OSError(errno.ENOSPC, "No space left on device", "a.txt"), "a.txt: the disk is full"),
                          (PermissionError(errno.EACCES, "Permission denied", "b.txt"), "b.txt: you may not write"),
                          (MemoryError(), "There is not enough memory for this")):
        failures.append(failure)
        assert cli.main(["doctor"]) == 2 and said in capsys.readouterr().err


def options(parser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from options(inner)
        else:
            yield action


@pytest.mark.parametrize("name", cli.VERBS)
def test_help_tells_what_each_option_does_and_its_default(name):
    parser = cli._Parser()
    cli.verb_module(name).add_arguments(parser)
    for option in options(parser):
        text, given = option.help or "", option.default not in (None, False, [], "", argparse.SUPPRESS)
        assert text, f"{name} {option.dest}: says nothing"
        assert not given or "default" in text, f"{name} {option.dest}: {option.default!r} is not told"
