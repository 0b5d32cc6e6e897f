"""An image as a sequence of patches (ViT, arXiv 2010.11929, section 3.1)."""

from __future__ import annotations

from torch import Tensor, nn

from regard.errors import RegardError
from regard.taps import Tap


def patch_grid(img_size: int | tuple[int, int], patch_size: int) -> tuple[int, int]:
    """(rows, columns) of patches of an image of (height, width) pixels, or of a square one.

    Raises RegardError where the patch does not divide a side.
    """
    height, width = image_sides(img_size)
    for side in (height, width):
        if side < patch_size or side % patch_size:
            lower = side // patch_size * patch_size
            sizes = " or ".join(str(size) for size in (lower, lower + patch_size) if size)
            raise RegardError(
                f"img_size={side}: is no multiple of the patch, {patch_size} pixels; nearest sizes: {sizes}"
            )
    return height // patch_size, width // patch_size


def image_sides(img_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image given by both, or by the side of a square."""
    return (img_size, img_size) if isinstance(img_size, int) else img_size


def check_sides(images: Tensor, sides: tuple[int, int]) -> None:
    """Raises RegardError where (B, 3, H, W) images are not of the (height, width) that a model was made for."""
    height, width = sides
    if images.shape[-2:] != (height, width):
        raise RegardError(
            f"images: are {images.shape[-2]}x{images.shape[-1]}, the model was made for {height}x{width}; "
            "resize them, or make the model with their img_size"
        )


class PatchEmbed(nn.Module):
    """Cuts (B, 3, H, W) images of `img_size` into patches and maps each linearly: a convolution with stride = kernel.

    Tap: patches (B, N, D), row after row.
    """

    def __init__(self, img_size: int | tuple[int, int], patch_size: int, dim: int) -> None:
        super().__init__()
        self.img_size = image_sides(img_size)
        self.grid = patch_grid(img_size, patch_size)
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)
        self.patches = Tap()

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W)
        check_sides(x, self.img_size)
        x = self.proj(x).flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, h*w, D), row after row
        return self.patches(x)
