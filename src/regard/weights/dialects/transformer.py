"""The Transformer in the names of torch.nn and of Hugging Face's Marian; ours are those of models/transformer.py."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from regard.layers.position import sinusoidal_positions
from regard.weights.dialects.naming import Dialect, Misfit, State, rename

# --- torch.nn.Transformer ---------------------------------------------------------------------------------------

_BLOCK = r"(encoder|decoder)\.layers\.(\d+)\."
_TORCH_NAMES: tuple[tuple[str, str], ...] = (
    (_BLOCK + r"self_attn\.in_proj_(weight|bias)", r"\1.blocks.\2.attn:\3"),
    (_BLOCK + r"self_attn\.out_proj\.(weight|bias)", r"\1.blocks.\2.attn.proj.\3"),
    (_BLOCK + r"multihead_attn\.in_proj_(weight|bias)", r"\1.blocks.\2.cross:\3"),
    (_BLOCK + r"multihead_attn\.out_proj\.(weight|bias)", r"\1.blocks.\2.cross.proj.\3"),
    (_BLOCK + r"linear([12])\.(weight|bias)", r"\1.blocks.\2.mlp.fc\3.\4"),
    (_BLOCK + r"norm([123])\.(weight|bias)", r"\1.blocks.\2.norm\3.\4"),
    (r"(decoder\.words\.(?:table\.weight|bias))", r"\1"),
)


def _from_torch(state: State) -> State:
    """torch.nn.Transformer has no embedding: one may stand beside the stacks as ours, `decoder.words.table.weight`."""
    out: State = {}
    for name, tensor in state.items():
        if re.fullmatch(r"(encoder|decoder)\.norm\.(weight|bias)", name):
            raise Misfit(f"{name}: a norm behind the stack, which the paper has not; make it with norm=None")
        ours = rename(name, _TORCH_NAMES, name, "torch.nn.Transformer")
        base, stacked, kind = ours.partition(":")
        if stacked:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            out |= {f"{base}.{part}.{kind}": rows.clone() for part, rows in parts}
        else:
            out[ours] = tensor
    return out


# --- Marian -----------------------------------------------------------------------------------------------------

_LAYER = r"model\.(encoder|decoder)\.layers\.(\d+)\."
_PARTS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "proj"}
_MARIAN_NAMES: tuple[tuple[str, str], ...] = (
    *((_LAYER + rf"self_attn\.{t}\.(weight|bias)", rf"\1.blocks.\2.attn.{o}.\3") for t, o in _PARTS.items()),
    *((_LAYER + rf"encoder_attn\.{t}\.(weight|bias)", rf"\1.blocks.\2.cross.{o}.\3") for t, o in _PARTS.items()),
    (_LAYER + r"fc([12])\.(weight|bias)", r"\1.blocks.\2.mlp.fc\3.\4"),
    (_LAYER + r"self_attn_layer_norm\.(weight|bias)", r"\1.blocks.\2.norm1.\3"),
    (_LAYER + r"encoder_attn_layer_norm\.(weight|bias)", r"\1.blocks.\2.norm2.\3"),
    (r"model\.encoder\.layers\.(\d+)\.final_layer_norm\.(weight|bias)", r"encoder.blocks.\1.norm2.\2"),
    (r"model\.decoder\.layers\.(\d+)\.final_layer_norm\.(weight|bias)", r"decoder.blocks.\1.norm3.\2"),
    (r"model\.shared\.weight", "decoder.words.table.weight"),
    (r"final_logits_bias", "decoder.words.bias"),
)
_SAME_WORDS = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
_POSITIONS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
# What an inner layer gives to, and takes from, the tokens: the axis along which the tokens' coordinates lie.
_WRITES = re.compile(r".*\.(proj|fc2)\.(weight|bias)|.*\.norm\d\.(weight|bias)")
_READS = re.compile(r".*\.(query|key|value|fc1|table)\.weight")


def _from_marian(state: State) -> State:
    """Marian's positions have all sines, then all cosines; ours alternate: coordinates of the tokens change places.

    The residual stream means the same in any order of its coordinates if all that writes and reads it agrees.
    """
    words = state["model.shared.weight"]
    for name in _SAME_WORDS:
        if name in state and not torch.equal(state[name], words):
            raise Misfit(f"{name}: differs from model.shared.weight; the Transformer has one matrix of words")
    order = _alternating(words.shape[1])
    for name in _POSITIONS:
        if name in state and not _are_sinusoids(state[name][:, order]):
            raise Misfit(f"{name}: no sines and cosines; the Transformer has no learned positions")
    out: State = {}
    for name, tensor in state.items():
        if name in _SAME_WORDS or name in _POSITIONS:
            continue
        ours = rename(name, _MARIAN_NAMES, name, "Marian")
        if ours == "decoder.words.bias":
            out[ours] = tensor.flatten()  # (1, V) -> (V,)
        elif _READS.fullmatch(ours):
            out[ours] = tensor[:, order]
        elif _WRITES.fullmatch(ours):
            out[ours] = tensor[order]
        else:
            out[ours] = tensor
    return out


def _alternating(dim: int) -> Tensor:
    """(dim,) Marian's coordinate at each of ours: 0, dim/2, 1, dim/2 + 1, ..."""
    sines = (dim + 1) // 2
    return torch.tensor([place // 2 + sines * (place % 2) for place in range(dim)])


def _are_sinusoids(positions: Tensor) -> bool:
    expected = sinusoidal_positions(*positions.shape)
    return bool((positions.float() - expected).abs().max() < 1e-2)  # published in half precision too


DIALECTS = (
    Dialect(
        name="torch.nn.Transformer",
        families=("transformer",),
        marks=lambda names: "decoder.layers.0.multihead_attn.in_proj_weight" in names,
        convert=_from_torch,
    ),
    Dialect(
        name="Marian translator",
        families=("transformer",),
        marks=lambda names: {"model.shared.weight", "model.decoder.layers.0.encoder_attn.q_proj.weight"} <= names,
        convert=_from_marian,
        left_out=lambda name: name in _POSITIONS,
        why="sines and cosines, which the model computes",
    ),
)
