"""Stopping work: signals that become an exception, and child processes that die with all their children."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import Cancelled


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


def kill_tree(pid: int, patience_s: float = 5.0) -> None:
    """Ends a process and all its descendants: asks first, kills what is left after `patience_s` seconds."""
    import psutil
    try:
        parent = psutil.Process(pid)
        processes = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            pass
    _, alive = psutil.wait_procs(processes, timeout=patience_s)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(alive, timeout=patience_s)


def end_with_parent() -> None:
    """From here on this process ends when its parent does, even one that was killed and could tell it nothing."""
    import psutil

    def watch(parent: psutil.Process) -> None:
        parent.wait()
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(1)

    threading.Thread(target=watch, args=(psutil.Process(os.getppid()),), daemon=True).start()


def run_child(arguments: list[str], on_line: Callable[[str], None], env: dict[str, str] | None = None) -> int:
    """Runs a command, hands each line it prints (stdout and stderr together) to `on_line`, returns its exit code.

    Whatever ends this call early, `Cancelled` among it, ends the whole process tree. `env` adds to the environment.
    """
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                               text=True, encoding="utf-8", errors="replace", env={**os.environ, **(env or {})})
    try:
        for line in process.stdout:
            on_line(line.rstrip("\n"))
        return process.wait()
    except BaseException:
        kill_tree(process.pid)
        raise
    finally:
        process.stdout.close()
