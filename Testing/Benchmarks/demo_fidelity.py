"""How faithful a generator is on the masks of a CT that it was not trained on.

    python Testing/Benchmarks/demo_fidelity.py --generator Resources/generators/demo --prepared FOLDER --out DIR

FOLDER holds prepared cases (DATASET/prepared/NAME) of left-out CTs. Prints three tables and writes them with pictures:
  organs   mean and standard deviation of HU inside each label, real and synthetic, on tiles that cover the organs: in
           the whole label, and in its core (4 mm inside), where coarse labels do not spill into what is around
  nodes    HU of each node against the fat around it, in the synthetic patch
  moved    each node moved within its patch: Dice of a threshold between fat and node, inside the mask grown by 4 mm
The expected HU of a generator that takes it are those of the left-out CT itself (14 to 17 numbers), unless
--typical-hu is given: then they are the label table's.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage

from LNSynthLib.cases.prepared import list_prepared
from LNSynthLib.conditions.encode import encode, expected_hu, unscale_hu
from LNSynthLib.generators import model_folder
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.runtime.devices import pick
from LNSynthLib.runtime.events import Progress, console
from LNSynthLib.runtime.files import write_json
from LNSynthLib.runtime.seeds import derive


def expected(case, table, form, typical: bool):
    """Each label's mean HU and the nodes', scaled to [-1, 1]: the case's own, or those that the table calls typical."""
    if not form.expected_hu:
        return None
    if typical:
        return expected_hu(table, [None] * table.channels, None, form.window)
    return expected_hu(table, case.info["organ_hu"], case.info["node_hu"], form.window)


def tiles(case, table, side: int, most: int):
    """Boxes of `side` voxels that cover the organs, those with most organ voxels first."""
    organ = table.is_organ(case.anatomy())
    grids = [np.unique(np.linspace(0, max(n - side, 0), int(np.ceil(n / side))).astype(int)) for n in case.shape]
    boxes = [tuple(slice(a, a + side) for a in (x, y, z)) for x in grids[0] for y in grids[1] for z in grids[2]]
    boxes.sort(key=lambda box: -int(organ[box].sum()))
    return boxes[:most]


def move(nodes, labels, table, fat: int, rng, tries: int = 400):
    """The node mask shifted to another spot of the patch that is mostly fat, or None."""
    where = np.argwhere(nodes)
    free = table.free(labels)
    for _ in range(tries):
        shift = rng.integers(-14, 15, 3)
        there = where + shift
        if np.abs(shift).max() < 4 or (there < 2).any() or (there >= np.array(labels.shape) - 2).any():
            continue
        index = tuple(there.T)
        if free[index].all() and (labels[index] == fat).mean() > 0.8:
            moved = np.zeros_like(nodes)
            moved[index] = True
            return moved
    return None


def follows(hu, node, labels, fat: int, margin: int):
    """(Dice, contrast): a threshold midway between fat and node, judged on node and fat voxels near the node."""
    grown = ndimage.binary_dilation(node, iterations=margin)
    near = grown & (node | (labels == fat))
    ring = near & ~ndimage.binary_dilation(node)
    if ring.sum() < 20:
        return None
    core = ndimage.binary_erosion(node) if ndimage.binary_erosion(node).sum() >= 5 else node
    inside, outside = hu[core].mean(), hu[ring].mean()
    found = near & (hu > (inside + outside) / 2)
    return 2 * (found & node).sum() / (found.sum() + node.sum()), inside - outside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generator", required=True)
    parser.add_argument("--prepared", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--sampler", default="dpmpp")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tiles", type=int, default=8)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--typical-hu", action="store_true")
    args = parser.parse_args()
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    generator, _ = model_folder.load(args.generator, pick())
    form = generator.form
    table = LabelTable.load(form.labels)
    fat = table.index("fat")
    args.out.mkdir(parents=True, exist_ok=True)
    side, margin = form.patch[0], max(1, round(4 / form.spacing_mm))
    organs, nodes, moved = {}, [], []

    def sample(labels, mask, means, *keys):
        condition = encode(labels, mask, form.anatomy_channels, means)[None]
        result = generator.sample(condition, seeds=[derive(args.seed, *keys)], steps=args.steps, sampler=args.sampler)
        return unscale_hu(result[0, 0].cpu().numpy(), form.window)

    for case in list_prepared(args.prepared):
        means = expected(case, table, form, args.typical_hu)
        boxes = tiles(case, table, side, args.tiles)
        figure, axes = pyplot.subplots(3, len(boxes), figsize=(2.2 * len(boxes), 6.6), squeeze=False)
        with Progress(f"tiles of {case.id}", len(boxes), console()) as progress:
            for i, box in enumerate(boxes):
                labels, mask = case.anatomy(box), case.nodes(box)
                real = unscale_hu(case.ct(box), form.window)
                synthetic = sample(labels, mask, means, case.id, "tile", i)
                for label in table.labels:
                    at = (labels == label.id) & (mask == 0)
                    core = ndimage.binary_erosion(at, iterations=margin, border_value=1)
                    for part, where in (("whole", at), ("core", core)):
                        organs.setdefault((part, case.id, label.name), []).append((real[where], synthetic[where]))
                for row, (array, colours) in enumerate([(real, "gray"), (synthetic, "gray"), (labels, "tab20")]):
                    axes[row, i].imshow(array[:, ::-1, side // 2].T, cmap=colours,
                                        vmin=form.window[0] if row < 2 else 0,
                                        vmax=form.window[1] if row < 2 else table.channels)
                    axes[row, i].axis("off")
                progress.step()
        figure.suptitle(f"{case.id} ({case.kind}): real CT, SYNTHETIC, labels; middle axial slice of each tile")
        figure.savefig(args.out / f"{case.id}_tiles.png", dpi=80, bbox_inches="tight")
        pyplot.close(figure)

        chosen = case.info["nodes"][:args.nodes]
        figure, axes = pyplot.subplots(3, max(len(chosen), 1), figsize=(2.2 * max(len(chosen), 1), 6.6), squeeze=False)
        with Progress(f"nodes of {case.id}", len(chosen), console()) as progress:
            for i, node in enumerate(chosen):
                corner = [min(max(round(c) - side // 2, 0), max(n - side, 0))
                          for c, n in zip(node["centroid"], case.shape, strict=True)]
                box = tuple(slice(c, c + side) for c in corner)
                labels, mask = case.anatomy(box), case.nodes(box)
                one = mask == node["id"]
                hu = sample(labels, mask, means, case.id, "node", i)
                figures = follows(hu, one, labels, fat, margin)
                if figures:
                    nodes.append({"case": case.id, "node": node["id"], "dice": figures[0], "contrast_hu": figures[1]})
                there = move(one, labels, table, fat, np.random.default_rng(derive(args.seed, case.id, i)))
                panels = [(unscale_hu(case.ct(box), form.window), one), (hu, one)]
                if there is not None:
                    elsewhere = sample(labels, there, means, case.id, "node", i)
                    figures = follows(elsewhere, there, labels, fat, margin)
                    if figures:
                        left = elsewhere[one & ~there & (labels == fat)]
                        moved.append({"case": case.id, "node": node["id"], "dice": figures[0],
                                      "contrast_hu": figures[1],
                                      "old_place_hu": float(left.mean()) if left.size else None})
                    panels.append((elsewhere, there))
                for row, (array, at) in enumerate(panels):
                    z = int(round(np.argwhere(at)[:, 2].mean()))
                    axes[row, i].imshow(array[:, ::-1, z].T, cmap="gray", vmin=form.window[0], vmax=form.window[1])
                    axes[row, i].contour(at[:, ::-1, z].T, [0.5], colors="lime", linewidths=0.6)
                for row in range(3):
                    axes[row, i].axis("off")
                progress.step()
        figure.suptitle(f"{case.id} ({case.kind}): CT with painted node, SYNTHETIC, SYNTHETIC with the node moved")
        figure.savefig(args.out / f"{case.id}_nodes.png", dpi=80, bbox_inches="tight")
        pyplot.close(figure)

    report = {"organs": [], "nodes": nodes, "moved": moved, "arguments": {k: str(v) for k, v in vars(args).items()}}
    print(f"\n{'':5s} {'case':26s} {'label':28s} {'voxels':>8s} {'real HU':>14s} "
          f"{'synthetic HU':>14s} {'mean off':>9s} {'SD x':>6s}")
    for (part, case_id, name), parts in sorted(organs.items(), key=lambda item: item[0][0] != "whole"):
        real, synthetic = (np.concatenate(values) for values in zip(*parts, strict=True))
        if len(real) < 200:
            continue
        row = {"part": part, "case": case_id, "label": name, "voxels": len(real), "real_mean": real.mean(),
               "real_sd": real.std(), "synthetic_mean": synthetic.mean(), "synthetic_sd": synthetic.std()}
        report["organs"].append(row)
        print(f"{part:5s} {case_id:26s} {name:28s} {len(real):8d} {real.mean():7.1f} ±{real.std():5.1f} "
              f"{synthetic.mean():7.1f} ±{synthetic.std():5.1f} {synthetic.mean() - real.mean():9.1f} "
              f"{synthetic.std() / max(real.std(), 1e-3):6.2f}")
    for title, rows in {"nodes": nodes, "moved": moved}.items():
        if rows:
            dice, contrast = ([row[key] for row in rows] for key in ("dice", "contrast_hu"))
            print(f"{title}: {len(rows)}; Dice median {np.median(dice):.2f}, least {min(dice):.2f}; "
                  f"contrast to fat median {np.median(contrast):.0f} HU, least {min(contrast):.0f} HU")
    write_json(args.out / "fidelity.json", report)


if __name__ == "__main__":
    main()
