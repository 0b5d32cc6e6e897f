from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from synthetic import Metric, make_report, photo

from regard.errors import RegardError
from regard.reporting import render_report, tables, write_report
from regard.reporting.confusions import confusion, confusion_counts
from regard.reporting.photos import disagreements, mistakes
from regard.reporting.words import percent
from regard.results import Cost


def store_of(html: str) -> dict:
    found = re.search(r'<script type="application/json" id="store">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.fixture(scope="module")
def data():
    return make_report(photos=300)


@pytest.fixture(scope="module")
def html(data):
    return render_report(data)


def test_every_part_is_there(html):
    for section in ("figures", "verdict", "curves", "metrics", "confusions", "photos", "data", "protocol"):
        assert f'<section id="{section}">' in html
    for text in (
        "beats resnet18 head",
        "ECE if calibrated",
        "Unsure below",
        "near-duplicates",
        "How to reproduce",
    ):
        assert text in html
    for chart in ("top1", "verdict-chart", "data-curves", "compute", "reliability", "risk-coverage"):
        assert f'id="{chart}"' in html


def test_nothing_comes_from_outside(html):
    assert not re.search(r"https?://|//cdn|@import|<link rel=\"stylesheet|url\(", html)
    assert "default-src 'none'" in unescape(html)
    assert "unsafe-inline" not in html
    assert not re.search(r"<[^>]+ (style|on\w+)=", html)


def test_ids_are_unique(html):
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_three_thousand_photos_stay_below_ten_megabytes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)

    def worst(id_: str) -> np.ndarray:  # white noise does not compress; a sixth of the photos are that bad
        number = int(id_[-9:-4])
        return np.roll(noise, number, axis=1) if number % 6 == 0 else photos[number % len(photos)]

    photos = [photo(str(i)) for i in range(20)]
    path = write_report(make_report(photos=3000, pixels=worst), tmp_path / "report.html")
    assert path.stat().st_size <= 10_000_000
    stored = store_of(path.read_text(encoding="utf-8"))
    assert len(stored["photos"]) == len(stored["thumbs"]) == 3000
    assert all(stored["thumbs"])


def test_many_photos_keep_every_mistake():
    data = make_report(photos=6000, pixels=None, fractions=(1.0,), seeds=1)
    stored = store_of(render_report(data))
    assert 3000 <= len(stored["photos"]) <= 3400
    run = data.shown_runs(data.models[0])[0]
    assert (
        sum(said != label for said, label in zip(stored["models"][0]["said"], stored["labels"], strict=True))
        == (~run.test.correct).sum()
    )


def test_confusion_counts_every_photo_once(data):
    run = data.shown_runs(data.models[0])[0]
    counts = confusion_counts(data.shown[0])
    assert counts.sum() == len(run.test)
    assert np.trace(counts) == run.test.correct.sum()
    matrix = confusion(data, 0)
    assert matrix is not None
    assert [[cell.photos for cell in row] for row in matrix.rows] == counts.tolist()
    assert matrix.pairs[0].cell.photos == max(counts[i, j] for i in range(10) for j in range(10) if i != j)


def test_galleries_hold_what_they_say(data):
    a, b = data.models[:2]
    shelf = disagreements(data, a, b, "k")
    right = {run.seed: dict(zip(run.test.ids, run.test.correct, strict=True)) for run in data.full_runs(a)}
    wrong = {run.seed: dict(zip(run.test.ids, run.test.correct, strict=True)) for run in data.full_runs(b)}
    gaps = [sum(right[s][i] for s in right) - sum(wrong[s][i] for s in wrong) for i, *_ in shelf.items]
    assert gaps == sorted(gaps, reverse=True)
    assert min(gaps) > 0
    surest = [tile.sure for tile in mistakes(data, 0).items]
    assert surest == sorted(surest, reverse=True)
    assert all(label != said for _, label, said, *_ in mistakes(data, 0).items)


def test_single_run_drops_the_comparison():
    html = render_report(make_report(models=("resnet18",), methods=("scratch",), seeds=1, fractions=(1.0,), photos=60))
    assert '<section id="verdict">' not in html
    assert 'id="data-curves"' not in html
    assert "What one gets right" not in html
    assert '<section id="confusions">' in html
    assert "resnet18 names" in html


def test_an_interval_stands_only_beside_the_figure_it_belongs_to(data):
    measured = data.models[0].metrics["top1"]
    text = f"{percent(measured.low)} to {percent(measured.high)}"
    bare = replace(data, models=tuple(replace(detail, mean=None) for detail in data.models))
    assert tables.key_figures(bare)[0].cells[0][1].startswith("mean of ")
    one = make_report(models=("resnet18",), methods=("scratch",), seeds=1, fractions=(1.0,), photos=300)
    one = replace(one, models=(replace(one.models[0], mean=None, metrics={"top1": measured}),))
    assert tables.key_figures(one)[0].cells[0][1] == text


def test_missing_values_are_dashes_and_empty_rows_fall_away(data):
    bare = replace(
        data,
        models=tuple(
            replace(m, metrics={"top1": Metric(float("nan"))}, per_class=(), reliability=()) for m in data.models
        ),
        runs=tuple(
            replace(run, cost=Cost(parameters=10 if run.model == "resnet18" else 20), curve=()) for run in data.runs
        ),
        check=None,
        suspects=(),
        pixels=None,
        environment={},
        command="",
    )
    html = render_report(bare)
    for absent in ("Latency", "GMACs", "nan", "None", 'id="compute"', 'id="reliability"', "How to reproduce"):
        assert absent not in html, absent
    costs = {"resnet18": Cost(parameters=10, latency_ms=3.0), "vit_tiny_patch4_32": Cost(parameters=10)}
    html = render_report(replace(bare, runs=tuple(replace(run, cost=costs[run.model]) for run in bare.runs)))
    assert "3.0 ms" in html
    assert "<td>–</td>" in html


def test_many_classes_become_a_drawing():
    names = tuple(f"class {i:03d}" for i in range(60))
    html = render_report(
        make_report(classes=names, photos=600, methods=("head",), fractions=(1.0,), seeds=2, pixels=None)
    )
    assert 'id="confusion-0"' in html
    assert 'class="matrix"' not in html


def test_refusals_are_one_line(data, tmp_path):
    with pytest.raises(RegardError, match="no model given"):
        render_report(replace(data, models=()))
    with pytest.raises(RegardError, match=f"no run of {data.models[0].name} given"):
        render_report(replace(data, runs=()))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RegardError, match="cannot be written") as caught:
        write_report(replace(data, pixels=None), tmp_path / "file" / "report.html")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_undecodable_file_names_are_written(data, tmp_path):
    names = [f"bad\udcff{i}.jpg" for i in range(40)]
    path = write_report(make_report(photos=40, ids=names, seeds=1, fractions=(1.0,)), tmp_path / "r.html")
    assert "bad\ufffd7.jpg" in store_of(path.read_text(encoding="utf-8"))["photos"]
