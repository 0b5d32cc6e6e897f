"""The first weights of a small SAM that is trained from nothing, in minutes."""

from __future__ import annotations

import math

import torch
from torch import nn

from regard.models.sam import SAM, ImageToToken, MaskDecoder, PromptEncoder, TokenToImage
from regard.models.vitdet import ImageEncoder, Mlp

LOWEST, HIGHEST = 0.1, 1.5  # waves of the codes of places, for each half of the image (published: about 1.25)
GOLDEN = (5**0.5 - 1) / 2  # of half a turn, from each wave's direction to the next: evenly spread in every range
SMALL_POINT, SMALL_CORNER, SMALL_IMAGE, SMALL_TOKENS, SMALL_NORM = 0.1, 0.7, 0.2, 0.2, 0.1  # times PyTorch's weights
STRONG_KEYS, STRONG_ALIKE, QUIET = 3.0, 2.0, 0.2
SQUARES = 4  # per side of a patch: their mean colours are what a new encoder says of it
LEVELS, LEVEL = 16, 3.0  # constant channels beside them


def start_fresh(model: SAM) -> None:
    """Draw the weights from which a new model learns soon that a prompt is about a place, and what belongs together.

    As PyTorch draws them, queries and keys have nothing to do with each other, what a token has seen is lost on the way
    to the masks, and it takes thousands of steps until a mask is more than a blob around the point. So a click begins
    as a question that is answered:

    - Queries and keys begin as the same matrix: a point is looked for where it lies, and patches that look alike see
      each other. What could hide the codes of places is small: kinds of prompts, image, tokens, the first norm.
    - Codes of places get low frequencies too: by the published ones alone, a point is like what lies within a twelfth
      of the image, and like nothing else.
    - What a token looks up comes back as it was: among tokens their mean, from the image V and then V transposed; the
      MLPs add little to it.
    - An image begins as mean colours of squares, 4 x 4 of each patch, to which the blocks add little.
    - The MLPs that make masks are drawn for ReLU (He et al. 2015, arXiv 1502.01852), or all masks begin as nothing.
    """
    with torch.no_grad():
        _start_with_places(model.prompt_encoder)
        _start_with_answers(model.mask_decoder)
        _start_with_colours(model.image_encoder)


def _start_with_places(prompts: PromptEncoder) -> None:
    """Waves of all lengths in directions spread evenly, in place of random ones; kinds are small beside them."""
    frequencies = prompts.pe_layer.positional_encoding_gaussian_matrix
    turns = math.pi * GOLDEN * torch.arange(frequencies.shape[1])
    spread = torch.logspace(math.log10(LOWEST), math.log10(HIGHEST), frequencies.shape[1])
    frequencies.copy_(spread * torch.stack([turns.cos(), turns.sin()]))
    points, corners = prompts.point_embeddings[:2], prompts.point_embeddings[2:]
    for kind in (*points, prompts.not_a_point_embed, prompts.no_mask_embed):
        kind.get_parameter("weight").mul_(SMALL_POINT)
    for kind in corners:
        kind.get_parameter("weight").mul_(SMALL_CORNER)


def _start_with_answers(decoder: MaskDecoder) -> None:
    """A token looks where the prompt lies, and gets what is there."""
    for own in (decoder.iou_token, decoder.mask_tokens):
        own.weight.mul_(SMALL_TOKENS)
    first = decoder.transformer.layers[0]
    first.get_parameter("norm1.weight").mul_(SMALL_NORM)
    for proj in ("v_proj", "out_proj"):
        nn.init.eye_(first.get_parameter(f"self_attn.{proj}.weight"))
        nn.init.zeros_(first.get_parameter(f"self_attn.{proj}.bias"))
    for module in decoder.transformer.modules():
        if isinstance(module, TokenToImage | ImageToToken):
            module.k_proj.weight.mul_(STRONG_KEYS)
            module.q_proj.weight.copy_(module.k_proj.weight)
        if isinstance(module, TokenToImage):
            nn.init.orthogonal_(module.v_proj.weight)
            module.out_proj.weight.copy_(module.v_proj.weight.T)
            nn.init.zeros_(module.v_proj.bias)
            nn.init.zeros_(module.out_proj.bias)
        if isinstance(module, Mlp):
            module.lin2.weight.mul_(QUIET)
    for module in decoder.output_hypernetworks_mlps.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def _start_with_colours(encoder: ImageEncoder) -> None:
    """The first channels of a patch are the mean colours of its squares, and come out of the neck as they are.

    A few after them are constant: so norms leave pale patches different from bright ones.
    """
    for block in encoder.blocks:
        queries, keys, _ = block.get_parameter("attn.qkv.weight").chunk(3)
        queries.copy_(keys.mul_(STRONG_ALIKE))
        for branch in ("attn.proj.weight", "mlp.lin2.weight"):
            block.get_parameter(branch).mul_(QUIET)
    patches = encoder.patch_embed.proj
    side = patches.kernel_size[0] // SQUARES
    squares = torch.eye(3 * SQUARES**2).unflatten(1, (3, SQUARES, SQUARES))
    squares = squares.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3) / side**2
    weight, bias = patches.get_parameter("weight"), patches.get_parameter("bias")
    weight.mul_(QUIET)[: len(squares)] = squares
    nn.init.zeros_(bias)
    bias[len(squares) :][:LEVELS] = LEVEL * torch.tensor([1.0, -1.0]).repeat(LEVELS // 2)
    for number in (0, 2):
        nn.init.dirac_(encoder.neck.get_parameter(f"{number}.weight"))
    encoder.neck.get_parameter("3.weight").mul_(SMALL_IMAGE)
