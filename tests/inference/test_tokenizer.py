"""CLIP's tokenizer against Hugging Face's on a tiny vocabulary, and against open_clip's on the published one."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest
import torch

from regard.errors import RegardError
from regard.inference.tokenizer import END, START, Tokenizer, load_tokenizer

pytest.importorskip("tokenizers", reason="tokenizers is not installed")

TEXTS = [
    "a photo of a cat",
    "A  Photo\tof\n  A CAT!!",
    "it's the dog's 2nd ball, isn't it?",
    "",
    "naïve café 42 — こんにちは 🙂",
    "x" * 30,
    "cafe\u0301 <|endoftext|> tail",
]
MERGES = [
    "a t</w>",
    "a t",
    "c at</w>",
    "p h",
    "o t",
    "ph ot",
    "phot o</w>",
    "t h",
    "th e</w>",
    "o f</w>",
    "' s</w>",
    "c at",
]
SIGNS = [*map(chr, [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]), *map(chr, range(256, 324))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the hub with a vocabulary of 12 merges."""
    folder = tmp_path_factory.mktemp("clip")
    entries = [*SIGNS, *(f"{sign}</w>" for sign in SIGNS), *(merge.replace(" ", "") for merge in MERGES), START, END]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    return folder


def test_rows_are_start_pieces_end_and_zeros(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text())
    tokens = load_tokenizer(folder)(["Photo of\na  CAT", "at 42"])
    assert tokens.shape == (2, 77) and tokens.dtype == torch.int64
    words = [["photo</w>", "of</w>", "a</w>", "cat</w>"], ["at</w>", "4</w>", "2</w>"]]
    for row, pieces in zip(tokens.tolist(), words, strict=True):
        expected = [vocabulary[piece] for piece in [START, *pieces, END]]
        assert row == expected + [0] * (77 - len(expected))
    assert load_tokenizer(folder / "merges.txt")("a cat").tolist() == load_tokenizer(folder)(["a cat"]).tolist()


def test_a_text_of_any_signs_has_the_numbers_of_hugging_faces_tokenizer(folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    expected = theirs(TEXTS)["input_ids"]
    for tokenizer in (load_tokenizer(folder, 128), load_tokenizer(tmp_path, 128)):
        for row, numbers in zip(tokenizer(TEXTS).tolist(), expected, strict=True):
            assert row[: len(numbers)] == numbers and not any(row[len(numbers) :])


def published() -> tuple[Path, object]:
    """OpenAI's list as open_clip carries it, and open_clip's tokenizer."""
    theirs = pytest.importorskip("open_clip.tokenizer", reason="open_clip_torch is not installed")
    return Path(theirs.default_bpe()), theirs.SimpleTokenizer()


def test_the_published_list_gives_open_clips_numbers() -> None:
    path, theirs = published()
    ours = load_tokenizer(path)
    assert (ours.start, ours.end) == (49_406, 49_407)
    texts = [*TEXTS[:6], "cafe\u0301 at night", "1,234.5 km² of Γειά σου, he'll we'd they're"]
    assert torch.equal(ours(texts), theirs(texts))  # pyright: ignore[reportCallIssue]
    assert ours("a photo of a cat")[0, :7].tolist() == [49_406, 320, 1125, 539, 320, 2368, 49_407]


def test_a_text_that_is_too_long_is_named(folder: Path) -> None:
    tokenizer = load_tokenizer(folder, context_length=6)
    assert tokenizer("at at at at")[0, 5] == tokenizer.end
    with pytest.raises(RegardError, match=r"text 'a b c d e'\.\.\.: 7 tokens with start and end, the model reads 6"):
        tokenizer(["a", "a b c d e"])


def test_what_is_no_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RegardError, match="no tokenizer in this folder; expected tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(RegardError, match=r"nowhere\.json: cannot be read"):
        load_tokenizer(tmp_path / "nowhere.json")
    (tmp_path / "vocab.json").write_bytes((folder / "vocab.json").read_bytes())
    with pytest.raises(RegardError, match=r"merges\.txt: cannot be read"):
        load_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("a t\nnot a pair\n")
    with pytest.raises(RegardError, match=r"is no tokenizer \('not a pair' is no pair\)"):
        load_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("a quick\n")
    with pytest.raises(RegardError, match=r"vocab\.json: is no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(RegardError, match=r"tokenizer\.json: is no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "list.txt.gz").write_bytes(gzip.compress(b"header\na t\n")[:-9])
    with pytest.raises(RegardError, match=r"list\.txt\.gz: cannot be read"):
        load_tokenizer(tmp_path / "list.txt.gz")
    bomb = tmp_path / "bomb.txt.gz"
    bomb.write_bytes(gzip.compress(bytes(2**26 + 10), 1))
    with pytest.raises(RegardError, match="more than 67,108,864 bytes"):
        load_tokenizer(bomb)


def test_another_models_tokenizer_is_refused(tmp_path: Path) -> None:
    import tokenizers

    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(RegardError, match=r"has no <\|startoftext\|> or no <\|endoftext\|>"):
        load_tokenizer(tmp_path)


def test_without_the_extra_it_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(RegardError, match=r"reading texts needs tokenizers; pip install 'regard\[text\]'"):
        load_tokenizer(folder)


def test_what_it_gives_is_what_the_text_tower_reads(folder: Path) -> None:
    from regard.models.clip import CLIP

    tokenizer: Tokenizer = load_tokenizer(folder, context_length=16)
    model = CLIP(
        img_size=32, patch_size=8, width=16, depth=1, num_heads=2, embed_dim=8, text_width=16, text_depth=1,
        text_heads=2, context_length=16, vocabulary=tokenizer.end + 1,
    )  # fmt: skip
    tokens = tokenizer(["a cat", "the photo"])
    assert torch.equal(tokens.argmax(1), torch.tensor([3, 3]))
    assert model.encode_text(tokens).shape == (2, 8)
