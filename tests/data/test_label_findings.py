"""What `check` says about classes, several labels and numbers, about groups, and about copies with other labels."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regard.data.checks import Scan, check_images, report
from regard.data.sources import ImageSet
from regard.results import CheckReport, Finding, Problem


def image_set(labels: np.ndarray, problem: Problem = "single_label", split: tuple[str, ...] = ()) -> ImageSet:
    """Images without pixels, for a scan that found nothing in them."""
    ids = tuple(f"{row:04d}" for row in range(len(labels)))
    width = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    return ImageSet("set", ids, labels, tuple("abcdefgh"[:width]), split or ("",) * len(ids), ids, problem=problem)


def looked(images: ImageSet, near: tuple[tuple[int, ...], ...] = ()) -> CheckReport:
    return report(images, Scan({}, np.full((len(images), 2), 64), (), (), near), None, 0.01)


def found(checked: CheckReport, code: str) -> list[Finding]:
    return [finding for finding in checked.findings if finding.code == code]


def one(checked: CheckReport, code: str) -> Finding:
    (finding,) = found(checked, code)
    assert "\n" not in finding.message
    return finding


def given(count: int) -> tuple[str, ...]:
    """A split in thirds, as a user gives it."""
    return tuple(("train", "val", "test")[row % 3] for row in range(count))


# classes


@pytest.mark.parametrize(
    ("counts", "severity", "advice"),
    [
        ((300, 24), "warning", True),  # 210 to 18 in train
        ((300, 20), "warning", True),
        ((100, 60), "note", False),
        ((100, 12), "note", False),
        ((100, 8), "warning", False),  # a handful of photos: weights make no more of them
        ((600, 8, 40), "warning", True),  # of those with photos enough
    ],
)
def test_balancing_is_advised_only_where_it_would_help(counts: tuple[int, ...], severity: str, advice: bool) -> None:
    finding = one(looked(image_set(np.repeat(np.arange(len(counts)), counts))), "imbalance")
    assert finding.severity == severity and ("--balance loss would help" in finding.message) == advice
    assert f"{max(counts) / min(counts):.1f} times" in finding.message


def test_the_advice_states_the_ratio_of_the_training_split() -> None:
    checked = looked(image_set(np.repeat([0, 1], [600, 30])))
    train = checked.counts["train"]
    assert f"{train['a'] / train['b']:.1f} times as many images as of b" in one(checked, "imbalance").message


# several labels


def several(rows: int) -> np.ndarray:
    return (np.random.default_rng(0).random((rows, 3)) < (0.8, 0.5, 0.2)).astype(np.float32)


def test_labels_are_counted_by_label_and_images_once() -> None:
    labels = several(200)
    checked = looked(image_set(labels, "multi_label"))
    assert checked.problem == "multi_label" and sum(checked.images.values()) == 200
    totals = [sum(checked.counts[split][name] for split in checked.counts) for name in "abc"]
    assert totals == labels.sum(axis=0).tolist()
    assert f"{(labels.sum(axis=1) == 0).sum()} images without any" in one(checked, "labels-per-image").message
    assert "largest label a" in one(checked, "imbalance").message and not checked.spoils


def test_labels_that_are_missing_or_always_there() -> None:
    labels = several(60)
    labels[:, 0] = 1
    labels[2::3, 2] = 0
    labels[0::3, 2][1] = 1
    checked = looked(image_set(labels, "multi_label", given(60)))
    assert [(finding.severity, finding.message) for finding in found(checked, "missing-class")] == [
        ("warning", "no test images with label c")
    ]
    assert one(checked, "constant-label").message.startswith("every image has label a")
    labels[0::3, 2] = 0
    checked = looked(image_set(labels, "multi_label", given(60)))
    missing = {finding.message: finding.severity for finding in found(checked, "missing-class")}
    assert missing["no train images with label c"] == "error"


def test_copies_with_other_labels() -> None:
    labels = several(60)
    labels[5], labels[6], labels[7] = (1, 0, 0), (1, 0, 1), (1, 0, 1)
    checked = looked(image_set(labels, "multi_label"), ((5, 6), (6, 7)))
    assert one(checked, "label-conflict").ids == ("0005", "0006") and checked.spoils
    assert found(looked(image_set(labels, "multi_label"), ((6, 7),)), "label-conflict") == []


# numbers


def test_numbers_have_a_line_for_each_column() -> None:
    values = np.stack([np.arange(90.0), np.arange(90.0) % 7], axis=1).astype(np.float32)
    checked = looked(image_set(values, "regression", given(90)))
    assert checked.counts == {split: {"images": 30} for split in ("train", "val", "test")} and not checked.spoils
    assert [finding.message for finding in found(checked, "distribution")] == [
        "a: train 0 to 87, median 43.5; val 1 to 88, median 44.5; test 2 to 89, median 45.5",
        "b: train 0 to 6, median 3; val 0 to 6, median 3; test 0 to 6, median 3",
    ]
    assert found(checked, "outlier") == found(checked, "beyond-train") == found(checked, "imbalance") == []


def test_numbers_far_outside_are_named() -> None:
    values = np.random.default_rng(0).normal(100, 10, (300, 1)).astype(np.float32)
    values[17], values[40] = 1000, -1
    finding = one(looked(image_set(values, "regression")), "outlier")
    assert finding.severity == "warning" and finding.ids == ("0017", "0040") and "mistakes?" in finding.message
    low, high = np.quantile(values, (0.25, 0.75))
    assert f"below {low - 3 * (high - low):g}" in finding.message
    skewed = np.random.default_rng(0).lognormal(0, 1.5, (300, 1)).astype(np.float32)
    finding = one(looked(image_set(skewed, "regression")), "outlier")
    assert finding.severity == "note" and "logarithm" in finding.message and len(finding.ids) > 3


def test_a_test_beyond_what_train_shows() -> None:
    values = np.arange(90.0)[:, None].astype(np.float32)
    split = tuple("train" if row < 60 else "val" if row < 70 else "test" for row in range(90))
    finding = one(looked(image_set(values, "regression", split)), "beyond-train")
    assert len(finding.ids) == 20 and "(0 to 59)" in finding.message


def test_copies_with_numbers_far_apart() -> None:
    values = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    values[5], values[6], values[7] = (0, 0), (0.05, 0), (0.05, 0.3)
    checked = looked(image_set(values, "regression"), ((5, 6), (6, 7)))
    conflict = one(checked, "label-conflict")
    assert conflict.severity == "warning" and conflict.ids == ("0006", "0007") and not checked.spoils


# groups


def test_groups_on_both_sides_spoil_and_are_treated_like_leaks() -> None:
    images = image_set(np.arange(90) % 2, split=given(90))
    groups = [f"p{row}" for row in range(90)]
    groups[0] = groups[2] = groups[5] = "ann"  # train, test, test
    groups[4] = groups[8] = "bob"  # val, test
    groups[3] = groups[7] = "cleo"  # train, val
    groups[11] = groups[14] = "dora"  # test, test
    checked = looked(replace(images, groups=tuple(groups)))
    finding = one(checked, "group-across-splits")
    assert finding.severity == "error" and finding.ids == ("0002", "0005", "0008") == checked.leaked
    assert "3 test images of 2 groups" in finding.message and "(ann, bob)" in finding.message
    assert one(checked, "group-train-val").ids == ("0007",)
    assert "30 test images are of 28 groups" in one(checked, "groups-in-test").message
    both = looked(replace(images, groups=tuple(groups)), ((20, 21),))
    assert both.leaked == ("0002", "0005", "0008", "0020") and len(one(both, "duplicate-across-splits").ids) == 1


def test_our_own_split_keeps_groups_on_one_side() -> None:
    images = image_set(np.arange(90) % 2)
    checked = looked(replace(images, groups=tuple(f"p{row // 4}" for row in range(90))))
    assert checked.leaked == () and not checked.spoils and found(checked, "group-train-val") == []


def test_pictures_of_a_table_are_checked_with_their_numbers(tmp_path: Path) -> None:
    """From files to findings: a copy with another number, an unreadable photo, groups by column."""
    from regard.data.sources import open_images

    rng = np.random.default_rng(0)
    lines = ["path,label,who"]
    for row in range(60):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{row}.png")
        lines.append(f"{row}.png,{row / 2},w{row // 3}")
    shutil.copy(tmp_path / "0.png", tmp_path / "50.png")
    (tmp_path / "30.png").write_bytes(b"")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    checked = check_images(open_images(tmp_path / "list.csv", group="who"), max_bad=0.1)
    assert checked.unreadable == ("30.png",) and sum(checked.images.values()) == 59
    assert one(checked, "label-conflict").ids == ("0.png", "50.png")
    assert checked.leaked == () and not checked.spoils
