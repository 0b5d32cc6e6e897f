"""Parameter groups and optimisers: what decays, how fast each layer learns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from regard.errors import RegardError

NO_DECAY = ("pos_embed", "cls_token", "dist_token", "reg_token", "relative_position_bias_table")
ENCODER = "image_encoder."


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: lr by depth, weight decay only on matrices and kernels.

    Norms, biases and all other vectors, positions (embedding or table) and class tokens do not decay (as DeiT and
    others). With `layer_decay` r < 1 a parameter of layer i of L + 1 learns at lr * r^(L + 1 - i): the
    embedding is layer 0, block i is layer i + 1, the final norm and the head are layer L + 1 (BEiT, MAE).
    Each group keeps its own `base_lr`.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not names:
        raise RegardError("model: no parameter is trainable (requires_grad is off everywhere); switch some on")
    depths = _depths(names)
    top = max(depths.values())
    if layer_decay < 1 and top < 2:
        raise RegardError(
            "--layer-decay: the model has no numbered blocks to tell deep from shallow; use --layer-decay 1"
        )
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    parameters = dict(model.named_parameters())
    for name in names:
        parameter = parameters[name]
        decays = parameter.ndim >= 2 and name.rsplit(".", 1)[-1] not in NO_DECAY
        depth = depths[name] if layer_decay < 1 else top
        scaled = lr * layer_decay ** (top - depth)
        group = groups.setdefault(
            (depth, decays),
            {"params": [], "lr": scaled, "base_lr": scaled, "weight_decay": weight_decay if decays else 0.0},
        )
        group["params"].append(parameter)
    return list(groups.values())


def _depths(names: Iterable[str]) -> dict[str, int]:
    """Layer number of each parameter: "blocks.3.attn.qkv.weight" is 4, "layer2.1.conv1.weight" lies behind
    all of layer1. Of a SAM these are the layers of its image encoder; what follows the encoder is one more.
    """
    names = list(names)
    inner = [name.removeprefix(ENCODER) for name in names if name.startswith(ENCODER)]
    if inner:
        depths = _depths(inner)
        behind = max(depths.values()) + 1
        return {name: depths[name.removeprefix(ENCODER)] if name.startswith(ENCODER) else behind for name in names}
    blocks = sorted({key for name in names if (key := _block(name)) is not None})
    numbers = {key: number + 1 for number, key in enumerate(blocks)}
    top = len(blocks) + 1
    embedding = (
        "patch_embed",
        "cls_token",
        "dist_token",
        "reg_token",
        "pos_embed",
        "norm_pre",
        "conv1",
        "bn1",
        "stem",
        "tokens_to_token",
    )
    depths = {}
    for name in names:
        key = _block(name)
        if key is not None:
            depths[name] = numbers[key]
        else:
            depths[name] = 0 if name.split(".")[0] in embedding else top
    return depths


def _block(name: str) -> tuple[int, int] | None:
    if name.startswith("patch_embed."):  # a hybrid's CNN has blocks too, all before the first of the transformer
        return None
    if match := re.match(r"(?:.*?\.)??(?:blocks|layers)\.(\d+)\.(?:blocks\.(\d+)\.)?", name):
        return int(match[1]), int(match[2] or 0)
    if match := re.match(r"(?:layer|features\.)(\d+)\.(\d+)\.", name):  # ResNet, ConvNeXt
        return int(match[1]), int(match[2])
    return None


def make_optimiser(
    name: Literal["adamw", "sgd", "adam"], groups: list[dict[str, Any]], lr: float
) -> torch.optim.Optimizer:
    """AdamW (beta 0.9, 0.999; fused: one pass over the weights instead of ten), SGD (momentum 0.9, Nesterov, fused), or
    Adam as the Transformer has it (beta 0.9, 0.98, epsilon 1e-9; arXiv 1706.03762, section 5.3; fused).
    """
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr, betas=(0.9, 0.98), eps=1e-9, fused=True)
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)
