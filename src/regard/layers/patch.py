"""An image as a sequence of patches (ViT, arXiv 2010.11929, section 3.1)."""

from __future__ import annotations

from torch import Tensor, nn

from regard.errors import RegardError
from regard.taps import Tap


def patch_grid(img_size: int, patch_size: int) -> tuple[int, int]:
    """(rows, columns) of patches of a square image. Raises RegardError where the patch does not divide it."""
    if img_size < patch_size or img_size % patch_size:
        lower = img_size // patch_size * patch_size
        sizes = " or ".join(str(size) for size in (lower, lower + patch_size) if size)
        raise RegardError(
            f"img_size={img_size}: is no multiple of the patch, {patch_size} pixels; nearest sizes: {sizes}"
        )
    return img_size // patch_size, img_size // patch_size


class PatchEmbed(nn.Module):
    """Cuts (B, 3, S, S) into patches and maps each linearly: a convolution with stride = kernel.

    Tap: patches (B, N, D), row after row.
    """

    def __init__(self, img_size: int, patch_size: int, dim: int) -> None:
        super().__init__()
        self.img_size = img_size
        self.grid = patch_grid(img_size, patch_size)
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)
        self.patches = Tap()

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, S, S)
        if x.shape[-2:] != (self.img_size, self.img_size):
            raise RegardError(
                f"images: are {x.shape[-2]}x{x.shape[-1]}, the model was made for "
                f"{self.img_size}x{self.img_size}; resize them, or make the model with their img_size"
            )
        x = self.proj(x).flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, h*w, D), row after row
        return self.patches(x)
