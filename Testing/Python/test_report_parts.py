"""What a report is put together from: best values, smallest p, outlines, frames, curves, and what may be claimed."""

import numpy as np
import pytest
from scipy import stats

from LNSynthLib.evaluation.statistics import Interval
from LNSynthLib.experiment.report import figures, findings, tables, tables_html
from LNSynthLib.experiment.report.curves import smoothed
from LNSynthLib.experiment.report.figures_html import _by_strategy


def test_the_smallest_p_is_what_scipy_gives_when_all_patients_agree():
    for n in (3, 5, 7, 9):
        smallest = tables_html.smallest_p(n, 4) if n > 4 else 1
        assert stats.wilcoxon(np.arange(1, n + 1)).pvalue * 4 == pytest.approx(smallest)
    assert tables_html.smallest_p(2, 10) == 1


def test_the_best_of_a_column_is_none_where_all_are_the_same():
    assert tables.best([0.1, None, 0.3, 0.3004], 3) == {2, 3} and tables.best([0.1, None, 0.3, 0.3004], 4) == {3}
    assert tables.best([0.1, None, 0.3], 3, lower=True) == {0}
    for values in ([0.0, 0.0], [0.5, None], [None], [], [0.1001, 0.1002]):  # the last two are shown alike
        assert tables.best(values, 3) == set()


def test_outlines_lie_on_their_side_of_the_border():
    mask = np.zeros((40, 40), np.uint16)
    mask[10:20, 12:30] = 1
    blank = np.zeros((40, 40, 3), np.uint8)
    outer, inner = (figures._outline(blank, mask, (255, 0, 0), inside)[..., 0] > 0 for inside in (False, True))
    grown = np.zeros_like(mask, bool)
    grown[7:23, 9:33] = True
    core = np.zeros_like(mask, bool)
    core[13:17, 15:27] = True
    np.testing.assert_array_equal(inner, (mask > 0) & ~core)
    assert not outer[mask > 0].any() and not outer[~grown].any() and outer.sum() >= grown.sum() - (mask > 0).sum() - 24


def test_a_frame_stays_inside_and_centres_the_largest_node():
    nodes = np.zeros((60, 50, 9), np.uint16)
    nodes[2:4, 40:42, 3], nodes[30:34, 20:24, 5:8] = 1, 2
    frame = figures.Frame.around(nodes, (2.0, 2.0, 5.0), (-120, 240))
    assert frame.index in (5, 6, 7)
    assert [(b.start, b.stop) for b in frame.box] == [(14, 50), (4, 40)]  # 72 mm: 36 voxels around (31.5, 21.5)
    edge = figures.Frame.around(np.where(nodes == 1, 1, 0), (2.0, 2.0, 5.0), (-120, 240))
    assert edge.index == 3 and edge.box == (slice(0, 36), slice(14, 50))
    assert figures.Frame.around(np.zeros((9, 9, 9), int), (4.0,) * 3, (-120, 240)).box == (slice(0, 9), slice(0, 9))


def test_curves_of_real_cases_alone_stand_in_every_panel():
    panels = _by_strategy({"R": ("real", ["r"]), "S": ("synthetic", ["s"]), "B": ("both", ["b"])})
    assert list(panels.values()) == [["r", "s"], ["r", "b"]]
    assert list(_by_strategy({"R": ("real", ["r"]), "S": ("synthetic", [])}).values()) == [["r"]]
    assert _by_strategy({"R": ("real", [])}) == {}


def test_smoothing_is_a_centred_mean():
    values = np.random.default_rng(0).normal(size=200)
    wanted = [values[max(0, i - 5):i + 6].mean() for i in range(200)]  # 200 / 40 steps to either side
    np.testing.assert_allclose(smoothed(values), wanted, atol=1e-12)


@pytest.mark.parametrize("found, said", [
    (Interval(0.1, None, None, 1), "one patient, which shows nothing"),
    (Interval(0.0, None, None, 5), "all 5 patients alike"),
    (Interval(0.1, -0.01, 0.2, 40), "cannot be told apart"), (Interval(0.1, 0.0, 0.2, 40), "cannot be told apart"),
    (Interval(0.1, 0.05, 0.2, 9), "an indication at most"), (Interval(0.1, 0.05, 0.2, 10), "leaves out 0, on these 10"),
])
def test_no_more_is_claimed_than_an_interval_allows(found, said):
    assert said in findings.verdict(found)
