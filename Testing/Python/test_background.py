"""Work in a thread that a timer polls."""

import threading
import time

from LNSynthLogic.jobs.background import YIELD_S, Background


def finish(background):
    longest, end = 0.0, time.monotonic() + 10
    while background.busy:
        assert time.monotonic() < end
        began = time.monotonic()
        background.poll()
        longest = max(longest, time.monotonic() - began)
    return longest


def test_work_is_done_in_order_elsewhere_and_told_here():
    background, told, failed = Background(), [], []

    def work(number):
        time.sleep(0.2)
        return number, threading.current_thread()
    for number in range(3):
        background.add(lambda number=number: work(number), told.append, failed.append)
    assert background.busy
    assert finish(background) < 0.15 > YIELD_S
    assert [number for number, _ in told] == [0, 1, 2] and not failed
    assert all(thread is not threading.main_thread() for _, thread in told)


def test_a_failure_is_told_and_stops_nothing():
    background, told, failed = Background(), [], []
    background.add(lambda: 1 / 0, told.append, failed.append)
    background.add(lambda: "next", told.append, failed.append)
    finish(background)
    assert told == ["next"] and isinstance(failed[0], ZeroDivisionError)


def test_what_nobody_wants_any_more_is_not_told():
    background, told, failed, go_on = Background(), [], [], threading.Event()
    background.add(go_on.wait, told.append, failed.append)
    background.add(lambda: "next", told.append, failed.append)
    background.poll()
    background.clear()
    assert not background.busy
    background.add(lambda: "new", told.append, failed.append)
    go_on.set()
    finish(background)
    assert told == ["new"] and not failed


def test_done_may_add_more():
    background, told = Background(), []

    def done(result):
        told.append(result)
        if len(told) < 3:
            background.add(lambda: result + 1, done, told.append)
    background.add(lambda: 0, done, told.append)
    finish(background)
    assert told == [0, 1, 2]
