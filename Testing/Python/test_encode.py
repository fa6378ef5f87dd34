"""The expected HU of a condition: measured where the CT has a label, typical where it has not."""

import numpy as np
import pytest

from LNSynthLib.conditions.encode import NODE_HU, expected_hu, scale_hu, unscale_hu
from LNSynthLib.masks.labels import LabelTable

WINDOW = (-120.0, 240.0)
TABLE = LabelTable.load("abdomen17")


def in_hu(organ_hu, node_hu):
    return unscale_hu(expected_hu(TABLE, organ_hu, node_hu, WINDOW), WINDOW)


def test_measured_labels_take_their_own_value_and_absent_ones_the_typical():
    organ_hu = [None] * TABLE.channels
    organ_hu[TABLE.index("liver")] = 55.0
    hu = in_hu(organ_hu, 70.0)
    assert hu.shape == (TABLE.channels + 1,)
    assert hu[TABLE.index("liver")] == pytest.approx(55, abs=0.01)
    assert hu[TABLE.index("spleen")] == pytest.approx(TABLE.labels[TABLE.index("spleen")].hu, abs=0.01)
    assert hu[TABLE.index("air")] == pytest.approx(-120) and hu[TABLE.index("bone")] == pytest.approx(240)
    assert hu[-1] == pytest.approx(70, abs=0.01)


def test_unknown_nodes_follow_the_veins():
    assert in_hu([None] * TABLE.channels, None)[-1] == pytest.approx(NODE_HU, abs=0.01)
    native = [None] * TABLE.channels
    for name in ("inferior_vena_cava", "portal_vein_and_splenic_vein"):
        native[TABLE.index(name)] = 38.0
    assert 30 <= in_hu(native, None)[-1] <= 45  # an unenhanced node is as bright as unenhanced blood


def test_scaling_of_a_whole_range_is_monotonic_and_clipped():
    hu = np.arange(-300, 400, 7)
    scaled = scale_hu(hu, WINDOW)
    assert (np.diff(scaled) >= 0).all() and scaled.min() == -1 and scaled.max() == 1
