"""MedicalNet's features against the network written out by hand, LPIPS against MONAI's, and files that are not it."""

import numpy as np
import pytest
import torch
from monai.losses.perceptual import MedicalNetPerceptualSimilarity
from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck, resnet10
from torch import nn
from torch.nn import functional

from LNSynthLib.evaluation.features import VARIABLE, FeatureNet, lpips, pooled, weights_path
from LNSynthLib.runtime.errors import LNSynthError

PLANES = [4, 8, 8, 16]


def checkpoint(path, net, seed=0):
    """A file as MedicalNet writes them, with random weights and random running statistics."""
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value = torch.randn(value.shape, generator=rng) * (0.2 if value.dim() == 5 else 0.1)
            value = value.abs() + 0.5 if "running_var" in name or "bn" in name and "weight" in name else value
        state[f"module.{name}"] = value
    torch.save({"state_dict": state, "epoch": 3}, path)
    return path


def small(block=ResNetBlock, layers=(1, 1, 1, 1), shortcut="B", bias=False):
    return ResNet(block, list(layers), PLANES, n_input_channels=1, shortcut_type=shortcut, bias_downsample=bias,
                  feed_forward=False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("weights") / "resnet.pth", small())


def parameters(path):
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix("module."): value for name, value in state.items()}


def volume(seed=0, shape=(24, 32, 16)):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def forward_by_hand(state, x, bottleneck=False):
    """MedicalNet's own forward pass: stride 2 in conv1, pool and layer2, dilation 2 and 4 in layer3 and layer4."""
    def norm(x, name):
        return functional.batch_norm(x, state[f"{name}.running_mean"], state[f"{name}.running_var"],
                                     state[f"{name}.weight"], state[f"{name}.bias"])

    def conv(x, name, stride=1, dilation=1):
        kernel = state[f"{name}.weight"]
        pad = dilation if kernel.shape[-1] == 3 else 0
        return functional.conv3d(x, kernel, state.get(f"{name}.bias"), stride, pad, dilation)

    x = functional.relu(norm(functional.conv3d(x, state["conv1.weight"], None, 2, 3), "bn1"))
    x = functional.max_pool3d(x, 3, 2, 1)
    for n, stride, dilation in ((1, 1, 1), (2, 2, 1), (3, 1, 2), (4, 1, 4)):
        block = 0
        while f"layer{n}.{block}.conv1.weight" in state:
            at, step = f"layer{n}.{block}", stride if block == 0 else 1
            steps = [("1", 1, 1), ("2", step, dilation), ("3", 1, 1)] if bottleneck else [
                ("1", step, dilation), ("2", 1, dilation)]
            y = x
            for k, s, d in steps:
                y = norm(conv(y, f"{at}.conv{k}", s, d), f"{at}.bn{k}")
                y = functional.relu(y) if k != steps[-1][0] else y
            if f"{at}.downsample.0.weight" in state:
                x = norm(conv(x, f"{at}.downsample.0", step), f"{at}.downsample.1")
            elif x.shape != y.shape:  # shortcut A: every second voxel, zeros for the new channels
                x = x[:, :, ::step, ::step, ::step]
                x = functional.pad(x, (0, 0, 0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            x = functional.relu(x + y)
            block += 1
    return x


@pytest.mark.parametrize("block, layers, shortcut, bias", [
    (ResNetBlock, (1, 1, 1, 1), "B", False),        # as resnet 10
    (ResNetBlock, (2, 2, 2, 2), "A", False),        # as resnet 18
    (ResNetBottleneck, (2, 1, 2, 1), "B", False),   # as resnet 50, fewer blocks
    (ResNetBlock, (1, 2, 1, 1), "B", True),
])
def test_features_are_those_of_medicalnets_own_network(tmp_path, block, layers, shortcut, bias):
    path = checkpoint(tmp_path / "w.pth", small(block, layers, shortcut, bias), seed=1)
    net = FeatureNet.load(path, "cpu")
    state = parameters(path)
    array = volume(2)
    x = torch.from_numpy(array)[None, None]
    wanted = forward_by_hand(state, (x - x.mean()) / x.std(), block is ResNetBottleneck)[0]
    found = net.maps(array)
    assert found.shape == (16 * block.expansion, 3, 4, 2) and wanted.std() > 0.01
    assert torch.allclose(found, wanted, atol=1e-4, rtol=1e-4)
    assert net.name == f"MedicalNet resnet {'-'.join(map(str, layers))}"
    assert pooled(found) == pytest.approx(wanted.mean((1, 2, 3)).double().numpy(), abs=1e-4)


def test_the_published_size_loads(tmp_path):
    path = checkpoint(tmp_path / "w.pth", resnet10(n_input_channels=1, feed_forward=False, shortcut_type="B",
                                                   bias_downsample=False))
    net = FeatureNet.load(path, "cpu")
    assert net.maps(volume(shape=(16, 16, 16))).shape == (512, 2, 2, 2) and len(net.sha256) == 64


def test_lpips_is_monais_with_the_same_network(weights, monkeypatch):
    net = FeatureNet.load(weights, "cpu")

    class Hub(nn.Module):
        """What MONAI would fetch: a network that returns its last maps."""

        def forward(self, x):
            return forward_by_hand(parameters(weights), x)

    monkeypatch.setattr(torch.hub, "load", lambda *_, **__: Hub())
    theirs = MedicalNetPerceptualSimilarity()
    a, b = volume(3), volume(4)
    wanted = float(theirs(*(torch.from_numpy(v)[None, None] for v in (a, b))))
    assert lpips(net.maps(a), net.maps(b)) == pytest.approx(wanted, rel=1e-4) and 0.001 < wanted < 2


def test_lpips_of_a_volume_with_itself_and_with_a_little_noise(weights):
    net, a = FeatureNet.load(weights, "cpu"), volume(5)
    maps = net.maps(a)
    assert lpips(maps, maps) == 0
    near, far = (lpips(maps, net.maps(a + s * volume(6))) for s in (0.05, 1.0))
    assert 0 < near < far
    # MedicalNet's inputs have zero mean and unit variance: brightness and contrast do not count.
    assert lpips(maps, net.maps(100 + 40 * a)) < 1e-6


def test_a_constant_volume_has_finite_features(weights):
    net = FeatureNet.load(weights, "cpu")
    assert np.isfinite(pooled(net.maps(np.full((16, 16, 16), -1.0)))).all()


def truncated(path, weights):
    path.write_bytes(weights.read_bytes()[:2000])


def text(path, weights):
    path.write_text("<html>Quota exceeded</html>")


def other_network(path, weights):
    torch.save({"state_dict": {"module.fc.weight": torch.zeros(3, 3)}}, path)


def lacks_a_layer(path, weights):
    content = torch.load(weights, weights_only=True)
    del content["state_dict"]["module.layer3.0.bn2.weight"]
    torch.save(content, path)


def bare(path, weights):
    torch.save([1, 2], path)


def not_finite(path, weights):
    content = torch.load(weights, weights_only=True)
    content["state_dict"]["module.conv1.weight"][0] = float("nan")
    torch.save(content, path)


@pytest.mark.parametrize("damage, says", [
    (truncated, "cannot be read"), (text, "cannot be read"), (other_network, "not the weights of a MedicalNet"),
    (lacks_a_layer, "not the weights of a MedicalNet"), (bare, "no `state_dict`"), (not_finite, "not finite")])
def test_other_files_are_refused(tmp_path, weights, damage, says):
    damage(tmp_path / "w.pth", weights)
    with pytest.raises(LNSynthError, match=says) as raised:
        FeatureNet.load(tmp_path / "w.pth", "cpu")
    assert "w.pth" in str(raised.value) and "\n" not in str(raised.value)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"state_dict": {}, "extra": Payload()}, tmp_path / "w.pth")
    with pytest.raises(LNSynthError, match="cannot be read"):
        FeatureNet.load(tmp_path / "w.pth", "cpu")
    assert not (tmp_path / "ran").exists()


def test_where_the_weights_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert weights_path() is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "env.pth"))
    assert weights_path() == tmp_path / "env.pth" and weights_path(tmp_path / "a.pth") == tmp_path / "a.pth"
    with pytest.raises(LNSynthError, match="no such file"):
        FeatureNet.load(weights_path(), "cpu")
