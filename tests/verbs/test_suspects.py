"""`check --suspects`: planted wrong labels come first, in the table and on the page, offline."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import regard
from regard.errors import RegardError
from regard.models import create_model
from regard.weights import save_state

PLANTED = ("flat/steep7.png", "flat/steep8.png")


def stripes(rng: np.random.Generator, steep: bool) -> Image.Image:
    """Stripes across or down, with noise."""
    wave = 127 + 90 * np.sin(np.arange(32) * rng.uniform(0.6, 1.1) + rng.uniform(0, 6))
    pixels = np.repeat((wave[None, :] if steep else wave[:, None]) * np.ones((32, 32)), 3).reshape(32, 32, 3)
    return Image.fromarray(np.clip(pixels + rng.normal(0, 15, pixels.shape), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty photos of two kinds of stripes, two of them in the wrong folder."""
    root, rng = tmp_path_factory.mktemp("stripes") / "stripes", np.random.default_rng(0)
    for name in ("steep", "flat"):
        (root / name).mkdir(parents=True)
        for number in range(20):
            stripes(rng, name == "steep").save(root / name / f"{number}.png")
    for id_ in PLANTED:
        stripes(rng, True).save(root / id_)
    return root


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No weights in any cache, and no network."""
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_planted_mistakes_are_found_without_any_weights(photos: Path, tmp_path: Path, offline: None) -> None:
    said: list[str] = []
    out = tmp_path / "list.csv"
    report = regard.check(photos, suspects=out, on_event=lambda event: said.append(str(event.get("text"))))
    rows = rows_of(out)
    assert {row["id"] for row in rows} == set(PLANTED)
    assert all((row["given"], row["suggested"]) == ("flat", "steep") and float(row["confidence"]) > 0.5 for row in rows)
    assert any("HOG" in line for line in said)
    (finding,) = [finding for finding in report.findings if finding.code == "suspect"]
    assert finding.severity == "note" and set(finding.ids) == set(PLANTED)
    page = (tmp_path / "list.html").read_text()
    assert page.count("data:image/webp;base64,") == 2 and "<script" not in page
    assert "2 labels to look at" in page and "default-src &#39;none&#39;" in page


def test_a_weight_file_is_recognised_by_its_content(photos: Path, tmp_path: Path, offline: None) -> None:
    torch.manual_seed(0)
    weights = save_state(tmp_path / "any.safetensors", create_model("resnet20_32", num_classes=10).state_dict())
    said: list[str] = []

    def note(event: dict) -> None:
        said.append(str(event.get("text")))

    regard.check(photos, suspects=tmp_path / "a.csv", weights=weights, on_event=note)
    assert any("features of resnet20_32" in line for line in said)
    other = save_state(tmp_path / "other.safetensors", {"a": torch.ones(2)})
    with pytest.raises(RegardError, match="weights of no model"):
        regard.check(photos, suspects=tmp_path / "b.csv", weights=other)


def test_each_of_several_labels_is_disputed_by_itself(photos: Path, tmp_path: Path, offline: None) -> None:
    lines = ["path,labels"]
    for path in sorted(photos.rglob("*.png")):
        kind = path.parent.name
        lines.append(f"{path.relative_to(photos)},{kind}" + "|photo" * (len(lines) % 2))
    (photos / "labels.csv").write_text("\n".join(lines) + "\n")
    regard.check(photos / "labels.csv", target=("labels",), suspects=tmp_path / "a.csv")
    found = {(row["id"], row["given"], row["suggested"]) for row in rows_of(tmp_path / "a.csv")}
    assert {(PLANTED[0], "flat", "not flat"), (PLANTED[0], "not steep", "steep")} <= found


def test_numbers_have_no_wrong_classes(tmp_path: Path, offline: None) -> None:
    rng = np.random.default_rng(0)
    lines = ["path,weight"]
    for number in range(30):
        stripes(rng, True).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{rng.normal():.3f}")
    (tmp_path / "weights.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(RegardError, match="its labels are numbers"):
        regard.check(tmp_path / "weights.csv", target=("weight",), problem="regression", suspects=tmp_path / "a.csv")
