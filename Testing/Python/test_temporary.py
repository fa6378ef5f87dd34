"""What a killed process leaves is told by its name and removed; what a living one, or another machine's, writes is not.

And what keeps a file from being written is said in one sentence, whatever library wrote it.
"""

import errno
import os
import stat
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from LNSynthLib.runtime import files, temporary
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import atomic_folder, atomic_path, check_output, write_json, write_text

HOLDER = """
import sys, time
from pathlib import Path
from LNSynthLib.runtime.files import atomic_folder, atomic_path
from LNSynthLib.runtime.temporary import scratch
folder = Path(sys.argv[1])
with atomic_path(folder / "a.nii.gz") as a, atomic_folder(folder / "b") as b, scratch() as c:
    a.write_text("half")
    (b / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path, repository):
    """A process in the middle of writing into tmp_path, its temporary folder tmp_path/tmp."""
    (tmp_path / "tmp").mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, cwd=repository,
                          env={**os.environ, "TMPDIR": str(tmp_path / "tmp")}) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def hidden(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*"))


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path, holder):
    assert len(hidden(tmp_path)) == 3
    temporary.sweep_below(tmp_path, 1)
    temporary.sweep(tmp_path)
    temporary.sweep(tmp_path / "tmp")
    assert len(hidden(tmp_path)) == 3, "its writer lives"
    holder.kill()
    holder.wait()
    temporary.sweep(tmp_path)
    temporary.sweep(tmp_path / "tmp")
    assert hidden(tmp_path) == []


def test_the_next_write_sweeps_by_itself(tmp_path, holder, repository):
    holder.kill()
    holder.wait()
    code = ("from LNSynthLib.runtime.files import write_text; from LNSynthLib.runtime.temporary import scratch\n"
            "import sys; write_text(sys.argv[1] + '/new', ''); scratch().__enter__; s = scratch(); s.__enter__(); "
            "s.__exit__(None, None, None)")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=repository,
                   env={**os.environ, "TMPDIR": str(tmp_path / "tmp")})
    assert hidden(tmp_path) == [] and sorted(os.listdir(tmp_path)) == ["new", "tmp"]


def test_nothing_of_another_machine_or_process_table_goes(tmp_path):
    mine = temporary.new_file(tmp_path / "x").name
    host, pid = mine.split(".lns-")[1].split("-")[:2]
    dead = mine.replace(f"-{pid}-", "-4999999-")
    for name in (dead.replace(host, "0" * 8), ".x.half", ".lns-1-2-3", dead[1:]):
        (tmp_path / name).write_text("")
    (tmp_path / dead).write_text("")
    temporary.sweep(tmp_path)
    assert not (tmp_path / dead).exists() and len(os.listdir(tmp_path)) == 5


def test_a_number_given_to_another_process_does_not_keep_what_the_dead_one_left(tmp_path):
    mine = temporary.new_file(tmp_path / "x").name
    start = mine.split(".lns-")[1].split("-")[2]
    (tmp_path / mine.replace(start, "12345678")).write_text("")
    temporary.sweep(tmp_path)
    assert os.listdir(tmp_path) == [mine]


def test_sweeping_follows_no_link(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("precious")
    (tmp_path / "here").mkdir()
    mine = temporary.new_file(tmp_path / "x").name
    dead = mine.replace(f"-{os.getpid()}-", "-4999999-")
    (tmp_path / "here" / dead).symlink_to(tmp_path / "precious")
    temporary.sweep_below(tmp_path / "here", 2)
    assert os.listdir(tmp_path / "here") == [] and (tmp_path / "precious" / "file").exists()


def test_a_folder_whose_replacement_was_killed_comes_back(tmp_path):
    mine = temporary.new_folder(tmp_path / temporary.ASIDE)
    dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", "-4999999-"))
    mine.rename(dead)
    (dead / "model").mkdir()
    (dead / "model" / "old.txt").write_text("old")
    temporary.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["model"] and os.listdir(tmp_path / "model") == ["old.txt"]


def test_temporary_names_cannot_be_guessed_and_follow_no_link(tmp_path, monkeypatch):
    names = {temporary.new_file(tmp_path / "a.nii.gz").name for _ in range(20)}
    assert len(names) == 20 and all(name.startswith(".a.nii.gz.") and name.endswith(".nii.gz") for name in names)
    (tmp_path / "victim").write_text("precious")
    marks = iter([".lns-0-known", ".lns-0-free"])
    monkeypatch.setattr(temporary, "mark", lambda: next(marks))
    (tmp_path / ".b.lns-0-known").symlink_to(tmp_path / "victim")
    write_text(tmp_path / "b", "new")
    assert (tmp_path / "victim").read_text() == "precious" and (tmp_path / "b").read_text() == "new"


def test_a_temporary_file_of_a_temporary_file_keeps_its_suffixes(tmp_path):
    for name, suffix in (("a.nii.gz", ".nii.gz"), ("a.mha", ".mha"), ("a.1.2.840.113619.2.55.dcm", ".dcm"),
                         ("a." + "x" * 40, "")):
        with atomic_path(tmp_path / name) as outer, atomic_path(outer) as inner:
            assert inner.name.endswith(suffix) and inner.name.count(".lns-") == 1 and len(inner.name) < 120
            inner.write_text("whole")
        assert os.listdir(tmp_path) == [name]
        (tmp_path / name).unlink()


@pytest.fixture
def umask():
    before = os.umask(0o077)
    yield
    os.umask(before)


def rights(path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_files_and_folders_have_the_rights_that_the_umask_gives(tmp_path, umask):
    write_json(tmp_path / "a.json", {})
    with atomic_folder(tmp_path / "b") as beside:
        (beside / "inner").mkdir()
        write_json(beside / "inner" / "c.json", {})
        os.close(os.open(beside / "own", os.O_CREAT, 0o400))  # as safetensors and mkstemp do
    assert [oct(rights(tmp_path / p)) for p in ("a.json", "b", "b/inner", "b/inner/c.json", "b/own")] == [
        "0o600", "0o700", "0o700", "0o600", "0o600"]
    os.umask(0o002)
    write_json(tmp_path / "d.json", {})
    with atomic_folder(tmp_path / "e") as beside:
        os.close(os.open(beside / "own", os.O_CREAT, 0o400))
    assert [oct(rights(tmp_path / p)) for p in ("d.json", "e", "e/own")] == ["0o664", "0o775", "0o664"]


def test_a_replaced_file_keeps_its_rights(tmp_path):
    write_json(tmp_path / "a.json", {})
    os.chmod(tmp_path / "a.json", 0o600)
    write_json(tmp_path / "a.json", {"new": 1})
    with atomic_folder(tmp_path / "b"):
        pass
    os.chmod(tmp_path / "b", 0o700)
    (tmp_path / "elsewhere").write_text("")
    os.chmod(tmp_path / "elsewhere", 0o600)
    with atomic_folder(tmp_path / "b") as beside:
        os.link(tmp_path / "elsewhere", beside / "another name of it")
    assert [oct(rights(tmp_path / p)) for p in ("a.json", "b", "elsewhere")] == ["0o600", "0o700", "0o600"]


def test_two_processes_may_replace_one_folder_at_once(tmp_path, repository):
    code = ("import sys; from pathlib import Path; from LNSynthLib.runtime.files import atomic_folder\n"
            "for n in range(30):\n  with atomic_folder(sys.argv[1]) as beside:\n"
            "    for name in 'ab': (beside / name).write_text(sys.argv[2] + str(n))")
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x"), who], cwd=repository)
                 for who in "uvw"]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert os.listdir(tmp_path) == ["x"] and (tmp_path / "x/a").read_text() == (tmp_path / "x/b").read_text()


@pytest.fixture
def little(tmp_path):
    """A disk of 256 kB, where this user may mount one."""
    place = tmp_path / "little"
    place.mkdir()
    if os.name == "nt" or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)],
                                         capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here (it takes root); the limit on a file's size is tested alone")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


NOISE = np.random.default_rng(0).integers(-1000, 1000, (64, 64, 64)).astype(np.int16)


def volume(path):
    from LNSynthLib.images.volume import Volume, write

    write(path, Volume(NOISE, np.eye(4)))


def prepared(path):
    from LNSynthLib.cases.prepared import write_prepared

    with atomic_folder(path) as beside:
        write_prepared(beside, NOISE / 1000, NOISE % 9, NOISE % 5, {})


def generator(path):
    import torch
    from safetensors.torch import save_file

    with atomic_folder(path) as beside:
        save_file({"weights": torch.from_numpy(NOISE)}, beside / "model.safetensors")


def segmenter(path):
    import torch

    with atomic_path(path) as beside:
        torch.save({"weights": torch.from_numpy(NOISE)}, str(beside))


def picture(path):
    from LNSynthLib.images.pictures import write_png

    write_png(path, NOISE.reshape(512, 512, 1).repeat(3, 2).astype(np.uint8))


WRITERS = {"a.nii": volume, "a.nii.gz": volume, "a.nrrd": volume, "a.mha": volume, "prepared": prepared,
           "generator": generator, "a.pth": segmenter, "a.png": picture,
           "a.json": lambda path: write_json(path, NOISE.tolist()),
           "a.csv": lambda path: write_text(path, "1,2,3\n" * 100_000)}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(little, name):
    with pytest.raises(LNSynthError, match=f"{name}.*: it cannot be written: the disk is full; free some space"):
        WRITERS[name](little / name)
    assert list(little.iterdir()) == []


def test_a_full_disk_keeps_what_was_there(little):
    write_text(little / "a.csv", "old")
    with pytest.raises(LNSynthError, match="disk is full"):
        WRITERS["a.csv"](little / "a.csv")
    assert (little / "a.csv").read_text() == "old" and os.listdir(little) == ["a.csv"]


def test_a_limit_on_the_size_of_files_is_told(tmp_path, repository):
    code = ("import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
            "from LNSynthLib.runtime.files import write_text\nwrite_text(sys.argv[1], 'x' * 5000)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.csv")], capture_output=True, text=True,
                          cwd=repository, check=False)
    assert "a.csv: it cannot be written: files of that size are not allowed there" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place, why", [
    ("file/a.nii.gz", "is a file and not a folder"), ("x" * 300 + ".nii.gz", "more than 255 bytes"),
    ("link/a.nii.gz", "a link that leads nowhere"), ("full/a.nii.gz", "the disk is full")])
def test_what_cannot_be_written_is_told_before_the_work(tmp_path, place, why, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    if place.startswith("full"):
        monkeypatch.setattr(files, "LEAST_FREE", 1 << 62)
    with pytest.raises(LNSynthError, match=why):
        check_output(tmp_path / place)
    check_output(tmp_path / "file") if not place.startswith("full") else None


def test_a_read_only_disk_is_told_before_the_work(little):
    subprocess.run(["mount", "-o", "remount,ro", str(little)], check=True)
    for call in (check_output, lambda path: write_text(path, "")):
        with pytest.raises(LNSynthError, match="that disk can only be read"):
            call(little / "new folder" / "a.csv")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_closed_to_us_is_told(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    for call in (check_output, lambda path: write_text(path, "")):
        with pytest.raises(LNSynthError, match="you may not write there"):
            call(tmp_path / "closed" / "a.csv")


def test_an_input_that_cannot_be_read_is_not_blamed_on_the_output(tmp_path):
    refused = PermissionError(errno.EACCES, "denied", "/elsewhere/ct.nii.gz")
    with pytest.raises(PermissionError), atomic_path(tmp_path / "out.nii.gz"):
        raise refused
    assert os.listdir(tmp_path) == []


def test_scratch_is_for_its_user_alone(umask):
    os.umask(0)
    with temporary.scratch() as folder:
        assert rights(folder) == 0o700 and str(folder).startswith(tempfile.gettempdir())
    assert not folder.exists()
