"""Pictures have the right pixels in the right places."""

import numpy as np
import pytest
from PIL import Image

from LNSynthLib.images import pictures


def test_grey_maps_the_window_linearly_and_clips():
    values = np.array([-1000.0, -160, 40, 240, 3000])
    assert pictures.grey(values)[:, 0].tolist() == [0, 0, 128, 255, 255]
    assert pictures.grey(values).shape == (5, 3)


@pytest.mark.parametrize(
    ("plane", "index", "right", "front", "head"),
    [("axial", 4, "left", "top", None), ("coronal", 3, "left", None, "top"), ("sagittal", 2, None, "left", "top")],
)
def test_slices_lie_as_radiologists_read_them(plane, index, right, front, head):
    marks = {"right": (5, 3, 4), "front": (2, 7, 4), "head": (2, 3, 9)}  # far along +x, +y, +z of a canonical array
    for name, expected in (("right", right), ("front", front), ("head", head)):
        if expected is None:
            continue
        array = np.zeros((6, 8, 10), np.uint8)
        array[marks[name]] = 1
        row, column = np.argwhere(pictures.cut(array, plane, index))[0]
        assert (row if expected == "top" else column) == 0, name


def test_widest_finds_the_slice_with_most_of_the_mask():
    mask = np.zeros((4, 5, 6), np.uint16)
    mask[1, 2, 3] = mask[1, 3, 3] = mask[1, 2, 5] = 1
    assert [pictures.widest(mask, p) for p in ("axial", "coronal", "sagittal")] == [3, 2, 1]
    assert pictures.widest(np.zeros((4, 5, 6)), "axial") == 3


def test_contour_surrounds_the_mask_and_spares_it():
    plain = np.full((7, 9, 3), 50, np.uint8)
    mask = np.zeros((7, 9), np.uint16)
    mask[2:4, 3:6] = 7
    drawn = pictures.contour(plain, mask, (1, 2, 3))
    colored = (drawn == (1, 2, 3)).all(-1)
    assert colored.sum() == 2 * (2 + 3) and not colored[mask > 0].any()
    assert (drawn[~colored] == 50).all() and (plain == 50).all()


def test_contour_does_not_wrap_around_the_border():
    mask = np.zeros((5, 5), np.uint8)
    mask[0, 0] = 1
    drawn = pictures.contour(np.zeros((5, 5, 3), np.uint8), mask, (9, 9, 9))
    assert sorted(map(tuple, np.argwhere(drawn[..., 0] == 9).tolist())) == [(0, 1), (1, 0)]


def test_tint_mixes_the_color_of_a_label():
    drawn = pictures.tint(np.full((1, 3, 3), 100, np.uint8), np.array([[0, 5, 6]]), {5: (200, 0, 100)}, alpha=0.5)
    assert drawn[0].tolist() == [[100] * 3, [150, 50, 100], [100] * 3]


def test_view_has_square_pixels_and_shows_the_nodes():
    ct = np.full((10, 8, 4), 40.0)
    nodes = np.zeros(ct.shape, np.uint16)
    nodes[4:6, 3:5, 1] = 1
    assert pictures.view(ct, (1.0, 1.0, 5.0), "coronal").shape == (20, 10, 3)
    picture = pictures.view(ct, (2.0, 2.0, 5.0), "axial", nodes=nodes)
    assert picture.shape == (16, 20, 3)
    green = (picture == pictures.NODE_COLOR).all(-1)
    assert green.sum() == 16 and (picture[~green] == 128).all()


def test_montage_places_pictures_and_marks_them(tmp_path):
    red, blue = np.full((20, 30, 3), (255, 0, 0), np.uint8), np.full((10, 40, 3), (0, 0, 255), np.uint8)
    plain = pictures.montage([[red, blue], [blue]], titles=["a", "b"])
    assert ((plain == (255, 0, 0)).all(-1)).sum() == 600 and ((plain == (0, 0, 255)).all(-1)).sum() == 800
    marked = pictures.montage([[red, blue], [blue]], titles=["a", "b"], columns=["c"], banner="SYNTHETIC", caption="x")
    assert marked.shape[0] > plain.shape[0]
    assert (marked[:3] == pictures.WARNING).all(-1).all(), "the banner spans the width"
    assert (marked[:20] == 255).all(-1).sum() > 20, "and has words in it"
    path = tmp_path / "m.png"
    pictures.write_png(path, marked, "SYNTHETIC")
    with Image.open(path) as read:
        assert np.array_equal(np.asarray(read), marked) and read.text["Description"] == "SYNTHETIC"
    assert [p.name for p in tmp_path.iterdir()] == ["m.png"]
