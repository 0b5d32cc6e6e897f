"""Texts as the numbers that a text tower reads: CLIP's byte-level BPE, from the files beside its weights.

A text is brought to Unicode's NFC, its white space to single blanks, its letters to lower case; it is cut into
contractions, runs of letters, single digits and runs of other signs; each piece's bytes are merged pair by pair in the
order of the published list (Sennrich et al. 2016, arXiv 1508.07909). OpenAI's own code also mends mis-encoded text
(ftfy) and unescapes HTML; this does not, as Hugging Face's tokenizer does not.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from regard.errors import RegardError

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
CONTEXT_LENGTH = 77
PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
OPENAI_MERGES = 48_894  # that CLIP takes from a longer list
MOST_BYTES = 2**26  # of a file, unpacked; the published ones have 0.5 to 4 million
EXPECTED = "expected tokenizer.json, vocab.json with merges.txt, or bpe_simple_vocab_16e6.txt.gz"


class Tokenizer:
    """Texts -> (N, context_length) int64: start of text, the pieces, end of text, zeros.

    model: a `tokenizers.Tokenizer`; source: where it comes from, for messages.
    """

    def __init__(self, model: Any, source: Path, context_length: int = CONTEXT_LENGTH) -> None:
        ends = model.token_to_id(START), model.token_to_id(END)
        if None in ends:
            raise RegardError(f"{source}: has no {START} or no {END}; give the tokenizer of a CLIP model")
        model.no_padding()
        model.no_truncation()
        self.start, self.end = ends
        self.context_length, self._model = context_length, model

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """The numbers of each text. Raises RegardError for one that is too long, and names it."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = torch.zeros(len(texts), self.context_length, dtype=torch.int64)
        for row, text in enumerate(texts):
            numbers = [self.start, *self._model.encode(text, add_special_tokens=False).ids, self.end]
            if len(numbers) > self.context_length:
                raise RegardError(
                    f"text {text[:40]!r}...: {len(numbers)} tokens with start and end, the model reads "
                    f"{self.context_length}; shorten it"
                )
            rows[row, : len(numbers)] = torch.tensor(numbers)
        return rows


def load_tokenizer(path: str | Path, context_length: int = CONTEXT_LENGTH) -> Tokenizer:
    """The tokenizer of a CLIP checkpoint; context_length: numbers per text.

    path: a folder from the hub (tokenizer.json, else vocab.json and merges.txt), one of these files, or OpenAI's
    bpe_simple_vocab_16e6.txt.gz. Raises RegardError where it cannot be read or `tokenizers` is not installed.
    """
    try:
        import tokenizers
    except ImportError:
        raise RegardError(f"{path}: reading texts needs tokenizers; pip install 'regard[text]'") from None
    path = Path(path)
    if path.is_dir():
        names = [name for name in ("tokenizer.json", "vocab.json") if (path / name).is_file()]
        if not names:
            raise RegardError(f"{path}: no tokenizer in this folder; {EXPECTED}")
        path = path / names[0]
    elif path.name == "merges.txt":
        path = path.with_name("vocab.json")
    data = _read(path)
    try:
        if path.suffix == ".gz":
            model = _byte_pairs(tokenizers, *_openai(data.decode()))
        elif path.name == "vocab.json":
            model = _byte_pairs(tokenizers, json.loads(data), _pairs(_read(path.with_name("merges.txt")).decode()))
        else:
            model = tokenizers.Tokenizer.from_buffer(data)
    except RegardError:
        raise
    except Exception as error:  # `tokenizers` raises bare Exceptions for what it cannot read
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RegardError(f"{path}: is no tokenizer ({reason}); {EXPECTED}") from None
    return Tokenizer(model, path, context_length)


def _read(path: Path) -> bytes:
    """The bytes of a file, unpacked, no more than MOST_BYTES."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise RegardError(f"{path}: cannot be read ({error}); {EXPECTED}") from None
    if len(data) > MOST_BYTES:
        raise RegardError(f"{path}: more than {MOST_BYTES:,} bytes, so no tokenizer; {EXPECTED}")
    return data


def _byte_pairs(tokenizers: ModuleType, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    """CLIP's tokenizer of a vocabulary and its merges, first merge first."""
    model = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocabulary, merges=merges, unk_token=END, end_of_word_suffix=WORD_END)
    )
    model.normalizer = tokenizers.normalizers.Sequence(
        [
            tokenizers.normalizers.NFC(),
            tokenizers.normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            tokenizers.normalizers.Lowercase(),
        ]
    )
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(PIECES), behavior="removed", invert=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    model.add_special_tokens([name for name in (START, END) if name in vocabulary])
    return model


def _pairs(text: str) -> list[tuple[str, str]]:
    """The merges of a file, one pair a line; a first line `#version: ...` is a header."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#version")]
    pairs = [tuple(line.split()) for line in lines]
    wrong = next((line for line, pair in zip(lines, pairs, strict=True) if len(pair) != 2), None)
    if wrong is not None:
        raise ValueError(f"{wrong[:40]!r} is no pair")
    return [(first, second) for first, second in pairs]


def _openai(text: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of OpenAI's list: bytes, bytes that end a word, one entry a merge, start, end."""
    merges = _pairs("\n".join(text.split("\n")[1 : OPENAI_MERGES + 1]))
    bytes_ = _byte_signs()
    entries = [*bytes_, *(sign + WORD_END for sign in bytes_), *map("".join, merges), START, END]
    return {entry: number for number, entry in enumerate(entries)}, merges


def _byte_signs() -> list[str]:
    """The sign that stands for each byte, GPT-2's: printable Latin-1 for itself first, then the others from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [*map(chr, printable), *(chr(256 + number) for number in range(256 - len(printable)))]
