"""Features of a MedicalNet 3D ResNet, and LPIPS, the distance between the features of two volumes.

MedicalNet (Chen et al. 2019, arXiv 1904.00625) is trained on 23 data sets of CT and MR; its weights are not part of
LNSynth. They are read from a file that the user has (resnet_10_23dataset.pth, say); without one there are no features:
random ones would look like numbers.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..runtime.devices import pick
from ..runtime.errors import LNSynthError
from ..runtime.files import sha256
from ..runtime.weights import read_weights

VARIABLE = "LNSYNTH_MEDICALNET"  # the environment variable that may name the file
ABSENT = (f"no MedicalNet weights: give --features or set {VARIABLE} to the file, for example "
          "resnet_10_23dataset.pth of MedicalNet")


def weights_path(given: Path | str | None = None) -> Path | None:
    """The file of MedicalNet's weights: the one given, else the one that LNSYNTH_MEDICALNET names, else None."""
    named = given or os.environ.get(VARIABLE)
    return Path(named) if named else None


class FeatureNet:
    """A MedicalNet ResNet up to its last residual layer; load it with `FeatureNet.load`.

    name     for example "MedicalNet resnet 1-1-1-1" (residual blocks a layer)
    sha256   of the weights' file
    """

    def __init__(self, net: nn.Module, name: str, digest: str, device: torch.device):
        self.net, self.name, self.sha256, self.device = net, name, digest, device

    @classmethod
    def load(cls, path: Path | str, device: str = "auto") -> FeatureNet:
        """From a checkpoint as MedicalNet publishes them: {"state_dict": {"module.conv1.weight": ...}}.

        Depth and width follow from the weights. Nothing in the file is executed. Raises LNSynthError where the file is
        absent, damaged, or holds something else.
        """
        path = Path(path)
        state = _read(path)
        try:
            net, name = _build(state)
            net.load_state_dict(state, strict=True)
        except (KeyError, ValueError, RuntimeError) as error:
            raise LNSynthError(
                f"{path}: these are not the weights of a MedicalNet ResNet ({str(error).splitlines()[0]}); give a file "
                "such as resnet_10_23dataset.pth.") from error
        device = pick(device)
        net.eval().requires_grad_(False).to(device)
        return cls(net, name, sha256(path), device)

    @torch.inference_mode()
    def maps(self, volume: np.ndarray) -> Tensor:
        """Feature maps (C, x, y, z), an eighth of the volume a side. volume: (X, Y, Z), any scale.

        It is first brought to zero mean and unit variance, as MedicalNet's inputs were; one that is constant becomes 0.
        """
        x = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None].to(self.device)
        deviation = x.std()
        x = (x - x.mean()) / deviation if deviation > 0 else torch.zeros_like(x)
        for layer in ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            x = getattr(self.net, layer)(x)
        return x[0]


def lpips(a: Tensor, b: Tensor) -> float:
    """Distance of two volumes' feature maps (C, x, y, z), 0 for equal ones, at most 2 (ReLU leaves nothing negative).

    At each place the features are scaled to unit length; the squared difference is summed over channels and averaged
    over places (MONAI's MedicalNetPerceptualSimilarity; Zhang et al. 2018, arXiv 1801.03924, eq. 1 with unit weights
    and the last layer alone).
    """
    from monai.losses.perceptual import normalize_tensor

    difference = normalize_tensor(a[None]) - normalize_tensor(b[None])
    return float(difference.square().sum(1).mean())


def pooled(maps: Tensor) -> np.ndarray:
    """(C,) float64: each feature's mean over the volume, what FID and MMD compare."""
    return maps.double().mean((1, 2, 3)).cpu().numpy()


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise LNSynthError(f"{path}: there is no such file; give the path of MedicalNet's weights.")
    try:
        content = read_weights(path)
    except Exception as error:  # torch has no one error for a file that it cannot read
        raise LNSynthError(f"{path}: the weights cannot be read ({type(error).__name__}: the file is damaged or no "
                           "torch checkpoint); download it again.") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise LNSynthError(f"{path}: it holds no `state_dict` of tensors as MedicalNet's checkpoints do; give a file "
                           "such as resnet_10_23dataset.pth.")
    if not all(value.isfinite().all() for value in state.values()):
        raise LNSynthError(f"{path}: some of its weights are not finite numbers; download it again.")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _build(state: dict[str, Tensor]) -> tuple[nn.Module, str]:
    """The network that these weights belong to, and its name.

    MONAI's ResNet has MedicalNet's parameters but halves the volume in its last two layers too; MedicalNet keeps
    the size there and dilates its kernels by 2 and 4.
    """
    from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck

    layers = [f"layer{n}" for n in (1, 2, 3, 4)]
    blocks = [len({key.split(".")[1] for key in state if key.startswith(f"{layer}.")}) for layer in layers]
    net = ResNet(
        ResNetBottleneck if "layer1.0.conv3.weight" in state else ResNetBlock, blocks,
        [len(state[f"{layer}.0.conv1.weight"]) for layer in layers], n_input_channels=1, conv1_t_stride=2,
        shortcut_type="B" if "layer2.0.downsample.0.weight" in state else "A",
        bias_downsample="layer2.0.downsample.0.bias" in state, feed_forward=False)
    for layer, dilation in ((net.layer3, 2), (net.layer4, 4)):
        for module in layer.modules():
            if isinstance(module, nn.Conv3d):
                module.stride = (1, 1, 1)
                if module.kernel_size == (3, 3, 3):
                    module.dilation = module.padding = (dilation,) * 3
        if isinstance(shortcut := layer[0].downsample, partial):  # type A has no parameters
            layer[0].downsample = partial(shortcut.func, **shortcut.keywords | {"stride": 1})
    return net, f"MedicalNet resnet {'-'.join(map(str, blocks))}"
