"""Learn the node shape prior from real node masks and write it: python Resources/fit_node_prior.py MASKS.npz [OUT.npz]

MASKS.npz holds one node an array, MASKS.json beside it {name: {"spacing": [mm, mm, mm], …}}. The axes of the arrays are
taken as left, posterior, superior, as DICOM and ITK have them; the prior is in RAS+. Prints how its samples compare
with the real nodes.
"""
import argparse
import json
from pathlib import Path

import numpy as np
from scipy import stats

from LNSynthLib.conditions.shape_prior import PAIRS, ShapePrior, describe, smoothed
from LNSynthLib.masks.nodes import axes_mm
from LNSynthLib.runtime.files import atomic_path

ATTRIBUTION = (
    "Shape statistics derived from 417 abdominal lymph node masks of 'CT Lymph Nodes' (Roth, Lu, Seff, Cherry, "
    "Hoffman, Wang, Liu, Turkbey, Summers; The Cancer Imaging Archive, 2015, doi 10.7937/K9/TCIA.2015.AQIIDCNM), "
    "licence CC BY 3.0, by way of the node-wise crops of ULS23 (de Grauw et al., Medical Image Analysis 2025). The "
    "data were changed: only statistics over all nodes are kept.")
COMPONENTS = 40
ROUGHNESS = 1.2  # the field's grid blurs what the components leave over: this factor gives some of it back
LEVELS = np.linspace(-2.6, 2.6, 41)  # standard normal abscissae; beyond them the extreme values are repeated


def read(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(mask, spacing) of each node, axes turned to right, anterior, superior."""
    archive, facts = np.load(path), json.loads(path.with_suffix(".json").read_text())
    return [(archive[name][::-1, ::-1] > 0, np.array(facts[name]["spacing"])) for name in archive.files]


def fit(nodes, components: int = COMPONENTS) -> dict:
    """The arrays of the prior file. Each node counts twice, as it is and mirrored left to right."""
    described = [describe(mask, spacing) for mask, spacing in nodes]
    described += [describe(mask[::-1], spacing) for mask, spacing in nodes]
    logs = np.array([[log_shape[pair] for pair in PAIRS] for log_shape, _ in described])
    fields = np.array([field.ravel() for _, field in described], np.float64)
    mean = fields.mean(0)
    # Principal components by way of the small Gram matrix: far fewer nodes than grid points.
    variances, vectors = np.linalg.eigh((fields - mean) @ (fields - mean).T / len(fields))
    variances, vectors = variances[::-1], vectors[:, ::-1]
    coefficients = vectors[:, :components] * np.sqrt(len(fields))  # unit variance
    modes = coefficients.T @ (fields - mean) / len(fields)
    grid = (round(len(mean) ** (1 / 3)),) * 3
    rest = fields - mean - coefficients @ modes
    roughness = np.sqrt((rest**2).mean(1))
    rest_std = np.sqrt(((rest / roughness[:, None]) ** 2).mean(0))
    white = (rest / roughness[:, None] / np.maximum(rest_std, 1e-3)).reshape(-1, *grid)
    power = np.mean([np.abs(np.fft.fftn(w)) ** 2 for w in white], 0)
    numbers = np.concatenate([logs, coefficients, roughness[:, None]], 1)
    ranks = stats.rankdata(numbers, axis=0) / (len(numbers) + 1)
    correlations = np.corrcoef(stats.norm.ppf(ranks).T)
    scale = np.abs(modes).max(1) / 127
    explained = variances[:components].sum() / variances.sum()
    print(f"{len(nodes)} nodes, {components} components explain {explained:.1%} of the variance of the fields")
    return {"mean": mean.reshape(grid).astype(np.float16),
            "components": np.round(modes / scale[:, None]).astype(np.int8).reshape(-1, *grid),
            "component_scale": scale.astype(np.float32),
            "rest_std": (ROUGHNESS * rest_std).reshape(grid).astype(np.float16),
            "rest_gain": np.sqrt(power / power.mean()).astype(np.float16), "levels": LEVELS.astype(np.float32),
            "quantiles": np.quantile(numbers, stats.norm.cdf(LEVELS), axis=0).T.astype(np.float32),
            "correlations": correlations.astype(np.float32), "attribution": np.array(ATTRIBUTION)}


def shape_numbers(mask: np.ndarray, spacing) -> dict[str, float]:
    """Volume (mL), short and long axis (mm), elongation, flatness, sphericity and axial solidity of one mask.

    Sphericity pi^(1/3) (6 V)^(2/3) / A is that of the surface through the smoothed mask: neither steps of voxels nor
    the jumps between outlines count. Solidity is the share of its convex hull that the largest axial slice fills.
    """
    from scipy import ndimage
    from skimage.measure import marching_cubes, mesh_surface_area, regionprops

    spacing = np.asarray(spacing, float)
    points = np.argwhere(mask) * spacing
    spread = np.sqrt(np.linalg.eigvalsh(np.cov(points.T, bias=True) + np.diag(spacing**2 / 12)))
    blurred = ndimage.gaussian_filter(smoothed(np.pad(mask, 5), spacing).astype(np.float32), 0.8 / spacing)
    vertices, faces, _, _ = marching_cubes(blurred, 0.5, spacing=tuple(spacing))
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    volume = abs((a * np.cross(b, c)).sum()) / 6
    long_axis, short_axis = axes_mm(mask, np.diag(spacing))
    largest = mask[:, :, int(mask.sum((0, 1)).argmax())]
    return {"volume_ml": mask.sum() * spacing.prod() / 1000, "short_axis_mm": short_axis, "long_axis_mm": long_axis,
            "elongation": spread[2] / spread[0], "flatness": spread[1] / spread[0],
            "sphericity": np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / mesh_surface_area(vertices, faces),
            "solidity": float(regionprops(largest.astype(np.uint8))[0].solidity)}


def compare(prior: ShapePrior, nodes, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """For each number: quantiles (5, 25, 50, 75, 95 %) of reals and of as many samples on the same grids, and KS."""
    rng = np.random.default_rng(seed)
    real = [shape_numbers(mask, spacing) for mask, spacing in nodes]
    drawn = [shape_numbers(prior.sample(rng, spacing), spacing) for _, spacing in nodes]
    table = {}
    for name in real[0]:
        a, b = np.array([r[name] for r in real]), np.array([d[name] for d in drawn])
        levels = [5, 25, 50, 75, 95]
        table[name] = (np.percentile(a, levels), np.percentile(b, levels), float(stats.ks_2samp(a, b).statistic))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("masks", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent / "node_prior.npz")
    args = parser.parse_args()
    nodes = read(args.masks)
    with atomic_path(args.out) as beside:
        np.savez_compressed(beside, **fit(nodes))
    print(f"wrote {args.out}: {args.out.stat().st_size / 1000:.0f} kB")
    for name, (real, drawn, ks) in compare(ShapePrior.load(args.out), nodes).items():
        print(f"{name:14} real {np.round(real, 2)}  drawn {np.round(drawn, 2)}  KS {ks:.3f}")


if __name__ == "__main__":
    main()
