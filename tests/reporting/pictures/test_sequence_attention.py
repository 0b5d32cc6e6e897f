"""Token-by-token pictures, from the patterns of a Transformer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regard.models import create_model
from regard.reporting.pictures.sequence_attention import Alignment, SequenceAttention
from regard.taps import record

SOURCE = ("the", "cat", "sleeps", "because", "it", "is", "tired")
TARGET = ("le", "chat", "dort", "car", "il", "est", "fatigué")


@pytest.fixture(scope="module")
def picture() -> SequenceAttention:
    torch.manual_seed(0)
    model = create_model("transformer_tiny", num_classes=20).eval()
    words = torch.arange(4, 11)[None]
    with torch.no_grad(), record(model, "encoder.blocks.0.attn.pattern", "decoder.blocks.0.*.pattern") as seen:
        model(words, words)
    taps = (
        ("encoder", "encoder.blocks.0.attn.pattern", SOURCE, SOURCE),
        ("decoder", "decoder.blocks.0.attn.pattern", TARGET, TARGET),
        ("cross", "decoder.blocks.0.cross.pattern", TARGET, SOURCE),
    )
    return SequenceAttention(
        tuple(
            Alignment(kind, "layer 0, head 1", rows, columns, seen[name][0, 1].numpy())  # pyright: ignore
            for kind, name, rows, columns in taps
        )
    )


def test_the_table_is_what_the_taps_gave(picture: SequenceAttention) -> None:
    header, rows = picture.table()
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    assert len(rows) == 3 * 49
    sums: dict[tuple[object, object], float] = {}
    for row in rows:
        sums[row["kind"], row["row"]] = sums.get((row["kind"], row["row"]), 0) + float(str(row["weight"]))
    np.testing.assert_allclose(list(sums.values()), 1, atol=1e-6)
    own = [row for row in rows if row["kind"] == "decoder"]
    later = [row["weight"] for row in own if int(str(row["column"])) > int(str(row["row"]))]
    assert len(later) == 21 and not any(later)  # the decoder sees no later word
    assert next(row for row in rows if row["kind"] == "cross" and row["reading"] == "il")["read"] == "the"


@pytest.mark.parametrize(("lang", "word"), [("en", "cross-attention"), ("fr", "croisée"), ("ro", "încrucișată")])
def test_draws(picture: SequenceAttention, lang: str, word: str) -> None:
    svg = picture.svg(lang)  # pyright: ignore[reportArgumentType]
    assert word in svg and "fatigué" in svg and svg == picture.svg(lang)  # pyright: ignore[reportArgumentType]


def test_words_are_text() -> None:
    hostile = ("$x$", "<script>window.hit=1</script>", "line\nbreak\x00")
    svg = SequenceAttention((Alignment("cross", "$y", hostile, hostile, np.eye(3)),)).svg()
    assert "$x$" in svg and "<script>" not in svg and "\x00" not in svg


def test_words_have_to_fit() -> None:
    with pytest.raises(ValueError, match="expected 2 rows, 1 columns"):
        Alignment("cross", "", ("a", "b"), ("c",), np.eye(2))
