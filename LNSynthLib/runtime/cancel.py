"""Stopping work: signals that become an exception, and child processes that die with all their children."""

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import Cancelled

PARENT_PID = "LNSYNTH_PARENT_PID"
WATCH_S = 0.5       # between two looks at a parent
LAST_WORDS_S = 5.0  # for cleaning up after the parent has ended
PATIENCE_S = 2.0    # for cleaning up after Ctrl-C: nobody waits longer at a terminal


@contextmanager
def cancellable() -> Iterator[None]:
    """Within the block, Ctrl-C and SIGTERM raise `Cancelled` in the main thread, so that clean-up code runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number, _frame):
        raise Cancelled(f"stopped by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def kill_tree(*pids: int, patience_s: float = PATIENCE_S) -> None:
    """Ends processes and all their descendants: asks all first, kills what is left after `patience_s` seconds.

    Interrupted (a second Ctrl-C), it kills at once.
    """
    import psutil
    processes = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            processes += [*parent.children(recursive=True), parent]
    try:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        psutil.wait_procs(processes, timeout=patience_s)
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=patience_s)


def end_with_parent(pid: int | None = None) -> None:
    """From here on this process ends when its parent does, even one that was killed and could tell it nothing.

    pid: of an ancestor instead, where launchers stand between. Work is told to stop (SIGTERM), so that it cleans up
    behind itself; what still runs LAST_WORDS_S later is killed with all its children. Raises Cancelled where the
    process `pid` has ended already.
    """
    import psutil

    try:
        parent = psutil.Process(os.getppid() if pid is None else pid)
    except psutil.NoSuchProcess:
        raise Cancelled("the program that started this has ended") from None

    def lives() -> bool:
        try:
            return parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    main = threading.main_thread().ident or 0

    def watch() -> None:
        while lives():
            time.sleep(WATCH_S)
        if sys.platform != "win32":  # wakes the main thread even where it waits
            signal.pthread_kill(main, signal.SIGTERM)
        else:
            _thread.interrupt_main(signal.SIGTERM)
        time.sleep(LAST_WORDS_S)
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_with_application() -> None:
    """`end_with_parent` for the process that the environment variable LNSYNTH_PARENT_PID names; nothing without it.

    An application sets it for its jobs to its own process id, as `child_environment` does. Where psutil is not
    installed, nothing is watched.
    """
    pid = os.environ.get(PARENT_PID, "")
    if pid.isdecimal():
        try:
            end_with_parent(int(pid))
        except ImportError:
            pass


def forks_end_with_this() -> None:
    """From here on the processes that a library forks off this one (for loading data, say) are killed when it ends.

    By the system, where that is Linux: even when this process is killed, and they wait for each other.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    control, parent_death = ctypes.CDLL(None).prctl, 1  # PR_SET_PDEATHSIG
    os.register_at_fork(after_in_child=lambda: control(parent_death, signal.SIGKILL))


def child_environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """The environment for a child process that is to end with this one (`end_with_application` in it does the rest),
    and finds this library."""
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    return {**os.environ, PARENT_PID: str(os.getpid()), "PYTHONPATH": path, **(more or {})}


def run_child(arguments: list[str], on_line: Callable[[str], None], env: dict[str, str] | None = None) -> int:
    """Runs a command, hands each line it prints (stdout and stderr together) to `on_line`, returns its exit code.

    Whatever ends this call early, `Cancelled` among it, ends the whole process tree. `env` adds to the environment of
    `child_environment`.
    """
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                               text=True, encoding="utf-8", errors="replace", env=child_environment(env))
    output = process.stdout
    assert output is not None  # it is a pipe
    try:
        for line in output:
            on_line(line.rstrip("\n"))
        return process.wait()
    except BaseException:
        kill_tree(process.pid)
        raise
    finally:
        output.close()
