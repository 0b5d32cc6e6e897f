"""The hybrid CNN + ViT in the names of its publishers; ours are timm's (`patch_embed.backbone.stem.conv.weight`)."""

from __future__ import annotations

import re

from torch import Tensor

from regard.weights.dialects import vit
from regard.weights.dialects.naming import Dialect, Misfit, State, rename

_UNIT = r"block(\d+)/unit(\d+)/"
_GOOGLE_NAMES: tuple[tuple[str, str], ...] = (  # of the CNN, with Google's numbers, which begin at 1
    (r"conv_root/kernel", "stem.conv.weight"),
    (r"gn_root/(scale|bias)", r"stem.norm.\1"),
    (_UNIT + r"conv([123])/kernel", r"stages.\1.blocks.\2.conv\3.weight"),
    (_UNIT + r"gn([123])/(scale|bias)", r"stages.\1.blocks.\2.norm\3.\4"),
    (_UNIT + r"conv_proj/kernel", r"stages.\1.blocks.\2.downsample.conv.weight"),
    (_UNIT + r"gn_proj/(scale|bias)", r"stages.\1.blocks.\2.downsample.norm.\3"),
)


def _is_cnn(name: str) -> bool:
    return name.startswith(("conv_root/", "gn_root/", "block"))


def _from_google(state: State) -> State:
    """The CNN's flax arrays, HWIO kernels and (1, 1, 1, C) norms, beside those of the ViT."""
    out = vit.from_google({name: tensor for name, tensor in state.items() if not _is_cnn(name)})
    for name, tensor in state.items():
        if _is_cnn(name):
            ours = rename(name, _GOOGLE_NAMES, name, "Google hybrid ViT")
            ours = re.sub(r"(stages|blocks)\.(\d+)", lambda found: f"{found[1]}.{int(found[2]) - 1}", ours)
            ours = re.sub(r"\.scale$", ".weight", ours)
            out[f"patch_embed.backbone.{ours}"] = _from_flax(tensor, name)
    return out


def _from_flax(tensor: Tensor, name: str) -> Tensor:
    if not name.endswith("/kernel"):
        return tensor.flatten()
    if tensor.ndim != 4:
        raise Misfit(f"{name}: shape {tuple(tensor.shape)} found, 4 axes expected of a Google hybrid ViT")
    return tensor.permute(3, 2, 0, 1).contiguous()  # (k, k, C, out) -> (out, C, k, k)


DIALECTS: tuple[Dialect, ...] = (
    Dialect(
        "Google hybrid ViT",
        ("hybrid",),
        lambda names: "conv_root/kernel" in names,
        _from_google,
        vit.is_pooler,
        vit.POOLER,
    ),
    Dialect(
        "timm hybrid ViT",
        ("hybrid",),
        lambda names: any(name.startswith("patch_embed.backbone.") for name in names),
        vit.from_timm,
        vit.is_pooler,
        vit.POOLER,
    ),
)
