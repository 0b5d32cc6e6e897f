"""The two-layer perceptron of a transformer block (arXiv 1706.03762 section 3.3; GELU as in ViT)."""

from __future__ import annotations

from torch import Tensor, nn

from regard.taps import Tap


class Mlp(nn.Module):
    """Linear, exact GELU, dropout, linear, dropout on (..., D). Tap: hidden (..., hidden_dim), after GELU."""

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.hidden = Tap()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop1(self.hidden(self.act(self.fc1(x))))  # (..., hidden_dim)
        return self.drop2(self.fc2(x))  # (..., D)
