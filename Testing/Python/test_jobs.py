"""The job runner with real child processes: what arrives while they run, and that nothing is left when they end."""

import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from LNSynthLogic.jobs import process
from LNSynthLogic.jobs.process import Job, State, library_command

from LNSynthLib.runtime.events import Event


class Watch:
    """A job and everything it told, with the state that it had then."""

    def __init__(self, arguments, **options):
        self.events, self.log, self.ends = [], [], []
        self.job = Job(arguments, on_event=self.events.append, on_log=self.log.append, on_end=self.ends.append,
                       **options)

    def until(self, ready, seconds=60):
        """Polls as a timer does until `ready()`; returns the longest time that one poll took."""
        end, longest = time.monotonic() + seconds, 0.0
        while not ready():
            assert time.monotonic() < end, (self.job.state, self.events[-3:], self.log[-3:])
            began = time.monotonic()
            self.job.poll()
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.02)
        return longest

    def run(self, seconds=60):
        self.job.start()
        self.until(lambda: self.job.ended, seconds)
        return self


def script(tmp_path, code):
    """The command that runs Python code which begins with what events need."""
    path = tmp_path / "child.py"
    path.write_text("import json, os, signal, subprocess, sys, time\n"
                    "def tell(**fields): print(json.dumps(fields, ensure_ascii=False), flush=True)\n"
                    + textwrap.dedent(code), encoding="utf-8")
    return [sys.executable, str(path)]


def gone(pids, seconds=5):
    """Whether none of the processes runs any longer; one that its new parent has not buried yet does not run."""
    def runs(pid):
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
    end = time.monotonic() + seconds
    while any(map(runs, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(runs, pids))


def test_progress_arrives_while_it_runs(tmp_path):
    go_on = tmp_path / "go on"
    watch = Watch(script(tmp_path, f"""
        tell(stage="sampling", done=12, total=25, eta_s=40.0)
        while not os.path.exists({str(go_on)!r}): time.sleep(0.01)
        tell(stage="sampling", done=25, total=25)
        tell(stage="insert", result={{"out": "ct.nii"}})
    """))
    watch.job.start()
    watch.until(lambda: watch.events)
    assert watch.events == [Event("sampling", 12, 25, 40.0)]
    assert watch.job.state is State.RUNNING and watch.job.eta_s == 40.0 and not watch.ends
    go_on.touch()
    watch.until(lambda: watch.job.ended)
    assert watch.job.state is State.DONE and watch.job.code == 0 and watch.job.error == ""
    assert watch.job.result == {"out": "ct.nii"} and watch.ends == [watch.job]
    watch.job.poll()
    assert watch.ends == [watch.job]


def test_samples_arrive_one_by_one(tmp_path):
    go_on = tmp_path / "go on"
    watch = Watch(script(tmp_path, f"""
        tell(stage="sample", done=1, total=2, result={{"id": "a-001"}})
        while not os.path.exists({str(go_on)!r}): time.sleep(0.01)
        tell(stage="sample", done=2, total=2, result={{"id": "a-002"}})
        tell(stage="variants", result={{"made": 2}})
    """))
    watch.job.start()
    watch.until(lambda: watch.events)
    assert [e.result["id"] for e in watch.events] == ["a-001"] and watch.job.result is None
    go_on.touch()
    watch.until(lambda: watch.job.ended)
    assert [e.result for e in watch.events] == [{"id": "a-001"}, {"id": "a-002"}, {"made": 2}]
    assert watch.job.result == {"made": 2}


def test_counts_are_thinned_and_words_are_not(tmp_path):
    watch = Watch(script(tmp_path, """
        for i in range(5000): print(json.dumps({"stage": "one", "done": i + 1, "total": 5000}))
        print(json.dumps({"stage": "one", "message": "half"}))
        for i in range(5000): print(json.dumps({"stage": "two", "done": i + 1, "total": 5000}))
    """)).run()
    assert len(watch.events) < 200
    told = [(e.stage, e.done, e.message) for e in watch.events]
    assert told[-1] == ("two", 5000, "") and told.index(("one", 5000, "")) < told.index(("one", 0, "half"))


TREE = """
    sleep = "import time; time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", f"import subprocess, sys; "
                              f"subprocess.Popen([sys.executable, '-c', {sleep!r}]); {sleep}"])
    open("scratch.bin", "wb").write(b"x" * 1000)
    tell(stage="work", done=0, total=1)
    time.sleep(60)
"""


def family(watch):
    """All processes of a job, when the grandchild's child is there too."""
    found = []

    def whole():
        found[:] = [p.pid for p in psutil.Process(watch.job.pid).children(recursive=True)]
        return len(found) == 2
    watch.until(whole)
    return [watch.job.pid, *found]


def test_cancel_leaves_nothing_running_and_no_files(tmp_path):
    watch = Watch(script(tmp_path, TREE))
    watch.job.start()
    watch.until(lambda: watch.events)
    pids, folder = family(watch), watch.job.folder
    assert (folder / "scratch.bin").exists()
    began = time.monotonic()
    watch.job.cancel()
    assert time.monotonic() - began < 0.1 and watch.job.state is State.CANCELLING
    watch.until(lambda: watch.job.ended)
    assert watch.job.state is State.CANCELLED and gone(pids) and not folder.exists()
    assert time.monotonic() - began < process.PATIENCE_S


STUBBORN = """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); "
        "time.sleep(60)"], stdout=subprocess.PIPE)
    child.stdout.readline()
    tell(stage="work", done=0, total=1, result={"child": child.pid})
    time.sleep(60)
"""


def test_who_ignores_being_asked_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "PATIENCE_S", 0.6)
    watch = Watch(script(tmp_path, STUBBORN))
    watch.job.start()
    watch.until(lambda: watch.events)
    pids, began = [watch.job.pid, watch.job.result["child"]], time.monotonic()
    watch.job.cancel()
    assert watch.until(lambda: watch.job.ended) < 0.2
    assert watch.job.state is State.CANCELLED and watch.job.code == -signal.SIGKILL
    assert gone(pids) and 0.5 < time.monotonic() - began < 4


def test_a_second_cancel_kills_at_once(tmp_path):
    watch = Watch(script(tmp_path, STUBBORN))
    watch.job.start()
    watch.until(lambda: watch.events)
    pids, began = [watch.job.pid, watch.job.result["child"]], time.monotonic()
    watch.job.cancel()
    watch.job.cancel()
    watch.until(lambda: watch.job.ended)
    assert gone(pids) and time.monotonic() - began < process.PATIENCE_S


def test_one_that_cleans_up_when_asked_is_given_the_time(tmp_path):
    """The launcher ends at once, its child takes a moment: PythonSlicer's way."""
    cleaned = tmp_path / "cleaned"
    child = (f"import signal, sys, time\ndef end(*_):\n    time.sleep(0.7); open({str(cleaned)!r}, 'w').close(); "
             "sys.exit(130)\nsignal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(60)")
    watch = Watch(script(tmp_path, f"""
        child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE)
        child.stdout.readline()
        tell(stage="work", result={{"child": child.pid}})
        time.sleep(60)
    """))
    watch.job.start()
    watch.until(lambda: watch.events)
    watch.job.cancel()
    watch.until(lambda: watch.job.ended)
    assert cleaned.exists() and watch.job.state is State.CANCELLED and gone([watch.job.result["child"]])


def test_what_a_killed_launcher_leaves_is_ended(tmp_path):
    watch = Watch(script(tmp_path, TREE))
    watch.job.start()
    watch.until(lambda: watch.events)
    pids = family(watch)
    os.kill(watch.job.pid, signal.SIGKILL)
    watch.until(lambda: watch.job.ended)
    assert watch.job.state is State.FAILED and watch.job.code == -signal.SIGKILL
    assert "SIGKILL" in watch.job.error and "memory" in watch.job.error and gone(pids)


def test_kill_ends_everything_before_it_returns(tmp_path):
    watch = Watch(script(tmp_path, TREE))
    watch.job.start()
    watch.until(lambda: watch.events)
    pids, folder = family(watch), watch.job.folder
    watch.job.kill()
    assert watch.job.state is State.CANCELLED and len(watch.ends) == 1
    assert gone(pids, 1) and not folder.exists()


def test_a_refusal_is_told_in_its_own_words(tmp_path):
    watch = Watch(library_command("review", "list", tmp_path / "no samples")).run()
    assert watch.job.state is State.FAILED and watch.job.code == 2
    assert str(tmp_path / "no samples") in watch.job.error and "\n" not in watch.job.error
    assert watch.job.error in "\n".join(watch.log)


def test_a_crash_tells_its_last_lines(tmp_path):
    watch = Watch(script(tmp_path, """
        for i in range(100): print("line", i, file=sys.stderr)
        raise OSError("no room on the disk")
    """)).run()
    assert watch.job.state is State.FAILED and watch.job.code == 1
    first, *last = watch.job.error.splitlines()
    assert "exit code 1" in first and last[-1] == "OSError: no room on the disk" and len(last) <= process.LAST_LINES


def test_a_segmentation_fault_is_named(tmp_path):
    watch = Watch(script(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)")).run()
    assert watch.job.state is State.FAILED and watch.job.code == -signal.SIGSEGV and "SIGSEGV" in watch.job.error


def test_success_without_a_result_is_a_failure_of_a_verb(tmp_path):
    """A launcher may say 0 where its child ended badly."""
    command = script(tmp_path, "print('gone', file=sys.stderr)")
    assert Watch(command).run().job.state is State.DONE
    watch = Watch([*command, "--events", "json"]).run()
    assert watch.job.state is State.FAILED and "gone" in watch.job.error


def test_cancelled_by_someone_else(tmp_path):
    assert Watch(script(tmp_path, "sys.exit(130)")).run().job.state is State.CANCELLED


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_megabytes_do_not_stall_it(tmp_path, stream):
    """20 MB come through without a poll in between, and no poll takes long."""
    done = tmp_path / "done"
    watch = Watch(script(tmp_path, f"""
        for i in range(200_000): print("x" * 100, file=sys.{stream})
        sys.{stream}.flush()
        open({str(done)!r}, "w").close()
        tell(stage="work", result={{}})
    """))
    watch.job.start()
    end = time.monotonic() + 20
    while not done.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert watch.until(lambda: watch.job.ended) < 1
    assert sum(text.count("\n") + 1 for text in watch.log) == 200_000 and watch.job.state is State.DONE


def test_unicode_survives(tmp_path):
    watch = Watch(script(tmp_path, """
        tell(stage="läuft", message="淋巴结 – Knoten № 7 🫁")
        print("Größe: 8 µm", file=sys.stderr)
        sys.stderr.buffer.write(b"broken \\xff byte\\n")
        tell(stage="fertig", result={"name": "ö"})
    """)).run()
    assert watch.events[0] == Event("läuft", message="淋巴结 – Knoten № 7 🫁") and watch.job.result == {"name": "ö"}
    assert "\n".join(watch.log).splitlines() == ["Größe: 8 µm", "broken \ufffd byte"]


def test_a_progress_bar_in_the_log_is_one_line(tmp_path):
    watch = Watch(script(tmp_path, """
        for i in range(0, 101, 10):
            sys.stderr.write(f"\\r{i} %"); sys.stderr.flush(); time.sleep(0.02)
        sys.stderr.write("\\ndone\\r\\nand no line break")
    """)).run()
    assert "\n".join(watch.log).splitlines() == ["100 %", "done", "and no line break"]


def test_a_missing_program(tmp_path):
    watch = Watch([str(tmp_path / "no such program")])
    watch.job.start()
    assert not watch.ends  # callbacks come from poll alone
    watch.job.poll()
    assert watch.job.state is State.FAILED and "no such program" in watch.job.error and len(watch.ends) == 1
    assert not watch.job.folder.exists()


def test_cancel_before_the_start_and_after_the_end(tmp_path):
    watch = Watch(script(tmp_path, ""))
    watch.job.cancel()
    assert watch.job.state is State.CANCELLED and len(watch.ends) == 1
    watch = Watch(script(tmp_path, "")).run()
    watch.job.cancel()
    watch.job.kill()
    assert watch.job.state is State.DONE and len(watch.ends) == 1


def test_surroundings_of_the_child(tmp_path):
    watch = Watch(script(tmp_path, """
        import tempfile, LNSynthLib
        tell(stage="x", result={"parent": os.environ["LNSYNTH_PARENT_PID"], "temporary": tempfile.gettempdir(),
                                "here": os.getcwd(), "given": os.environ.get("GIVEN"), "home": os.environ.get("HOME"),
                                "library": LNSynthLib.__file__, "stdin": sys.stdin.read(),
                                "session": os.getsid(0), "pid": os.getpid()})
    """), environment={"GIVEN": "yes", "PYTHONPATH": "other"}).run()
    result = watch.job.result
    assert result["parent"] == str(os.getpid()) and result["given"] == "yes" and result["home"] is None
    assert result["here"] == result["temporary"] == str(watch.job.folder) and result["stdin"] == ""
    assert result["session"] == result["pid"]
    import LNSynthLib
    assert Path(result["library"]).samefile(LNSynthLib.__file__)


def test_the_interpreter(tmp_path, monkeypatch):
    assert library_command("phantom", "--cases", 2, "--out", Path("a")) == [
        sys.executable, "-m", "LNSynthLib", "phantom", "--cases", "2", "--out", "a", "--events", "json"]
    program = tmp_path / "PythonSlicer"
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "SlicerApp-real"))
    assert process.interpreter() == str(program)  # beside Slicer's executable
    program.unlink()
    with pytest.raises(process.LNSynthError, match="PythonSlicer"):
        process.interpreter()
    elsewhere = tmp_path / "bin"
    elsewhere.mkdir()
    (elsewhere / "PythonSlicer").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(elsewhere), prepend=os.pathsep)
    assert process.interpreter() == str(elsewhere / "PythonSlicer")


def test_a_verb_as_a_job(tmp_path):
    out = tmp_path / "phantom"
    watch = Watch(library_command("phantom", "--out", out, "--spacing", "4", "--nodes", "2", "--seed", "1")).run(60)
    assert watch.job.state is State.DONE, watch.job.error
    assert watch.job.result["cases"] == 1 and any(event.total for event in watch.events)
    assert list(out.rglob("*.nii.gz"))


def test_cancelling_a_verb_leaves_nothing(tmp_path):
    out = tmp_path / "phantoms"
    watch = Watch(library_command("phantom", "--out", out, "--cases", "500", "--spacing", "5"))
    watch.job.start()
    watch.until(lambda: any(event.done > 0 for event in watch.events), 60)
    pid, folder = watch.job.pid, watch.job.folder
    watch.job.cancel()
    watch.until(lambda: watch.job.ended)
    assert watch.job.state is State.CANCELLED and watch.job.code == 130 and gone([pid]) and not folder.exists()
    assert not [path for path in out.rglob(".*")]
