"""Synthesis in place: what changes, where, and that nothing else does, in CTs of every geometry."""

import itertools
import time

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from LNSynthLib.conditions.encode import scale_hu
from LNSynthLib.conditions.form import DataForm
from LNSynthLib.images.boxes import size_mm, union
from LNSynthLib.images.volume import Volume
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.synthesis import insert as insert_module
from LNSynthLib.synthesis.composite import grain
from LNSynthLib.synthesis.insert import InsertSettings, insert
from LNSynthLib.synthesis.patches import groups, patch_grid, patch_shape

NODE_HU, FAT_HU, WALL_HU = 70.0, -100.0, 40.0


class Painter:
    """A generator that knows the answer: where it may paint, nodes of 70 HU in `around` HU (None: what was there)."""

    kind, stride = "painter", 4

    def __init__(self, around=FAT_HU, spacing_mm=2.0, labels="abdomen14", expected_hu=False):
        self.around, self.seen = around, []
        self.form = DataForm(labels=labels, anatomy_channels=LabelTable.load(labels).channels,
                             expected_hu=expected_hu, spacing_mm=spacing_mm, patch=(64, 64, 64))

    def sample(self, condition, *, seeds, steps=None, sampler="dpmpp", known=None, keep=None, callback=None):
        self.seen.append({"condition": condition, "known": known, "keep": keep, "seeds": seeds})
        c = self.form.anatomy_channels
        # Partial volume makes a real node's border as soft as the grid is coarse.
        share = torch.from_numpy(ndimage.gaussian_filter(condition[0, c].numpy(), 0.4))
        around = known if self.around is None else float(scale_hu(self.around, self.form.window))
        for done in range(steps):
            callback(done + 1, steps)
        return torch.where(keep > 0, known, around + (float(scale_hu(NODE_HU, self.form.window)) - around) * share)


def rotation(degrees):
    a, b, c = np.deg2rad(degrees)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rz @ ry @ rx


def grid(spacing, extent_mm=(150, 120, 110), degrees=(0, 0, 0), order=(0, 1, 2), flips=(1, 1, 1)):
    """Shape and affine of a grid centred on the origin: axes permuted and flipped, then turned."""
    spacing = np.array(spacing, float)
    shape = np.round(np.array(extent_mm)[list(order)] / spacing).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ (np.eye(3)[:, list(order)] * np.array(flips)[list(order)] * spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
    return tuple(shape), affine


def positions(shape, affine):
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def body(shape, affine, noise=12.0, dtype=np.int16, seed=0):
    """CT of a cylinder of fat with a muscle wall in air, and where its voxels are (mm)."""
    at = positions(shape, affine)
    radius = np.hypot(at[..., 0] / 1.25, at[..., 1])
    hu = np.where(radius < 54, np.where(radius < 46, FAT_HU, WALL_HU), -1000.0)
    hu = hu + np.random.default_rng(seed).normal(0, noise, shape)
    return Volume(np.rint(hu).astype(dtype) if np.dtype(dtype).kind == "i" else hu.astype(dtype), affine), at


def ball(at, centre, radius):
    return np.linalg.norm(at - np.array(centre), axis=-1) < radius


GEOMETRIES = {
    "straight": dict(spacing=(1.5, 1.5, 1.5)),
    "finer": dict(spacing=(0.9, 0.9, 1.2)),
    "thick slices": dict(spacing=(1.2, 1.2, 5.0)),
    "flipped": dict(spacing=(1.4, 1.4, 2.0), flips=(-1, -1, 1)),
    "coronal": dict(spacing=(1.4, 2.0, 1.4), order=(0, 2, 1), flips=(-1, 1, -1)),
    "oblique": dict(spacing=(1.2, 1.2, 2.5), degrees=(12, -8, 15)),
    "oblique, flipped, turned": dict(spacing=(2.2, 1.2, 1.2), degrees=(-9, 14, 6), order=(2, 0, 1), flips=(1, -1, -1)),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_node_appears_where_the_mask_says_and_nothing_else_changes(geometry):
    shape, affine = grid(**GEOMETRIES[geometry])
    ct, at = body(shape, affine)
    centre = np.array([14.0, -9.0, 7.0])
    nodes = ball(at, centre, 8.0).astype(np.uint8)
    before = ct.array.copy()
    result = insert(ct, Volume(nodes, affine), Painter(), InsertSettings(steps=2)).ct

    assert np.array_equal(ct.array, before), "the CT that was given changed"
    assert result.array.dtype == ct.array.dtype and np.array_equal(result.affine, affine)
    far = ndimage.distance_transform_edt(nodes == 0, sampling=ct.spacing) >= 6.0
    assert np.array_equal(result.array[far], before[far])
    made = result.array > (NODE_HU + FAT_HU) / 2
    made &= np.linalg.norm(at - centre, axis=-1) < 20
    overlap = 2 * (made & (nodes > 0)).sum() / (made.sum() + nodes.sum())
    assert overlap > 0.85
    # Weighted by brightness, its centre is that of the mask to half a voxel of the CT (and of the generator's grid).
    change = (result.array.astype(float) - before) * (np.linalg.norm(at - centre, axis=-1) < 20)
    found = (at * change[..., None]).sum((0, 1, 2)) / change.sum()
    index = np.linalg.inv(affine[:3, :3]) @ (found - at[nodes > 0].mean(0))
    assert np.abs(index).max() < 0.5
    core = ball(at, centre, 5.0)
    assert result.array[core].mean() == pytest.approx(NODE_HU, abs=6)
    assert 0.7 * 12 < result.array[core].std() < 1.4 * 12, "the node's noise is not the CT's"


def test_the_seam_is_within_the_noise():
    # A generator that is 20 HU wrong about fat: a pasted patch would show its border as a step.
    shape, affine = grid((1.0, 1.0, 1.5), extent_mm=(100, 90, 80))
    ct, at = body(shape, affine)
    nodes = Volume(ball(at, (3, 2, 1), 7).astype(np.uint8), affine)
    result = insert(ct, nodes, Painter(around=FAT_HU + 20), InsertSettings(steps=1)).ct.array
    distance = ndimage.distance_transform_edt(nodes.array == 0, sampling=ct.spacing)
    rim = (distance > 4.5) & (distance < 7.5)

    def steps(array):
        return np.concatenate([np.diff(array.astype(float), axis=a)[
            tuple(slice(0, n - (i == a)) for i, n in enumerate(shape))][
            rim[tuple(slice(0, n - (i == a)) for i, n in enumerate(shape))]] for a in range(3)])

    assert steps(result).std() < 1.05 * steps(ct.array).std()
    # Means of shells a millimetre thick: what is 20 HU off fades over four of them.
    hard = np.where(distance < 6, ct.array + 20, ct.array)
    faded, pasted = ([array[(distance > r) & (distance <= r + 1)].mean() for r in np.arange(1, 9)]
                     for array in (result, hard))
    assert np.abs(np.diff(faded)).max() < 10
    assert np.abs(np.diff(pasted)).max() > 17, "the measure sees no seam where there is one"


def test_bone_and_gas_beside_a_node_stay_as_they_are():
    shape, affine = grid((1.2, 1.2, 1.2), extent_mm=(100, 90, 80))
    ct, at = body(shape, affine, noise=5)
    bone, gas = ball(at, (13, 0, 0), 5.5), ball(at, (-13, 0, 0), 5.5)
    ct.array[bone], ct.array[gas] = 600, -900
    nodes = ball(at, (0, 0, 0), 6.5)
    result = insert(ct, Volume(nodes.astype(np.uint8), affine), Painter(around=None), InsertSettings(steps=1)).ct
    distance = ndimage.distance_transform_edt(~nodes, sampling=ct.spacing)
    near = (distance > 1.2) & (distance < 6)
    assert (bone & near).sum() > 50 and (gas & near).sum() > 50
    for tissue in (bone & near, gas & near):
        assert np.abs(result.array[tissue].astype(int) - ct.array[tissue]).mean() < 12


def test_gas_under_a_node_goes():
    shape, affine = grid((1.2, 1.2, 1.2), extent_mm=(100, 90, 80))
    ct, at = body(shape, affine, noise=5)
    ct.array[ball(at, (0, 0, 0), 3)] = -900
    nodes = ball(at, (0, 0, 0), 7)
    result = insert(ct, Volume(nodes.astype(np.uint8), affine), Painter(), InsertSettings(steps=1)).ct
    assert np.abs(result.array[ball(at, (0, 0, 0), 4)].mean() - NODE_HU) < 10


def test_one_of_two_nodes_is_removed_without_a_ghost():
    shape, affine = grid((0.9, 0.9, 1.5), extent_mm=(100, 90, 80), flips=(-1, 1, 1))
    ct, at = body(shape, affine)
    nodes = ball(at, (-14, 0, 0), 6).astype(np.uint8) + 2 * ball(at, (14, 0, 0), 6).astype(np.uint8)
    ct.array[nodes > 0] += int(NODE_HU - FAT_HU)
    painter = Painter()
    result = insert(ct, Volume(nodes, affine), painter, InsertSettings(steps=1), only=[2], remove=True).ct.array
    assert result[nodes == 2].mean() == pytest.approx(FAT_HU, abs=5)
    assert np.array_equal(result[nodes == 1], ct.array[nodes == 1])
    seen = painter.seen[0]["condition"][0, painter.form.anatomy_channels]
    assert 0 < seen.sum() * 8 < 1.3 * 4 / 3 * np.pi * 6**3, "the condition holds the node that stays, and it alone"
    # The outline of what was there: shells around the old border are as even as fat elsewhere.
    signed = 6 - np.linalg.norm(at - np.array([14, 0, 0]), axis=-1)
    shells = [result[(signed > r) & (signed <= r + 1)].mean() for r in range(-4, 4)]
    assert np.ptp(shells) < 12
    fat = (np.linalg.norm(at[..., :2], axis=-1) < 40) & (signed < -8) & (nodes == 0)
    assert 0.7 < result[signed > 0].std() / result[fat].std() < 1.3


def test_only_some_nodes_are_made_and_the_rest_are_taken_to_be_there():
    shape, affine = grid((2, 2, 2), extent_mm=(110, 100, 80))
    ct, at = body(shape, affine)
    nodes = ball(at, (-12, 0, 0), 6).astype(np.uint8) + 2 * ball(at, (12, 0, 0), 6).astype(np.uint8)
    ct.array[nodes == 2] += 150
    painter = Painter()
    result = insert(ct, Volume(nodes, affine), painter, InsertSettings(steps=1), only=[1])
    assert result.patches[0]["nodes"] == [1]
    assert np.array_equal(result.ct.array[nodes == 2], ct.array[nodes == 2])
    seen = painter.seen[0]
    assert ndimage.label(seen["condition"][0, painter.form.anatomy_channels].numpy())[1] == 2
    # The generator may not touch the other node, whose real voxels it is shown.
    c = painter.form.anatomy_channels
    other = seen["condition"][0, c].numpy() * seen["keep"][0, 0].numpy() > 0
    assert other.sum() > 80
    assert np.median(seen["known"][0, 0].numpy()[other]) > scale_hu(20, painter.form.window)


@pytest.mark.parametrize("spacing_mm", [1.5, 2.0])
def test_a_generator_is_free_a_voxel_beyond_what_is_painted_and_no_further(spacing_mm):
    shape, affine = grid((2, 2, 2), extent_mm=(100, 90, 80))
    ct, at = body(shape, affine)
    painter = Painter(spacing_mm=spacing_mm)
    settings = InsertSettings(steps=1, margin_mm=5.0)
    insert(ct, Volume(ball(at, (3, 2, 1), 6).astype(np.uint8), affine), painter, settings)
    seen = painter.seen[0]
    node = np.argwhere(seen["condition"][0, painter.form.anatomy_channels].numpy() > 0)
    free = seen["keep"][0, 0].numpy() == 0
    voxels = np.stack(np.meshgrid(*map(np.arange, free.shape), indexing="ij"), -1)
    away = cKDTree(node).query(voxels.reshape(-1, 3))[0].reshape(free.shape) * spacing_mm
    assert np.array_equal(free, away <= settings.margin_mm + spacing_mm + 1e-9)


@pytest.mark.parametrize("centre,extent", [((44, 0, 0), (110, 100, 80)), ((0, 0, 9), (110, 100, 22))],
                         ids=["beside the skin", "at the end of a thin slab"])
def test_nodes_at_the_border_of_a_ct(centre, extent):
    shape, affine = grid((1.5, 1.5, 2), extent_mm=extent)
    ct, at = body(shape, affine)
    nodes = ball(at, centre, 5).astype(np.uint8)
    result = insert(ct, Volume(nodes, affine), Painter(), InsertSettings(steps=1)).ct
    assert np.abs(result.array[nodes > 0].mean() - NODE_HU) < 45
    far = ndimage.distance_transform_edt(nodes == 0, sampling=ct.spacing) >= 6
    assert np.array_equal(result.array[far], ct.array[far])


@pytest.mark.parametrize("labels", ["abdomen14", "abdomen17"])
@pytest.mark.parametrize("slices,thickness", [(1, 5.0), (2, 1.0)])
def test_a_ct_of_a_slice_or_two(slices, thickness, labels):
    affine = np.diag([1, 1, thickness, 1.0])
    affine[:2, 3] = -64
    ct, at = body((128, 128, slices), affine)
    nodes = ball(at, (3, 2, 0), 8)
    painter = Painter(labels=labels)
    result = insert(ct, Volume(nodes.astype(np.uint8), affine), painter, InsertSettings(steps=1)).ct.array
    assert abs(result[ball(at, (3, 2, 0), 5)].mean() - NODE_HU) < 45  # a sheet this thin is coarse in the patch
    assert np.array_equal(result[~ball(at, (3, 2, 0), 15)], ct.array[~ball(at, (3, 2, 0), 15)])
    anatomy = painter.seen[0]["condition"][0, :painter.form.anatomy_channels].numpy()
    air = [i for i in range(anatomy.shape[3]) if anatomy[0, 24:40, 24:40, i].all()]
    assert 0 < anatomy.shape[3] - len(air) <= slices * thickness / 2 + 1, "there is body in the slices, air beyond"


def test_a_node_in_the_lung():
    shape, affine = grid((1.5, 1.5, 2), extent_mm=(200, 160, 60))
    ct, at = body(shape, affine)
    ct.array[np.hypot(at[..., 0], at[..., 1]) < 40] = -850
    painter = Painter(labels="abdomen17")
    painter.form = DataForm(labels="abdomen17", anatomy_channels=17, spacing_mm=2.0, patch=(20, 20, 20))
    nodes = ball(at, (0, 0, 0), 4).astype(np.uint8)
    insert(ct, Volume(nodes, affine), painter, InsertSettings(steps=1))
    assert painter.seen[0]["condition"][0, 0].sum() == 0, "no air of outside within the body"


def test_a_node_larger_than_the_generators_patch():
    shape, affine = grid((2, 2, 2), extent_mm=(130, 110, 100))
    ct, at = body(shape, affine)
    painter = Painter()
    painter.form = DataForm(spacing_mm=2.0, patch=(20, 20, 20))
    nodes = ball(at, (0, 0, 0), 24).astype(np.uint8)
    result = insert(ct, Volume(nodes, affine), painter, InsertSettings(steps=1))
    assert all(side * 2 >= 48 + 24 and side % 4 == 0 for side in result.patches[0]["patch"]["shape"])
    assert result.ct.array[ball(at, (0, 0, 0), 20)].mean() == pytest.approx(NODE_HU, abs=5)


def test_what_the_generator_sees_of_this_ct():
    # A loop of gas that the patch's border cuts open is still inside the body, and fat is as bright as in this CT.
    shape, affine = grid((1.5, 1.5, 2), extent_mm=(150, 120, 100))
    ct, at = body(shape, affine, noise=4)
    fat = ct.array < -60
    ct.array[fat & (ct.array > -300)] += 15
    ct.array[(np.abs(at[..., 1] + 12) < 4) & (np.abs(at[..., 0]) < 45)] = -800  # from one patch border to the other
    painter = Painter(labels="abdomen17", expected_hu=True)
    painter.form = DataForm(labels="abdomen17", anatomy_channels=17, expected_hu=True, spacing_mm=2.0,
                            patch=(32, 32, 32))
    liver = ball(at, (20, 22, 0), 14)
    ct.array[liver] = 130
    nodes = ball(at, (0, 4, 0), 5).astype(np.uint8) + 2 * ball(at, (-22, 22, 0), 5).astype(np.uint8)
    ct.array[nodes == 2] = 55
    insert(ct, Volume(nodes, affine), painter, InsertSettings(steps=1),
           anatomy=Volume((liver * 5).astype(np.uint8), affine), only=[1])
    condition, table = painter.seen[0]["condition"][0].numpy(), LabelTable.load("abdomen17")
    assert len(condition) == 19
    assert condition[table.index("air")].sum() == 0
    assert condition[table.index("gas")].sum() > 500
    low, high = painter.form.window
    expected = (condition[18] + 1) * (high - low) / 2 + low
    for name, hu in (("fat", -85), ("liver", 130)):
        tissue = (condition[table.index(name)] > 0) & (condition[17] == 0)
        assert tissue.sum() > 200 and np.abs(expected[tissue] - hu).max() < 4
    assert np.abs(expected[condition[17] > 0] - 55).max() < 4, "a new node is as bright as the one that is there"
    assert not condition[table.index("body")][condition[17] > 0].any(), "there is fat under both nodes"


def test_a_new_node_is_expected_to_be_as_bright_as_training_says_of_those_that_are_there():
    shape, affine = grid((1.5, 1.5, 2), extent_mm=(150, 120, 60))
    ct, at = body(shape, affine, noise=4)
    nodes = np.zeros(shape, np.uint8)
    for i, (centre, radius, core, rim) in enumerate((((0, 0, 0), 5, 0, 0), ((-25, 0, 0), 9, 110, 10),
                                                     ((25, 0, 0), 5, 60, 10)), 1):
        nodes[ball(at, centre, radius)] = i
        if i > 1:
            ct.array[ball(at, centre, radius)] = rim
            ct.array[ball(at, centre, 0.85 * radius)] = core
    painter = Painter(labels="abdomen17", expected_hu=True)
    insert(ct, Volume(nodes, affine), painter, InsertSettings(steps=1), only=[1])
    condition, (low, high) = painter.seen[0]["condition"][0].numpy(), painter.form.window
    expected = (condition[18][condition[17] > 0] + 1) * (high - low) / 2 + low
    assert expected == pytest.approx(np.percentile(ct.array[nodes > 1], 75), abs=0.01)


def test_patches_are_multiples_of_the_stride_and_nodes_share_them_where_that_is_cheaper():
    form = DataForm(spacing_mm=1.0, patch=(96, 96, 96))
    for size in ([5, 5, 5], [30, 12, 44], [80, 80, 20], [200, 10, 10]):
        shape = patch_shape(size, form, 8, 24.0)
        assert all(n % 8 == 0 and n >= mm + 24 for n, mm in zip(shape, size, strict=True))
        assert all(n <= max(96, mm + 24 + 8) for n, mm in zip(shape, size, strict=True))

    def at(x, y):
        return (slice(x, x + 10), slice(y, y + 10), slice(50, 60))

    assert groups({1: at(10, 10), 2: at(22, 10), 3: at(200, 200)}, (1, 1, 1), form, 8, 24.0) == [[1, 2], [3]]


def grouped_by_trying_all(boxes, spacing, form, stride, context_mm):
    """Joins, as long as it does not cost, the pair that saves most; of equal ones the first. O(n^3)."""
    def cost(ids):
        return np.prod(patch_shape(size_mm(union([boxes[i] for i in ids]), spacing), form, stride, context_mm))

    found = [[i] for i in sorted(boxes)]
    while True:
        saved = [(cost(a) + cost(b) - cost(a + b), -i, -j)
                 for (i, a), (j, b) in itertools.combinations(enumerate(found), 2)]
        gain, i, j = max(saved, default=(-1, 0, 0))
        if gain < 0:
            return [sorted(group) for group in found]
        found[-i] += found.pop(-j)


def random_boxes(rng, count, room):
    boxes = {}
    for i in rng.permutation(np.arange(1, count + 1)):
        start, size = rng.integers(0, room, 3), rng.integers(2, 16, 3)
        boxes[int(i)] = tuple(slice(int(s), int(s + n)) for s, n in zip(start, size, strict=True))
    return boxes


@pytest.mark.parametrize("seed", range(6))
def test_groups_are_those_of_trying_all_pairs(seed):
    rng = np.random.default_rng(seed)
    form = DataForm(spacing_mm=1.5, patch=(64, 64, 64))
    boxes = random_boxes(rng, int(rng.integers(1, 22)), int(rng.choice([40, 120, 250])))
    arguments = boxes, (0.9, 0.9, 2.0), form, 8, 24.0
    assert groups(*arguments) == grouped_by_trying_all(*arguments)


def test_hundreds_of_nodes_are_grouped_in_no_time():
    began = time.process_time()
    found = groups(random_boxes(np.random.default_rng(0), 300, 300), (1, 1, 1), DataForm(), 8, 24.0)
    assert time.process_time() - began < 3
    assert sorted(i for group in found for i in group) == list(range(1, 301))


@pytest.mark.parametrize("degrees", [(0, 0, 0), (12, -8, 15)])
def test_the_grain_is_taken_where_the_patch_has_data(degrees, monkeypatch):
    shape, affine = grid((1.0, 1.0, 1.5), extent_mm=(100, 90, 80), degrees=degrees)
    affine[:3, 1] += 0.03 * affine[:3, 0]  # and a little shear
    ct, at = body(shape, affine, noise=3)
    painter = Painter(spacing_mm=1.0)
    painter.form = DataForm(spacing_mm=1.0, patch=(32, 32, 32))
    seen = []

    def look(native, known, *others):
        seen.append((native, known))
        return grain(native, known, *others)

    monkeypatch.setattr(insert_module, "grain", look)
    insert(ct, Volume(ball(at, (1, 2, 1), 4).astype(np.uint8), affine), painter, InsertSettings(steps=1))
    ((native, known),) = seen
    assert np.abs(known - FAT_HU).max() < 18, "beyond the patch it is the window's lower end, 20 HU off"
    assert (native - known).std() < 3


@pytest.mark.parametrize("composite", ["residual", "replace"])
def test_a_margin_within_one_voxel_of_the_generator_is_refused(composite):
    shape, affine = grid((2, 2, 2), extent_mm=(110, 100, 60))
    ct, at = body(shape, affine)
    nodes = Volume(ball(at, (0, 0, 0), 6).astype(np.uint8), affine)
    with pytest.raises(LNSynthError, match="margin of 1 mm is too narrow .* voxels of 2 mm"):
        insert(ct, nodes, Painter(), InsertSettings(steps=1, margin_mm=1.0, composite=composite))
    made = insert(ct, nodes, Painter(), InsertSettings(steps=1, margin_mm=2.5, composite=composite)).ct.array
    assert made[nodes.array > 0].mean() > 0


def test_a_node_outside_the_body_is_refused():
    shape, affine = grid((1.5, 1.5, 2), extent_mm=(150, 120, 60))
    ct, at = body(shape, affine)
    two = ball(at, (0, 0, 0), 6).astype(np.uint8) + 2 * ball(at, (0, 57, 0), 5).astype(np.uint8)
    with pytest.raises(LNSynthError, match="nodes.nii: only .*% of node 2 lies in the body; move it"):
        insert(ct, Volume(two, affine), Painter(), InsertSettings(steps=1), name="nodes.nii")
    within = ball(at, (0, 52, 0), 5).astype(np.uint8)  # most of it
    assert insert(ct, Volume(within, affine), Painter(), InsertSettings(steps=1)).patches
    ends = ball(at, (0, 0, 30), 4).astype(np.uint8)    # in the outermost slices
    assert insert(ct, Volume(ends, affine), Painter(), InsertSettings(steps=1)).patches


def test_a_patch_is_moved_inside_the_volume():
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    box = (slice(0, 4), slice(20, 24), slice(40, 50))
    placed = patch_grid(affine, (50, 50, 50), box, 2.0, (32, 32, 32))
    index = np.linalg.inv(affine) @ placed.affine @ [0, 0, 0, 1]
    assert index[:3] == pytest.approx([0, 6, 18])


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.int32])
def test_the_stored_type_stays(dtype):
    shape, affine = grid((2, 2, 2), extent_mm=(110, 100, 60))
    ct, at = body(shape, affine, dtype=np.int16)
    ct.array[ct.array < -1024] = -1024
    stored = Volume((ct.array + (1024 if dtype == np.uint16 else 0)).astype(dtype), affine)
    scaling = (1.0, -1024.0) if dtype == np.uint16 else (1.0, 0.0)
    nodes = Volume(ball(at, (0, 0, 0), 6).astype(np.uint8), affine)
    result = insert(stored, nodes, Painter(), InsertSettings(steps=1), scaling=scaling).ct
    assert result.array.dtype == dtype
    plain = insert(ct, nodes, Painter(), InsertSettings(steps=1)).ct.array.astype(float)
    assert np.abs(result.array.astype(float) + scaling[1] - plain).max() <= 0.51


def test_refusals():
    shape, affine = grid((2, 2, 2), extent_mm=(110, 100, 60))
    ct, at = body(shape, affine)
    nodes = Volume(ball(at, (0, 0, 0), 6).astype(np.uint8), affine)
    with pytest.raises(LNSynthError, match="empty"):
        insert(ct, Volume(np.zeros(shape, np.uint8), affine), Painter(), InsertSettings())
    with pytest.raises(LNSynthError, match="no node 7"):
        insert(ct, nodes, Painter(), InsertSettings(), only=[7])
    two = Volume(nodes.array + 2 * ball(at, (25, 0, 0), 6).astype(np.uint8), affine)
    with pytest.raises(LNSynthError, match="Node 2 .* that of fat"):
        insert(ct, two, Painter(), InsertSettings(), only=[1])
    with pytest.raises(LNSynthError, match="margin"):
        InsertSettings(margin_mm=30)
