"""What Slicer draws of a comparison, pixel by pixel: outlines lie where the masks are, and SYNTHETIC can be read."""

import mrml
import numpy as np
import pytest
from LNSynthLogic import compare_layout, node_table, segments
from LNSynthLogic.synthetic import mark_synthetic
from scipy import ndimage
from slices import SliceViews, side_by_side

SIZE = (320, 260)


@pytest.fixture
def picture_of(scene):
    """name of a view -> (view, picture): the phantom, and the same phantom with nodes that are fat, compared."""
    views = SliceViews(scene)
    ct = mrml.add_ct(scene)
    changed = mrml.phantom().ct.array.copy()
    changed[mrml.phantom().nodes.array > 0] = -100
    synthetic = mrml.add_ct(scene, changed, mrml.phantom().ct.affine, "sample-001")
    mark_synthetic(synthetic, {})
    synthetic.GetDisplayNode().SetAutoWindowLevel(False)
    synthetic.GetDisplayNode().SetWindowLevel(400, 40)
    equal = compare_layout.EqualWindows(synthetic, ct)
    nodes, new_nodes = mrml.add_nodes(scene, ct), mrml.add_nodes(scene, synthetic)
    compare_layout.open_layout(scene)
    compare_layout.show(scene, ct, synthetic, nodes, new_nodes)
    compare_layout.frame([views.view(name, SIZE).logic for name in compare_layout.VIEWS], ct)
    sizes = {i: (mrml.phantom().nodes.array == v).sum() for v, i in enumerate(segments.node_ids(nodes), start=1)}
    node_table.jump(scene, compare_layout.center_of(nodes, max(sizes, key=sizes.get), ct))
    for name in compare_layout.VIEWS:  # closer, so that a voxel has several pixels
        node = views.view(name).node
        node.SetFieldOfView(*(0.4 * side for side in node.GetFieldOfView()[:2]), 1)
        node.UpdateMatrices()
    yield lambda name: (views.view(name), views.view(name).picture())
    equal.close()


def outline(picture: np.ndarray) -> np.ndarray:
    """Pixels that have a colour; the CT is grey."""
    return np.ptp(picture.astype(int), axis=2) > 40


def mask_seen(view) -> np.ndarray:
    """Which pixels of a view lie in a node, computed from the voxels and the view's own matrix."""
    height, width = SIZE[1], SIZE[0]
    x, y = np.meshgrid(np.arange(width), np.arange(height)[::-1])
    to_ras = np.array([[view.node.GetXYToRAS().GetElement(i, j) for j in range(4)] for i in range(4)])
    points = np.stack([x.ravel(), y.ravel(), np.zeros(x.size), np.ones(x.size)])
    index = np.rint(np.linalg.inv(mrml.phantom().ct.affine) @ to_ras @ points)[:3].astype(int)
    mask = mrml.phantom().nodes.array > 0
    inside = ((index >= 0) & (index < np.array(mask.shape)[:, None])).all(axis=0)
    seen = np.zeros(x.size, bool)
    seen[inside] = mask[tuple(index[:, inside])]
    return seen.reshape(x.shape)


@pytest.mark.parametrize("name", compare_layout.VIEWS)
def test_the_outline_of_a_node_lies_around_its_voxels(picture_of, name):
    view, picture = picture_of(name)
    drawn, mask = outline(picture), mask_seen(view)
    voxel = round(3.0 / (view.node.GetFieldOfView()[0] / SIZE[0]))  # pixels
    assert mask.sum() > 8 * voxel**2 and voxel >= 4
    edge = mask ^ ndimage.binary_erosion(mask)
    away = ndimage.distance_transform_edt(~edge)
    assert drawn.sum() > 40 and away[drawn].max() <= voxel  # nothing is drawn elsewhere
    near = ndimage.distance_transform_edt(~drawn)
    assert np.percentile(near[edge], 95) <= voxel  # and no part of the edge is left out
    middle = ndimage.binary_erosion(mask, iterations=2 * voxel)
    assert middle.any() and not drawn[middle].any()  # an outline, not a filling


def test_the_right_side_shows_the_synthetic_ct_and_blends_into_the_left(picture_of, scene):
    def inside(name):
        view, picture = picture_of(name)
        core = ndimage.binary_erosion(mask_seen(view), iterations=6)
        return picture[core].mean()

    source = inside(compare_layout.REAL[0])
    assert inside(compare_layout.SYNTHETIC[0]) < source - 40  # fat is darker than a node, in the same window
    shades = []
    for percent in (0, 50, 100):
        compare_layout.set_blend(scene, percent)
        shades.append(inside(compare_layout.SYNTHETIC[0]))
    assert abs(shades[0] - source) < 2 and abs(shades[1] - (shades[0] + shades[2]) / 2) < 3


def test_both_sides_are_one_picture_where_the_cts_are_the_same(picture_of):
    (view, left), (_, right) = picture_of(compare_layout.REAL[1]), picture_of(compare_layout.SYNTHETIC[1])
    far = ~ndimage.binary_dilation(mask_seen(view), iterations=12)
    assert far.sum() > 0.5 * far.size and np.array_equal(left[far], right[far])


def test_synthetic_can_be_read_in_the_picture(picture_of, scene):
    """The banner is there with Slicer's own annotations off, says what is shown, and goes again."""
    for name, words, synthetic in ((compare_layout.REAL[0], "CT: CT", False),
                                   (compare_layout.SYNTHETIC[0], "SYNTHETIC", True)):
        view, before = picture_of(name)
        assert compare_layout.banner_text(scene, name) == (words, synthetic)
        banner = compare_layout.Banner(view.renderer)
        banner.show(words, synthetic)
        with_banner = view.picture()
        changed = (with_banner != before).any(axis=2)
        rows, columns = np.nonzero(changed)
        assert rows.max() < 40 and abs((columns.min() + columns.max()) / 2 - SIZE[0] / 2) < 4
        letters = (with_banner.astype(int).max(axis=2) > 150) & changed
        assert columns.max() - columns.min() > 8 * len(words) and letters.sum() > 12 * len(words)
        orange = letters & (np.ptp(with_banner.astype(int), axis=2) > 100)
        assert orange.any() == synthetic
        banner.close()
        assert np.array_equal(view.picture(), before)
    compare_layout.set_blend(scene, 40)
    assert compare_layout.banner_text(scene, compare_layout.SYNTHETIC[0]) == ("SYNTHETIC 40 %", True)
    compare_layout.set_blend(scene, 0)
    assert compare_layout.banner_text(scene, compare_layout.SYNTHETIC[0]) == ("CT: CT", False)


def test_pictures_stand_side_by_side():
    white, black = np.full((4, 6, 3), 255, np.uint8), np.zeros((4, 6, 3), np.uint8)
    sheet = side_by_side([[white, black], [black, white]], gap=2)
    assert sheet.shape == (10, 14, 3) and (sheet[:4, :6] == 255).all() and (sheet[:4, 8:] == 0).all()
    assert (sheet[4:6] == 96).all() and (sheet[6:, 8:] == 255).all()
