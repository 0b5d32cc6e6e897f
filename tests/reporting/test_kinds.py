"""The same report for several labels per photo, for numbers, for boxes, for folds, and beside a reference."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from kinds import LABELS, RESNET, VIT, make
from test_report import store_of

from regard.evaluation.intervals import Metric
from regard.reporting import SliceScore, Unknown, answer, breakdowns, render_report, tables
from regard.reporting.confusions import confusion, missed_and_added
from regard.reporting.number_figures import outline
from regard.reporting.photos import MOST_LABELS, disagreements, mistakes
from regard.reporting.plots import MOST_DOTS


@pytest.fixture(scope="module")
def labels():
    return make("multi_label", photos=80, seeds=2, pixels=False)


@pytest.fixture(scope="module")
def numbers():
    return make("regression", photos=80, seeds=2, classes=("height", "age"), pixels=False)


@pytest.fixture(scope="module")
def boxes():
    return make("regression", photos=60, seeds=1, models=(VIT,), boxes=True, pixels=False)


@pytest.fixture(scope="module")
def folds():
    return make("multi_label", photos=60, seeds=2, folds=3, pixels=False)


@pytest.mark.parametrize("kind", ["labels", "numbers", "boxes", "folds"])
def test_no_word_of_one_class_where_there_is_none(request, kind):
    data = request.getfixturevalue(kind)
    html = render_report(data)
    words = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL).lower()
    assert not [word for word in ("top1", "accuracy", "taken for") if word in words]
    assert not re.search(r"[> ](nan|none)[<%]", words)
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert not re.search(r"<[^>]+ (style|on\w+)=", html)


def test_the_answer_speaks_in_the_units_of_the_verdict(labels, numbers):
    assert answer(labels).startswith(f"{VIT} beats {RESNET} by 3.4 points of label ranking precision (")
    assert "% mAP; 95% interval +1.3 to +5.5, 2 seeds each, 80 test photos" in answer(labels)
    assert answer(numbers).startswith(f"{VIT} beats {RESNET} by 0.052 standard deviations of the labels (")
    assert " MAE; 95% interval +0.031 to +0.073" in answer(numbers)
    for data, margin in ((labels, "1.0 points of label"), (numbers, "0.010 standard deviations")):
        other = replace(data, verdicts=(replace(data.verdicts[0], outcome="equivalent"),))
        assert f"are equivalent within {margin}" in answer(other) and "beats" not in answer(other)
        other = replace(data, verdicts=(replace(data.verdicts[0], outcome="undecided"),))
        assert answer(other).startswith(f"Too close to call: {VIT} leads") and "beats" not in answer(other)
        level = replace(other, verdicts=(replace(other.verdicts[0], difference=0.0001),))
        assert answer(level).startswith(f"Too close to call: {VIT} and {RESNET} are level (")


def test_single_runs_say_what_their_figure_is(boxes):
    iou = boxes.models[0].metrics["iou"].value
    assert answer(boxes).startswith(f"{VIT} finds the boxes of 60 test photos with a mean IoU of {100 * iou:.1f}%")
    one = make("multi_label", photos=60, seeds=1, models=(VIT,), pixels=False)
    score = one.models[0].metrics["map"]
    assert f"reaches {100 * score.value:.1f}% mAP over 8 labels on 60 test photos" in answer(one)
    assert f"interval {100 * score.low:.1f}% to {100 * score.high:.1f}%" in answer(one)
    one = make("regression", photos=60, seeds=1, models=(VIT,), pixels=False)
    assert "on average (MAE of age) on 60 test photos" in answer(one)


def test_folds_are_named_with_their_test(folds):
    text = answer(folds)
    assert "corrected resampled t test over 3 folds (2 repeats), 60 photos, each a test photo once" in text
    assert "seeds" not in text
    assert "Nadeau and Bengio" in tables.verdict_lede(folds)
    assert "comes from seeds" not in tables.verdict_texts(folds)[0][1]
    table = breakdowns.fold_table(folds)
    assert table is not None and len(table.rows) == 6
    assert sum(int(cells[0][0]) for _, cells in table.rows) == 2 * 60
    assert dict(tables.facts(folds))["60"] == "photos, each a test photo once"
    assert sorted(folds.shown[0].ids) == sorted(set(folds.shown[0].ids)) and len(folds.shown[0]) == 60
    assert breakdowns.fold_table(replace(folds, runs=tuple(replace(run, fold=None) for run in folds.runs))) is None


def test_a_reference_is_marked_and_told_only_where_it_is_ahead():
    ahead = make("regression", photos=60, seeds=2, reference=0.1, pixels=False)
    assert ahead.models[-1].reference and ahead.models[-1].name == "hog_svm"
    assert f"hog_svm, a reference without a network that is not tested, is ahead of {VIT}: " in answer(ahead)
    html = render_report(ahead)
    assert "reference, not tested" in html and "has yet to earn its cost" in html
    assert ("1", "reference") in [fact for fact in tables.facts(ahead) if fact[1] == "reference"]
    cells = next(row for row in tables.key_figures(ahead) if row.label == "Parameters").cells
    assert cells[-1] == ("–", "")
    behind = make("regression", photos=60, seeds=2, reference=0.9, pixels=False)
    assert "reference" not in answer(behind)
    assert "reference, not tested" in render_report(behind)


def test_missed_and_added_equal_plain_loops(labels):
    given = labels.shown[0]
    size = len(LABELS)
    counts = np.zeros((size + 1, size + 1), int)
    for row in range(len(given)):
        missed = [k for k in range(size) if given.labels[row, k] == 1 and not given.given[row, k]]
        added = [k for k in range(size) if given.labels[row, k] == 0 and given.given[row, k]]
        for i in missed or [size]:
            for j in added or [size]:
                counts[i, j] += bool(missed or added)
        for k in range(size):
            counts[k, k] += given.labels[row, k] == 1 and given.given[row, k]
    assert missed_and_added(given).tolist() == counts.tolist()
    matrix = confusion(labels, 0)
    assert matrix is not None
    assert [[cell.photos for cell in row] for row in matrix.rows] == counts.tolist()
    assert matrix.rows_named[-1] == "nothing missed" and matrix.columns_named[-1] == "nothing added"


def test_an_unknown_label_is_no_mistake(labels):
    given = labels.shown[0]
    unknown = np.isnan(given.labels)
    assert unknown.any()
    assert not (given.missed | given.added)[unknown].any()


def test_label_mistakes_are_the_surest_first(labels):
    given = labels.shown[0]
    shelf = mistakes(labels, 0)
    assert shelf.total == (given.missed | given.added).sum() and shelf.unit == "label"
    wrong = [1 - tile.sure if tile.said == "missed" else tile.sure for tile in shelf.items]
    assert wrong == sorted(wrong, reverse=True)
    for tile in shelf.items:
        row, column = given.ids.index(tile.id), LABELS.index(tile.label)
        assert given.labels[row, column] == (tile.said == "missed")


def test_more_labels_right_means_fewer_wrong(labels):
    a, b = labels.models
    shelf = disagreements(labels, a, b, "k")

    def wrong(detail, id_):
        runs = [labels.answers_of((run,)) for run in labels.full_runs(detail)]
        return np.mean([(one.missed | one.added)[one.ids.index(id_)].sum() for one in runs])

    gaps = [wrong(b, tile.id) - wrong(a, tile.id) for tile in shelf.items]
    assert min(gaps) > 0 and gaps == sorted(gaps, reverse=True)
    assert all(tile.note.startswith(("missed", "added")) for tile in shelf.items)


def test_the_store_of_labels_stays_small_whatever_a_model_gives():
    names = tuple(f"label {number}" for number in range(40))
    data = make("multi_label", classes=names, photos=40, seeds=1, models=(VIT,), pixels=False)
    run = replace(data.runs[0], thresholds=(0.0,) * 40)  # everything is given
    stored = store_of(render_report(replace(data, runs=(run,))))
    assert max(map(len, stored["models"][0]["added"])) == MOST_LABELS
    assert all(pairs == sorted(pairs, key=lambda pair: -pair[1]) for pairs in stored["models"][0]["added"])


def test_largest_errors_come_first_with_the_column_that_is_furthest_off(numbers):
    shelf = mistakes(numbers, 1)
    given = numbers.shown[1]
    qualities = [given.quality[given.ids.index(tile.id)] for tile in shelf.items]
    assert qualities == sorted(qualities) and shelf.total == 80
    tile = shelf.items[0]
    row = given.ids.index(tile.id)
    scaled = np.abs(given.errors[row]) / given.labels.std(axis=0)
    assert tile.label.split()[0] == ("height", "age")[int(scaled.argmax())]


def test_scatters_hold_every_photo(numbers):
    html = render_report(numbers)
    path = re.search(r'id="scatter-0-0".*?<path d="([^"]+)" class="cloud', html, re.DOTALL)
    assert path and path[1].count("M") == 80
    many = make("regression", photos=MOST_DOTS + 50, seeds=1, models=(VIT,), pixels=False)
    assert 'class="squares h8' in render_report(many) and 'class="cloud' not in render_report(many)


def test_boxes_lead_to_overlap(boxes):
    html = render_report(boxes)
    assert 'id="overlap"' in html and "true box" in html and "Mean IoU" in html
    stored = store_of(html)
    assert stored["boxes"] and len(stored["labels"][0]) == len(stored["models"][0]["numbers"][0]) == 4
    assert mistakes(boxes, 0).items[0].note == f"IoU {100 * np.nanmin(boxes.shown[0].quality):.1f}%"


def test_slices_are_worst_first_and_warn_only_where_the_whole_interval_is_worse(labels, numbers):
    detail = labels.models[0]
    overall = detail.metrics["map"].value
    rows = (
        SliceScore("<b>good</b>", 40, Metric(overall + 0.01, overall - 0.01, overall + 0.02)),
        SliceScore("bad", 30, Metric(overall - 0.2, overall - 0.3, overall - 0.1)),
        SliceScore("unsure", 10, Metric(overall - 0.25, overall - 0.5, overall + 0.1)),
    )
    data = replace(labels, models=(replace(detail, slices={"camera": rows}), labels.models[1]))
    ((table, warnings),) = breakdowns.slice_tables(data)
    assert [name for name, _ in table.rows] == ["unsure", "bad", "<b>good</b>", "all test photos"]
    assert len(warnings) == 1 and f"{VIT} is worse on camera = bad:" in warnings[0] and "on 30 photos" in warnings[0]
    html = render_report(data)
    assert "<b>good" not in html and "&lt;b&gt;good" in html
    perfect = (SliceScore("all right", 20, Metric(1.0, 0.9, 1.0 - 1e-16)),)
    best = replace(detail, slices={"camera": perfect}, metrics={**detail.metrics, "map": Metric(1.0)})
    assert breakdowns.slice_tables(replace(labels, models=(best, labels.models[1])))[0][1] == ()
    detail = numbers.models[0]
    mae = detail.metrics["mae"].value
    rows = (
        SliceScore("far", 20, Metric(mae + 9, mae + 1, mae + 20)),
        SliceScore("near", 20, Metric(mae - 1, 0.1, mae)),
    )
    data = replace(numbers, models=(replace(detail, slices={"camera": rows}), numbers.models[1]))
    ((table, warnings),) = breakdowns.slice_tables(data)
    assert table.rows[0][0] == "far" and len(warnings) == 1 and "camera = far" in warnings[0]


def test_slices_come_from_the_columns_of_the_table():
    cells = tuple("day" if number % 3 else "night" for number in range(60))
    data = make("regression", photos=60, seeds=1, models=(VIT,), slices={"light": cells}, pixels=False)
    (rows,) = data.models[0].slices.values()
    assert {row.value: row.photos for row in rows} == {"day": 40, "night": 20}


def test_unknown_photos_have_their_section(labels):
    one = Unknown("nearness", Metric(0.94, 0.9, 0.97), Metric(0.2, 0.1, 0.3), 80, 30, -0.8, 0.06, 0.75,
                  (-1.0, -0.8, -0.4), (0.1, 0.9), (0.7, 0.3))  # fmt: skip
    data = replace(labels, models=(replace(labels.models[0], unknown=(one,)), labels.models[1]))
    html = render_report(data)
    assert '<section id="unknown">' in html and 'id="unknown-0-0"' in html
    for text in ("0.940", "0.900 to 0.970", "20.0%", "6.0%", "75.0%", "80 known photos, 30 unknown photos"):
        assert text in html
    assert '<section id="unknown">' not in render_report(labels)


def test_outlines_begin_and_end_at_zero():
    assert outline((0, 1, 3), (0.2, 0.8)) == ((0, 0.0), (0, 0.2), (1, 0.2), (1, 0.8), (3, 0.8), (3, 0.0))


def test_the_store_is_json_of_finite_numbers(numbers):
    gaps = replace(
        numbers,
        runs=tuple(
            replace(run, test=replace(run.test, labels=np.where(run.test.labels > 60, np.nan, run.test.labels)))
            for run in numbers.runs
        ),
    )
    stored = json.dumps(store_of(render_report(gaps)), allow_nan=False)
    assert "null" in stored


@pytest.mark.long
@pytest.mark.parametrize("problem", ["multi_label", "regression"])
def test_three_thousand_photos_of_any_kind_stay_below_ten_megabytes(problem):
    data = make(problem, photos=3000, seeds=1)
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    pixels = data.pixels
    assert pixels is not None
    html = render_report(
        replace(
            data, pixels=lambda id_: np.roll(noise, int(id_[-9:-4]), 1) if int(id_[-9:-4]) % 6 == 0 else pixels(id_)
        )
    )
    assert len(html.encode()) <= 10_000_000
    assert len(store_of(html)["thumbs"]) == 3000
