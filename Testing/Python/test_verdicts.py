"""Decisions on samples: on the disk when made, never lost, and read only as they were meant."""

import fcntl
import json
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from LNSynthLib.review import verdicts as module
from LNSynthLib.review.samples import pair_id, samples
from LNSynthLib.review.verdicts import history, record, review
from LNSynthLib.runtime.errors import LNSynthError


def make_sample(folder, name, content="first"):
    """What a review needs of a sample: its folder and the hashes in its provenance."""
    outputs = {"ct.nii.gz": f"ct of {name}, {content}", "nodes.nii.gz": f"nodes of {name}"}
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "provenance.json").write_text(json.dumps({"outputs": outputs}))


@pytest.fixture
def folder(tmp_path):
    for name in ("a-10", "a-2", "b-1"):
        make_sample(tmp_path, name)
    return tmp_path


def test_samples_come_in_natural_order_and_a_new_one_has_another_name(folder):
    (folder / ".half-made").mkdir()
    (folder / ".half-made" / "provenance.json").write_text("{}")
    (folder / "no sample").mkdir()
    assert [path.name for path in samples(folder)] == ["a-2", "a-10", "b-1"]
    names = {pair_id(path) for path in samples(folder)}
    before = pair_id(folder / "a-2")
    make_sample(folder, "a-2", "second")
    assert len(names) == 3 and before != pair_id(folder / "a-2")
    make_sample(folder, "a-2")
    assert pair_id(folder / "a-2") == before


@pytest.mark.parametrize("make, complaint", [
    (lambda f: f / "nowhere", "no such folder"), (lambda f: f / "a-2", "give the folder around it"),
    (lambda f: (f / "empty").mkdir() or f / "empty", "no synthetic samples here")])
def test_what_is_no_folder_of_samples_is_refused(folder, make, complaint):
    with pytest.raises(LNSynthError, match=complaint):
        review(make(folder))


def test_a_decision_is_a_row_and_the_latest_of_a_reviewer_counts(folder):
    assert review(folder).undecided == ["a-2", "a-10", "b-1"] and history(folder) == []
    first = record(folder, "a-2", "reject", "no node, to my eye", "anna")
    assert (folder / "review.csv").read_text() == (
        "sample,verdict,note,time,reviewer,pair\n"
        f'a-2,reject,"no node, to my eye",{first.time},anna,{pair_id(folder / "a-2")}\n')
    second = record(folder, "a-2", "accept", "", "anna")
    record(folder, "b-1", "reject", "", "bob")
    assert history(folder)[:2] == [first, second] and first.time.endswith("Z")
    found = review(folder)
    assert found.decisions["a-2"] == second and found.decisions["b-1"].verdict == "reject"
    assert found.undecided == ["a-10"] and found.stale == []


def test_where_reviewers_disagree_the_rule_decides(folder):
    record(folder, "a-2", "reject", "", "anna")
    record(folder, "a-2", "accept", "", "bob")
    assert review(folder).decisions["a-2"].reviewer == "anna"
    assert review(folder, "latest").decisions["a-2"].reviewer == "bob"
    record(folder, "a-2", "accept", "looked again", "anna")
    assert review(folder).decisions["a-2"].verdict == "accept"
    record(folder, "a-2", "reject", "", "bob")
    assert review(folder).decisions["a-2"].reviewer == "bob" == review(folder, "latest").decisions["a-2"].reviewer
    with pytest.raises(LNSynthError, match="any-reject, latest"):
        review(folder, "majority")


def test_each_reviewer_has_a_queue(folder):
    record(folder, "a-2", "accept", "", "anna")
    assert review(folder, reviewer="anna").undecided == ["a-10", "b-1"]
    assert review(folder, reviewer="bob").undecided == ["a-2", "a-10", "b-1"]


def test_a_decision_on_a_sample_made_anew_is_stale_until_it_is_judged_again(folder):
    record(folder, "a-2", "accept", "", "anna")
    old = record(folder, "a-2", "reject", "", "bob")
    make_sample(folder, "a-2", "second")
    found = review(folder)
    assert "a-2" not in found.decisions and "a-2" in found.undecided
    assert {d.reviewer for d in found.stale} == {"anna", "bob"}
    new = record(folder, "a-2", "accept", "", "anna")
    assert review(folder).decisions["a-2"] == new and review(folder).stale == [old]
    make_sample(folder, "a-2")  # the very pair that they judged first
    assert review(folder).decisions["a-2"] == old


@pytest.mark.parametrize("arguments, complaint", [
    (("a-3", "accept", "", "anna"), "no sample 'a-3' here; its samples are a-2, a-10, b-1"),
    (("a-2", "maybe", "", "anna"), "accept or reject, not 'maybe'"), (("a-2", "accept", "", " "), "no reviewer")])
def test_a_decision_that_means_nothing_is_refused(folder, arguments, complaint):
    with pytest.raises(LNSynthError, match=complaint):
        record(folder, *arguments)
    assert not (folder / "review.csv").exists()


def test_what_a_spreadsheet_saved_is_read_and_stays_as_it_is(folder):
    path = folder / "review.csv"
    text = ("Sample;Verdict;Note;Time;Reviewer;My column\r\n"
            "a-2;Reject;\"gas; not a node\";2025-01-31T16:05:00Z;anna;7\r\n;;;;;\r\na-10;accept ;;;anna;\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    first, second = history(folder)
    assert (first.sample, first.verdict, first.note) == ("a-2", "reject", "gas; not a node")
    assert (second.sample, second.verdict, second.time) == ("a-10", "accept", "")
    assert review(folder).undecided == ["b-1"]
    record(folder, "b-1", "accept", "größer; gut", "bob")
    lines = path.read_bytes().decode().splitlines()
    assert lines[0] == "\ufeffsample;verdict;note;time;reviewer;my column;pair"
    assert lines[1] == 'a-2;Reject;"gas; not a node";2025-01-31T16:05:00Z;anna;7;'
    assert history(folder)[-1].note == "größer; gut" and len(history(folder)) == 3


def test_the_order_of_decisions_does_not_hang_on_clocks(folder):
    """Bob's machine is an hour slow: what he says after Anna comes after it all the same."""
    (folder / "review.csv").write_text("time,sample,verdict,reviewer\n2025-02-01T08:00:00Z,a-2,accept,anna\n"
                                       "2025-02-01T07:00:09Z,a-2,reject,bob\n2025-02-01T09:00:00+02:00,a-2,accept,bob")
    assert review(folder, "latest").decisions["a-2"].verdict == "accept"
    assert [d.reviewer for d in history(folder)] == ["anna", "bob", "bob"]
    (folder / "review.csv").write_text("time,sample,verdict,reviewer\n2025-02-01T08:00:00Z,a-2,accept,anna\n"
                                       "2025-02-01T07:00:09Z,a-2,reject,bob\n")
    assert review(folder, "latest").decisions["a-2"].verdict == "reject"


@pytest.mark.parametrize("rows, line, complaint", [
    ("a-2,accept,,,anna\na-10,accpet,,,anna\n", 3, "not 'accpet'"),
    ("a-2,,,,anna\n", 2, "not ''"),
    ("a-2,accept,,,anna\n\nJan 02,reject,,,anna\n", 4, "no sample 'Jan 02'"),
    ('a-2,accept,"two\nlines",,anna\na-3,accept,,,anna\n', 4, "no sample 'a-3'"),
    ("a-2,accept,,31.01.2025 16:05,anna\n", 2, "not ISO 8601"),
    ("a-2,reject,not a node, gas,2025-01-31T16:05:00Z,anna,,\n", 2, "more values than columns")])
def test_a_row_that_means_nothing_is_an_error_with_its_line(folder, rows, line, complaint):
    (folder / "review.csv").write_text("sample,verdict,note,time,reviewer\n" + rows)
    with pytest.raises(LNSynthError, match=f"review.csv, line {line}: .*{complaint}"):
        review(folder)


@pytest.mark.parametrize("content, complaint", [
    (b"sample,time\na-2,\n", "line 1: there is no column verdict"), (b"", "no column sample and verdict"),
    ("sample,verdict,note\na-2,reject,größer\n".encode("cp1252"), "save it as CSV in UTF-8"),
    (b'sample,verdict,note\na-2,reject,"never closed\n', "save it as CSV in UTF-8")])
def test_a_file_that_is_no_table_is_refused_and_left_alone(folder, content, complaint):
    path = folder / "review.csv"
    path.write_bytes(content)
    with pytest.raises(LNSynthError, match=complaint):
        review(folder)
    with pytest.raises(LNSynthError, match=complaint):
        record(folder, "a-2", "accept", "", "anna")
    assert path.read_bytes() == content


@given(notes=st.lists(st.text(max_size=30), min_size=1, max_size=4), reviewer=st.text(min_size=1, max_size=8))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_note_comes_back_as_it_was_written(folder, notes, reviewer):
    (folder / "review.csv").unlink(missing_ok=True)
    if not reviewer.strip():
        reviewer += "x"
    made = [record(folder, "a-2", "accept", note, reviewer) for note in notes]
    assert history(folder) == made and [d.note for d in made] == [note.strip() for note in notes]


WRITER = """
import sys
from LNSynthLib.review.verdicts import record
for n in range(int(sys.argv[3])):
    record(sys.argv[1], "a-2", "accept", f"{sys.argv[2]} {n}", sys.argv[2])
    print(n, flush=True)
"""


def test_several_reviewers_at_once_lose_nothing(folder):
    running = [subprocess.Popen([sys.executable, "-c", WRITER, str(folder), name, "25"], stdout=subprocess.DEVNULL)
               for name in ("anna", "bob", "eve")]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    notes = [decision.note for decision in history(folder)]
    assert sorted(notes) == sorted(f"{name} {n}" for name in ("anna", "bob", "eve") for n in range(25))


def test_killed_at_any_moment_every_decision_that_was_told_is_there(folder):
    told = {}
    for round, wait in enumerate((0.03, 0.1, 0.17)):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder), f"r{round}", "100000"], text=True,
                                   stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(wait)
        process.kill()
        told[f"r{round}"] = 1 + len(process.stdout.read().split())
        process.wait()
    for name, count in told.items():
        saved = [d.note for d in history(folder) if d.reviewer == name]
        assert saved == [f"{name} {n}" for n in range(len(saved))] and count <= len(saved) <= count + 1


def test_a_lock_that_never_comes_free_is_told(folder):
    with open(folder / ".review.csv.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LNSynthError, match="cannot be saved .*close the file in other programs"):
            record(folder, "a-2", "accept", "", "anna", wait_s=0.1)
    record(folder, "a-2", "accept", "", "anna")


def test_the_standard_library_is_enough(folder):
    code = ("import sys; from LNSynthLib.review.verdicts import record\n"
            "record(sys.argv[1], 'a-2', 'accept', '', 'anna')\n"
            "print({m.split('.')[0] for m in sys.modules} - sys.stdlib_module_names)")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, sys.argv[2])\n{code}",
                           str(folder), str(module.__file__).rpartition("LNSynthLib")[0]], capture_output=True,
                          text=True)
    assert done.stdout.strip() == "{'LNSynthLib', '__main__'}" or done.stdout.strip() == "{'__main__', 'LNSynthLib'}", (
        done.stderr)
