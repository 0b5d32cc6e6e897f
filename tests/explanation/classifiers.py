"""Classifiers of a user, in the many ways in which they are written, for tests of what works on any of them."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn


def pictures(*size: int, seed: int = 1) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def seeded(make) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


class Tokens(nn.Module):
    """Somebody's transformer: three of torch's encoder layers, the class token or the mean read by a head."""

    def __init__(self, norm_first: bool, pool: str, different: int = 3) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.start = nn.Parameter(torch.randn(1, 1, 16))
        self.places = nn.Parameter(torch.randn(1, 17, 16))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first) for _ in range(different)
        )
        self.pool = pool
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.start.expand(len(x), -1, -1), x], 1) + self.places
        for number in range(3):
            x = self.layers[number % len(self.layers)](x)
        return self.head(x[:, 0] if self.pool == "token" else x[:, 1:].mean(1))


class Attending(nn.Module):
    """One more, in the way of vit-pytorch: a Softmax module gives the patterns; keys and values are modules too."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 2, 2)
        self.start = nn.Parameter(torch.randn(1, 1, 16))
        self.places = nn.Parameter(torch.randn(1, 65, 16))
        self.norm = nn.LayerNorm(16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.heads = nn.Unflatten(2, (2, 8))
        self.attend = nn.Softmax(-1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.start.expand(len(x), -1, -1), x], 1) + self.places
        y = self.norm(x)
        q, k, v = (self.heads(part(y)).transpose(1, 2) for part in (self.query, self.key, self.value))
        x = x + (self.attend(q @ k.transpose(2, 3)) @ v).transpose(1, 2).flatten(2)
        return self.head(x[:, 0])


class ChannelsLast(nn.Module):
    """A map whose channels come last, as in Swin of timm and of torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.patch(x).permute(0, 2, 3, 1)).mean((1, 2)))


class Wrapped(nn.Module):
    """Gives an object with logits, as Hugging Face's models."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.model(x), loss=None)


def cnn() -> nn.Sequential:
    """Layers that work in place, on the image too; batch norm; a map not square with the image's sides odd."""
    return nn.Sequential(
        nn.Hardtanh(-2, 2, inplace=True),
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
