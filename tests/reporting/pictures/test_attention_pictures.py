"""Figures of attention and embedding: drawn in three languages, the same bytes, their numbers in the table."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from regard.reporting.pictures import LANGUAGES, Language, Picture
from regard.reporting.pictures.attention_distance import AttentionDistance
from regard.reporting.pictures.attention_entropy import AttentionEntropy
from regard.reporting.pictures.class_attention import ClassAttention
from regard.reporting.pictures.filters import Filters
from regard.reporting.pictures.high_norm_tokens import HighNormTokens
from regard.reporting.pictures.picture import STYLE, captions
from regard.reporting.pictures.position_products import PositionProducts
from regard.reporting.pictures.position_similarity import PositionSimilarity
from regard.reporting.pictures.prediction_by_layer import PredictionByLayer
from regard.reporting.pictures.qkv_channels import QkvChannels
from regard.reporting.pictures.tiles import layer_label, mosaic
from regard.reporting.pictures.token_similarity import TokenSimilarity

random = np.random.default_rng(1)
SVG = "{http://www.w3.org/2000/svg}"
PHOTO = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
BLOCKS = tuple(f"blocks.{i}.attn" for i in range(3))
DEPTHS = ("embedded", "blocks.0.tokens", "blocks.1.tokens")
CURVE = np.array([0.1, 0.5, 0.9])
FIGURES: dict[str, Picture] = {
    "components": Filters("patch_embed.proj", 96, random.normal(size=(28, 4, 4, 3)), random.random(28)),
    "filters": Filters("conv1", 16, random.normal(size=(16, 3, 3, 3)), None),
    "position_similarity": PositionSimilarity((2, 3), np.array([[np.nan, *[0.5] * 5], *random.random((5, 6))])),
    "position_products": PositionProducts(4, random.random((5, 5))),
    "qkv_channels": QkvChannels("blocks.2.attn", 1, PHOTO, *random.normal(size=(3, 12, 4, 4))),
    "class_attention": ClassAttention(BLOCKS, ("class",) * 3, None, None, PHOTO, tuple(random.random((3, 4, 5, 5)))),
    "many layers": ClassAttention(
        BLOCKS, ("mean", "class", "class"), None, None, PHOTO, tuple(random.random((3, 1, 5, 5)))
    ),
    "patch": ClassAttention(
        BLOCKS, ("patch",) * 3, (1, 2), (0.3, 0.5), PHOTO, (*random.random((2, 2, 5, 5)), random.random((4, 3, 3)))
    ),
    "attention_distance": AttentionDistance(BLOCKS, tuple(random.random((3, 4))), (0.5, 0.5, 0.5), 8),
    "attention_entropy": AttentionEntropy(BLOCKS, tuple(random.random((3, 4))), (0.5, 0.5, 0.7), 8),
    "token_similarity": TokenSimilarity(DEPTHS, CURVE, CURVE / 10, 8),
    "prediction_by_layer": PredictionByLayer(
        DEPTHS, ("cat", "5 $ note & <more>"), np.stack([CURVE, 1 - CURVE], 1), CURVE, 8, PHOTO, 0
    ),
    "one image": PredictionByLayer(DEPTHS[1:], ("_cat",), CURVE[1:, None], CURVE[1:], 1, PHOTO, 4),
    "high_norm_tokens": HighNormTokens(
        DEPTHS, 2.0, CURVE, 4 * CURVE, CURVE / 50, tuple(random.random((3, 4, 4)) ** 4), 8, PHOTO
    ),
}


def text_of(svg: str) -> str:
    return " ".join(" ".join(ElementTree.fromstring(svg).itertext()).split())


VARIANTS = ("filters", "many layers", "patch", "one image")  # of figures that are drawn in all languages
DRAWN = [(name, lang) for name in FIGURES for lang in LANGUAGES if lang == "en" or name not in VARIANTS]


@pytest.mark.parametrize(("name", "lang"), DRAWN)
def test_drawn_with_its_words_and_nothing_cut_off(name: str, lang: Language) -> None:
    words = captions(FIGURES[name].NAME, lang)
    with rc_context(STYLE):
        figure = FIGURES[name].figure(lang)
        svg = io.StringIO()
        figure.savefig(svg, format="svg")
        text = text_of(svg.getvalue())
        assert words["title"] in text
        assert " ".join(words["read"].split()) in text
        page, title, below = figure.bbox, *(box_of(part) for part in (figure._suptitle, figure._supxlabel))  # pyright: ignore[reportAttributeAccessIssue]
        for box in (title, below):
            assert box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1
        for axes in figure.get_axes():
            box = axes.get_tightbbox()
            assert box is not None
            assert below.y1 - 1 <= box.y0 and box.y1 <= title.y0 + 1
            assert page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1


def box_of(text: Text) -> Bbox:
    return text.get_window_extent()


@pytest.mark.parametrize("name", ["qkv_channels", "attention_distance", "prediction_by_layer"])
def test_the_same_numbers_are_the_same_bytes(name: str) -> None:
    assert FIGURES[name].svg() == FIGURES[name]._repr_svg_()


def rows(figure: Picture) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(figure.csv())))


def digits(values: Any) -> Any:
    """What a table writes of numbers: six digits."""
    return pytest.approx(values, rel=1e-5)


def test_tables_hold_what_is_drawn() -> None:
    filters = FIGURES["components"]
    assert isinstance(filters, Filters) and filters.share is not None
    last = rows(filters)[-1]
    assert (last["tile"], last["row"], last["column"]) == ("27", "3", "3")
    assert [float(last[colour]) for colour in ("red", "green", "blue")] == digits(filters.tiles[27, 3, 3])
    assert float(last["share_of_variance"]) == digits(filters.share[27])

    similarity = FIGURES["position_similarity"]
    assert isinstance(similarity, PositionSimilarity)
    assert float(rows(similarity)[4]["to_0_2"]) == digits(similarity.similarity[4, 2])
    assert (rows(similarity)[4]["row"], rows(similarity)[4]["column"]) == ("1", "1")

    qkv = FIGURES["qkv_channels"]
    assert isinstance(qkv, QkvChannels)
    row = rows(qkv)[12 * 16 + 16 * 2 + 4 * 1 + 3]
    assert [row[key] for key in ("which", "channel", "row", "column")] == ["k", "2", "1", "3"]
    assert float(row["value"]) == digits(qkv.k[2, 1, 3])

    attention = FIGURES["patch"]
    assert isinstance(attention, ClassAttention)
    last = rows(attention)[-1]
    assert [last[key] for key in ("layer", "query", "head", "row", "column")] == [
        "blocks.2.attn",
        "patch",
        "3",
        "2",
        "2",
    ]
    assert float(last["attention"]) == digits(attention.maps[2][3, 2, 2])

    distance = FIGURES["attention_distance"]
    assert isinstance(distance, AttentionDistance)
    row = rows(distance)[5]
    assert (row["layer"], row["head"], row["uniform_pixels"], row["images"]) == ("blocks.1.attn", "1", "0.5", "8")
    assert float(row["pixels"]) == digits(distance.pixels[1][1])
    assert [float(row["bits"]) for row in rows(FIGURES["attention_entropy"])] == digits(
        [value for heads in FIGURES["attention_entropy"].bits for value in heads]  # pyright: ignore[reportAttributeAccessIssue]
    )  # fmt: skip
    assert [row["similarity"] for row in rows(FIGURES["token_similarity"])] == ["0.1", "0.5", "0.9"]
    assert [row["tap"] for row in rows(FIGURES["token_similarity"])] == list(DEPTHS)
    prediction = rows(FIGURES["prediction_by_layer"])
    assert [row["cat"] for row in prediction] == ["0.1", "0.5", "0.9"]
    assert prediction[2]["blocks"] == "2"
    assert rows(FIGURES["one image"])[0]["blocks"] == "4"
    assert "_cat" in text_of(FIGURES["one image"].svg()), "matplotlib hides names that begin with _"
    assert [row["share_high"] for row in rows(FIGURES["high_norm_tokens"])] == [f"{value / 50:.6g}" for value in CURVE]
    assert float(rows(FIGURES["position_products"])[3]["with_1"]) == digits(FIGURES["position_products"].products[3, 1])  # pyright: ignore[reportAttributeAccessIssue]


def test_of_a_fine_grid_every_second_tile_is_drawn_and_all_are_in_the_table() -> None:
    places = np.stack(np.meshgrid(range(20), range(20), indexing="ij"), -1).reshape(400, 2)
    figure = PositionSimilarity((20, 20), places @ places.T / 722)
    axes = figure.figure().get_axes()[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [str(number) for number in range(0, 20, 2)]
    drawn = np.asarray(axes.get_images()[0].get_array())
    assert drawn.shape == (10 * 21 - 1, 10 * 21 - 1)
    assert drawn[21 * 3 + 5, 21 * 2 + 19] == pytest.approx((6 * 5 + 4 * 19) / 722)  # patch (6, 4) with (5, 19)
    assert len(rows(figure)) == 400


def test_the_warning_is_written_where_tokens_stand_out() -> None:
    figure = FIGURES["high_norm_tokens"]
    assert isinstance(figure, HighNormTokens)
    assert "warning: 1.8% stand out" in text_of(figure.svg())
    quiet = replace(figure, share=np.zeros(3))
    assert (figure.warns, quiet.warns) == (True, False)
    assert "no artefacts: 0% stand out" in text_of(quiet.svg())


def test_mosaic_and_labels() -> None:
    tiles = np.arange(3 * 2 * 2, dtype=float).reshape(3, 2, 2)
    nan = np.nan
    wanted = [[0, 1, nan, 4, 5], [2, 3, nan, 6, 7], [nan] * 5, [8, 9, nan, nan, nan], [10, 11, nan, nan, nan]]
    np.testing.assert_array_equal(mosaic(tiles, 2), wanted)
    labels = {
        "blocks.3.attn": "3",
        "layers.2.blocks.0.attn": "2.0",
        "tokens_to_token.attention1.attn": "t1",
        "layer3.0.conv2": "0",
    }
    assert {name: layer_label(name) for name in labels} == labels


def test_formulas_are_outlines_and_words_are_text() -> None:
    svg = FIGURES["qkv_channels"].svg()
    written = {"".join(text.itertext()).strip() for text in ElementTree.fromstring(svg).iter(f"{SVG}text")}
    assert "Q: what is looked for" in written
    assert not any(text == "q" or "ic" in text.split() for text in written), "letters of the formula"
    assert "tspan" not in svg
    outlined = [group for group in ElementTree.fromstring(svg).iter(f"{SVG}g") if group.findall(f"{SVG}use")]
    assert outlined
