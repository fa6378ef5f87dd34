"""Review: the queue of a folder of samples, one after the other in the compare view, judged by button or key."""

from pathlib import Path

import qt
from LNSynthLogic import compare_layout, node_table, review_queue, samples, volumes
from LNSynthLogic.jobs.background import Background
from slicer.i18n import tr as _

from LNSynthLib.runtime.errors import LNSynthError

from .keys import Keys
from .review_export import ReviewExport

POLL_MS = 2000  # samples may stream in, and others may be reviewing
READ_MS = 50
TYPED_MS = 400  # a path or a name is being typed: it counts once nothing more comes


class ReviewPanel:
    def __init__(self, host):
        self.host, self.ui = host, host.ui
        self.queue, self._key, self._said = None, None, ""
        self._shown = None     # of the sample on the screen: (name, pair), volume, segmentation, whether loaded here
        self._awaited = None   # (name, pair) of the sample that is being read to be shown
        self._node = -1        # which of its nodes was jumped to last
        self._entered = False
        self._keys = Keys(host, {
            "A": lambda: self._decide("accept"), "X": lambda: self._decide("reject"), "N": lambda: self._step(1),
            "P": lambda: self._step(-1), "J": self._next_node, "C": self._write_note})
        self._reading, self._being_read = Background(), None  # (name, pair)
        self._read = {}        # (name, pair): Sample, of the one that was read ahead
        self._read_timer = qt.QTimer()
        self._read_timer.setInterval(READ_MS)
        self._read_timer.connect("timeout()", self._go_on_reading)
        self._open_timer = qt.QTimer()
        self._open_timer.setSingleShot(True)
        self._open_timer.setInterval(TYPED_MS)
        self._open_timer.connect("timeout()", self._typed)
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self._look_again)
        ui = self.ui
        ui.reviewSection.connect("contentsCollapsed(bool)", self._opened)
        ui.reviewTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        for column in (2, 3):  # note and reviewers share what is left
            ui.reviewTable.horizontalHeader().setSectionResizeMode(column, qt.QHeaderView.Stretch)
        ui.reviewTable.connect("itemSelectionChanged()", self._row_chosen)
        ui.reviewTable.connect("cellClicked(int,int)", lambda _row, _column: self._row_chosen())
        ui.previousButton.connect("clicked()", lambda: self._step(-1))
        ui.nextButton.connect("clicked()", lambda: self._step(1))
        ui.acceptButton.connect("clicked()", lambda: self._decide("accept"))
        ui.rejectButton.connect("clicked()", lambda: self._decide("reject"))
        ui.nextNodeButton.connect("clicked()", self._next_node)
        ui.noteLineEdit.connect("returnPressed()", self._comment)
        self._export = ReviewExport(host)

    def refresh(self) -> None:
        if self._shown and self._shown[1].GetScene() is None:  # the scene was closed, or somebody removed it
            self._shown = None
        key = self._chosen()
        if key != self._key:
            self._key = key
            if key[0]:
                self._open_timer.start()
            else:
                self._open_timer.stop()
                self._open_queue()
        self._ready()
        self._watch()

    def enter(self) -> None:
        self._entered = True
        self._watch()

    def exit(self) -> None:
        self._entered = False
        self._watch()

    def close(self) -> None:
        self._open_timer.stop()
        self._timer.stop()
        self._read_timer.stop()
        self._reading.clear()
        self._keys.close()

    # The queue

    def _chosen(self) -> tuple[str, str]:
        """Folder and reviewer, empty where none is chosen."""
        p = self.host.parameters
        return (p.samplesFolder, p.reviewer.strip()) if p is not None else ("", "")

    def _typed(self) -> None:
        if self._chosen() == self._key:  # else more was typed, and the next refresh waits for it
            self._open_queue()
            self._ready()
            self._watch()

    def _open_queue(self) -> None:
        folder, reviewer = self._key
        current = self.queue.current if self.queue is not None and str(self.queue.folder) == folder else ""
        self.queue, self._said = None, ""
        if folder:
            try:
                self.queue = review_queue.ReviewQueue(Path(folder), reviewer)
                if current in [item.name for item in self.queue.items]:
                    self.queue.go(current)
                    if self._is_seen():
                        self.queue.look()
            except LNSynthError as error:
                self._said = str(error)
        self._fill()

    def _look_again(self) -> None:
        """What has changed in the folder since, by a job or by others."""
        if self._open_timer.active:
            return
        if self.queue is None:
            if self._key and self._key[0]:
                self._open_queue()  # the first sample may have come
        else:
            try:
                if not self.queue.refresh():
                    return
                self._said = ""
            except LNSynthError as error:
                self._said = str(error)
            self._fill()
        self._ready()

    def _fill(self) -> None:
        table, queue = self.ui.reviewTable, self.queue
        blocked = table.blockSignals(True)
        items = queue.items if queue is not None else ()
        table.setRowCount(len(items))
        for row, item in enumerate(items):
            for column, text in enumerate(item.texts()):
                cell = table.item(row, column)
                if cell is None:
                    cell = qt.QTableWidgetItem()
                    table.setItem(row, column, cell)
                cell.setText(text)
                cell.setToolTip(text)
        if queue is not None and queue.place >= 0:
            table.selectRow(queue.place)
        else:
            table.clearSelection()
        table.blockSignals(blocked)
        progress = queue.progress if queue is not None else review_queue.Progress(0, 0, 0)
        self.ui.reviewProgress.setRange(0, max(1, progress.total))
        self.ui.reviewProgress.setValue(progress.decided)

    def _ready(self) -> None:
        ui, ready = self.ui, self.host.set_ready
        folder, reviewer = self._key or ("", "")
        none = "" if self.queue is not None else self._said or review_queue.what_is_missing(folder, reviewer or "-")
        if self._open_timer.active:  # the queue is still that of the folder and the reviewer before
            none = _("The folder is being read ...")
        seen = "" if self._is_seen() else _("Show a sample first (N).")
        verdict = none or review_queue.what_is_missing(folder, reviewer) or seen
        ready(ui.previousButton, none, _("Shows the sample before this one (P)."))
        ready(ui.nextButton, none, _("Shows the sample after this one (N)."))
        ready(ui.nextNodeButton, none or seen, _("Jumps to the next lymph node of this sample (J)."))
        ready(ui.acceptButton, verdict, _("This sample looks like a CT with lymph nodes: use it (A). Saved at once."))
        ready(ui.rejectButton, verdict, _("Do not use this sample (X). Saved at once."))
        self._export.refresh(self.queue)
        ui.noteLineEdit.enabled = not none
        ui.reviewStatus.text = " ".join(filter(None, [
            self._said, self._export.said, self.queue.progress.sentence if self.queue is not None else "",
            verdict if verdict != self._said else ""]))

    def _opened(self, _collapsed=False) -> None:
        self._watch()
        if not self.ui.reviewSection.collapsed:
            self._look_again()

    def _watch(self) -> None:
        """Keys and a look at the folder now and then, while the section is open and the module is shown."""
        on = self._entered and not self.ui.reviewSection.collapsed and bool(self._key and self._key[0])
        self._keys.use(on and self.queue is not None)
        if on != self._timer.active:
            self._timer.start() if on else self._timer.stop()

    # From sample to sample

    def _row_chosen(self) -> None:
        row = self.ui.reviewTable.currentRow()
        if self.queue is not None and 0 <= row < len(self.queue.items):
            self._go(lambda: self.queue.go(self.queue.items[row].name))

    def _step(self, by: int) -> None:
        if self.queue is not None:
            self._go(lambda: self.queue.step(by))

    def _go(self, step) -> None:
        """One step in the queue; then the sample that it is at is on the screen."""
        try:
            step()
            self._show()
        except LNSynthError as error:
            self._said = str(error)
        self._fill()
        self._ready()

    def _is_seen(self) -> bool:
        return self._shown is not None and self._shown[0] == self._at()

    def _at(self) -> tuple | None:
        """(name, pair) of the sample that the queue is at."""
        item = self.queue.item if self.queue is not None else None
        return (item.name, item.pair) if item is not None else None

    def _show(self) -> None:
        """Shows the current sample, once it is read, which happens beside the window."""
        folder, key = self.queue.look(), self._at()
        if self._is_seen() or key == self._awaited:
            return
        self._said, self._awaited = "", None
        self.ui.noteLineEdit.text = self.queue.item.mine.note if self.queue.item.mine else ""
        there = samples.loaded(self.host.scene, folder)
        if there is not None:
            self._put(*there, self.host.compare.source(volumes.volume_of(there[0]), folder), key)
        elif key in self._read:
            self._add(self._read.pop(key), key)
        else:
            self._said, self._awaited = _("Reading {name} ...").format(name=key[0]), key
            if key != self._being_read:
                self._reading.clear()
                self._start_reading(folder, key)

    def _start_reading(self, folder: Path, key: tuple) -> None:
        def done(sample) -> None:
            self._being_read = None
            if key == self._awaited:
                self._add(sample, key)
            else:
                self._read = {key: sample}

        def failed(error: Exception) -> None:
            self._being_read = None
            if key != self._awaited:
                return  # it was to be read ahead; why it cannot be is said when it is wanted
            self._awaited = None
            self._said = _("Samples are shown once the packages are installed (Setup).") if isinstance(
                error, ImportError) else str(error)
            self._put_away()
            self._ready()

        self._being_read = key
        self._reading.add(lambda: samples.read_sample(folder), done, failed)
        self._read_timer.start()

    def _go_on_reading(self) -> None:
        self._reading.poll()
        if not self._reading.busy:
            self._read_timer.stop()

    def _read_ahead(self) -> None:
        """The sample that comes next, while people look at this one."""
        item = self.queue.following
        if item is not None and not self._reading.busy and (item.name, item.pair) not in self._read:
            self._read = {}
            self._start_reading(self.queue.folder / item.name, (item.name, item.pair))

    def _add(self, sample, key: tuple) -> None:
        """What was read comes into the scene, unless something else is wanted by now."""
        self._awaited = None
        if self.host.parameters is None or key != self._at():
            return
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            real = self.host.compare.source(sample.ct, sample.folder)
            self._put(*samples.add_sample(self.host.scene, sample, like=real), real, key, ours=True)
        except LNSynthError as error:
            self._said = str(error)
        finally:
            qt.QApplication.restoreOverrideCursor()
        self._fill()
        self._ready()

    def _put(self, volume, segmentation, real, key: tuple, ours: bool = False) -> None:
        """A sample of the scene beside the CT that it was made from (or None), in place of the one before."""
        before = self._shown
        ours = ours or bool(before and before[3] and before[1] is volume)
        self.host.compare.show(volume, segmentation, real, self.host.compare.source_nodes() if real else None)
        self._said = "" if real else _("On the left is the same CT without outlines: choose the CT that it was made "
                                       "from (section Input) to see that one.")
        if before and before[1] is not volume:
            self._put_away()
        self._shown, self._node = (key, volume, segmentation, ours), -1
        self._next_node()
        self._read_ahead()

    def _put_away(self) -> None:
        """Takes the sample that was shown out of the scene, where this panel brought it."""
        before, self._shown = self._shown, None
        if before and before[3] and not samples.unload_sample(before[1], before[2]):
            self._said = _("The nodes of {name} were changed here: they stay in the scene.").format(name=before[0][0])

    def _next_node(self) -> None:
        if not self._is_seen():
            return
        _key, volume, segmentation, _ours = self._shown
        ids = samples.nodes_to_look_at(segmentation) if segmentation.GetScene() is not None else []
        if not ids:
            return
        self._node = (self._node + 1) % len(ids)
        try:
            node_table.jump(self.host.scene, compare_layout.center_of(segmentation, ids[self._node], volume))
        except LNSynthError as error:
            self._said = str(error)

    # Verdicts

    def _decide(self, verdict: str) -> None:
        if not self.ui.acceptButton.enabled:
            return  # a key; the buttons say why not
        before, note = self.queue.current, self.ui.noteLineEdit.text
        try:
            self.queue.decide(verdict, note)
        except LNSynthError as error:
            self.host.show_error(str(error))  # loudly: it is not saved
            self._look_again()
            return
        said = {"accept": _("{name} is accepted."), "reject": _("{name} is rejected.")}[verdict].format(name=before)
        self.host.say(said)
        if self.queue.current != before:
            self._go(lambda: None)
        else:
            self._said = said
            self._fill()
            self._ready()

    def _comment(self) -> None:
        """Return in the note's line: with a verdict already given it is saved, else it waits for the verdict."""
        if self._is_seen() and self.queue.item is not None and self.queue.item.mine is not None:
            try:
                self.queue.comment(self.ui.noteLineEdit.text)
                self._said = _("The note is saved.")
            except LNSynthError as error:
                self.host.show_error(str(error))
            self._fill()
            self._ready()
        self.ui.reviewTable.setFocus()  # so that letters are keys again

    def _write_note(self) -> None:
        self.ui.noteLineEdit.setFocus()
        self.ui.noteLineEdit.selectAll()
