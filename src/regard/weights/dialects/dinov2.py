"""DINOv2 in the names of Meta and of Hugging Face; ours are timm's.

Where there are registers, timm's positions have no row for the class token: the published one is added to the token.
"""

from __future__ import annotations

import re

from regard.weights.dialects.naming import Dialect, State, rename, stack_qkv
from regard.weights.dialects.vit import HUGGING_FACE

_NAMES = (
    *HUGGING_FACE,
    (r"embeddings\.register_tokens", "reg_token"),
    (r"encoder\.layer\.(\d+)\.norm([12])\.(weight|bias)", r"blocks.\1.norm\2.\3"),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
)
_WHY = (
    "masked patches occur in self-supervised training only, and a classifier of the class token and the mean patch is "
    "none of the class token alone"
)


def _short(name: str) -> str:
    return re.sub(r"^dinov2(_with_registers)?\.", "", name)


def _has_no_place(name: str) -> bool:
    return _short(name) in ("mask_token", "embeddings.mask_token") or name.startswith("classifier.")


def _from_huggingface(state: State) -> State:
    return _without_class_row(
        stack_qkv(
            {
                rename(_short(name), _NAMES, name, "Hugging Face DINOv2"): tensor
                for name, tensor in state.items()
                if not _has_no_place(name)
            }
        )
    )


def _from_meta(state: State) -> State:
    return _without_class_row(
        {
            "reg_token" if name == "register_tokens" else name: tensor
            for name, tensor in state.items()
            if not _has_no_place(name)
        }
    )


def _without_class_row(state: State) -> State:
    """Positions (1, 1 + N, D) as (1, N, D) where there are registers, their first row in the class token."""
    if not {"reg_token", "cls_token", "pos_embed"} <= state.keys():
        return state
    positions = state["pos_embed"]
    return state | {"cls_token": state["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:].contiguous()}


DIALECTS: tuple[Dialect, ...] = (
    Dialect(
        "Hugging Face DINOv2",
        ("dinov2",),
        lambda names: any(
            re.fullmatch(r"(dinov2(_with_registers)?\.)?encoder\.layer\.0\.layer_scale1\.lambda1", name)
            for name in names
        ),
        _from_huggingface,
        _has_no_place,
        _WHY,
    ),
    Dialect(
        "Meta DINOv2",
        ("dinov2",),
        lambda names: "blocks.0.ls1.gamma" in names and bool(names & {"mask_token", "register_tokens"}),
        _from_meta,
        _has_no_place,
        _WHY,
    ),
)
