"""Every kind of fault is planted in a small folder and must be named by `check`, and nothing else."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from regard.data import checks
from regard.data.checks import check_images
from regard.data.sources import open_images
from regard.data.splits import Split
from regard.errors import RegardError
from regard.results import CheckReport, Finding


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home / "regard" / "checks"


def scene(seed: int, height: int = 80, width: int = 64) -> Image.Image:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width, 3)), (6, 6, 0))
    return Image.fromarray(np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8))


def save(image: Image.Image, path: Path, quality: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        image.save(path, quality=quality)
    else:
        image.save(path)
    return path


def folder(root: Path, counts: dict[str, int]) -> Path:
    """Class folders (a/, or train/a/) of different pictures."""
    seed = 0
    for name, count in counts.items():
        for number in range(count):
            save(scene(seed), root / name / f"{number:02d}.jpg")
            seed += 1
    return root


def checked(root: Path, **named: object) -> CheckReport:
    return check_images(open_images(root), **named)  # pyright: ignore[reportArgumentType]


def found(report: CheckReport, code: str) -> Finding:
    """The one finding with this code."""
    (finding,) = [finding for finding in report.findings if finding.code == code]
    assert "\n" not in finding.message
    return finding


def codes(report: CheckReport) -> set[str]:
    """What was found beyond the notes."""
    return {finding.code for finding in report.findings if finding.severity != "note"}


def test_a_clean_folder_has_nothing_but_notes(tmp_path: Path) -> None:
    report = checked(folder(tmp_path, {"a": 20, "b": 22}))
    assert codes(report) == set() and not report.spoils
    assert report.classes == ("a", "b")
    assert report.counts == {"train": {"a": 14, "b": 16}, "val": {"a": 3, "b": 3}, "test": {"a": 3, "b": 3}}
    assert report.unreadable == report.leaked == report.groups == ()
    assert "0.95" in found(report, "near-duplicate").message
    assert [finding.message.split(":")[0] for finding in report.findings if finding.code == "split"] == [
        "train",
        "val",
        "test",
    ]


def test_counts_follow_the_given_split(tmp_path: Path) -> None:
    images = open_images(folder(tmp_path, {"a": 10, "b": 10}))
    rows = np.arange(20)
    report = check_images(images, Split(rows[::2], rows[1:18:4], rows[3:18:4], ("mine",)))
    assert report.counts["train"] == {"a": 5, "b": 5}
    assert sum(report.counts["val"].values()) == 5 and sum(report.counts["test"].values()) == 4
    assert found(report, "split").message == "mine"


def test_unreadable_files_are_named_with_reasons_and_left_out(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": 30, "b": 30})
    whole = (root / "a" / "03.jpg").read_bytes()
    (root / "a" / "03.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    (root / "b" / "04.jpg").write_bytes(b"")
    (root / "b" / "05.jpg").write_text("<html>not found</html>")
    (root / "b" / "06.jpg").unlink()
    (root / "b" / "06.jpg").symlink_to(root / "nowhere.jpg")
    report = checked(root, max_bad=0.1)
    assert report.unreadable == ("a/03.jpg", "b/04.jpg", "b/05.jpg", "b/06.jpg")
    reasons = {finding.ids: finding.message for finding in report.findings if finding.code == "corrupt"}
    assert {ids[0]: message.split(": ")[1] for ids, message in reasons.items()} == {
        "a/03.jpg": "truncated",
        "b/04.jpg": "empty",
        "b/05.jpg": "html",
        "b/06.jpg": "dangling-link",
    }
    assert not report.spoils
    assert sum(sum(classes.values()) for classes in report.counts.values()) == 56
    report = checked(root, max_bad=0.05)
    assert report.spoils and "4 of 60 files (6.7%)" in found(report, "too-many-corrupt").message


def test_every_cut_of_a_large_photo_is_found_although_it_is_decoded_small(tmp_path: Path) -> None:
    """A photo of 800 pixels is decoded at an eighth of its size; its missing end must show all the same."""
    for progressive in (False, True):
        file = io.BytesIO()
        scene(0, 800, 800).save(file, "JPEG", quality=90, progressive=progressive)
        whole = file.getvalue()
        root = folder(tmp_path / str(progressive), {"a": 4, "b": 4})
        cuts = np.linspace(len(whole) * 0.1, len(whole) - 3, 12).astype(int)
        for cut in cuts:
            (root / "a" / f"cut {cut}.jpg").write_bytes(whole[:cut])
        (root / "a" / "whole.jpg").write_bytes(whole)
        report = checked(root, max_bad=1.0)
        assert set(report.unreadable) == {f"a/cut {cut}.jpg" for cut in cuts}


def test_nothing_readable_is_one_line(tmp_path: Path) -> None:
    for name in ("a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(RegardError, match=r"none of 4 images can be read.*0\.jpg"):
        checked(tmp_path)


def test_leaks_into_the_test_spoil(tmp_path: Path) -> None:
    root = folder(tmp_path, {"train/a": 12, "train/b": 12, "test/a": 4, "test/b": 4})
    save(scene(0), root / "test" / "a" / "near.jpg", quality=60)
    shutil.copy(root / "train" / "b" / "00.jpg", root / "test" / "b" / "same.jpg")
    report = checked(root)
    assert report.leaked == ("test/a/near.jpg", "test/b/same.jpg")
    assert set(report.groups) == {
        ("train/a/00.jpg", "test/a/near.jpg"),
        ("train/b/00.jpg", "test/b/same.jpg"),
    }
    leak = found(report, "duplicate-across-splits")
    assert leak.severity == "error" and leak.ids == report.leaked and report.spoils
    assert found(report, "exact-duplicate").ids == ("train/b/00.jpg", "test/b/same.jpg")
    assert found(report, "near-duplicate").ids == ("train/a/00.jpg", "test/a/near.jpg")
    assert codes(report) == {"duplicate-across-splits", "exact-duplicate", "near-duplicate"}


def test_leaks_between_train_and_validation_are_a_warning(tmp_path: Path) -> None:
    root = folder(tmp_path, {f"{split}/{name}": 10 for split in ("train", "val", "test") for name in "ab"})
    shutil.copy(root / "train" / "a" / "00.jpg", root / "val" / "a" / "same.jpg")
    report = checked(root)
    assert found(report, "duplicate-train-val").ids == ("val/a/same.jpg",)
    assert report.leaked == () and not report.spoils


def test_duplicates_stay_on_one_side_of_our_own_split(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": 20, "b": 20})
    for number in range(20):
        save(scene(number), root / "a" / f"{number:02d} again.jpg", quality=60)
    report = checked(root)
    assert len(report.groups) == 20 and report.leaked == ()
    assert codes(report) == {"near-duplicate"} and not report.spoils


def test_label_conflicts_spoil(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": 16, "b": 16})
    save(scene(3), root / "b" / "again.jpg", quality=60)
    conflict = found(checked(root), "label-conflict")
    assert conflict.severity == "error" and conflict.ids == ("a/03.jpg", "b/again.jpg")


def test_odd_images(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": 20, "b": 20})
    save(scene(100, 40, 400), root / "a" / "banner.png")
    save(scene(101, 20, 20), root / "a" / "icon.png")
    save(scene(102, 900, 700), root / "b" / "poster.png")
    save(Image.new("RGB", (64, 80), (9, 9, 9)), root / "b" / "black.png")
    odd = {finding.message: finding.ids for finding in checked(root).findings if finding.code == "odd"}
    assert odd == {
        "1 image with one side over 5 times the other": ("a/banner.png",),
        "1 image tiny, shorter side below 32 px": ("a/icon.png",),
        "1 image over 16 times larger than the median": ("b/poster.png",),
        "1 image of one colour": ("b/black.png",),
    }


def test_classes_that_are_absent_tiny_or_far_apart(tmp_path: Path) -> None:
    root = folder(tmp_path, {"train/a": 40, "train/b": 3, "test/a": 4})
    report = checked(root)
    absent = [(one.severity, one.message) for one in report.findings if one.code == "missing-class"]
    assert absent == [("error", "no test images of class b")]
    assert found(report, "tiny-class").message == "fewer than 10 training images of class b (2)"
    assert "14.7 times" in found(report, "imbalance").message
    assert found(report, "imbalance").severity == "warning" and report.spoils


def test_a_class_left_with_one_image_spoils(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": 20, "b": 2})
    (root / "b" / "01.jpg").write_bytes(b"")
    report = checked(root, max_bad=0.5)
    assert found(report, "one-image-class").severity == "error" and "b" in found(report, "one-image-class").message


def test_errors_come_first_and_listing_notes_are_kept(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": 16, "b": 16})
    (root / "a" / "notes.txt").write_text("x")
    save(scene(3), root / "b" / "again.jpg", quality=60)
    report = checked(root)
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, key=("error", "warning", "note").index)
    assert "1 .txt" in found(report, "listing").message


# the work itself


def test_every_file_is_decoded_once_and_progress_ends_at_the_total(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_images(folder(tmp_path, {"a": 40, "b": 40}))
    looked: list[int] = []
    look = checks._measure
    monkeypatch.setattr(checks, "_measure", lambda content: (looked.append(len(content)), look(content))[1])
    steps: list[tuple[int, int]] = []
    check_images(images, progress=lambda done, total: steps.append((done, total)))
    assert len(looked) == 80
    assert steps == [(64, 80), (80, 80)]
    check_images(images, progress=lambda done, total: steps.append((done, total)))
    assert len(looked) == 80 and len(steps) == 2  # from the cache


def test_the_cache_gives_the_same_report(tmp_path: Path, cache: Path) -> None:
    root = folder(tmp_path, {"a": 20, "b": 20})
    save(scene(3), root / "b" / "again.jpg", quality=60)
    save(Image.new("RGB", (64, 80)), root / "b" / "black.png")
    (root / "a" / "00.jpg").write_bytes(b"")
    first = checked(root)
    assert len(os.listdir(cache)) == 1
    assert checked(root) == first


@pytest.mark.parametrize("change", ["touched", "longer", "renamed", "added"])
def test_a_changed_file_is_looked_at_again(tmp_path: Path, cache: Path, change: str) -> None:
    root = folder(tmp_path, {"a": 20, "b": 20})
    assert checked(root).unreadable == ()
    victim = root / "a" / "05.jpg"
    size = victim.stat().st_size
    if change == "touched":
        victim.write_bytes(b"x" * size)
        os.utime(victim, ns=(1, 1))
    elif change == "longer":
        victim.write_bytes(b"x" * (size + 1))
    elif change == "renamed":
        victim.rename(root / "a" / "other.jpg").write_bytes(b"x" * size)
    else:
        (root / "a" / "other.jpg").write_bytes(b"x" * size)
    assert len(checked(root).unreadable) == 1
    assert len(os.listdir(cache)) == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"errors": {}}', "other rows", "outside"])
def test_a_damaged_cache_is_ignored(tmp_path: Path, cache: Path, damage: str) -> None:
    root = folder(tmp_path, {"a": 20, "b": 20})
    save(scene(3), root / "b" / "again.jpg", quality=60)
    first = checked(root)
    (file,) = cache.iterdir()
    content = json.loads(file.read_text())
    if damage == "other rows":
        file.write_text(json.dumps({**content, "sizes": content["sizes"][1:]}))
    elif damage == "outside":
        file.write_text(json.dumps({**content, "near": [[3, 4000]]}))
    else:
        file.write_text(damage)
    assert checked(root) == first


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert not checked(folder(tmp_path / "root", {"a": 20, "b": 20})).spoils


def test_images_in_memory_are_checked_and_not_cached(cache: Path) -> None:
    report = check_images(open_images("digits"))
    assert report.groups == () and codes(report) == set()
    assert sum(sum(classes.values()) for classes in report.counts.values()) == 1797
    assert not cache.exists()
