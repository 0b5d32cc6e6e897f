"""Training on masks: batches, agreement, the run folder, resuming, and the command."""

from __future__ import annotations

import csv
import itertools
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from regard.cli.main import main
from regard.data.mask_sets import MaskSet, open_masks
from regard.data.scenes import make_scene
from regard.data.splits import split_images
from regard.errors import RegardError
from regard.evaluation.masks import boundary_iou, iou
from regard.models import create_model
from regard.models.sam import SAM, Prompts
from regard.runs.run import Run
from regard.segmentation.frame import Frame
from regard.segmentation.loading import load_segmenter
from regard.segmentation.regions import innermost
from regard.segmentation.segmenter import Segmenter
from regard.taps import record
from regard.training.agreement import agreement
from regard.training.click_batches import ClickBatches, covered
from regard.training.fresh_sam import start_fresh
from regard.training.interrupts import Stopped
from regard.training.recipe import Recipe
from regard.training.segmenting import Clicks, SegmentJob, train_segmenter
from regard.verbs.train import train


def tiny(seed: int = 0) -> Segmenter:
    torch.manual_seed(seed)
    sam = SAM(
        img_size=32, patch_size=8, width=16, depth=1, num_heads=2, global_blocks=(0,), window=2, dim=16,
        decoder_heads=2, decoder_hidden=16,
    )  # fmt: skip
    return Segmenter(sam, "sam_nano_128")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen small scenes, wider than high, as a folder of images and masks."""
    root = tmp_path_factory.mktemp("masks")
    (root / "images").mkdir()
    (root / "masks").mkdir()
    for number in range(16):
        scene = make_scene(0, number, side=48)
        labels = np.zeros((48, 48), np.uint8)
        for object_, mask in enumerate(scene.masks, start=1):
            labels[mask] = object_
        if not labels[:36].any():
            labels[:4, :4] = 1
        Image.fromarray(scene.image[:36]).save(root / "images" / f"{number:02d}.png")
        Image.fromarray(labels[:36]).save(root / "masks" / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def masks(folder: Path) -> MaskSet:
    return open_masks(folder)


def batches_of(masks: MaskSet, segmenter: Segmenter, **other: Any) -> ClickBatches:
    given = {"batch_size": 3, "objects": 2, "rounds": 2, "seed": 0, "flip": True, "embedded": False}
    return ClickBatches(masks, np.arange(len(masks)), segmenter, **{**given, **other})


# batches


def test_a_truth_is_the_share_of_each_square() -> None:
    mask = np.zeros((36, 48), bool)
    mask[10:25, 7:31] = True
    small = covered(mask, Frame(36, 48, 48), 24)  # not resized: 36 x 48, then 12 rows of nothing
    shares = covered(mask, Frame(36, 48, 96), 24)  # twice as large
    plain = np.zeros((24, 24))
    for y in range(18):
        for x in range(24):
            plain[y, x] = mask[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()
    assert shares.dtype == small.dtype == np.uint8
    assert np.abs(small / 255 - plain).max() < 0.01
    assert not shares[18:].any()
    assert np.abs(shares / 255 - plain).max() < 0.3  # enlarging smooths an edge over its neighbours
    assert abs(shares.sum() / 255 - plain.sum()) < 0.02 * plain.sum()


def test_batches_are_functions_of_seed_and_step(masks: MaskSet) -> None:
    stream = batches_of(masks, tiny()).from_step()
    every = list(itertools.islice(stream, 8))
    later = next(batches_of(masks, tiny()).from_step(6))
    assert torch.equal(later.images, every[6].images)
    assert torch.equal(later.truths, every[6].truths)
    assert torch.equal(later.draws, every[6].draws)
    assert later.boxed == every[6].boxed
    assert sorted(np.concatenate([batch.rows for batch in every])[:16].tolist()) == list(range(16))  # one epoch
    assert {batch.boxed for batch in every} == {True, False}
    other = next(batches_of(masks, tiny(), seed=1).from_step(6))
    assert not torch.equal(other.draws, every[6].draws)


def test_an_image_and_its_masks_are_mirrored_together(masks: MaskSet) -> None:
    batches = batches_of(masks, tiny())
    upright, mirrored = batches.seen(5), batches.seen(5, mirrored=True)
    assert np.array_equal(mirrored.pixels, upright.pixels[:, ::-1])
    assert np.abs(mirrored.truths.astype(int) - upright.truths[..., ::-1]).max() <= 1
    plain = batches_of(masks, tiny(), flip=False)
    for batch in itertools.islice(plain.from_step(), 6):
        for row, image in zip(batch.rows, batch.images, strict=True):
            assert torch.equal(image, plain.inputs(plain.seen(int(row)), int(row))[0])


# agreement


def test_agreement_is_that_of_single_prompts(masks: MaskSet) -> None:
    segmenter = tiny()
    rows = np.array([3, 8])
    found = agreement(segmenter, masks, rows).found
    assert len(found) == sum(len(masks.masks(int(row))) for row in rows)
    for one in found:
        row = masks.images.ids.index(one.image)
        truth = masks.masks(row)[one.number - 1].decode()
        segmenter.set_image(masks.images.sources[row])
        drawn, estimates, _ = segmenter.predict(np.array([[one.x, one.y]]), np.array([1]))
        chosen = drawn[int(estimates.argmax())]
        assert one.click == iou(chosen, truth)
        assert one.click_boundary == boundary_iou(chosen, truth)
        assert one.best == max(iou(mask, truth) for mask in drawn)
        box = np.array(masks.masks(row)[one.number - 1].box)
        drawn, _, _ = segmenter.predict(box=box, multimask_output=False)
        assert one.box == iou(drawn[0], truth)
        assert np.array_equal(one.by_box.decode(), drawn[0])


def test_a_click_lies_deepest_inside(masks: MaskSet) -> None:
    for runs in masks.masks(2):
        x, y = innermost(runs)
        mask = np.pad(runs.decode(), 1)
        outside = np.argwhere(~mask) - 1
        depth = {
            (int(px), int(py)): np.hypot(*(outside - (py, px)).T).min() for py, px in np.argwhere(mask[1:-1, 1:-1])
        }
        assert depth[int(x), int(y)] == pytest.approx(max(depth.values()))


# runs


def job(run: Run, masks: MaskSet, how: Clicks, segmenter: Segmenter | None = None, **recipe: Any) -> SegmentJob:
    given: dict[str, Any] = {"epochs": 2.0, "batch_size": 4, "lr": 1e-3, "precision": "fp32", "evaluations": 2}
    told = recipe.pop("told", lambda event: None)
    return SegmentJob(
        run, masks, split_images(masks.images, 0), segmenter or tiny(), Recipe(method="scratch", **{**given, **recipe}),
        how, {"model": "tiny", "weights": None}, told,
    )  # fmt: skip


def test_an_interrupted_training_ends_with_the_same_bits(masks: MaskSet, tmp_path: Path) -> None:
    how = Clicks("all", objects=2, rounds=2)
    whole = job(Run.create(tmp_path / "whole"), masks, how, ema=0.9)
    train_segmenter(whole)

    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    cut = Run.create(tmp_path / "cut")
    with pytest.raises(Stopped):
        train_segmenter(job(cut, masks, how, ema=0.9, told=interrupt))
    assert not cut.finished
    with pytest.raises(RegardError, match="lr was"):
        train_segmenter(job(cut, masks, how, ema=0.9, lr=2e-3), resume=True)
    with pytest.raises(RegardError, match="segment was"):
        train_segmenter(job(cut, masks, Clicks("all", objects=3, rounds=2), ema=0.9), resume=True)
    again = job(cut, masks, how, ema=0.9)
    train_segmenter(again, resume=True)
    for name, value in whole.segmenter.model.state_dict().items():
        assert torch.equal(value, again.segmenter.model.state_dict()[name]), name
    assert [{**row, "seconds": 0} for row in whole.run.metrics()] == [{**row, "seconds": 0} for row in cut.metrics()]
    assert (whole.run.folder / "masks.csv").read_text() == (cut.folder / "masks.csv").read_text()


def test_the_decoder_alone_learns_and_images_are_embedded_once(
    masks: MaskSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = tiny()
    before = {name: value.clone() for name, value in segmenter.model.state_dict().items()}
    seen = []
    encode = segmenter._encode
    monkeypatch.setattr(segmenter, "_encode", lambda inputs: seen.append(1) or encode(inputs))
    run = Run.create(tmp_path / "run")
    train_segmenter(job(run, masks, Clicks("decoder", objects=2, rounds=1), segmenter))
    assert len(seen) == len(masks)
    changed = {name for name, value in segmenter.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not any(name.startswith("image_encoder.") for name in changed)
    assert run.facts["cost"]["trainable_parameters"] < run.facts["cost"]["parameters"]


def test_a_run_loads_as_a_segmenter_and_says_what_it_found(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["train", str(folder), "--task", "segment", "--model", "sam_nano_128", "--out", str(out)]
    sizes = ["--epochs", "1", "--batch-size", "6", "--objects", "2", "--rounds", "2", "--evaluations", "1"]
    assert main([*words, *sizes]) == 0
    told = capsys.readouterr().out
    assert "one click, boundary" in told
    run = Run.open(out)
    with open(out / "masks.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["when"] for row in rows} == {"before", "after"}
    for when in ("before", "after"):
        mean = np.mean([float(row["click"]) for row in rows if row["when"] == when])
        assert run.facts[when]["click"][0] == pytest.approx(mean)
    segmenter = load_segmenter(out)
    masks = open_masks(folder)
    again = agreement(segmenter, masks, split_images(masks.images, 0).test)
    assert list(again.means["click"]) == pytest.approx(run.facts["after"]["click"], abs=1e-6)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<li><div") == len(again.found)
    assert "http" not in page.replace("http-equiv", "")
    assert main([*words, *sizes, "--resume"]) == 0  # finished: it says so again
    capsys.readouterr()
    further = ["train", str(folder), "--task", "segment", "--model", str(out), "--out", str(tmp_path / "on")]
    assert main([*further, *sizes]) == 0
    assert Run.open(tmp_path / "on").config["segment"]["tune"] == "decoder"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--model sam_nano_128 --mixup 0.2", "--mixup: not with --task segment"),
        ("--model vit_tiny_patch4_32", "its task is"),
        ("--model sam_nano_128 --tune decoder", "--tune decoder: a new model's encoder knows nothing"),
        ("--model sam_nano_128 --rounds 0", "--rounds 0: expected 1 to 11"),
        ("--model sam_nano_128 --objects 100", "--objects 100: expected 1 to 64"),
        ("--model sam_nano_128 --method lora", "--method lora"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, line: str
) -> None:
    assert main(["train", str(folder), "--task", "segment", "--out", str(tmp_path / "run"), *words.split()]) == 2
    told = capsys.readouterr().err
    assert line in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_arguments_of_masks_are_not_for_labels(tmp_path: Path) -> None:
    with pytest.raises(RegardError, match="--tune: belongs to --task segment"):
        train("digits", model="vit_tiny_patch4_32", out=tmp_path / "run", tune="all")


# how well


def test_a_new_model_looks_for_a_point_where_it_lies() -> None:
    def share(fresh: bool) -> float:
        """Of clicks whose place attends more to them than the mean place does, in the first layer."""
        more = []
        for seed in range(4):
            torch.manual_seed(seed)
            sam = create_model("sam_nano_128")
            assert isinstance(sam, SAM)
            if fresh:
                start_fresh(sam)
            places = torch.rand(8, 1, 2) * 128
            name = "mask_decoder.transformer.layers.0.cross_attn_image_to_token.pattern"
            with torch.no_grad(), record(sam, name) as seen:
                sam.decode(sam.embed(torch.randn(1, 3, 128, 128)), Prompts(places, torch.ones(8, 1)))
            to_point = seen[name][..., 5].mean(dim=1)  # (8, 256): after the tokens of quality and of the four masks
            x, y = (places[:, 0] / 8).long().T
            more += (to_point[torch.arange(8), 16 * y + x] > to_point.mean(dim=1)).tolist()
        return float(np.mean(more))

    assert share(fresh=True) == 1
    assert share(fresh=False) < 0.8


def test_a_minute_of_training_finds_objects(tmp_path: Path) -> None:
    run = train("scenes:1400", task="segment", model="sam_nano_128", out=tmp_path / "run", minutes=1, rounds=1)
    before, after = run.facts["before"], run.facts["after"]
    assert before["click"][0] < 0.2 and after["click"][0] > 0.6
    assert after["best"][0] >= after["click"][0]
    # 58 s on a quiet machine; the number of steps is fixed at the start, so one that slows down later takes longer.
    assert (run.cost.train_seconds or 0) < 120


@pytest.mark.long
def test_nineteen_minutes_of_training_cut_objects_out(tmp_path: Path) -> None:
    run = train("scenes:8000", task="segment", model="sam_nano_128", out=tmp_path / "run", minutes=19, rounds=1)
    assert run.facts["after"]["click"][0] > 0.85  # 0.89 was reached; 0.9 is asked for
    assert (run.cost.train_seconds or 0) < 20 * 60
