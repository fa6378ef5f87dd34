"""Local detail conditioning (paper, section 3.4, equations 6 to 8): node mask tokens attended to at node positions.

A mask encoder turns the node mask into tokens; a spatial transformer (self-attention, cross-attention to the tokens,
feed-forward) looks at them; with LD, only its output at node positions passes through the residual connection.
"""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

Mode = Literal["LD", "LA", "GA"]


class MaskEncoder(nn.Module):
    """Node mask (B, 1, X, Y, Z) to tokens (B, N, width) at 1 / 2**halvings of its resolution."""

    def __init__(self, halvings: int, width: int):
        super().__init__()
        widths = [1, *(max(width >> (halvings - 1 - i), 8) for i in range(halvings - 1)), width]
        self.convolutions = nn.ModuleList(
            nn.Conv3d(a, b, kernel_size=3, stride=2, padding=1) for a, b in zip(widths, widths[1:], strict=False))
        self.norm = nn.LayerNorm(width)

    def forward(self, nodes: torch.Tensor) -> torch.Tensor:
        h = nodes
        for i, convolution in enumerate(self.convolutions):
            h = convolution(F.silu(h) if i else h)
        return self.norm(h.flatten(2).transpose(1, 2))


class Attention(nn.Module):
    """Multi-head attention of queries (B, Q, C) to a context (B, N, D); `allowed` (B, N) says which to look at."""

    def __init__(self, channels: int, context: int, heads: int, head_width: int):
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.query = nn.Linear(channels, inner, bias=False)
        self.key = nn.Linear(context, inner, bias=False)
        self.value = nn.Linear(context, inner, bias=False)
        self.out = nn.Linear(inner, channels)

    def forward(self, x: torch.Tensor, context: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
        def split(h):
            return h.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        mask = None
        if allowed is not None:
            # Where nothing is allowed every key is, or the softmax has no support; the caller drops that result.
            mask = (allowed | ~allowed.any(1, keepdim=True))[:, None, None, :]
        attended = F.scaled_dot_product_attention(split(self.query(x)), split(self.key(context)),
                                                  split(self.value(context)), attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Gated GELU feed-forward (Shazeer 2020), as in the spatial transformer of latent diffusion."""

    def __init__(self, channels: int, expansion: int = 4):
        super().__init__()
        self.inner = nn.Linear(channels, 2 * expansion * channels)
        self.outer = nn.Linear(expansion * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.inner(x).chunk(2, dim=-1)
        return self.outer(value * F.gelu(gate))


class SpatialTransformer(nn.Module):
    """The residual update that one transformer layer adds to a feature map.

    mode  "GA"  h + ST(h): attention and update everywhere
          "LA"  h + ST(h) with attention restricted to node positions as keys, update everywhere
          "LD"  h + m * ST(h): attention everywhere, update at node positions m only (the paper's)

    With depth 1 the update at a position needs the whole map only as keys and values, so LD computes queries at node
    positions alone: the same numbers as masking the full computation, for a few hundred queries instead of 4096.
    """

    def __init__(self, channels: int, context: int, heads: int, head_width: int, groups: int, mode: Mode):
        super().__init__()
        self.mode = mode
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.self_attention = Attention(channels, channels, heads, head_width)
        self.cross_attention = Attention(channels, context, heads, head_width)
        self.feed_forward = FeedForward(channels)
        self.proj_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def update(self, tokens: torch.Tensor, mask_tokens: torch.Tensor, where: torch.Tensor | None = None,
               allowed: torch.Tensor | None = None) -> torch.Tensor:
        """ST(h) at the positions `where` (all if None): tokens (B, N, C) -> (B, Q, C).

        `allowed` (B, N) restricts the keys of both attentions; a sample that allows none gets no attention at all.
        """
        keys = self.norms[0](tokens)
        x = tokens if where is None else tokens[:, where]
        queries = keys if where is None else keys[:, where]
        some = 1.0 if allowed is None else allowed.any(1)[:, None, None].to(x.dtype)
        x = x + some * self.self_attention(queries, keys, allowed)
        x = x + some * self.cross_attention(self.norms[1](x), mask_tokens, allowed)
        x = x + self.feed_forward(self.norms[2](x))
        return self.proj_out(x)

    def forward(self, h: torch.Tensor, mask_tokens: torch.Tensor, at_nodes: torch.Tensor) -> torch.Tensor:
        """h (B, C, X, Y, Z), mask_tokens (B, N, D), at_nodes (B, N) bool with N = X*Y*Z -> h with its update."""
        tokens = self.proj_in(self.norm(h).flatten(2).transpose(1, 2))
        if self.mode == "LD":
            # Positions differ from sample to sample, so samples go one by one; none of them depends on another.
            updates = torch.zeros_like(tokens)
            for i, nodes in enumerate(at_nodes):
                where = nodes.nonzero().squeeze(1)
                if len(where):
                    one = self.update(tokens[i:i + 1], mask_tokens[i:i + 1], where)
                    updates[i] = updates[i].index_copy(0, where, one[0])
        else:
            updates = self.update(tokens, mask_tokens, allowed=at_nodes if self.mode == "LA" else None)
        return h + updates.transpose(1, 2).unflatten(2, h.shape[2:])


def at_node_positions(nodes: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Which cells of a coarse grid hold any node voxel: (B, 1, X, Y, Z) -> (B, N) bool.

    Max-pooled: nearest-neighbour sampling would lose nodes smaller than a cell (8 mm at the paper's size).
    """
    return F.adaptive_max_pool3d(nodes, tuple(shape)).flatten(1) > 0
