"""How near a synthetic volume is to the real one of the same place, voxel by voxel: MSE, PSNR and MS-SSIM.

Volumes are (X, Y, Z) in [-1, 1], the window's ends, as generators make them. `mse` is on that scale: it is (2 / width
of the window)^2 times the MSE in HU. `mse_01` is that of the same images in [0, 1], a quarter of it: the scale of the
paper's Table 1, where PSNR is 10 log10(1 / MSE) within .1 dB, so of a peak of 1. PSNR and SSIM do not depend on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

RANGE = 2.0  # of the values, peak to peak


@dataclass(frozen=True)
class SsimSettings:
    """Of MS-SSIM. The paper names none; the weights are those of Wang et al. 2003, for up to five scales.

    Their 11 voxel window asks for 176 voxels a side at five scales: the default window is 7, so that the paper's
    patches of 128 have all five. A smaller patch has fewer (`scales`), and the weights of those are scaled to sum to 1.
    """

    window: int = 7                                # voxels of the Gaussian window a side
    sigma: float = 1.5                             # its standard deviation, voxels
    weights: tuple[float, ...] = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest scale first


def mse(synthetic: np.ndarray, real: np.ndarray) -> float:
    """Mean squared difference, on the scale [-1, 1]."""
    _check(synthetic, real)
    return float(np.mean(np.square(synthetic.astype(np.float64) - real)))


def mse_01(synthetic: np.ndarray, real: np.ndarray) -> float:
    """Mean squared difference of the images brought to [0, 1], the paper's scale (Table 1); volumes as for `mse`."""
    return mse(synthetic, real) / RANGE**2


def psnr(synthetic: np.ndarray, real: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(RANGE^2 / MSE); inf where the volumes are equal."""
    error = mse(synthetic, real)
    return math.inf if error == 0 else 10 * math.log10(RANGE**2 / error)


def scales(shape, settings: SsimSettings) -> int:
    """On how many scales, each half the one before, a volume of this shape is at least as large as the window.

    0 where it is not even on the finest one. MONAI asks for a little more than that at four scales.
    """
    side = min(shape)
    fitting = [n for n in range(1, len(settings.weights) + 1)
               if side // max(2 ** (n - 1), (n - 1) ** 2) >= settings.window]
    return max(fitting, default=0)


def ms_ssim(synthetic: np.ndarray, real: np.ndarray, settings: SsimSettings | None = None) -> float | None:
    """Multi-scale structural similarity (Wang et al. 2003, eq. 7) in 3D, with a Gaussian window; 1 for equal volumes.

    The contrast and structure term at every scale, the luminance term at the coarsest alone; a term whose mean is
    negative counts as 0; windows lie wholly inside the volume; K1 = 0.01, K2 = 0.03. On `scales(shape)` scales. None
    for a volume smaller than the window.
    """
    import torch
    from monai.metrics import compute_ms_ssim

    _check(synthetic, real)
    settings = settings or SsimSettings()
    weights = settings.weights[:scales(real.shape, settings)]
    if not weights:
        return None
    pair = (torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None]
            for volume in (synthetic, real))
    return float(compute_ms_ssim(*pair, spatial_dims=3, data_range=RANGE, kernel_size=settings.window,
                                 kernel_sigma=settings.sigma, weights=[w / sum(weights) for w in weights]))


def _check(synthetic: np.ndarray, real: np.ndarray) -> None:
    if synthetic.shape != real.shape or real.ndim != 3:
        raise ValueError(f"two volumes of one shape are compared, not {synthetic.shape} and {real.shape}")
