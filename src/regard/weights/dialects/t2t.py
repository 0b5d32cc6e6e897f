"""T2T-ViT: our names are its authors', whose files need no more than their containers opened."""

from __future__ import annotations

from regard.weights.dialects.naming import Dialect

DIALECTS: tuple[Dialect, ...] = (
    Dialect("T2T-ViT", ("t2t",), lambda names: "tokens_to_token.project.weight" in names, dict),
)
