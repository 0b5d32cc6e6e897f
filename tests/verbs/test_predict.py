from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from regard.errors import RegardError
from regard.inference.loaded import LoadedModel, fresh_model
from regard.verbs import predict as module
from regard.verbs.predict import predict
from regard.verbs.tables import neutral, table_writer


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.manual_seed(0)
    model = fresh_model("vit_nano_patch4_32", ("=bee", "cat", "dog", "elk"))
    model.temperature, model.unsure_below = 1.5, 0.99
    return model


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a b.png", "=cmd().png", 'ünï,"q".png', "new\nline.png", "z.png"):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "empty.png").write_bytes(b"")
    return folder


def read(path: Path) -> list[dict]:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return pq.read_table(path).to_pylist()


def test_rows_without_a_file(loaded: LoadedModel, photos: Path) -> None:
    found = predict(loaded, photos, top=2)
    assert (found.photos, found.errors, found.unsure) == (7, 2, 5)
    assert [Path(row.path).name for row in found.rows] == sorted(path.name for path in photos.iterdir())
    good = [row for row in found.rows if not row.error]
    answers = loaded.predict([row.path for row in good])
    probabilities = answers.probabilities(1.5)
    for row, expected in zip(good, probabilities, strict=True):
        assert row.label == loaded.classes[expected.argmax()]
        assert row.probability == pytest.approx(expected.max(), rel=1e-5)
        assert [name for name, _ in row.top] == [loaded.classes[i] for i in np.argsort(-expected)[:2]]
        assert row.unsure
    assert "7 photos: 5 unsure, 2 unreadable" in list(found.lines())[-1]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_tables_hold_every_photo_in_order(suffix: str, loaded: LoadedModel, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "new folder" / f"out{suffix}"
    found = predict(loaded, [photos], out=out, batch_size=2)
    assert found.rows == ()
    rows = read(out)
    names = sorted(path.name for path in photos.iterdir())
    assert [Path(row["path"]).name for row in rows] == names
    others = ["class_2", "probability_2", "class_3", "probability_3"]
    assert list(rows[0]) == ["path", "class", "probability", "unsure", "error", *others]
    by_name = {Path(row["path"]).name: row for row in rows}
    assert by_name["empty.png"]["error"] == "empty"
    assert not by_name["empty.png"]["class"]
    assert float(by_name["z.png"]["probability"]) > 0
    assert str(by_name["z.png"]["unsure"]).lower() == "true"
    assert os.listdir(out.parent) == [out.name]


def test_no_cell_of_a_csv_is_a_formula(
    loaded: LoadedModel, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    predict(loaded, ["=cmd().png"], out=tmp_path / "out.csv", top=4)
    (row,) = read(tmp_path / "out.csv")
    assert row["path"] == "'=cmd().png"
    assert "'=bee" in row.values()
    with (tmp_path / "out.csv").open() as file:
        assert not [cell for line in csv.reader(file) for cell in line if cell[:1] in ("=", "+", "-", "@", "\t")]


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\rx"])
def test_neutral(text: str) -> None:
    assert neutral(text) == f"'{text}"
    assert neutral(f"a{text}") == f"a{text}"
    assert neutral(-1.0) == -1.0


def test_nothing_half_written_appears(
    loaded: LoadedModel, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out" / "p.csv"
    predict(loaded, photos, out=out)
    before = out.read_bytes()

    def stop(event: dict) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(loaded, photos, out=out, batch_size=2, on_event=stop)
    assert out.read_bytes() == before
    assert os.listdir(out.parent) == ["p.csv"]


def test_two_names_that_look_alike_keep_their_own_rows(loaded: LoadedModel, photos: Path) -> None:
    again = predict(loaded, [photos / "z.png", photos / "a b.png", photos / "z.png"])
    assert len({row.path for row in again.rows}) == 3
    assert again.rows[0].probability == again.rows[2].probability != again.rows[1].probability


def test_refusals(loaded: LoadedModel, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(RegardError, match=r"unknown suffix '\.xlsx'.*\.csv, \.jsonl, \.parquet"):
        predict(loaded, photos, out=tmp_path / "p.xlsx")
    with pytest.raises(RegardError, match="top=0"):
        predict(loaded, photos, top=0)
    with pytest.raises(RegardError, match="nowhere"):
        predict(loaded, tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(RegardError, match="cannot be written"):
        predict(loaded, photos, out=tmp_path / "file" / "p.csv")
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(RegardError, match="is a folder"):
        predict(loaded, photos, out=tmp_path / "dir.csv")


def test_a_parquet_file_grows_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regard.verbs.tables.ROWS_AT_ONCE", 3)
    with table_writer(tmp_path / "t.parquet", {"path": str, "p": float, "u": bool}) as write:
        for number in range(8):
            write({"path": f"\udcff{number}", "p": None if number else 0.5, "u": True})
    table = pq.ParquetFile(tmp_path / "t.parquet")
    assert table.metadata.num_row_groups == 3
    assert table.metadata.num_rows == 8


def test_a_name_that_is_no_utf8_is_written(loaded: LoadedModel, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    path = folder + b"/\xff\xfe.png"
    with open(path, "wb") as file:
        Image.new("RGB", (32, 32)).save(file, "PNG")
    for suffix in (".csv", ".jsonl", ".parquet"):
        found = predict(loaded, os.fsdecode(folder), out=tmp_path / f"o{suffix}")
        assert (found.photos, found.errors) == (1, 0)
        assert len(read(tmp_path / f"o{suffix}")) == 1
    assert module.columns(1) == {
        "path": str,
        "class": str,
        "probability": float,
        "unsure": bool,
        "error": str,
    }
