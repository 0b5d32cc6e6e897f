"""ViTDet: "Exploring Plain Vision Transformer Backbones for Object Detection" (Li et al., arXiv 2203.16527), section 3.

The plain ViT made into an image encoder for large images, as Segment Anything uses it (arXiv 2304.02643, appendix A).
It has no class token, and its tokens stay a map (B, h, w, D):

    x' = Attention(LN(x)) + x,    x = MLP(LN(x')) + x'                            (depth times, pre-norm)

In most blocks a token attends to its window of 14 x 14; a few blocks, spread evenly, see the whole map. Each pair of
tokens gets, beside the content, what their distance adds ("decomposed relative positions", MViTv2, arXiv 2112.01526,
equation 4), by rows and by columns:

    logit[(y, x), (y', x')] = q . k / sqrt(d) + q . R_h[y - y'] + q . R_w[x - x']

Windows that reach beyond the map are filled with zeros before q, k and v, which take part in the softmax like tokens.
Two convolutions, the neck, turn the last map into one of `out_dim` channels.

Deviations from the papers: those of the code that was published with Segment Anything - the filled windows, q in the
second and third terms without its 1/sqrt(d), no stochastic depth.

The logits of all pairs of a 64 x 64 map would be 805 MB a block at ViT-B's size. Without a listener they are made and
used up in tiles of heads and queries that stay in the caches: faster than a pass over memory for each operation, and
than fused attention, to which the terms of the distances can only be given as a mask.

Names of the weights are the authors'. Taps: patches, positions, embedded (B, h, w, D), and in blocks.*: attn.q, attn.k,
attn.v, attn.pattern ((B*windows, H, n, n) in windows), mlp.hidden, tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.layers.patch import check_sides, patch_grid
from regard.taps import Tap

MLP_RATIO = 4
NORM_EPS = 1e-6
TILE_LOGITS = 1 << 20  # at once: 4 MB in float32


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each place of a map (B, C, h, w)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Linear, activation, linear on (..., D). Tap: hidden (..., hidden_dim), after the activation."""

    def __init__(self, dim: int, hidden_dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden_dim)
        self.act = activation
        self.hidden = Tap()
        self.lin2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.hidden(self.act(self.lin1(x))))


class Attention(nn.Module):
    """Self-attention of maps (B, h, w, D) of size `grid`, with decomposed relative positions.

    window: tokens per side of the squares that are cut out of the map and see only themselves; 0 for the whole map.
    With B' squares of n tokens, taps: q, k, v (B', H, n, D/H) and pattern (B', H, n, n), computed only while somebody
    listens to it.
    """

    def __init__(self, dim: int, num_heads: int, grid: tuple[int, int], window: int = 0) -> None:
        super().__init__()
        if dim % num_heads:
            raise RegardError(f"num_heads={num_heads}: does not divide the width {dim}; choose a divisor")
        self.num_heads, self.grid, self.window = num_heads, grid, window
        self.sides = (window, window) if window else grid
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * self.sides[0] - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * self.sides[1] - 1, dim // num_heads))
        self.q, self.k, self.v, self.pattern = Tap(), Tap(), Tap(), Tap()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:  # (B, h, w, D)
        qkv = self.qkv(x)  # (B, h, w, 3 D)
        if self.window:
            qkv = to_windows(qkv, self.window, self.qkv.bias)  # filled with zeros before q, k and v
        qkv = qkv.flatten(1, 2).unflatten(2, (3, self.num_heads, -1))  # (B', N, 3, H, D/H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous().unbind(0)  # each (B', H, N, D/H)
        q, k, v = self.q(q), self.k(k), self.v(v)
        rows, columns = self._distances(q)
        if self.pattern.listening:
            logits = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1) + _pairs(rows, columns)  # (B', H, N, N)
            z = self.pattern(logits.softmax(dim=-1)) @ v
        else:
            z = _attend(*(part.flatten(0, 1) for part in (q, k, v, rows, columns))).unflatten(0, q.shape[:2])
        z = z.transpose(1, 2).flatten(2).unflatten(1, self.sides)  # (B', ., ., D)
        return self.proj(from_windows(z, self.grid) if self.window else z)  # (B, h, w, D)

    def _distances(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """What each query adds for keys in each row, (B', H, N, h), and in each column, (B', H, N, w)."""
        by_place = q.unflatten(2, self.sides)  # (B', H, h, w, d)
        rows = torch.einsum("bnyxd,ykd->bnyxk", by_place, _by_distance(self.rel_pos_h))
        columns = torch.einsum("bnyxd,xkd->bnyxk", by_place, _by_distance(self.rel_pos_w))
        return rows.flatten(2, 3), columns.flatten(2, 3)


def _by_distance(table: Tensor) -> Tensor:
    """(2 S - 1, d) -> (S, S, d): the row of distance i - j for query i and key j."""
    side = (len(table) + 1) // 2
    place = torch.arange(side, device=table.device)
    return table[place[:, None] - place + side - 1]


def _pairs(rows: Tensor, columns: Tensor) -> Tensor:
    """(..., n, h) and (..., n, w) -> (..., n, h*w): the two parts of each key's term."""
    return (rows[..., :, None] + columns[..., None, :]).flatten(-2)


def _attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + terms) v, by tiles of heads and queries whose logits stay in the caches.

    All of (heads of all maps, N, .), and so is what it gives.
    """
    heads, count, width = q.shape
    parts = []
    for some in _slices(heads, TILE_LOGITS // count**2):
        for tile in _slices(count, TILE_LOGITS // count):
            logits = _pairs(rows[some, tile], columns[some, tile])
            logits.baddbmm_(q[some, tile], k[some].mT, alpha=width**-0.5)
            parts.append(logits.softmax(dim=-1) @ v[some])
    return torch.cat([part.flatten(0, 1) for part in parts]).unflatten(0, (heads, count))


def _slices(length: int, step: int) -> list[slice]:
    """Of `step` places each, at least 1, but for the last."""
    step = max(1, step)
    return [slice(start, start + step) for start in range(0, length, step)]


def to_windows(x: Tensor, side: int, fill: Tensor) -> Tensor:
    """(B, h, w, D) -> (B*W, side, side, D), row after row of windows; beyond right and bottom is `fill` (D,)."""
    batch, height, width, _ = x.shape
    if height % side or width % side:
        filled = fill.to(x.dtype).expand(batch, height + -height % side, width + -width % side, -1).clone()
        filled[:, :height, :width] = x
        x = filled
    x = x.unflatten(1, (-1, side)).unflatten(3, (-1, side))  # (B, rows, side, columns, side, D)
    return x.transpose(2, 3).flatten(0, 2)


def from_windows(windows: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B*W, side, side, D) -> (B, h, w, D), the filling left out."""
    side = windows.shape[1]
    rows, columns = -(-grid[0] // side), -(-grid[1] // side)
    x = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3)  # (B, rows, side, columns, side, D)
    return x.flatten(3, 4).flatten(1, 2)[:, : grid[0], : grid[1]]


class Block(nn.Module):
    """One pre-norm block on maps (B, h, w, D); window: tokens per side, 0 for the whole map. Tap: tokens."""

    def __init__(self, dim: int, num_heads: int, grid: tuple[int, int], window: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads, grid, window)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, MLP_RATIO * dim, nn.GELU())
        self.tokens = Tap()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return self.tokens(x + self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Cuts (B, 3, S, S) images into patches and maps each linearly. Tap: patches (B, h, w, D)."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)
        self.patches = Tap()

    def forward(self, x: Tensor) -> Tensor:
        return self.patches(self.proj(x).permute(0, 2, 3, 1))


class ImageEncoder(nn.Module):
    """(B, 3, S, S) images -> (B, out_dim, h, w), h = w = S / patch_size; global_blocks: those that see all of it."""

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        dim: int,
        depth: int,
        num_heads: int,
        global_blocks: tuple[int, ...],
        window: int,
        out_dim: int,
    ) -> None:
        super().__init__()
        self.img_size, self.grid = img_size, patch_grid(img_size, patch_size)
        self.patch_embed = PatchEmbed(patch_size, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, *self.grid, dim))
        self.positions, self.embedded = Tap(), Tap()
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, self.grid, 0 if number in global_blocks else window) for number in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(dim, out_dim, kernel_size=1, bias=False),
            LayerNorm2d(out_dim, eps=NORM_EPS),
            nn.Conv2d(out_dim, out_dim, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_dim, eps=NORM_EPS),
        )

    def forward(self, images: Tensor) -> Tensor:
        check_sides(images, (self.img_size, self.img_size))
        x = self.embedded(self.patch_embed(images) + self.positions(self.pos_embed))  # (B, h, w, D)
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))  # (B, out_dim, h, w)
