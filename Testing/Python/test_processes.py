"""Workers do their share, end at once when they are told to, and never outlive who started them."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from LNSynthLib.phantom.phantom import phantom_dataset
from LNSynthLib.runtime.files import read_json
from LNSynthLib.runtime.processes import WorkerDied, each

LONG_S = 60.0  # for what takes a second on an idle machine


def wait_for(condition, what: str):
    """What the condition comes to, once that is something."""
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    pytest.fail(f"{what} did not happen within {LONG_S:g} s")


def alive(processes) -> list:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def family(process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def workers(process) -> list[psutil.Process]:
    """The worker processes that a command has begun."""
    found = []
    for child in family(process):
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            pass
    return found


def pending(pid: int) -> bool:
    """Whether a signal waits to be seen by a process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return any(int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd")))


def half(n: int) -> int:
    """Of even numbers."""
    if n % 2:
        raise ValueError(n)
    return n // 2


def end(n: int) -> int:
    """2 is a number that kills."""
    if n == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def test_work_is_shared_and_an_error_is_raised():
    with closing(each(half, range(0, 12, 2), 0)) as done:
        assert list(done) == [(n, n // 2) for n in range(0, 12, 2)]
    with closing(each(half, range(0, 12, 2), 2)) as done:
        assert sorted(done) == [(n, n // 2) for n in range(0, 12, 2)]
    with pytest.raises(ValueError, match="3"), closing(each(half, [2, 3, 4], 1)) as done:
        list(done)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_worker_that_dies_costs_its_job_alone():
    with closing(each(end, range(4), 2)) as done:
        results = dict(done)
    assert isinstance(results.pop(2), WorkerDied) and results == {0: 0, 1: 1, 3: 3}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Three small cases to prepare."""
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    phantom_dataset(folder, 3, seed=1, spacing=4.0)
    return folder


def command(verb: str, phantoms, tmp_path, **more) -> subprocess.Popen:
    """`phantom` or `prepare` with two workers and more work than the test lets them finish."""
    target = {"phantom": ["phantom", "--cases", "40", "--spacing", "3", "--out", str(tmp_path / "out")],
              "prepare": ["prepare", str(phantoms), "--spacing", "1", "--name", tmp_path.name[-20:]]}[verb]
    return subprocess.Popen([sys.executable, "-m", "LNSynthLib", *target, "--workers", "2"], stderr=subprocess.PIPE,
                            stdout=subprocess.DEVNULL, text=True, start_new_session=True, **more)


def busy(process) -> list[psutil.Process]:
    """Both workers, once both compute."""
    def found():
        team = workers(process)
        return team if len(team) == 2 and all(sum(p.cpu_times()[:2]) > 1.0 for p in alive(team)) else None
    return wait_for(found, "the workers' work")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is needed")
@pytest.mark.slow
@pytest.mark.parametrize("verb", ["phantom", "prepare"])
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_a_command_and_its_workers_at_once(verb, times, phantoms, tmp_path, repository):
    """As at a terminal: every process of the group gets the signal; an impatient hand presses twice."""
    with command(verb, phantoms, tmp_path, cwd=repository) as process:
        team = busy(process) + family(process)
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        if times == 2:
            wait_for(lambda: not pending(process.pid), "the first signal's arrival")  # or two would be as one
            os.killpg(process.pid, signal.SIGINT)
        assert process.wait(LONG_S) == 130
        took = time.monotonic() - began
        assert process.stderr.read().splitlines()[-1] == "lnsynth: cancelled"
        wait_for(lambda: not alive(team), "the end of all workers")
    assert took < 6, f"{took:.1f} s after Ctrl-C"  # 2 s of patience, on a busy machine
    for folder in (tmp_path, phantoms):
        assert [p for p in folder.rglob(".*")] == []


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["phantom", "prepare"])
def test_workers_end_when_their_parent_was_killed(verb, phantoms, tmp_path, repository):
    with command(verb, phantoms, tmp_path, cwd=repository) as process:
        team = busy(process) + family(process)
        process.kill()
        process.wait()
        wait_for(lambda: not alive(team), "the end of all workers")


@pytest.mark.slow
def test_a_killed_worker_of_prepare_is_told_with_its_case(phantoms, tmp_path, repository):
    with command("prepare", phantoms, tmp_path, cwd=repository) as process:
        busy(process)[0].kill()
        _, said = process.communicate(timeout=LONG_S)
    assert process.returncode == 2
    assert "1 of 3 cases could not be prepared, the first because" in said
    assert "while it prepared case phantom-1-000" in said and "use fewer workers" in said
    done = read_json(phantoms / "prepared" / tmp_path.name[-20:] / "prepare.json")
    assert len(done["failed"]) == 1 and len(done["prepared"]) == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit on memory needs Linux")
@pytest.mark.slow
def test_prepare_without_enough_memory_says_so(phantoms, repository):
    code = ("import resource, sys; from LNSynthLib.cli import main; import LNSynthLib.cases.prepare\n"
            "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
            "resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 10**8,) * 2)\n"
            "sys.exit(main(['prepare', sys.argv[1], '--spacing', '0.6', '--name', 'memory']))")
    done = subprocess.run([sys.executable, "-c", code, str(phantoms)], capture_output=True, text=True, cwd=repository,
                          check=False)
    assert done.returncode == 2, done.stderr
    assert "there is not enough memory to prepare case phantom-1-0000; use fewer workers" in done.stderr
    assert [p for p in phantoms.rglob(".*.lns-*")] == []
