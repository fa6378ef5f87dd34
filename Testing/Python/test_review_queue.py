"""The review queue: order, verdicts on the disk at once, several reviewers, samples that come, go or are remade."""

import json
import os
import shutil
import stat
import subprocess
import sys
import time

import pytest
from LNSynthLogic import review_queue as module
from LNSynthLogic.review_queue import Progress, ReviewQueue, what_is_missing

from LNSynthLib.review import verdicts
from LNSynthLib.review.samples import pair_id
from LNSynthLib.runtime.errors import LNSynthError


def make_sample(folder, name, content="first"):
    """What a review needs of a sample: its folder and the hashes in its provenance, whole or not there."""
    outputs = {"ct.nii.gz": f"ct of {name}, {content}", "nodes.nii.gz": f"nodes of {name}"}
    beside = folder / f".{name}"
    beside.mkdir(parents=True)
    (beside / "provenance.json").write_text(json.dumps({"outputs": outputs}))
    shutil.rmtree(folder / name, ignore_errors=True)
    beside.rename(folder / name)


@pytest.fixture
def folder(tmp_path):
    for name in ("a-10", "a-2", "b-1"):
        make_sample(tmp_path, name)
    return tmp_path


def decide(queue, verdict, note=""):
    queue.look()
    return queue.decide(verdict, note)


def test_the_queue_goes_from_one_undecided_sample_to_the_next(folder):
    queue = ReviewQueue(folder, "anna")
    assert [item.name for item in queue.items] == ["a-2", "a-10", "b-1"] and queue.current == "" and queue.item is None
    assert queue.first() == "a-2"
    assert decide(queue, "accept") == "a-10"
    assert decide(queue, "reject", "no node") == "b-1"
    assert queue.progress == Progress(3, 1, 1) and queue.progress.decided == 2
    assert queue.step(-2) == "a-2" and queue.item.mine.verdict == "accept"
    assert decide(queue, "reject", "looked again") == "b-1"
    assert queue.step(1) == "b-1" and queue.step(-9) == "a-2" and queue.step(1) == "a-10"
    queue.go("b-1")
    assert decide(queue, "accept") == "b-1"  # none waits any more
    assert queue.progress == Progress(3, 1, 2)
    assert ReviewQueue(folder, "anna").first() == "a-2"


def test_undecided_samples_before_the_current_one_come_after_those_behind_it(folder):
    queue = ReviewQueue(folder, "anna")
    assert queue.following.name == "a-2"
    queue.go("a-10")
    assert queue.following.name == "b-1"
    assert decide(queue, "accept") == "b-1"
    assert queue.following.name == "a-2"
    assert decide(queue, "accept") == "a-2" and queue.following is None


def test_a_verdict_is_on_the_disk_when_decide_returns(folder):
    """A process that is killed right after has lost nothing."""
    code = ("import os, sys; from LNSynthLogic.review_queue import ReviewQueue; q = ReviewQueue(sys.argv[1], 'anna'); "
            "q.first(); q.look(); q.decide('reject', 'dark, too dark'); os.kill(os.getpid(), 9)")
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False,
                   env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    decision = verdicts.review(folder).decisions["a-2"]
    assert (decision.verdict, decision.note, decision.reviewer, decision.pair) == (
        "reject", "dark, too dark", "anna", pair_id(folder / "a-2"))
    queue = ReviewQueue(folder, "anna")
    assert queue.items[0].mine == decision and queue.first() == "a-10"


def test_reviewers_have_their_own_queues_and_see_what_others_said(folder):
    anna, bob = ReviewQueue(folder, "anna"), ReviewQueue(folder, " bob ")
    anna.first()
    decide(anna, "accept", "good")
    assert bob.first() == "a-2" and bob.progress.decided == 0
    assert [(d.reviewer, d.verdict, d.note) for d in bob.item.others] == [("anna", "accept", "good")]
    decide(bob, "reject")
    decide(bob, "reject")
    anna.refresh()
    assert anna.current == "a-10" and anna.item.others[0].reviewer == "bob" and anna.item.waits
    assert verdicts.review(folder).decisions["a-2"].verdict == "reject"  # one rejection excludes
    nobody = ReviewQueue(folder)
    assert [len(item.others) for item in nobody.items] == [2, 1, 0] and nobody.progress.decided == 0


def test_the_queue_says_what_the_library_says(folder):
    """The same decisions stand and the same are stale as in `verdicts.review`, for every reviewer."""
    for who, keys in {"anna": "ara", "bob": "rr", "cy": "a"}.items():
        queue = ReviewQueue(folder, who)
        queue.first()
        for key in keys:
            decide(queue, {"a": "accept", "r": "reject"}[key])
    make_sample(folder, "a-2", "second")
    make_sample(folder, "c-1")
    queue = ReviewQueue(folder, "bob")
    queue.go("a-2")
    decide(queue, "accept")
    for who in ("anna", "bob", "cy"):
        queue, theirs = ReviewQueue(folder, who), verdicts.review(folder, reviewer=who)
        assert {i.name: i.mine for i in queue.items if i.mine} == theirs.decisions
        assert [i.name for i in queue.items if i.waits] == theirs.undecided
        assert [i.stale for i in queue.items if i.stale] == theirs.stale
        assert {i.name: {d.reviewer: d for d in i.others} for i in queue.items} == {
            i.name: {other: found for other in ("anna", "bob", "cy") if other != who
                     if (found := verdicts.review(folder, reviewer=other).decisions.get(i.name))} for i in queue.items}


def test_a_sample_that_was_made_anew_waits_again(folder):
    queue = ReviewQueue(folder, "anna")
    queue.first()
    decide(queue, "reject", "blurred")
    make_sample(folder, "a-2", "second")
    assert queue.refresh() and not queue.refresh()
    queue.go("a-2")
    assert queue.item.waits and queue.item.stale.note == "blurred" and queue.progress.decided == 0
    queue.look()
    make_sample(folder, "a-2", "third")  # behind the reviewer's back
    with pytest.raises(LNSynthError, match="regenerated while you looked"):
        queue.decide("accept")
    assert len(verdicts.history(folder)) == 1 and queue.current == "a-2"
    decide(queue, "accept")
    assert queue.items[0].mine.verdict == "accept" and queue.items[0].stale is None


def test_nothing_is_decided_unseen_or_by_nobody(folder):
    queue = ReviewQueue(folder, "anna")
    for go in (lambda: None, queue.first):
        go()
        with pytest.raises(LNSynthError, match="Look at a sample"):
            queue.decide("accept")
    decide(queue, "accept")
    with pytest.raises(LNSynthError, match="Look at a sample"):  # it has moved on to one that was not looked at
        queue.decide("accept")
    queue.look()
    with pytest.raises(LNSynthError, match="accept or reject"):
        queue.decide("perhaps")
    nobody = ReviewQueue(folder, "  ")
    nobody.first()
    nobody.look()
    with pytest.raises(LNSynthError, match="your name"):
        nobody.decide("accept")
    assert [d.sample for d in verdicts.history(folder)] == ["a-2"]
    assert "folder" in what_is_missing("", "anna") and "name" in what_is_missing("x", " ")
    assert what_is_missing("x", "anna") == ""


def test_samples_stream_in_and_vanish_while_the_queue_is_open(folder):
    queue = ReviewQueue(folder, "anna")
    queue.go("b-1")
    make_sample(folder, "a-3")
    (folder / ".half").mkdir()  # one that is being written
    assert queue.refresh() and [item.name for item in queue.items] == ["a-2", "a-3", "a-10", "b-1"]
    assert queue.current == "b-1"
    shutil.rmtree(folder / "b-1")
    assert queue.refresh() and queue.current == "a-10"
    with pytest.raises(LNSynthError, match="no sample 'b-1' any more"):
        queue.go("b-1")
    make_sample(folder, "a-4")
    assert queue.first() == "a-2" and queue.step(2) == "a-4"


def test_the_table_says_who_said_what(folder):
    anna = ReviewQueue(folder, "anna")
    anna.first()
    decide(anna, "reject", "dark")
    decide(anna, "accept")
    bob = ReviewQueue(folder, "bob")
    bob.first()
    decide(bob, "accept", "fine")
    make_sample(folder, "a-10", "second")
    (folder / "b-1" / "provenance.json").write_text("{")
    anna.refresh()
    rows = [item.texts() for item in anna.items]
    assert rows[0] == ("a-2", "rejected", "dark; bob: fine", "anna, bob (accepted)")
    assert rows[1] == ("a-10", "regenerated", "", "")
    assert rows[2][:2] == ("b-1", "damaged") and "not valid JSON" in rows[2][2]
    assert anna.progress.sentence == "2 of 3 samples wait for you; 0 accepted, 1 rejected."


def test_export_needs_a_sample_that_nobody_rejected(folder):
    anna, bob = ReviewQueue(folder, "anna"), ReviewQueue(folder, "bob")
    assert "folder" in module.what_export_misses(None) and "No sample" in module.what_export_misses(anna)
    for queue, verdict in ((anna, "accept"), (bob, "reject")):
        queue.first()
        decide(queue, verdict)
    assert "No sample" in module.what_export_misses(bob)
    decide(bob, "accept")
    anna.refresh()
    assert module.what_export_misses(anna) == "" == module.what_export_misses(bob)


def test_a_dicom_segmentation_is_for_nodes_on_a_real_ct(scene):
    import mrml
    from LNSynthLogic import segments, synthetic

    ct = mrml.add_ct(scene)
    nodes = segments.new_segmentation(scene, ct, "Nodes")
    assert "CT" in module.what_seg_misses(None, nodes) and "no nodes" in module.what_seg_misses(ct, None)
    assert "no nodes" in module.what_seg_misses(ct, nodes)
    segments.add_instances(nodes, ct, mrml.phantom().nodes.array)
    assert module.what_seg_misses(ct, nodes) == ""
    nodes.SetAttribute(synthetic.SYNTHETIC, "1")
    assert "belong to a synthetic CT" in module.what_seg_misses(ct, nodes)
    synthetic.mark_synthetic(ct, {})
    assert "synthetic" in module.what_seg_misses(ct, nodes)


def test_a_note_can_be_changed_without_changing_the_verdict(folder):
    queue = ReviewQueue(folder, "anna")
    queue.first()
    queue.look()
    with pytest.raises(LNSynthError, match="with a verdict"):
        queue.comment("hm")
    queue.decide("reject", "dark")
    queue.step(-1)
    queue.look()
    queue.comment("dark, beside the aorta")
    assert queue.current == "a-2"
    assert (queue.item.mine.verdict, queue.item.mine.note) == ("reject", "dark, beside the aorta")


def test_a_damaged_sample_stops_nobody_from_reviewing_the_others(folder):
    (folder / "a-10" / "provenance.json").write_text("{")
    queue = ReviewQueue(folder, "anna")
    queue.first()
    assert decide(queue, "accept") == "b-1"
    queue.go("a-10")
    assert "not valid JSON" in queue.item.problem
    with pytest.raises(LNSynthError, match="not valid JSON"):
        queue.look()


def test_what_keeps_a_verdict_from_being_written_is_said_and_nothing_moves(folder, monkeypatch):
    queue = ReviewQueue(folder, "anna")
    queue.first()
    decide(queue, "accept")
    queue.look()
    before = verdicts.table(folder).read_bytes()
    monkeypatch.setattr(module, "WAIT_S", 0.1)
    code = ("import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('locked', "
            "flush=True); time.sleep(60)")
    holder = subprocess.Popen([sys.executable, "-c", code, str(folder / ".review.csv.lock")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline()
        with pytest.raises(LNSynthError, match="cannot be saved"):
            queue.decide("accept")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert queue.current == "a-10" and queue.item.waits and verdicts.table(folder).read_bytes() == before
    assert queue.decide("accept") == "b-1"  # the verdict is not lost: it can be given again


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="a superuser may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(folder):
    queue = ReviewQueue(folder, "anna")
    queue.first()
    queue.look()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(LNSynthError, match="cannot be saved"):
            queue.decide("accept")
    finally:
        folder.chmod(stat.S_IRWXU)
    assert queue.current == "a-2"


def test_a_thousand_samples_do_not_slow_a_step_down(tmp_path):
    for number in range(1000):
        make_sample(tmp_path, f"s-{number}")
    queue = ReviewQueue(tmp_path, "anna")
    queue.first()
    decide(queue, "accept")
    start = time.perf_counter()
    queue.step(1)
    assert time.perf_counter() - start < 0.3


@pytest.mark.parametrize("make, complaint", [
    (lambda f: f / "nowhere", "no such folder"), (lambda f: (f / "empty").mkdir() or f / "empty", "no synthetic samp")])
def test_what_is_no_folder_of_samples_is_refused(tmp_path, make, complaint):
    with pytest.raises(LNSynthError, match=complaint):
        ReviewQueue(make(tmp_path), "anna")
