"""The distilled DeiT in Hugging Face's names; ours are timm's, and the paper's (`head_dist.weight`).

The paper's own files and the plain DeiT need nothing here: see `vit`. Not visible in the names: Hugging Face uses a
LayerNorm epsilon of 1e-12 where everybody else uses 1e-6.
"""

from __future__ import annotations

import torch

from regard.weights.dialects.naming import Dialect, State, rename, stack_qkv
from regard.weights.dialects.vit import HUGGING_FACE, POOLER, is_pooler

_NAMES = (
    *HUGGING_FACE,
    (r"embeddings\.distillation_token", "dist_token"),
    (r"cls_classifier\.(weight|bias)", r"head.\1"),
    (r"distillation_classifier\.(weight|bias)", r"head_dist.\1"),
)


def _short(name: str) -> str:
    return name.removeprefix("deit.")


def _from_huggingface(state: State) -> State:
    """Of `DeiTForImageClassificationWithTeacher`, `DeiTForImageClassification` and `DeiTModel`.

    The second has one head, on the class token. Ours answers the mean of two, so that head is doubled and the other is
    zero: the same logits.
    """
    out = stack_qkv(
        {
            rename(_short(name), _NAMES, name, "Hugging Face DeiT"): tensor
            for name, tensor in state.items()
            if not is_pooler(_short(name))
        }
    )
    if "classifier.weight" in state:
        for part in ("head.weight", "head.bias"):
            out[part], out[part.replace("head", "head_dist")] = 2 * out[part], torch.zeros_like(out[part])
    return out


DIALECTS: tuple[Dialect, ...] = (
    Dialect(
        "Hugging Face DeiT",
        ("deit",),
        lambda names: any(_short(name) == "embeddings.distillation_token" for name in names),
        _from_huggingface,
        lambda name: is_pooler(_short(name)),
        POOLER,
    ),
)
