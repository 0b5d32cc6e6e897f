"""Row 6: bad images never stop or poison training: they are left out by name, and nothing takes their place."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from bad_photos import KINDS
from figures import record
from PIL import Image

import regard
from regard.data.loader import Batches
from regard.errors import RegardError

COUNTS = [pytest.param(100, id="100"), pytest.param(1_000, id="1,000", marks=pytest.mark.long)]
SHORT = {
    "model": "vit_nano_patch4_32", "method": "scratch", "img_size": 16, "epochs": 2, "batch_size": 16,
    "precision": "fp32", "deterministic": True, "max_bad": 0.05,
}  # fmt: skip


def write_classes(root: Path, count: int) -> dict[str, str]:
    """Class folders of `count` files of which one in 20 is bad, kind after kind; id -> error code of the bad ones."""
    rng = np.random.default_rng(0)
    kinds, bad = list(KINDS.values()), {}
    for number in range(count):
        path = root / ("red", "blue")[number % 2] / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 20 == 7:
            make, code = kinds[len(bad) % len(kinds)]
            make(path)
            bad[str(path.relative_to(root))] = code
        else:
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
    return bad


@pytest.mark.parametrize("count", COUNTS)
def test_training_is_what_it_is_without_them(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    root, clean = tmp_path / "photos", tmp_path / "clean" / "photos"
    bad = write_classes(root, count)
    assert len(bad) == count // 20

    report = regard.check(root, max_bad=0.05)
    assert sorted(report.unreadable) == sorted(bad)
    reasons = {
        id_: one.message.rpartition(": ")[2] for one in report.findings if one.code == "corrupt" for id_ in one.ids
    }
    assert reasons == bad

    seen: list[str] = []
    batches = Batches.__init__

    def noted(self, images, *arguments, **options):
        seen.extend(images.ids)
        batches(self, images, *arguments, **options)

    monkeypatch.setattr(Batches, "__init__", noted)
    run = regard.train(root, out=tmp_path / "a", **SHORT)
    assert seen and not bad.keys() & set(seen)
    shutil.copytree(root, clean, ignore=lambda folder, names: {n for n in names if _id(root, folder, n) in bad})
    other = regard.train(clean, out=tmp_path / "b", **SHORT)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    assert run.predictions("test").ids == other.predictions("test").ids
    assert np.array_equal(run.predictions("test").logits, other.predictions("test").logits)
    rows = len(run.split_path.read_text().splitlines()) - 1
    assert rows == count - len(bad)

    with pytest.raises(RegardError, match=f"{len(bad)} of {count} files cannot be read"):
        regard.train(root, out=tmp_path / "c", **{**SHORT, "max_bad": 0.04})
    kinds = len({*bad.values()})
    record(
        6, f"{count:,} images, {len(bad)} bad", count,
        f"{len(bad)} of {len(bad)} left out by name, {kinds} reasons; the weights are those of training without them",
    )  # fmt: skip


def _id(root: Path, folder: str, name: str) -> str:
    return str(Path(folder, name).relative_to(root))
