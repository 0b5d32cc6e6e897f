from __future__ import annotations

import pytest
import torch

from regard.errors import RegardError
from regard.layers.patch import PatchEmbed, patch_grid


def test_embedding_is_a_linear_map_of_each_flattened_patch_row_by_row() -> None:
    embed, images = PatchEmbed(12, 4, 7), torch.randn(2, 3, 12, 12)
    tokens = embed(images)
    assert tokens.shape == (2, 9, 7)
    weight, bias = embed.proj.weight.flatten(1), embed.get_parameter("proj.bias")  # (7, 3 * 4 * 4)
    for number in range(9):
        row, column = divmod(number, 3)
        patch = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
        torch.testing.assert_close(tokens[:, number], patch @ weight.T + bias)


@pytest.mark.parametrize(("size", "hint"), [(225, "224 or 240"), (250, "240 or 256"), (10, "nearest sizes: 16")])
def test_a_size_that_the_patch_does_not_divide_names_the_nearest(size: int, hint: str) -> None:
    with pytest.raises(RegardError, match=rf"img_size={size}: .*{hint}"):
        patch_grid(size, 16)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(RegardError, match="images: are 16x12, the model was made for 12x12"):
        PatchEmbed(12, 4, 7)(torch.zeros(1, 3, 16, 12))


def test_an_image_need_not_be_square() -> None:
    embed, images = PatchEmbed((8, 12), 4, 7), torch.randn(2, 3, 8, 12)
    assert embed.grid == (2, 3)
    alone = PatchEmbed(4, 4, 7)
    alone.load_state_dict(embed.state_dict())
    torch.testing.assert_close(embed(images)[:, 5:], alone(images[:, :, 4:, 8:]))
    with pytest.raises(RegardError, match=r"img_size=10: .*8 or 12"):
        patch_grid((8, 10), 4)
