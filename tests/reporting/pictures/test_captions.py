"""The words of every figure: three languages, the same keys and places, formulas that can be set."""

from __future__ import annotations

import re
import string
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from matplotlib.mathtext import MathTextParser

from regard.reporting.pictures import LANGUAGES, Picture
from regard.reporting.pictures.picture import CAPTIONS, captions

FILES = sorted(CAPTIONS.glob("*.yaml"))
NEEDED = {"title", "formula", "read"}


def places(text: str) -> set[str]:
    """The names between braces that `format` fills in; braces of a formula are none."""
    plain = re.sub(r"\$[^$]*\$", "", text)
    return {name for _, name, _, _ in string.Formatter().parse(plain) if name}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_languages_have_the_same_keys_and_places(path: Path) -> None:
    words = yaml.safe_load(path.read_text("utf-8"))
    assert tuple(sorted(words)) == tuple(sorted(LANGUAGES))
    english = words["en"]
    assert english.keys() >= NEEDED
    for lang in LANGUAGES:
        assert words[lang].keys() == english.keys(), lang
        for key, text in words[lang].items():
            assert isinstance(text, str) and text.strip(), f"{lang}: {key}"
            assert key == "formula" or places(text) == places(english[key]), f"{lang}: {key}"
            assert lang == "en" or key not in ("title", "read") or text != english[key], f"{lang}: {key} is English"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("lang", LANGUAGES)
def test_formulas_can_be_set(path: Path, lang: str) -> None:
    parser = MathTextParser("path")
    for key, text in captions(path.stem, lang).items():
        formulas = re.findall(r"\$[^$]*\$", text)
        assert text.count("$") == 2 * len(formulas), f"{key}: a dollar is left over"
        for formula in formulas:
            parser.parse(formula)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_captions_belong_to_a_figure(path: Path) -> None:
    module = import_module(f"regard.reporting.pictures.{path.stem}")
    names = {
        part.NAME
        for part in vars(module).values()
        if isinstance(part, type) and issubclass(part, Picture) and part is not Picture
    }
    assert path.stem in names
