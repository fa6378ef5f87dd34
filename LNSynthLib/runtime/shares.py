"""Run a command in several processes, each doing its share (RANK of WORLD_SIZE, as torchrun numbers them)."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time

from .cancel import child_environment, kill_tree
from .errors import Cancelled, LNSynthError
from .events import Callback, Event


def run_shares(arguments: list[str], workers: int, callback: Callback) -> list[dict]:
    """Runs `lnsynth ARGUMENTS` in `workers` processes at once; their results, by rank.

    Their progress is reported as one. Whatever ends this early ends all of them; the first failure raises LNSynthError.
    """
    events: queue.Queue = queue.Queue()
    processes, readers = [], []
    try:
        for rank in range(workers):
            processes.append(_start(arguments, rank, workers))
            readers.append(threading.Thread(target=_read, args=(rank, processes[-1], events), daemon=True))
            readers[-1].start()
        return _gather(events, workers, callback)
    finally:
        kill_tree(*(process.pid for process in processes if process.poll() is None))
        for reader in readers:
            reader.join(timeout=5)


def _start(arguments, rank, workers) -> subprocess.Popen:
    share = {"RANK": str(rank), "WORLD_SIZE": str(workers), "LOCAL_RANK": str(rank)}
    return subprocess.Popen([sys.executable, "-m", "LNSynthLib", "--events", "json", *arguments],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
                            encoding="utf-8", errors="replace", env=child_environment(share))


def _read(rank: int, process: subprocess.Popen, events: queue.Queue) -> None:
    output = process.stdout
    assert output is not None  # it is a pipe
    with output:
        for line in output:
            events.put((rank, Event.from_json(line), line.strip()))
    events.put((rank, None, None))
    process.wait()


def _gather(events: queue.Queue, workers: int, callback: Callback) -> list[dict]:
    began, latest, results = time.monotonic(), {}, {}
    last_line: dict[int, str] = {}
    running = set(range(workers))
    while running:
        rank, event, line = events.get()
        if line is None:
            running.discard(rank)
            if rank not in results:
                raise LNSynthError(f"Worker {rank} ended without a result ({last_line.get(rank, 'it said nothing')}).")
        elif event is None:
            last_line[rank] = line
        elif event.waited_s:
            continue
        elif event.error == "cancelled":
            raise Cancelled("a worker was stopped")
        elif event.error:
            raise LNSynthError(event.error)
        elif event.result is not None:
            results[rank] = event.result
        elif event.total:
            latest[rank] = event
            done, total = (sum(getattr(e, name) for e in latest.values()) for name in ("done", "total"))
            eta = (time.monotonic() - began) / done * (total - done) if done else None
            callback(Event(event.stage, done, total, eta, event.message))
    return [results[rank] for rank in range(workers)]
