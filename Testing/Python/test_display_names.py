"""Errors of jobs name what is in the scene, not the job's files and numbers."""

import mrml
import numpy as np
import pytest
from LNSynthLogic import nodes_in_ct, segments
from LNSynthLogic.jobs import display_names


@pytest.fixture
def case(scene):
    ct = mrml.add_ct(scene, np.zeros((20, 20, 20), np.int16), np.eye(4))
    array = np.zeros((20, 20, 20), np.uint16)
    array[2:5, 2:5, 2:5], array[10:14, 10:14, 10:14] = 1, 2
    nodes = mrml.add_nodes(scene, ct, array, name="My nodes")
    nodes.GetSegmentation().GetNthSegment(1).SetName("Coeliac")
    return ct, nodes


def test_files_and_numbers_become_names(case, tmp_path):
    ct, nodes = case
    names, path = display_names.Names(), tmp_path / "nodes.nii"
    names.add(tmp_path / "ct.nii", ct)
    names.add(None, None)
    names.add(path, nodes, segments.write_mask(nodes, ct, path))
    assert names(f"{path}: only 20% of node 2 lies in the body; move it.") == (
        "My nodes: only 20% of Coeliac lies in the body; move it.")
    assert names(f"{tmp_path / 'ct.nii'} and {path}: node 1, node 12, nodes") == (
        "CT and My nodes: Node 1, node 12, nodes")
    assert names("node 2 of something else") == "node 2 of something else" and names("") == ""


def test_numbers_are_those_of_the_mask_that_the_error_is_about(case, tmp_path):
    ct, nodes = case
    names, wanted, present = display_names.Names(), tmp_path / "nodes.nii", tmp_path / "nodes.nii.present.nii"
    original = nodes_in_ct.keep(nodes, ct)
    segments.remove_node(nodes, segments.node_ids(nodes)[0])
    names.add(wanted, nodes, segments.write_mask(nodes, ct, wanted))
    names.add(present, original, segments.write_mask(original, ct, present))
    assert names(f"{present}: node 1 lies outside.") == f"{original.GetName()}: Node 1 lies outside."
    assert names(f"{wanted}: node 1 lies outside ({present}).") == (
        f"My nodes: Coeliac lies outside ({original.GetName()}).")
    assert names(f"{wanted}: node 2 lies outside.") == "My nodes: Coeliac lies outside.", "a part of the only one"
