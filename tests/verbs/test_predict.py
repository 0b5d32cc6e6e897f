from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from regard.cli.show import plain
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel, fresh_model
from regard.verbs import predict as module
from regard.verbs.predict import predict
from regard.verbs.tables import neutral, table_writer
from regard.weights import save_state


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
    *_, counts, speed = found.lines()
    assert counts == "7 photos: 5 unsure, 2 unreadable"
    assert "images/s with torch fp32" in speed


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_tables_hold_every_photo_in_order(suffix: str, loaded: LoadedModel, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "new folder" / f"out{suffix}"
    found = predict(loaded, [photos], out=out, batch_size=2)
    assert found.rows == ()
    rows = read(out)
    names = sorted(path.name for path in photos.iterdir())
    assert [Path(row["path"]).name for row in rows] == names
    others = ["class_2", "probability_2", "class_3", "probability_3", "bytes", "modified"]
    assert list(rows[0]) == ["path", "class", "probability", "unsure", "error", *others]
    by_name = {Path(row["path"]).name: row for row in rows}
    assert by_name["empty.png"]["error"] == "empty"
    assert not by_name["empty.png"]["class"]
    assert float(by_name["z.png"]["probability"]) > 0
    assert str(by_name["z.png"]["unsure"]).lower() == "true"
    status = (photos / "z.png").stat()
    assert int(by_name["z.png"]["bytes"]) == status.st_size
    modified = datetime.fromisoformat(by_name["z.png"]["modified"])
    assert modified.tzinfo is not None
    assert modified.timestamp() == pytest.approx(status.st_mtime, abs=1e-5)
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


def test_a_model_without_a_threshold_does_not_say_that_it_is_sure(loaded: LoadedModel, photos: Path) -> None:
    found = predict(replace(loaded, unsure_below=0.0), photos)
    assert found.unsure is None and {row.unsure for row in found.rows} == {None}
    assert "7 photos: 2 unreadable" in found.lines()


# several labels, numbers, unknown photos


def test_several_labels(loaded: LoadedModel, photos: Path, tmp_path: Path) -> None:
    thresholds = (0.0, 1.0, 0.5, 0.0)
    several = replace(loaded, problem="multi_label", thresholds=thresholds, temperature=2.0, unsure_below=0.0)
    found = predict(several, photos, out=tmp_path / "p.parquet")
    assert found.unsure is None
    counts, *_ = found.lines()
    assert counts.startswith("7 photos in") and "unsure" not in counts
    rows = read(tmp_path / "p.parquet")
    names = [f"probability_{name}" for name in loaded.classes]
    assert list(rows[0]) == ["path", "labels", "error", *names, "bytes", "modified"]
    good = [row for row in rows if not row["error"]]
    answers = several.predict([row["path"] for row in good])
    np.testing.assert_allclose([[row[name] for name in names] for row in good], answers.probabilities(2.0), rtol=1e-5)
    for row in good:
        given = ["=bee", *(["dog"] if row["probability_dog"] >= 0.5 else []), "elk"]
        assert row["labels"] == "|".join(given)
    assert [row["labels"] for row in rows if row["error"]] == [None, None]
    *lines, _, _ = predict(several, photos).lines()
    assert all("=bee " in line or "error" in line for line in lines)
    nothing = predict(replace(several, thresholds=(1.0,) * 4), photos / "z.png")
    assert next(nothing.lines()).endswith("  no label")


def test_numbers(loaded: LoadedModel, photos: Path, tmp_path: Path) -> None:
    numbers = replace(loaded, problem="regression", classes=("price", "age", "bytes", "x0"))
    predict(numbers, photos, out=tmp_path / "p.csv")
    rows = read(tmp_path / "p.csv")
    names = ["price", "age", "predicted_bytes", "x0"]
    assert list(rows[0]) == ["path", *names, "error", "bytes", "modified"]
    good = [row for row in rows if not row["error"]]
    expected = numbers.predict([row["path"] for row in good]).logits
    np.testing.assert_allclose([[float(row[name]) for name in names] for row in good], expected, rtol=1e-4)
    assert "  price " in next(predict(numbers, photos / "z.png").lines())


def test_unknown_photos(loaded: LoadedModel, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Norm:
        threshold = 0.0

        def score(self, pooled: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
            seen.append((pooled, probabilities))
            return np.where(probabilities.argmax(axis=1) == probabilities[0].argmax(), 1.0, -1.0)

    monkeypatch.setattr(module, "_unknown_of", lambda model: Norm())
    found = predict(loaded, photos)
    good = [row for row in found.rows if not row.error]
    ((pooled, probabilities),) = seen
    np.testing.assert_allclose(pooled, loaded.embed([row.path for row in good]), atol=1e-5)
    assert [row.unknown for row in good] == [row.label != good[0].label for row in good]
    assert [row.unknown for row in found.rows if row.error] == [None, None]
    assert found.unknown == sum(bool(row.unknown) for row in good)
    assert f"{found.unknown} unknown" in list(found.lines())[-2]
    assert probabilities.sum(axis=1) == pytest.approx(1)


def test_a_number_that_is_not_finite_is_an_error(loaded: LoadedModel, photos: Path) -> None:
    broken = replace(loaded, model=nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)))
    with torch.no_grad():
        broken.model[1].bias[2] = torch.nan  # type: ignore[index,operator]  # a Linear's
    (row,) = predict(broken, photos / "z.png").rows
    assert (row.error, row.label) == ("not-finite", None)


# a folder of parts


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regard.verbs.parts.ROWS", 3)
    monkeypatch.setattr(module, "ROWS", 3)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("small_parts")
def test_a_folder_holds_the_rows_of_a_file(loaded: LoadedModel, photos: Path, tmp_path: Path) -> None:
    predict(loaded, photos, out=tmp_path / "one.parquet", precision="fp32")
    found = predict(loaded, photos, out=tmp_path / "many", precision="fp32")
    assert sorted(contents(tmp_path / "many")) == ["manifest.json", *(f"part-0000{part}.parquet" for part in range(3))]
    parts = pq.read_table(sorted((tmp_path / "many").glob("part*"))).to_pylist()
    rounded = ("probability", "probability_2", "probability_3")  # other photos were in the same pass
    for row, expected in zip(parts, read(tmp_path / "one.parquet"), strict=True):
        for name in rounded:
            assert (row.pop(name) or 0) == pytest.approx(expected.pop(name) or 0, rel=1e-5)
        assert row == expected
    assert (found.photos, found.errors, found.unsure, found.continued) == (7, 2, 5, 0)
    json.dumps(plain(found))


@pytest.mark.usefixtures("small_parts")
def test_the_same_command_continues(loaded: LoadedModel, photos: Path, tmp_path: Path) -> None:
    def give_up(event: dict) -> None:
        if event.get("done", 0) >= 5:
            raise KeyboardInterrupt

    predict(loaded, photos, out=tmp_path / "whole", batch_size=1)
    whole = contents(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        predict(loaded, photos, out=tmp_path / "out", batch_size=1, on_event=give_up)
    assert "part-00000.parquet" in contents(tmp_path / "out")
    assert "part-00001.parquet" not in contents(tmp_path / "out")
    events: list[dict] = []
    found = predict(loaded, photos, out=tmp_path / "out", batch_size=1, on_event=events.append)
    assert found.continued == 3
    assert (found.errors, found.unsure) == (2, 5)
    assert "3 photos were answered before" in list(found.lines())[-1]
    assert contents(tmp_path / "out") == whole
    assert events[-1] == {"event": "progress", "title": "predicting", "done": 7, "total": 7}
    again = predict(loaded, photos, out=tmp_path / "out", batch_size=1)
    assert list(again.lines())[-1] == "nothing was left to do; 7 photos were answered before"
    assert contents(tmp_path / "out") == whole


@pytest.mark.usefixtures("small_parts")
def test_another_model_or_other_photos_are_refused_by_name(loaded: LoadedModel, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(loaded, photos, out=out)
    before = contents(out)
    (photos / "new.png").write_bytes(b"")
    with pytest.raises(RegardError, match=r"out: was begun otherwise \(photos was 7, is 8; photos_sha256 was"):
        predict(loaded, photos, out=out)
    (photos / "new.png").unlink()
    other = fresh_model("vit_nano_patch4_32", loaded.classes)
    with pytest.raises(RegardError, match=r"\(model_sha256 was"):
        predict(other, photos, out=out)
    with pytest.raises(RegardError, match=r"\(model_sha256 was"):
        predict(replace(loaded, temperature=3.0), photos, out=out)
    with pytest.raises(RegardError, match=r"\(precision was auto, is bf16\)"):
        predict(loaded, photos, out=out, precision="bf16")
    assert contents(out) == before
    (out / "part-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(RegardError, match=r"part-00001\.parquet: damaged.*delete it"):
        predict(loaded, photos, out=out)
    (out / "part-00001.parquet").unlink()
    predict(loaded, photos, out=out)
    assert contents(out) == before
    (out / "manifest.json").write_text("{")
    with pytest.raises(RegardError, match=r"manifest\.json: damaged"):
        predict(loaded, photos, out=out)
    with pytest.raises(RegardError, match=r"holds '=cmd\(\)\.png' but no manifest\.json"):
        predict(loaded, photos, out=photos)


def test_what_workers_need(loaded: LoadedModel, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(RegardError, match=r"workers=2: they share the parts of a folder"):
        predict("vit_nano_patch4_32", photos, out=tmp_path / "p.csv", workers=2)
    with pytest.raises(RegardError, match=r"workers=2: each loads the model by its name"):
        predict(loaded, photos, out=tmp_path / "p", workers=2)
    with pytest.raises(RegardError, match=r"workers=0"):
        predict(loaded, photos, workers=0)


@pytest.mark.long
def test_three_workers_write_the_bytes_of_one(loaded: LoadedModel, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3000):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    weights = tmp_path / "nano.safetensors"
    save_state(weights, loaded.model.state_dict(), {"architecture": "vit_nano_patch4_32"})
    seen = []
    for workers in (1, 3):
        found = predict(
            "vit_nano_patch4_32",
            folder,
            out=f"{tmp_path}/{workers}/",
            weights=weights,
            precision="fp32",
            workers=workers,
            on_event=seen.append,
        )
        assert found.photos == 3000
    assert not [event for event in seen if event["event"] == "warning"]
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
