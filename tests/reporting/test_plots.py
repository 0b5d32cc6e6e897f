from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from regard.reporting.plots import (
    Axis,
    Frame,
    Series,
    cell_chart,
    forest,
    line_chart,
    log_ticks,
    nice_ticks,
    tag,
    verdict_chart,
)


def drawn(markup) -> ElementTree.Element:
    return ElementTree.fromstring(str(markup))


def test_axes_map_ends_to_ends():
    assert Axis(0, 10, 100, 200)(5) == 150
    log = Axis(1, 100, 0, 200, log=True)
    assert (log(1), log(100)) == (0, 200)
    assert log(10) == pytest.approx(100)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.83, 0.91), (-3, 7), (0, 1e9), (0.9501, 0.9502)])
def test_ticks_are_few_round_and_inside(low, high):
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


@pytest.mark.parametrize(("low", "high"), [(1, 100), (8, 1.2e4), (1e3, 1e15), (30, 90)])
def test_log_ticks(low, high):
    ticks = log_ticks(low, high)
    assert 1 <= len(ticks) <= 6
    assert all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)


def test_hostile_names_stay_text():
    name = "<script>alert(1)</script>\"&'"
    svg = line_chart("c", Frame("t", "x", "y"), [Series(name, 0, points=((0, 0.1), (1, 0.4)))])
    assert "<script" not in str(svg)
    assert any(element.text == name for element in drawn(svg).iter())
    assert 'title="&lt;b&gt;"' in str(tag("p", title="<b>"))


def test_a_chart_is_valid_and_free_of_style_attributes():
    lines = [
        Series("a", 0, points=((10, 0.5), (100, 0.7)), band=((10, 0.4, 0.6), (100, 0.6, 0.8)), dots=((10, 0.45),)),
        Series("b", 1, 1, points=((10, 0.3),)),
    ]
    svg = line_chart("chart", Frame("t", "images", "top1", x_log=True, x_ticks=(10, 100)), lines)
    root = drawn(svg)
    assert root.get("role") == "img"
    assert len([e for e in root.iter() if e.get("class", "").startswith("marker")]) == 3
    assert not any("style" in element.attrib for element in root.iter())
    assert {e.text for e in root.iter("text")} >= {"10", "100", "images", "top1"}


def test_verdict_bar_reaches_zero_and_margin():
    root = drawn(verdict_chart("v", "t", [("a − b", 0.02, 0.005, 0.035)], 0.01, "{:.3f}".format, "points"))
    zone = next(e for e in root.iter("rect") if e.get("class") == "zone")
    zero = next(e for e in root.iter("line") if e.get("class") == "zero")
    middle = float(zone.get("x", "")) + float(zone.get("width", "")) / 2
    assert middle == pytest.approx(float(zero.get("x1", "")), abs=0.2)
    whisker = next(e for e in root.iter("line") if e.get("class") == "whisker")
    assert float(whisker.get("x1", "")) > float(zero.get("x1", ""))


def test_empty_charts_are_empty():
    assert line_chart("c", Frame("t", "x", "y"), []) == ""
    assert forest("f", "t", [(Series("a", 0), float("nan"), None, None)], str, str) == ""


def test_cells_name_their_place():
    root = drawn(cell_chart("m", "t", 40, [(3, 7, 12, 5, 1)]))
    cell = next(e for e in root.iter("rect") if e.get("data-row"))
    assert [cell.get(f"data-{key}") for key in ("model", "row", "column", "photos")] == ["1", "3", "7", "12"]
