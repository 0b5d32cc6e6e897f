from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from regard.cli.main import main
from regard.cli.show import plain
from regard.data.mask_sets import open_masks
from regard.errors import RegardError
from regard.masks import RunLengths
from regard.models import create_model
from regard.segmentation.everything import Options, everything
from regard.segmentation.formats import rle
from regard.segmentation.segmenter import Segmenter
from regard.verbs import segment as module
from regard.verbs.segment import Segmented, segment
from regard.verbs.segmenting.folder import Folder
from regard.weights import save_state

ALL: dict[str, Any] = {  # keeps all 27 masks of an untrained model
    "everything": True, "points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0,
    "box_nms_thresh": 1.0,
}  # fmt: skip
FORMATS = ("png", "rle", "coco", "yolo")


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(create_model("sam_nano_128"), "nano")  # type: ignore[arg-type]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, height, width in (("a.jpg", 50, 70), ("b.png", 64, 64), ("sub/a.png", 90, 40)):
        blocks = rng.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(10, 0).repeat(10, 1)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its name; of links where they go."""
    files = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    return {
        str(path.relative_to(folder)): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in files
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# prompts


def test_a_point_gives_the_mask_that_predict_trusts_most(segmenter: Segmenter, photos: Path) -> None:
    found = segment(photos / "a.jpg", points=[(20, 30)], model=segmenter)
    segmenter.set_image(photos / "a.jpg")
    masks, iou, _ = segmenter.predict([[20, 30]], [1])
    (answer,) = found.answers
    (mask,) = answer.masks.masks
    np.testing.assert_array_equal(mask.runs.decode(), masks[iou.argmax()])
    assert mask.predicted_iou == pytest.approx(float(iou.max()))
    assert mask.points == ((20, 30),)
    three = segment(photos / "a.jpg", points=(20, 30), three=True, model=segmenter).answers[0].masks.masks
    assert [mask.number for mask in three] == [1, 2, 3]
    for mask, place in zip(three, np.argsort(-iou), strict=True):
        np.testing.assert_array_equal(mask.runs.decode(), masks[place])


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        ({"box": (5, 6, 60, 40)}, {"box": [5, 6, 60, 40]}),
        (
            {"points": (20, 30, 50, 10), "labels": (1, 0)},
            {"point_coords": [[20, 30], [50, 10]], "point_labels": [1, 0]},
        ),
        (
            {"points": (20, 30), "box": (5, 6, 60, 40)},
            {"point_coords": [[20, 30]], "point_labels": [1], "box": [5, 6, 60, 40]},
        ),
    ],
)
def test_what_leaves_no_doubt_gives_one_mask(flags: dict, asked: dict, segmenter: Segmenter, photos: Path) -> None:
    found = segment([photos / "a.jpg"], **flags, model=segmenter)
    segmenter.set_image(photos / "a.jpg")
    masks, iou, _ = segmenter.predict(**asked, multimask_output=False)
    (mask,) = found.answers[0].masks.masks
    np.testing.assert_array_equal(mask.runs.decode(), masks[0])
    assert mask.predicted_iou == pytest.approx(float(iou[0]))


def test_a_file_asks_each_photo_its_own(segmenter: Segmenter, photos: Path, tmp_path: Path) -> None:
    asked = {
        "b.png": [{"points": [[9, 9]], "name": "dog"}, {"box": [1, 2, 60, 50]}, {"points": [[30, 5]], "labels": [1]}],
        "sub/a.png": [{"points": [[10, 80], [5, 5]], "labels": [1, 0]}],
    }
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(asked))
    said: list[dict] = []
    found = segment(photos, prompts=path, model=segmenter, on_event=said.append)
    assert [answer.masks.image for answer in found.answers] == ["b.png", "sub/a.png"]
    assert any("has prompts for 2 of 4 photos" in event.get("text", "") for event in said)
    several = found.answers[0].masks.masks
    assert [(mask.number, mask.name) for mask in several] == [(1, "dog"), (2, ""), (3, "")]
    for mask, flags in zip(several, ({"points": (9, 9)}, {"box": (1, 2, 60, 50)}, {"points": (30, 5)}), strict=True):
        alone = segment(photos / "b.png", **flags, model=segmenter).answers[0].masks.masks[0]
        np.testing.assert_array_equal(mask.runs.decode(), alone.runs.decode())


# everything


def test_everything_is_everything_mode(segmenter: Segmenter, photos: Path) -> None:
    said: list[dict] = []
    found = segment(photos / "sub" / "a.png", **ALL, model=segmenter, on_event=said.append)
    options = Options(points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1)
    expected = everything(segmenter, photos / "sub" / "a.png", options)
    assert found.masks == len(expected.masks) > 3
    for one, other in zip(found.answers[0].masks.masks, expected.masks, strict=True):
        np.testing.assert_array_equal(one.runs.decode(), other.runs.decode())
        assert (one.number, one.predicted_iou, one.stability, one.points) == (
            other.number, other.predicted_iou, other.stability, other.points,
        )  # fmt: skip
    text = next(event["text"] for event in said if event["event"] == "note")
    assert "1 photo: about" in text
    assert "9 prompts of" in text and " of memory" in text
    assert any(event["event"] == "progress" and event["total"] == 9 for event in said)


# files


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_holds_the_same_masks(format: Any, segmenter: Segmenter, photos: Path, tmp_path: Path) -> None:
    expected = {answer.masks.image: answer.masks for answer in segment(photos, **ALL, model=segmenter).answers}
    out = tmp_path / "out"
    found = segment(photos, **ALL, model=segmenter, out=out, format=format)
    assert (found.photos, found.failed, found.masks) == (3, 1, sum(len(one.masks) for one in expected.values()))
    assert found.answers == ()
    (failure,) = rows(out / "errors.csv")
    assert (failure["image"], failure["error"]) == ("broken.jpg", "damaged")
    assert not (out / ".parts").exists()
    assert sorted(expected) == ["a.jpg", "b.png", "sub/a.png"]
    if format == "png":
        index = rows(out / "index.csv")
        assert sorted(os.listdir(out)) == ["errors.csv", "index.csv", "masks", "overlays", "segment.json"]
        for name, record in expected.items():
            with Image.open(out / "masks" / Path(name).with_suffix(".png")) as image:
                labels = np.asarray(image)
            own = [row for row in index if row["image"] == name]
            assert [int(row["area"]) for row in own] == [mask.area for mask in record.masks]
            covered = np.any([mask.runs.decode() for mask in record.masks], axis=0)
            np.testing.assert_array_equal(labels > 0, covered)
            with Image.open(out / "overlays" / Path(name).with_suffix(".jpg")) as image:
                assert image.size == (record.width, record.height)
    elif format == "rle":
        for name, record in expected.items():
            assert (out / "masks" / Path(name).with_suffix(".json")).read_text() == rle.encode(record)
    elif format == "coco":
        content = json.loads((out / "annotations.json").read_text())
        assert [image["file_name"] for image in content["images"]] == list(expected)
        assert (out / content["info"]["images"] / "a.jpg").samefile(photos / "a.jpg")
        assert len(content["annotations"]) == found.masks
    else:
        for name, record in expected.items():
            assert (out / "images" / name).samefile(photos / name)
            lines = (out / "labels" / Path(name).with_suffix(".txt")).read_text().splitlines()
            assert len(lines) == sum(mask.area > 0 for mask in record.masks)
        assert '0: "object"' in (out / "data.yaml").read_text()


def test_what_coco_and_png_hold_can_be_trained_on(segmenter: Segmenter, photos: Path, tmp_path: Path) -> None:
    found = segment(photos, box=(2, 3, 30, 40), model=segmenter, out=tmp_path / "coco", format="coco")
    expected = [answer.masks for answer in segment(photos, box=(2, 3, 30, 40), model=segmenter).answers]
    read = open_masks(tmp_path / "coco" / "annotations.json")
    assert len(read) == found.photos == 3
    for row, record in enumerate(expected):
        assert [runs.text for runs in read.masks(row)] == [mask.runs.text for mask in record.masks]
    segment(photos, box=(2, 3, 30, 40), model=segmenter, out=tmp_path / "png")
    (photos / "broken.jpg").unlink()
    shutil.move(photos / "sub", tmp_path / "sub")
    shutil.move(tmp_path / "png" / "masks" / "sub", tmp_path / "masks")
    photos.rename(tmp_path / "png" / "images")
    read = open_masks(tmp_path / "png")
    for row, record in enumerate(expected[:2]):
        assert [runs.text for runs in read.masks(row)] == [mask.runs.text for mask in record.masks]


def test_two_photos_whose_names_differ_by_the_suffix(segmenter: Segmenter, tmp_path: Path) -> None:
    for name in ("a.png", "a.webp"):
        Image.fromarray(np.full((40, 50, 3), len(name), np.uint8)).save(tmp_path / name)
    segment(str(tmp_path / "a.*"), points=(9, 9), model=segmenter, out=tmp_path / "out", format="yolo")
    assert sorted(os.listdir(tmp_path / "out" / "labels")) == ["a-2.txt", "a.txt"]
    assert sorted(os.listdir(tmp_path / "out" / "images")) == ["a-2.webp", "a.png"]


def test_a_name_that_is_no_utf8(segmenter: Segmenter, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    with open(folder + b"/\xff\xfe.png", "wb") as file:
        Image.new("RGB", (32, 32)).save(file, "PNG")
    for format in FORMATS:
        found = segment(os.fsdecode(folder), points=(9, 9), model=segmenter, out=tmp_path / format, format=format)
        assert (found.photos, found.failed) == (1, 0)


def test_turned_photos_are_segmented_as_people_see_them(segmenter: Segmenter, photos: Path, tmp_path: Path) -> None:
    with Image.open(photos / "a.jpg") as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    found = segment(tmp_path / "turned.jpg", points=(40, 60), model=segmenter, out=tmp_path / "out")
    with Image.open(tmp_path / "out" / "masks" / "turned.png") as image:
        assert image.size == (50, 70)
    assert found.masks == 1


# interruption


class Stop(BaseException):
    """Neither caught nor expected."""


def stopping(after: int) -> Callable[[dict], None]:
    """A listener that stops the work when it hears of so much progress."""
    heard = 0

    def listen(event: dict) -> None:
        nonlocal heard
        heard += event["event"] == "progress"
        if heard > after:
            raise Stop

    return listen


@pytest.mark.parametrize("format", FORMATS)
def test_interrupted_and_continued_it_is_as_if_undisturbed(
    format: Any, segmenter: Segmenter, photos: Path, tmp_path: Path
) -> None:
    asked = {"images": photos, **ALL, "model": segmenter, "format": format}
    segment(**asked, out=tmp_path / "whole")
    out = tmp_path / "out"
    for after in (0, 7, 3):
        with pytest.raises(Stop):
            segment(**asked, out=out, resume=True, on_event=stopping(after))
        assert not (out / "annotations.json").exists()
    left = next((out / ".parts").iterdir())
    (left.parent / f".{left.name}.tmp-12345678").write_bytes(b"half")  # as a killed writer leaves it
    found = segment(**asked, out=out, resume=True)
    assert contents(out) == contents(tmp_path / "whole")
    assert found.continued > 0
    again = segment(**asked, out=out, resume=True)
    assert (again.photos, again.masks, again.failed, again.continued) == (3, found.masks, 1, 4)
    assert list(again.lines())[-1] == "nothing was left to do; 4 were answered before"
    assert contents(out) == contents(tmp_path / "whole")


@pytest.fixture(scope="module")
def killed() -> Iterator[Callable[..., int]]:
    """Runs `segment` in a process of its own, which dies before a rename; returns its exit code."""
    script = Path(__file__).parent / "segmenting" / "killed.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(script)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None

        def run(at: int, **asked: Any) -> int:
            print(json.dumps({"at": at, "asked": asked}, default=str), file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield run
        process.stdin.close()


def weights_of(segmenter: Segmenter, folder: Path) -> Path:
    path = folder / "nano.safetensors"
    save_state(path, segmenter.model.state_dict())
    return path


def test_killed_in_the_middle_of_a_write(
    killed: Callable[..., int], segmenter: Segmenter, photos: Path, tmp_path: Path
) -> None:
    asked = {"images": str(photos), "points": (20, 30), "model": weights_of(segmenter, tmp_path), "resume": True}
    assert killed(6, **asked, out=tmp_path / "out") == -signal.SIGKILL
    assert list((tmp_path / "out").rglob(".*.tmp-*"))
    for out in ("out", "whole"):
        assert killed(0, **asked, out=tmp_path / out) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.long
@pytest.mark.parametrize("flags", [*({"format": format} for format in FORMATS), {"follow": True, "format": "coco"}])
def test_killed_before_every_rename(
    flags: dict, killed: Callable[..., int], segmenter: Segmenter, photos: Path, frames: Path, tmp_path: Path
) -> None:
    weights = weights_of(segmenter, tmp_path)
    images = frames if "follow" in flags else photos
    asked = {"images": str(images), "points": (20, 30), "model": weights, "resume": True, **flags}
    asked["html"] = tmp_path / "page.html"
    assert killed(0, **asked, out=tmp_path / "whole") == 0
    page = (tmp_path / "page.html").read_bytes().replace(b"/whole", b"/out")
    kills, step = 0, 1 if flags["format"] == "png" else 3
    while killed(1 + step * kills, **asked, out=tmp_path / "out") == -signal.SIGKILL:
        kills += 1
        assert killed(0, **asked, out=tmp_path / "out") == 0
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")
        assert (tmp_path / "page.html").read_bytes() == page
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "page.html").unlink()
    assert kills * step >= 8


def test_a_mended_photo_is_asked_when_it_is_continued(segmenter: Segmenter, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        segment(photos, points=(20, 30), model=segmenter, out=tmp_path / "out", on_event=stopping(2))
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(photos / "broken.jpg")
    found = segment(photos, points=(20, 30), model=segmenter, out=tmp_path / "out", resume=True)
    assert (found.photos, found.failed) == (4, 0)
    assert not (tmp_path / "out" / "errors.csv").exists()


def test_a_folder_is_continued_only_as_it_was_begun(segmenter: Segmenter, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stop):
        segment(photos, points=(20, 30), model=segmenter, out=out, on_event=stopping(1))
    begun = contents(out)
    for change, named in (
        ({"points": (21, 30)}, "asked was on 20,30, is on 21,30"),
        ({"format": "coco"}, "format was png, is coco"),
        ({"images": photos / "sub"}, "photos was 4, is 1"),
        ({"model": Segmenter(create_model("sam_nano_128"))}, "model_sha256 was"),  # type: ignore[arg-type]
    ):
        asked = {"images": photos, "points": (20, 30), "model": segmenter, **change}
        with pytest.raises(RegardError, match=f"was begun otherwise.*{named}"):
            segment(**asked, out=out, resume=True)
    with pytest.raises(RegardError, match="use --resume to continue it, --overwrite to start anew"):
        segment(photos, points=(20, 30), model=segmenter, out=out)
    assert contents(out) == begun
    found = segment(photos, points=(21, 30), model=segmenter, out=out, overwrite=True, format="coco")
    assert found.continued == 0
    assert sorted(os.listdir(out)) == ["annotations.json", "errors.csv", "segment.json"]


def test_a_folder_of_somebody_else_stays(segmenter: Segmenter, photos: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "masks").mkdir(parents=True)
    (theirs / "masks" / "a.png").write_bytes(b"mine")
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(RegardError, match="theirs: "):
            segment(photos, points=(20, 30), model=segmenter, out=theirs, **flags)
    assert contents(theirs) == {"masks/a.png": b"mine"}


def test_where_no_photo_gives_masks_nothing_is_left(segmenter: Segmenter, photos: Path, tmp_path: Path) -> None:
    (photos / "other.jpg").write_bytes(b"no")
    with pytest.raises(RegardError, match=r"none of 2 gives masks \(first: .*broken\.jpg: "):
        segment([photos / "broken.jpg", photos / "other.jpg"], points=(1, 1), model=segmenter, out=tmp_path / "out")
    with pytest.raises(RegardError, match=r"^.*broken\.jpg: "):
        segment(photos / "broken.jpg", points=(1, 1), model=segmenter, out=tmp_path / "out")
    with pytest.raises(
        RegardError, match=r"points: \(71, 1\) is not in the image, which is 70 pixels wide and 50 high"
    ):
        segment(photos / "a.jpg", points=(71, 1), model=segmenter, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_point_outside_of_one_photo_does_not_stop_the_others(
    segmenter: Segmenter, photos: Path, tmp_path: Path
) -> None:
    found = segment(photos, points=(60, 20), model=segmenter, out=tmp_path / "out")
    assert (found.photos, found.failed) == (2, 2)
    failures = {row["image"]: row for row in rows(tmp_path / "out" / "errors.csv")}
    assert failures["sub/a.png"]["error"] == "refused"
    assert "(60, 20) is not in the image, which is 40 pixels wide" in failures["sub/a.png"]["message"]


def test_a_cache_that_cannot_be_written_stops_the_run(photos: Path, tmp_path: Path) -> None:
    """It is no fault of the photos, none of which is left out for it."""
    (tmp_path / "cache").write_text("a file")
    segmenter = Segmenter(create_model("sam_nano_128"), "nano", cache=tmp_path / "cache")  # type: ignore[arg-type]
    with pytest.raises(RegardError, match="cache: embeddings cannot be kept"):
        segment(photos, points=(20, 30), model=segmenter, out=tmp_path / "out")
    assert not any((tmp_path / "out").rglob("0*.json"))


# frames


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A square that moves."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(8, 13):
        pixels = np.full((60, 80, 3), 30, np.uint8)
        pixels[20:40, 4 * number - 20 : 4 * number] = (250, 200, 40)
        Image.fromarray(pixels).save(folder / f"f{number}.png")
    return folder


def test_frames_are_followed_and_continued(
    segmenter: Segmenter, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regard.segmentation import following

    monkeypatch.setattr(following, "LOST_BELOW", -100.0)  # an untrained model expects nothing of its masks
    monkeypatch.setattr(following.Follower.__init__, "__defaults__", (-100.0, None))
    (frames / "f10.png").write_bytes(b"broken")
    asked = {"images": frames, "points": (20, 30), "three": True, "follow": True, "model": segmenter, "format": "coco"}
    found = segment(**asked, out=tmp_path / "whole")
    assert (found.photos, found.masks, found.failed) == (4, 12, 1)
    content = json.loads((tmp_path / "whole" / "annotations.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["f8.png", "f9.png", "f11.png", "f12.png"]
    assert [entry["number"] for entry in content["annotations"]] == [1, 2, 3] * 4
    follower = following.Follower(
        segmenter,
        frames / "f8.png",
        segment(frames / "f8.png", points=(20, 30), three=True, model=segmenter).answers[0].masks.masks,
    )
    second = follower.step(frames / "f9.png")
    for entry, mask in zip(content["annotations"][3:6], second.masks, strict=True):
        assert entry["segmentation"]["counts"] == mask.runs.text
    for after in (0, 1, 0):
        with pytest.raises(Stop):
            segment(**asked, out=tmp_path / "out", resume=True, on_event=stopping(after))
    segment(**asked, out=tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# refusals and words


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({}, "nothing is asked of the photos; give --points"),
        ({"text": ""}, "nothing is asked"),
        ({"points": (1, 2), "everything": True}, "--points and --box and --everything: each is a way of its own"),
        ({"points": (1, 2, 3)}, "points: 3 numbers; expected x,y for each point"),
        ({"points": (1, float("nan"))}, r"points: \(1, nan\) is not in the image"),
        ({"points": (1, 2), "labels": (1, 0)}, "labels: 2 for 1 point"),
        ({"labels": (1,)}, "labels: given without points"),
        ({"labels": (1,), "box": (1, 2, 3, 4)}, "labels: given without points"),
        ({"box": (1, 2, 3)}, "box: 3 numbers; expected four"),
        ({"box": (9, 9, 2, 2)}, "box: 9, 9, 2, 2 is upside down"),
        ({"points": (1, 2), "pred_iou_thresh": 0.5}, "pred_iou_thresh: is for --everything and --text"),
        ({"everything": True, "pred_iou_thresh": 5.0}, "pred_iou_thresh=5.0: expected a number from 0 to 1"),
        ({"everything": True, "points_per_side": 0}, "points_per_side=0: expected a whole number from 1"),
        ({"everything": True, "three": True}, "three: is for --points and --prompts"),
        ({"box": (1, 2, 3, 4), "three": True}, "three: more than one point, or a box, leaves no doubt"),
        ({"everything": True, "follow": True}, "follow: not with --everything"),
        ({"points": (1, 2), "target": "dog"}, "target dog: is for --from-explanation"),
        ({"points": (1, 2), "clip": "clip_vit_base_patch32"}, "clip: is for --text and --labels-from"),
        ({"points": (1, 2), "format": "coco"}, "format: is for a folder; give one with --out"),
        ({"points": (1, 2), "resume": True}, "resume: is for a folder"),
        ({"points": (1, 2), "out": "x", "resume": True, "overwrite": True}, "resume: not with overwrite"),
        ({"points": (1, 2), "labels_from": ("dog",), "label_with": "run"}, "labels_from: not with label_with"),
        ({"points": (1, 2), "labels_from": ("dog", "dog")}, "labels-from: 'dog' is given twice"),
        ({"points": (1, 2), "images": "nowhere.jpg"}, "nowhere.jpg: no such file or folder"),
    ],
)
def test_refusals(flags: dict, said: str, segmenter: Segmenter, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    with pytest.raises(RegardError, match=f"^{said}") as error:
        segment(**{"images": photos / "a.jpg", "model": segmenter, **flags})
    assert "\n" not in str(error.value)
    assert sorted(os.listdir(photos)) == ["a.jpg", "b.png", "broken.jpg", "sub"]


def test_a_model_of_another_task_is_refused(photos: Path) -> None:
    with pytest.raises(RegardError, match="vit_nano_patch4_32: its task is 'classify'"):
        segment(photos / "a.jpg", points=(1, 2), model="vit_nano_patch4_32")


def test_the_command(segmenter: Segmenter, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = weights_of(segmenter, tmp_path)
    words = ["segment", str(photos / "a.jpg"), "--points", "20,30", "5,6", "--labels", "1,0", "--model", str(weights)]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith("a.jpg  mask 1  x ")
    assert "1 mask of 1 photo, by sam_nano_128" in out
    assert "1 photo: about " in err
    words = [
        "segment",
        str(photos),
        "--box",
        "5,6,30,40",
        "--model",
        str(weights),
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    assert main([*words, "--html", str(tmp_path / "page.html")]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])["result"]
    assert (result["photos"], result["masks"], result["failed"]) == (3, 3, 1)
    page = (tmp_path / "page.html").read_text("utf-8")
    assert f"regard segment {photos} --out" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    assert main([*words]) == 2
    assert "--resume to continue it" in capsys.readouterr().out


def test_the_result_is_plain_and_says_what_there_is(segmenter: Segmenter, photos: Path) -> None:
    found = segment(photos, points=(20, 30), model=segmenter)
    lines = list(found.lines())
    assert len(lines) == 5
    assert lines[3] == "3 masks of 3 photos, 1 left out, by nano"
    assert json.loads(json.dumps(plain(found)))["masks"] == 3
    rows = json.loads(json.dumps(plain(found)))["rows"]
    assert [row["image"] for row in rows] == ["a.jpg", "b.png", "sub/a.png"]
    assert RunLengths.of_text(rows[0]["segmentation"]["counts"], 50, 70).area == rows[0]["area"]
    many = Segmented("m", 200, 200, 0, 0, 1.0, "png", None, None, found.rows * 50)
    assert f"... and {150 - module.SHOWN} more; --out DIR writes all of them" in list(many.lines())


def test_memory_holds_one_photo_at_a_time(
    segmenter: Segmenter, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered is in the folder only."""
    before: list[weakref.ref] = []
    keep = Folder.keep

    def watch(self: Folder, place: int, answer: Any) -> None:
        assert sum(one() is not None for one in before) <= 1
        before.append(weakref.ref(answer))
        keep(self, place, answer)

    monkeypatch.setattr(Folder, "keep", watch)
    segment(photos, points=(20, 30), model=segmenter, out=tmp_path / "out")
    assert len(before) == 4
