"""The nodes: their table, edits of one node as single undo steps, the move by hand, and jobs that add or vary nodes."""

import shutil

import numpy as np
import qt
import slicer
from LNSynthLogic import node_edits, node_move, node_table, segments
from LNSynthLogic.jobs import display_names
from LNSynthLogic.jobs.process import library_command
from slicer.i18n import tr as _

from LNSynthLib.runtime.errors import LNSynthError

WARNING = "color: #e0443e; font-weight: bold"  # a red that reads on light and dark
EVENTS = (slicer.vtkSegmentation.SegmentAdded, slicer.vtkSegmentation.SegmentRemoved,
          slicer.vtkSegmentation.SegmentModified, slicer.vtkSegmentation.SourceRepresentationModified,
          slicer.vtkSegmentation.RepresentationModified, slicer.vtkSegmentation.SegmentsOrderModified)


class NodesPanel:
    def __init__(self, host):
        self.host, self.ui = host, host.ui
        self.table, self.session = node_table.NodeTable(), None
        self.rows, self.selected, self._watched, self._said = [], "", (), ""
        self._tags = []
        self._jump_to = ""  # a new node, until it is measured
        self._timer = self._single_shot(100, self._measure)
        self._warn_timer = self._single_shot(30, self._warn)
        ui = self.ui
        ui.nodesTable.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        ui.nodesTable.horizontalHeader().setSectionResizeMode(3, qt.QHeaderView.Stretch)
        ui.nodesTable.connect("itemSelectionChanged()", self._row_chosen)
        ui.nodesTable.connect("cellClicked(int,int)", lambda _row, _column: self._jump())
        ui.affineButton.connect("clicked()", lambda: self._vary("affine"))
        ui.elasticButton.connect("clicked()", lambda: self._vary("elastic"))
        ui.removeButton.connect("clicked()", self._remove)
        ui.addAtCrosshairButton.connect("clicked()", self._add_at_crosshair)
        ui.addPlausibleButton.connect("clicked()", self._add_plausible)
        ui.varyButton.connect("clicked()", self._vary_all)
        ui.undoButton.connect("clicked()", lambda: self._step(host.editor.undo))
        ui.redoButton.connect("clicked()", lambda: self._step(host.editor.redo))
        ui.moveButton.connect("toggled(bool)", self._move)
        ui.moveApplyButton.connect("clicked()", self._move_apply)
        ui.moveCancelButton.connect("clicked()", self._move_end)
        ui.moveWarningLabel.styleSheet = WARNING
        host.editor.connect("currentSegmentIDChanged(QString)", self._segment_chosen)
        self.refresh()

    @property
    def _nodes(self):
        return self.host.parameters.nodes if self.host.parameters else None

    @property
    def _ct(self):
        return self.host.parameters.ct if self.host.parameters else None

    @property
    def _anatomy(self):
        return self.host.parameters.anatomy if self.host.parameters else None

    def refresh(self):
        if self.session and not (self.session.alive and self.session.segmentation is self._nodes
                                 and self.session.ct is self._ct):
            self._move_end()
        if self._nodes and not self.session:
            node_move.show_again(self._nodes)
        self._watch()
        self._fill()
        self._ready()
        self._timer.start()

    def exit(self):
        self._move_end()

    def close(self):
        self._timer.stop()
        self._warn_timer.stop()
        self._move_end()
        self._forget()
        self.host.editor.disconnect("currentSegmentIDChanged(QString)", self._segment_chosen)

    # What is shown

    def _watch(self):
        """Follows the segments of the chosen nodes and organs."""
        slots = ((self._nodes, self._changed), (self._anatomy, self._organs_changed))
        slots = [(node.GetSegmentation(), slot) for node, slot in slots if node]
        watched = tuple(segmentation for segmentation, _slot in slots)
        if watched == self._watched:
            return
        self._forget()
        self._watched = watched
        self._tags = [(segmentation, segmentation.AddObserver(event, slot))
                      for segmentation, slot in slots for event in EVENTS]

    def _forget(self):
        for watched, tag in self._tags:
            watched.RemoveObserver(tag)
        self._watched, self._tags = (), []

    def _changed(self, caller=None, event=None):
        self._timer.start()

    def _organs_changed(self, caller, event):
        self._timer.start()
        self.host.refresh_soon()  # no row of the table need change with them

    def _measure(self):
        """Shows what is known, measures some of what is not, and comes again until all is measured."""
        if not self._nodes:
            return
        self._fill()
        if not self._ct:
            return
        try:
            done = self.table.measure(self._nodes, self._ct, self._anatomy)
        except LNSynthError as error:
            self._say(str(error))
            return
        except ImportError:
            self._say(_("Nodes are measured once the packages are installed (Setup)."))
            return
        self._fill()
        if self._jump_to and self._jump_to == self.selected:
            self._jump()
        self._jump_to = ""
        if not done:
            self._timer.start()

    def _fill(self):
        """The rows as they are; the selection stays with its node."""
        try:
            rows = self.table.rows(self._nodes, self._ct, self._anatomy) if self._nodes else []
        except LNSynthError as error:  # a transform that warps
            rows = []
            self._say(str(error))
        if rows == self.rows:
            return
        self.rows = rows
        if self.selected not in [row.segment_id for row in rows]:
            self.selected = ""
        table = self.ui.nodesTable
        blocked = table.blockSignals(True)
        table.setRowCount(len(rows))
        for i, row in enumerate(rows):
            for column, text in enumerate(row.texts()):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text)  # where the column is too narrow for it
                if column == 0:
                    item.setData(qt.Qt.DecorationRole, qt.QColor.fromRgbF(*row.color))
                elif column in (1, 2):
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                table.setItem(i, column, item)
        self._show_selection()
        table.blockSignals(blocked)
        self._ready()
        self.host.refresh_soon()  # a drawn node is no change of the scene or of a parameter: nobody else hears of it

    def _show_selection(self):
        table = self.ui.nodesTable
        blocked = table.blockSignals(True)
        table.clearSelection()
        for i, row in enumerate(self.rows):
            if row.segment_id == self.selected:
                table.selectRow(i)
        table.blockSignals(blocked)

    def _ready(self):
        ui, ready = self.ui, self.host.set_ready
        first = node_table.missing(self._ct, self._nodes)
        moving = _("Apply or cancel the move first.") if self.session else ""
        one = first or moving or ("" if self.selected else _("Choose a node in the table."))
        organs = "" if self._anatomy else _("Choose or make the anatomy first (Anatomy): nodes keep clear of organs.")
        job = first or moving or organs or self.host.jobs.reason
        ready(ui.affineButton, one, _("Moves, turns and scales the selected node at random; never over an organ."))
        ready(ui.elasticButton, one, _("Changes the shape of the selected node at random; never over an organ."))
        ready(ui.removeButton, one, _("Removes the selected node."))
        ready(ui.addAtCrosshairButton, first or moving,
              _("A new node at the crosshair (move it with Shift and the mouse)."))
        ready(ui.addPlausibleButton, job, _("A new node where abdominal nodes lie: along the vessels, in fat."))
        ready(ui.varyButton, job or ("" if self.rows else _("There is no node to vary.")),
              _("Makes this many segmentations with every node changed at random."))
        ready(ui.undoButton, first or moving, _("Undoes the last change."))
        ready(ui.redoButton, first or moving, _("Redoes the last undone change."))
        ready(ui.moveButton, "" if self.session else one,
              _("Handles on the selected node in all views: drag to move, turn and scale it."))
        for button in (ui.moveApplyButton, ui.moveCancelButton):
            button.visible = bool(self.session)
        ui.nodesStatus.text = first or self._said

    def _say(self, text):
        self._said = text
        self.ui.nodesStatus.text = text

    # Which node

    def _row_chosen(self):
        row = self.ui.nodesTable.currentRow()
        self.selected = self.rows[row].segment_id if 0 <= row < len(self.rows) else ""
        if self.selected:
            self.host.editor.setCurrentSegmentID(self.selected)
        self._jump()
        self._ready()

    def _segment_chosen(self, segment_id):
        """The editor's list and the table agree."""
        if segment_id != self.selected and segment_id in [row.segment_id for row in self.rows]:
            self.selected = segment_id
            self._show_selection()
            self._ready()

    def _jump(self):
        for row in self.rows:
            if row.segment_id == self.selected and row.center_mm:
                node_table.jump(self.host.scene, row.center_mm)

    # Edits

    def _edit(self, work, *arguments, nodes=None):
        """One edit, one undo step; what it says, or why it did nothing, is shown below the buttons.

        nodes: where they are not, or may no longer be, the chosen ones
        """
        nodes = nodes or self._nodes
        before = segments.node_ids(nodes)
        try:
            self._say(work(*arguments))
        except LNSynthError as error:
            self._say(str(error))
        except ImportError:
            self._say(_("Install the packages first (Setup)."))
        new = [segment_id for segment_id in segments.node_ids(nodes) if segment_id not in before]
        if new and nodes is self._nodes:
            self.selected = self._jump_to = new[-1]
            if self._is_edited(nodes):
                self.host.editor.setCurrentSegmentID(self.selected)
        self._changed()

    def _is_edited(self, nodes):
        """Whether the editor shows them. Where a job ends while people are elsewhere, its one node may show others."""
        return nodes is not None and self.host.editor.segmentationNode() is nodes

    def _save(self, nodes=None):
        """The editor's history is of the segmentation that it shows, no other."""
        if self._is_edited(nodes or self._nodes):
            self.host.editor.saveStateForUndo()

    def _step(self, undo_or_redo):
        undo_or_redo()
        self._say("")
        self._changed()

    def _vary(self, kind):
        self._edit(node_edits.vary, self._nodes, self.selected, self._ct, self._anatomy, kind, np.random.default_rng(),
                   self._save)

    def _remove(self):
        self._edit(node_edits.remove, self._nodes, self.selected, self._save)

    def _add_at_crosshair(self):
        self._edit(lambda: node_edits.add_at(
            self._nodes, self._ct, self._anatomy, node_edits.crosshair(self.host.scene),
            self.ui.shortAxisSpinBox.value or None, np.random.default_rng(), self._save))

    # Jobs

    def _add_plausible(self):
        nodes, ct = self._nodes, self._ct

        def arguments(folder, mask, _ids):
            return node_edits.plausible_arguments(self.host.export_ct(), folder / "anatomy.nii", mask,
                                                  folder / "out.nii", self.ui.shortAxisSpinBox.value or None,
                                                  int(np.random.default_rng().integers(2**31)))

        def done(result, _ids):
            self._edit(node_edits.add_from_job, nodes, ct, result, lambda: self._save(nodes), nodes=nodes)

        self._job(_("New node"), arguments, done)

    def _vary_all(self):
        nodes, ct = self._nodes, self._ct

        def arguments(folder, mask, _ids):
            return node_edits.vary_arguments(self.host.export_ct(), folder / "anatomy.nii", mask, folder / "out.nii",
                                             self.ui.varySpinBox.value, int(np.random.default_rng().integers(2**31)))

        def done(result, ids):
            made = node_edits.variants_from_job(self.host.scene, nodes, ct, ids, result)
            self._say(_("{count} varied sets made; choose one as the nodes (Input) to go on with it.").format(
                count=len(made)))

        self._job(_("Varied nodes"), arguments, done)

    def _job(self, title, arguments, done):
        """`lnsynth nodes` on files of the CT, the organs and the nodes; `done(result, {value: segment id})`."""
        nodes, ct = self._nodes, self._ct
        try:
            with slicer.util.WaitCursor():
                folder = self.host.temporary_folder()
                node_edits.write_organs(self._anatomy, ct, folder / "anatomy.nii")
                ids = segments.write_mask(nodes, ct, folder / "nodes.nii")
                command = library_command("nodes", *arguments(folder, folder / "nodes.nii" if ids else None, ids))
                names = display_names.Names()
                names.add(self.host.export_ct(), ct)
                names.add(folder / "anatomy.nii", self._anatomy)
                names.add(folder / "nodes.nii", nodes, ids)

            def on_result(result):
                if nodes.GetScene() is not None and ct.GetScene() is not None:  # the scene was not closed meanwhile
                    done(result, ids)

            self.host.jobs.start(title, command, on_result=on_result, names=names,
                                 cleanup=lambda: shutil.rmtree(folder, ignore_errors=True))
        except LNSynthError as error:
            self._say(str(error))
        except ImportError:
            self._say(_("Install the packages first (Setup)."))

    # The move by hand

    def _move(self, on):
        if on == bool(self.session):
            return
        if not on:
            self._move_end()
            return
        try:
            self.session = node_move.begin(self._nodes, self.selected, self._ct, self.host.scene, self._anatomy)
        except (LNSynthError, ImportError) as error:
            self._say(str(error) if isinstance(error, LNSynthError) else _("Install the packages first (Setup)."))
            self._move_end()
            return
        self.session.transform.AddObserver(
            slicer.vtkMRMLTransformableNode.TransformModifiedEvent, lambda _caller, _event: self._warn_timer.start())
        self._say(_("Drag the handles in the views, then apply or cancel."))
        self._jump()
        self._warn()
        self._ready()

    def _warn(self):
        if self.session and self.session.alive:
            self.ui.moveWarningLabel.text = self.session.warning()

    def _move_apply(self):
        if self.session:
            self._edit(self.session.apply, self._save)
            if not self.session.alive:
                self._move_end()

    def _move_end(self):
        """Also where the session is over already: the button is up, and nothing warns."""
        if self.session:
            self.session.cancel()  # the observed transform goes with it
            self.session = None
        blocked = self.ui.moveButton.blockSignals(True)
        self.ui.moveButton.checked = False
        self.ui.moveButton.blockSignals(blocked)
        self.ui.moveWarningLabel.text = ""
        self._ready()

    @staticmethod
    def _single_shot(milliseconds, slot):
        timer = qt.QTimer()
        timer.setSingleShot(True)
        timer.setInterval(milliseconds)
        timer.connect("timeout()", slot)
        return timer
