"""Worker processes: one way to give them work and to end them, promptly and always.

Each worker has a pipe of its own and shares no lock with others, so that one that dies takes nothing with it. A worker
ends when its parent does, however that ended.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from typing import Any

from .cancel import PATIENCE_S, end_with_parent
from .errors import Cancelled


class WorkerDied(Exception):
    """A worker process was ended from outside, as a system does whose memory is full."""


def each(function: Callable, jobs: Iterable, workers: int) -> Generator[tuple[Any, Any], None, None]:
    """(job, function(job)) of each job as it ends; with 0 workers in this process, in order.

    Where a worker dies, the result of its job is a `WorkerDied`, and another worker takes its place. What `function`
    raises is raised here. Function, jobs and results must be picklable. All processes end with this generator: close
    it (`contextlib.closing`).
    """
    if workers <= 0:
        for job in jobs:
            yield job, function(job)
        return
    left: deque = deque(jobs)
    team: list[_Worker] = []
    try:
        while left or any(worker.busy for worker in team):
            while left and len(team) < workers:
                team.append(_Worker(function))
            for worker in team:
                if left and not worker.busy:
                    worker.give(left.popleft())
            ready = wait([worker.pipe for worker in team if worker.busy])
            for worker in [worker for worker in team if worker.pipe in ready]:
                job, result = worker.take()
                if isinstance(result, WorkerDied):
                    team.remove(worker)
                    worker.process.join()
                yield job, result
        for worker in team:
            worker.pipe.close()  # it ends by itself
        _end([worker.process for worker in team], ask=False)
    except BaseException:
        _end([worker.process for worker in team])
        raise


class _Worker:
    """One process, and the job it has."""

    def __init__(self, function: Callable):
        # spawn: the libraries' threads do not survive a fork
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.busy, self.job = False, None
        self.process = context.Process(target=_work, args=(theirs, function, os.getpid()), daemon=True)
        with _interrupts_wait():
            self.process.start()
        theirs.close()

    def give(self, job) -> None:
        self.busy, self.job = True, job
        with suppress(OSError):  # it died: `take` finds out
            self.pipe.send(job)

    def take(self) -> tuple[Any, Any]:
        job, self.busy, self.job = self.job, False, None
        try:
            raised, result = self.pipe.recv()
        except (EOFError, OSError):
            return job, WorkerDied(f"a worker process died (exit status {self.process.exitcode})")
        if raised:
            raise result
        return job, result


def _work(pipe, function: Callable, parent: int) -> None:
    """What a worker does until nobody has work for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, _leave)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        end_with_parent(parent)
        while True:
            job = pipe.recv()
            try:
                answer = False, function(job)
            except Exception as error:
                answer = True, error
            pipe.send(answer)
    except (Cancelled, EOFError, OSError):
        os._exit(1)  # not through whatever libraries do at an end


def _leave(*_) -> None:
    # Once: its clearing up is not to be interrupted.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Cancelled("told to stop")


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Within the block Ctrl-C waits, here and in the processes that are started, until these know what to do."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(processes: list, ask: bool = True) -> None:
    """Ends them: asks all (or lets them), and kills what is left after PATIENCE_S seconds, or at a second Ctrl-C."""
    try:
        if ask:
            for process in processes:
                process.terminate()
        deadline = time.monotonic() + PATIENCE_S
        for process in processes:
            process.join(max(0, deadline - time.monotonic()))
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
        for process in processes:
            process.join()
