"""A lock that processes take in turn: never two at once, though its file comes and goes."""

import os
import stat
import subprocess
import sys
import time

import pytest

from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.locks import alone, alone_in, turn

TURNS = """
import sys, time
from pathlib import Path
from LNSynthLib.runtime.locks import alone
lock, count = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(40):
    with alone(lock, 30):
        number = int(count.read_text())
        time.sleep(0.001)
        count.write_text(str(number + 1))
"""


def test_many_processes_take_turns(tmp_path, repository):
    (tmp_path / "count").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", TURNS, str(tmp_path / ".lock"), str(tmp_path / "count")],
                                  cwd=repository) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "160" and not (tmp_path / ".lock").exists()


def test_who_waits_too_long_is_told_and_a_dead_process_holds_nothing(tmp_path, repository):
    lock = tmp_path / ".lock"
    code = ("import sys, time; from pathlib import Path; from LNSynthLib.runtime.locks import alone\n"
            "with alone(Path(sys.argv[1]), 0):\n    print('held', flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, cwd=repository) as holder:
        assert holder.stdout.readline() == b"held\n"
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="another program"), alone(lock, 0.1):
            pass
        assert 0.1 <= time.monotonic() - began < 5 and lock.exists()
        holder.kill()
        holder.wait()
    with alone(lock, 5):
        assert lock.exists()
    assert not lock.exists()


def test_a_lock_follows_no_link_and_has_the_rights_of_the_umask(tmp_path):
    (tmp_path / "victim").write_text("precious")
    os.chmod(tmp_path / "victim", 0o600)
    (tmp_path / ".table.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(LNSynthError, match="the lock cannot be made .* not a link"), turn(tmp_path / "table"):
        pass
    assert stat.S_IMODE(os.stat(tmp_path / "victim").st_mode) == 0o600
    (tmp_path / ".table.lock").unlink()
    before = os.umask(0o077)
    try:
        with turn(tmp_path / "table"):
            assert stat.S_IMODE(os.stat(tmp_path / ".table.lock").st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_lock_that_is_another_users_is_taken_in_turn(tmp_path):
    lock = tmp_path / ".table.lock"
    lock.write_text("")
    os.chmod(lock, 0o444)
    with turn(tmp_path / "table"):
        waits = []
        with pytest.raises(LNSynthError, match="table: another program keeps it"), turn(
                tmp_path / "table", 0.05, waiting=lambda: waits.append(1)):
            pass
        assert waits == [1]
    assert not lock.exists()
    lock.mkdir()
    with pytest.raises(LNSynthError, match="cannot be made"), turn(tmp_path / "table"):
        pass


def test_a_folder_is_held_by_one_and_goes_where_nothing_came_into_it(tmp_path):
    with alone_in(tmp_path / "run", 1, "busy"):
        with pytest.raises(LNSynthError, match="busy"), alone_in(tmp_path / "run", 0.05, "busy"):
            pass
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()
    with alone_in(tmp_path / "run", 1, "busy"):
        (tmp_path / "run" / "made").write_text("")
    assert os.listdir(tmp_path / "run") == ["made"]
