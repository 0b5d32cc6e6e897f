"""Listing labelled images: layouts, tables, named sets, and every refusal in one line."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regard.data.sources import ImageSet, list_photos, open_images
from regard.errors import RegardError


def photo(path: Path) -> Path:
    """A small image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def classes_in(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        for number in range(count):
            photo(root / name / f"{number}.png")
    return root


def refusal(*arguments: object, **named: object) -> str:
    with pytest.raises(RegardError) as caught:
        open_images(*arguments, **named)  # pyright: ignore[reportArgumentType]
    message = str(caught.value)
    assert "\n" not in message
    return message


def names(images: ImageSet) -> list[str]:
    return [images.classes[label] for label in images.labels]


def table(folder: Path, rows: list[tuple[str, ...]], name: str = "list.csv", delimiter: str = ",") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return folder / name


def test_class_folders(tmp_path: Path) -> None:
    root = classes_in(tmp_path / "pets", {"dog": 2, "cat": 3})
    photo(root / "cat" / "at home" / "deep.JPG")
    images = open_images(root)
    assert images.name == "pets"
    assert images.classes == ("cat", "dog")
    assert images.ids == (
        "cat/0.png",
        "cat/1.png",
        "cat/2.png",
        "cat/at home/deep.JPG",
        "dog/0.png",
        "dog/1.png",
    )
    assert images.labels.tolist() == [0, 0, 0, 0, 1, 1] and images.labels.dtype == np.int64
    assert set(images.split) == {""}
    assert all(source.is_file() for source in images.sources)


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "val", "test"), {"train", "val", "test"}),
        (("Training", "VALID", "Testing"), {"train", "val", "test"}),
        (("train", "validation"), {"train", "val"}),
        (("train", "dev"), {"train", "val"}),
        (("train", "eval"), {"train", "val"}),
        (("train", "test"), {"train", "test"}),
    ],
)
def test_split_folders_and_their_synonyms(tmp_path: Path, folders: tuple[str, ...], expected: set[str]) -> None:
    for folder in folders:
        classes_in(tmp_path / folder, {"a": 2, "b": 2})
    images = open_images(tmp_path)
    assert images.classes == ("a", "b")
    assert set(images.split) == expected
    assert images.split[0] == "train" and images.ids[0] == f"{folders[0]}/a/0.png"


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    images = open_images(classes_in(tmp_path, {"bus": 2, "train": 2, "car": 2}))
    assert images.classes == ("bus", "car", "train")
    assert set(images.split) == {""}


def test_hidden_folders_and_files_are_passed_over(tmp_path: Path) -> None:
    root = classes_in(tmp_path, {"a": 2, "b": 2})
    for name in (".ipynb_checkpoints", "__MACOSX"):
        photo(root / name / "x.png")
        photo(root / "a" / name / "x.png")
    for name in ("._0.png", ".DS_Store", "Thumbs.db"):
        (root / "a" / name).write_bytes(b"x")
    images = open_images(root)
    assert len(images) == 4 and images.classes == ("a", "b") and images.notes == ()


def test_other_files_are_counted_and_named(tmp_path: Path) -> None:
    root = classes_in(tmp_path, {"a": 2, "b": 2})
    for name in ("notes.txt", "clip.mp4", "more.txt", "none"):
        (root / "b" / name).write_bytes(b"x")
    assert open_images(root).notes == ("4 files are no images and were passed over (2 .txt, 1 .mp4, 1 no suffix)",)


def test_linked_folders_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    elsewhere = classes_in(tmp_path / "elsewhere", {"more": 2})
    root = classes_in(tmp_path / "root", {"a": 1, "b": 2})
    (root / "a" / "linked").symlink_to(elsewhere / "more")
    (root / "b" / "circle").symlink_to(root / "b")
    assert open_images(root).ids == ("a/0.png", "a/linked/0.png", "a/linked/1.png", "b/0.png", "b/1.png")


def test_names_that_are_not_utf8_still_make_ids(tmp_path: Path) -> None:
    root = classes_in(tmp_path, {"a": 2, "b": 2})
    os.rename(root / "a" / "1.png", os.fsencode(root / "a") + b"/\xff.png")
    images = open_images(root)
    assert "a/\\xff.png" in images.ids
    "".join(images.ids).encode()
    assert all(source.exists() for source in images.sources)


def test_select_keeps_rows_together_and_nests(tmp_path: Path) -> None:
    images = open_images(classes_in(tmp_path, {"a": 3, "b": 3}))
    chosen = images.select([5, 0, 3]).select(np.array([2, 0]))
    assert chosen.ids == ("b/0.png", "b/2.png")
    assert [source.name for source in chosen.sources] == ["0.png", "2.png"]
    assert chosen.labels.tolist() == [1, 1] and chosen.classes == ("a", "b") and len(chosen) == 2
    assert len(images.select([]).sources) == 0


# tables


@pytest.mark.parametrize(
    ("header", "name", "delimiter"),
    [
        (("path", "label"), "list.csv", ","),
        (("Image_Path", "Class"), "list.csv", ";"),
        (("filename", "category"), "list.tsv", "\t"),
        (("file", "target"), "LIST.CSV", ","),
    ],
)
def test_text_tables(tmp_path: Path, header: tuple[str, str], name: str, delimiter: str) -> None:
    root = classes_in(tmp_path / "photos", {"x": 4})
    rows = [header, *((f"../photos/x/{n}.png", "even" if n % 2 == 0 else "odd, \u00fc") for n in range(4))]
    images = open_images(table(tmp_path / "tables", rows, name, delimiter))
    assert images.name == name.split(".")[0]
    assert images.classes == ("even", "odd, \u00fc") and images.labels.tolist() == [0, 1, 0, 1]
    assert [Path(source).resolve() for source in images.sources] == [root / "x" / f"{n}.png" for n in range(4)]


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    classes_in(tmp_path, {"x": 4})
    lines = ["\ufeffpath,label", "x/0.png,a", "", "x/1.png,a", "x/2.png, b", "x/3.png,b", ""]
    (tmp_path / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    images = open_images(tmp_path / "list.csv")
    assert images.ids == ("x/0.png", "x/1.png", "x/2.png", "x/3.png") and images.classes == ("a", "b")


def test_parquet_with_splits_and_number_labels(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    classes_in(tmp_path, {"x": 4})
    content = {
        "image": [f"x/{n}.png" for n in range(4)],
        "label": [7, 7, 12, 12],
        "split": ["training", "valid", "train", "val"],
    }
    pyarrow.parquet.write_table(pyarrow.table(content), tmp_path / "list.parquet")
    images = open_images(tmp_path / "list.parquet")
    assert images.classes == ("12", "7") and names(images) == ["7", "7", "12", "12"]
    assert images.split == ("train", "val", "train", "val")


def test_rows_that_repeat_count_once(tmp_path: Path) -> None:
    classes_in(tmp_path, {"x": 4})
    rows = [("path", "label"), *((f"x/{n}.png", "ab"[n // 2]) for n in range(4)), ("./x/0.png", "a")]
    images = open_images(table(tmp_path, rows))
    assert len(images) == 4 and len(images.notes) == 1 and "repeat" in images.notes[0]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("path", "name"), ("x/0.png", "a")], ["'label'", "columns found: path, name"]),
        ([("label",), ("a",)], ["'path'", "columns found: label"]),
        ([], ["'path'", "columns found: none"]),
        ([("path", "label")], ["no images"]),
        ([("path", "label"), ("x/0.png", "")], ["row 2", "no label"]),
        ([("path", "label"), ("", "a")], ["row 2", "no path"]),
        (
            [("path", "label"), *((f"x/{n}.png", "ab"[n % 2]) for n in range(30)), ("x/0.png", "b")],
            ["row 32", "x/0.png", "'a'", "'b'", "--problem multi_label"],
        ),
        (
            [("path", "label", "split"), ("x/0.png", "a", "holdout")],
            ["row 2", "'holdout'", "train, val or test"],
        ),
        (
            [("path", "label", "split"), ("x/0.png", "a", "train"), ("x/0.png", "a", "test")],
            ["two splits", "train and test"],
        ),
        (
            [
                ("path", "label", "split"),
                *((f"x/{n}.png", "ab"[n % 2], "train" if n else "") for n in range(4)),
            ],
            ["1 of 4", "no split"],
        ),
        (
            [("path", "label"), ("nowhere.png", "a"), ("neither.png", "b")],
            ["none of its 2 images", "nowhere.png"],
        ),
        (
            [("path", "label"), (f"{'n' * 300}.png", "a"), (f"{'o' * 300}.png", "b")],
            ["none of its 2 images", "nnn.png"],
        ),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, rows: list[tuple[str, ...]], words: list[str]) -> None:
    classes_in(tmp_path, {"x": 4})
    message = refusal(table(tmp_path, rows))
    assert all(word in message for word in words), message


def test_tables_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    assert "cannot be read as PARQUET" in refusal(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    assert "cannot be read as CSV" in refusal(tmp_path / "a.csv")


# refusals


def test_missing_folder_names_the_nearest(tmp_path: Path) -> None:
    classes_in(tmp_path / "clothing", {"a": 2})
    message = refusal(tmp_path / "clothng")
    assert "clothng: no such folder" in message and message.endswith("clothing")
    assert str(tmp_path) in refusal(tmp_path / "nothing" / "like" / "it")
    assert "digits" in refusal("digit")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], ["empty folder", "<class>"]),
        (["readme.txt"], ["no images"]),
        (["a/", "b/"], ["no images in its 2 folders"]),
        (["a/1.txt", "b/2.txt"], ["no images in its 2 folders", "2 .txt"]),
        (["0.png", "1.png"], ["images directly in it (0.png, 1.png)", "no class folders"]),
        (["0.png", "a/0.png", "b/0.png"], ["images directly in it (0.png)", "beside its folders"]),
        (
            ["train/0.png", "train/a/0.png", "train/b/0.png", "test/a/0.png"],
            ["train: images directly in it"],
        ),
        (["a/0.png", "a/1.png"], ["only one class (a)"]),
        (["a/0.png", "a/1.png", "b/0.png"], ["single image in class b"]),
        (["a/0.png", "a/1.png", "b/0.png", "b/1.png", "c/"], ["no images in class folder c"]),
        (
            ["train/a/0.png", "train/b/0.png", "test/a/0.png", "extra/c/0.png"],
            ["splits (test, train)", "extra"],
        ),
        (["train/a/0.png", "train/b/0.png", "val/a/0.png", "valid/b/0.png"], ["val and valid both mean val"]),
        (
            [
                "train/a/0.png",
                "train/b/0.png",
                "test/a/1.png",
                "test/b/1.png",
                "test/c/0.png",
                "test/c/1.png",
            ],
            ["no training images of class c", "a, b"],
        ),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, files: list[str], words: list[str]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for name in files:
        if name.endswith("/"):
            (root / name).mkdir(parents=True)
        elif name.endswith(".png"):
            photo(root / name)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("x")
    message = refusal(root)
    assert all(word in message for word in words), message


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    assert "a file, not a folder" in refusal(photo(tmp_path / "0.png"))


def test_classes_of_a_trained_run_are_matched_by_name(tmp_path: Path) -> None:
    root = classes_in(tmp_path, {"a": 1, "b": 2, "c": 1})
    images = open_images(root, classes=("c", "a", "b"))
    assert images.classes == ("c", "a", "b") and names(images) == ["a", "b", "b", "c"]
    message = refusal(root, classes=("a", "b", "d", "e"))
    assert "missing here: d, e" in message and "not in the run: c" in message
    assert "missing here: d" in refusal(root, classes=("a", "b", "c", "d"))


# named sets


def test_digits() -> None:
    images = open_images("digits")
    assert len(images) == 1797 and images.classes == tuple("0123456789") and set(images.split) == {""}
    assert images.ids[0] == "digits/0000" and images.ids[-1] == "digits/1796"
    pixels = images.sources[0]
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8
    assert max(source.max() for source in images.sources) == 255
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


class Tiny:
    """What torchvision's classification sets have in common."""

    classes = ("b", "a")

    def __init__(self, root: Path, train: bool = True, download: bool = False):
        self.file = Path(root) / "tiny.txt"
        if download:
            self.file.write_text("here")
        if not self.file.exists():
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        self.targets = [0, 1, 0, 1] if train else [1, 0]
        self.decoded: list[int] = []

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        self.decoded.append(row)
        return Image.new("L", (4, 4), 10 * row), self.targets[row]


class Parted:
    """A set whose parts have other names, and which keeps labels with its files."""

    def __init__(self, root: Path, split: str = "trainval"):
        if split not in ("trainval", "test"):
            raise ValueError("Unknown value for argument split")
        self._samples = [("x", 0), ("y", 1)] * (2 if split == "trainval" else 1)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (4, 4)), self._samples[row][1]


class Whole(Parted):
    """A set without parts."""

    def __init__(self, root: Path):
        super().__init__(root)


class Demanding(Tiny):
    """A set that needs more than a folder."""

    def __init__(self, root: Path, year: int):
        super().__init__(root)


@pytest.fixture
def torchvision_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from torchvision import datasets

    for kind in (Tiny, Parted, Whole, Demanding):
        monkeypatch.setattr(datasets, kind.__name__, kind, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "datasets"


def test_torchvision_downloads_once_and_says_so(torchvision_sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = open_images("torchvision:Tiny")
    said = capsys.readouterr()
    assert said.out == "" and "torchvision:Tiny: downloading" in said.err and str(torchvision_sets) in said.err
    assert images.name == "torchvision:Tiny" and images.classes == ("a", "b")
    assert names(images) == ["b", "a", "b", "a", "a", "b"]
    assert images.split == ("train",) * 4 + ("test",) * 2
    assert images.ids[3] == "Tiny/train/000003" and images.ids[4] == "Tiny/test/000000"
    open_images("torchvision:Tiny")
    assert capsys.readouterr().err == ""


def test_torchvision_images_are_decoded_when_asked_for(torchvision_sets: Path) -> None:
    images = open_images("torchvision:Tiny")
    parts = images.sources.parts  # pyright: ignore[reportAttributeAccessIssue]
    assert parts[0].decoded == parts[1].decoded == []
    pixels = images.sources[5]
    assert pixels.shape == (4, 4, 3) and pixels.dtype == np.uint8 and pixels.max() == 10
    assert parts[0].decoded == [] and parts[1].decoded == [1]
    assert images.sources[-3].max() == 30 and len(images.sources[1:3]) == 2
    with pytest.raises(IndexError):
        images.sources[6]


def test_torchvision_parts_by_other_names(torchvision_sets: Path) -> None:
    images = open_images("torchvision:Parted")
    assert images.split == ("train",) * 4 + ("test",) * 2
    assert images.classes == ("0", "1") and images.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert set(open_images("torchvision:Whole").split) == {""}


def test_torchvision_refusals(torchvision_sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "CIFAR10" in refusal("torchvision:CIFAR1O")
    assert "year" in refusal("torchvision:Demanding")

    def offline(self: Tiny, root: Path, train: bool = True, download: bool = False) -> None:
        raise RuntimeError("no route to host" if download else "not found")

    monkeypatch.setattr(Tiny, "__init__", offline)
    message = refusal("torchvision:Tiny")
    assert "no route to host" in message and str(torchvision_sets) in message


# photos without labels


def test_photos_from_files_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    for name in ("b.jpg", "a.png", "sea/c.webp", ".hidden.png"):
        photo(folder / name)
    (folder / "diary.txt").write_text("x")
    odd = tmp_path / "odd.xyz"
    odd.write_bytes(b"x")
    ids, files = list_photos([odd, folder, str(folder / "a.png")])
    inside = [f"{folder.as_posix()}/{name}" for name in ("a.png", "b.jpg", "sea/c.webp")]
    assert ids == (odd.as_posix(), *inside, f"{inside[0]}#2")
    assert files == (odd, *map(Path, inside), folder / "a.png")


def test_photos_keep_what_the_decoder_must_judge(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert list_photos([tmp_path / "gone.png"])[1] == (tmp_path / "gone.png",)
    assert len(list_photos([tmp_path])[0]) == 1


def test_photos_refused(tmp_path: Path) -> None:
    photo(tmp_path / "dog.png")
    (tmp_path / "empty").mkdir()
    for paths, word in (
        ([tmp_path / "dgo.png"], "dog.png"),
        ([tmp_path / "empty"], "no images"),
        ([], "no photos"),
    ):
        with pytest.raises(RegardError, match=word):
            list_photos(paths)
