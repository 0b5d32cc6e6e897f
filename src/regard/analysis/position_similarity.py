"""How alike the codes of two places are: learned ones over the image, fixed ones along the sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import RegardError
from regard.layers.position import FIXED_POSITIONS
from regard.models.attending import Stacked
from regard.models.clip import CLIP, VisionTower
from regard.models.sam import SAM
from regard.models.t2t import T2TViT
from regard.reporting.pictures.position_products import PositionProducts
from regard.reporting.pictures.position_similarity import PositionSimilarity


def position_similarity(model: nn.Module) -> PositionSimilarity:
    """Cosine similarity of the position codes of all patches (ViT, arXiv 2010.11929, figure 7 centre).

        s(i, j) = p_i . p_j / (|p_i| |p_j|),   p_i: the vector (D,) added to patch i

    The vectors are taken as stored; those of the class token and of other tokens without a patch are left out. A code
    that is zero has no direction: NaN. Raises RegardError for a model that adds no positions.
    """
    grid, table = _table(model, "position_similarity")
    places = table[len(table) - grid[0] * grid[1] :].double()
    unit = F.normalize(places, dim=1)
    similarity = unit @ unit.T
    nowhere = places.norm(dim=1) == 0
    similarity[nowhere] = similarity[:, nowhere] = torch.nan
    return PositionSimilarity(grid=grid, similarity=similarity.numpy())


def position_products(
    model: nn.Module | None = None, *, count: int = 50, dim: int = 128, kind: str = "sinusoidal"
) -> PositionProducts:
    """K = P P^T of position codes by formula: how alike the tokens of a sequence are by their places.

    For the sinusoidal code ("Attention Is All You Need", arXiv 1706.03762, section 3.5)

        p_t . p_s = sum_k cos(omega_k (t - s)),   omega_k = 10000^(-2 k / D),   k = 0, ..., D/2 - 1,

    depends on t - s alone, and its diagonal is D/2: 64 for 50 tokens of 128 numbers.

    model: one whose code is fixed, its whole table, the class token being position 0; without a model, `count`
    positions of `dim` numbers of that `kind` ("sinusoidal", "integer" or "normalised"). Raises RegardError for a model
    that learns its positions, or adds none, and for an unknown kind.
    """
    if model is not None:
        _, table = _table(model, "position_products")
        if isinstance(model, CLIP | SAM) or not _is_fixed(model):
            raise RegardError(
                f"position_products: {type(model).__name__} learns its positions; position_similarity shows those"
            )
    elif kind not in FIXED_POSITIONS:
        raise RegardError(f"kind={kind}: expected one of {', '.join(FIXED_POSITIONS)}")
    elif count < 1 or dim < 2 or dim % 2:
        raise RegardError(f"count={count}, dim={dim}: expected a positive count and an even number of coordinates")
    else:
        table = FIXED_POSITIONS[kind](count, dim)
    table = table.double()
    return PositionProducts(dim=table.shape[1], products=(table @ table.T).numpy())


def _table(model: nn.Module, what: str) -> tuple[tuple[int, int], Tensor]:
    """(height, width) of the patches, and the codes (tokens, D) as they are added, those of the patches last."""
    tower = model.visual if isinstance(model, CLIP) else model
    if isinstance(tower, VisionTower):
        return tower.grid, tower.positional_embedding.detach().cpu()
    if isinstance(model, SAM):
        return model.grid, model.image_encoder.pos_embed.detach()[0].flatten(0, 1).cpu()
    positions = getattr(tower, "pos_embed", None)
    if not isinstance(tower, Stacked) or positions is None:
        raise RegardError(
            f"{what}: {type(model).__name__} adds no position codes to its tokens; the figure is defined for "
            "ViT, DeiT, DINOv2, hybrids, T2T-ViT, CLIP and SAM with positions"
        )
    return tower.grid, positions.detach()[0].cpu()


def _is_fixed(model: nn.Module) -> bool:
    """Whether the codes are by a formula: T2T-ViT stores its own as a parameter that is never trained."""
    return isinstance(model, T2TViT) or not isinstance(getattr(model, "pos_embed", None), nn.Parameter)
