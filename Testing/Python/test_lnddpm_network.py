"""The denoiser's local detail conditioning against a brute-force reference, and its settings."""

import pytest
import torch

from LNSynthLib.generators.networks.lnddpm import Denoiser, DenoiserSettings
from LNSynthLib.generators.networks.local_detail import MaskEncoder, SpatialTransformer, at_node_positions
from LNSynthLib.runtime.errors import LNSynthError


def transformer(mode: str) -> SpatialTransformer:
    torch.manual_seed(0)
    layer = SpatialTransformer(16, 8, heads=2, head_width=8, groups=4, mode=mode)
    torch.nn.init.normal_(layer.proj_out.weight, std=0.3)  # zero at the start, where every mode would agree
    torch.nn.init.normal_(layer.proj_out.bias, std=0.3)
    return layer


def inputs(batch=2, side=4):
    torch.manual_seed(1)
    h = torch.randn(batch, 16, side, side, side)
    tokens = torch.randn(batch, side**3, 8)
    at_nodes = torch.rand(batch, side**3) < 0.2
    return h, tokens, at_nodes


def reference_update(layer, h, tokens, allowed=None):
    """ST(h) in full, position by position and head by head, with the softmax written out."""
    def attend(attention, queries, context, sample):
        heads, width = attention.heads, attention.query.out_features // attention.heads
        q, k, v = attention.query(queries), attention.key(context), attention.value(context)
        parts = []
        for head in range(heads):
            s = slice(head * width, (head + 1) * width)
            scores = q[:, s] @ k[:, s].T / width**0.5
            if allowed is not None:
                scores[:, ~allowed[sample]] = -torch.inf
            parts.append(scores.softmax(-1) @ v[:, s])
        return attention.out(torch.cat(parts, dim=1))

    updates = []
    for sample in range(len(h)):
        x = layer.proj_in(layer.norm(h)[sample].flatten(1).T)
        if allowed is None or allowed[sample].any():
            keys = layer.norms[0](x)
            x = x + attend(layer.self_attention, keys, keys, sample)
            x = x + attend(layer.cross_attention, layer.norms[1](x), tokens[sample], sample)
        x = x + layer.feed_forward(layer.norms[2](x))
        updates.append(layer.proj_out(x).T.reshape(h.shape[1:]))
    return torch.stack(updates)


def test_local_detail_equals_the_masked_full_computation():
    layer = transformer("LD")
    h, tokens, at_nodes = inputs()
    expected = h + at_nodes.reshape(2, 1, 4, 4, 4) * reference_update(layer, h, tokens)
    assert torch.allclose(layer(h, tokens, at_nodes), expected, atol=1e-5)


def test_local_detail_has_the_gradients_of_the_masked_full_computation():
    layer = transformer("LD")
    h, tokens, at_nodes = inputs()
    weight = torch.randn_like(h)

    def gradients(result):
        return torch.autograd.grad((result * weight).sum(), [h, tokens, layer.self_attention.key.weight])

    h.requires_grad_()
    tokens.requires_grad_()
    full = h + at_nodes.reshape(2, 1, 4, 4, 4) * reference_update(layer, h, tokens)
    for a, b in zip(gradients(layer(h, tokens, at_nodes)), gradients(full), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_without_nodes_local_detail_is_the_plain_residual():
    layer = transformer("LD")
    h, tokens, at_nodes = inputs()
    at_nodes[0] = False
    result = layer(h, tokens, at_nodes)
    assert torch.equal(result[0], h[0])
    assert not torch.equal(result[1], h[1])


def test_global_attention_updates_everywhere():
    layer = transformer("GA")
    h, tokens, at_nodes = inputs()
    assert torch.allclose(layer(h, tokens, at_nodes), h + reference_update(layer, h, tokens), atol=1e-5)


def test_local_attention_looks_at_nodes_only_and_survives_their_absence():
    layer = transformer("LA")
    h, tokens, at_nodes = inputs()
    at_nodes[0] = False
    result = layer(h, tokens, at_nodes)
    assert torch.isfinite(result).all()
    assert torch.allclose(result, h + reference_update(layer, h, tokens, at_nodes), atol=1e-5)


def test_a_node_of_one_voxel_is_not_lost_at_the_bottom():
    nodes = torch.zeros(1, 1, 16, 16, 16)
    nodes[0, 0, 7, 9, 3] = 1  # between the samples that nearest-neighbour reduction by 8 would take
    at_nodes = at_node_positions(nodes, torch.Size((2, 2, 2)))
    assert at_nodes.sum() == 1 and at_nodes.reshape(2, 2, 2)[0, 1, 0]


def test_the_mask_encoder_is_convolutions_with_an_activation_between_them():
    torch.manual_seed(3)
    encoder = MaskEncoder(3, 16)
    assert [c.out_channels for c in encoder.convolutions] == [8, 8, 16]
    nodes = (torch.rand(2, 1, 16, 16, 16) < 0.3).float()
    h = nodes
    for i, c in enumerate(encoder.convolutions):
        if i:
            h = h * torch.sigmoid(h)
        h = torch.nn.functional.conv3d(h, c.weight, c.bias, stride=2, padding=1)
    tokens = torch.stack([h[..., x, y, z] for x in range(2) for y in range(2) for z in range(2)], dim=1)
    centred = tokens - tokens.mean(-1, keepdim=True)
    assert torch.allclose(encoder(nodes), centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt(), atol=1e-5)


SMALL = DenoiserSettings(channels=(8, 16, 32), blocks=1, groups=4, heads=2, head_width=8, token_width=8)


@pytest.mark.parametrize("mode", ["LD", "LA", "GA", None])
def test_every_mode_reaches_every_weight(mode):
    torch.manual_seed(0)
    net = Denoiser(DenoiserSettings(**{**SMALL.__dict__, "local_detail": mode}), condition_channels=3)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    nodes = torch.zeros(1, 1, 8, 8, 8)
    nodes[..., 2:5, 2:5, 2:5] = 1
    net(torch.randn(1, 1, 8, 8, 8), torch.tensor([3.0]), torch.randn(1, 3, 8, 8, 8), nodes).square().mean().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_activation_checkpointing_changes_no_gradient():
    def gradients(on):
        torch.manual_seed(0)
        net = Denoiser(DenoiserSettings(**{**SMALL.__dict__, "activation_checkpointing": on}), condition_channels=3)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        x, c = torch.randn(2, 1, 8, 8, 8), torch.randn(2, 3, 8, 8, 8)
        net(x, torch.tensor([3, 9]), c, (c[:, :1] > 1).float()).square().mean().backward()
        return [p.grad for p in net.parameters()]

    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients(False), gradients(True), strict=True))


def test_the_paper_has_sixteen_bottom_cells_a_side():
    net = Denoiser(DenoiserSettings(), condition_channels=15)
    assert 128 // net.stride == 16
    assert net.conv_in.in_channels == 16


def test_channels_that_do_not_divide_are_refused():
    with pytest.raises(LNSynthError, match="multiple of groups"):
        Denoiser(DenoiserSettings(channels=(20, 40)), condition_channels=3)
