"""`Run`: one trained model in a folder.

config.yaml           what was run, resolved: model, data, preprocessing, recipe, measured choices
split.csv             which image was used for what (id, class, split)
classes.json          class names in the order of the logits
metrics.jsonl         one row per evaluation
model.safetensors     the best weights by the validation metric
config.json           timm's, for `timm.create_model("local-dir:RUN", pretrained=True)`
last/ last.previous/  full states to resume from, two generations
predictions.parquet   id, split, label, seed, fraction, logits: every figure can be recomputed without a model
environment.json      versions and machine
result.json           cost, temperature, threshold; written last: its presence means "finished"
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from regard.errors import RegardError
from regard.results import Cost, Predictions, RunResult
from regard.runs.atomic import leftovers, remove_leftovers, write_atomic

FILES = (
    "config.yaml",
    "split.csv",
    "classes.json",
    "metrics.jsonl",
    "model.safetensors",
    "config.json",
    "predictions.parquet",
    "environment.json",
    "result.json",
    "report.html",
)
FOLDERS = ("last", "last.previous")


class Run:
    """Reader and writer of a run folder. Make one with `Run.create` or `Run.open`."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @classmethod
    def create(cls, folder: str | Path, overwrite: bool = False) -> Run:
        """A new run folder. An existing one with anything in it is refused, unless `overwrite` empties it.

        Overwriting deletes only files that a run consists of, and only where the folder holds a run.
        """
        run = cls(folder)
        if run.folder.exists() and not run.folder.is_dir():
            raise RegardError(f"{run.folder}: is a file; expected a folder for the run: choose another --out")
        held = sorted({*run.folder.glob("*")} - {*leftovers(run.folder)}) if run.folder.exists() else []
        if held and not overwrite:
            raise RegardError(
                f"{run.folder}: already exists and holds {held[0].name!r}; use --resume to continue it, "
                "--overwrite to start anew, or another --out"
            )
        if held and not any(run.folder / name in held for name in ("config.yaml", *FOLDERS)):
            raise RegardError(
                f"{run.folder}: holds {held[0].name!r} but no config.yaml, so it is no run and stays; "
                "choose another --out"
            )
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            run._clear()
        except OSError as error:
            raise RegardError(
                f"{run.folder}: cannot be made or emptied ({error.strerror}); choose another --out"
            ) from None
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """An existing run, finished or not."""
        run = cls(folder)
        if not (run.folder / "config.yaml").is_file():
            raise RegardError(f"{run.folder}: no run here (config.yaml is missing); expected what `regard train` made")
        return run

    @classmethod
    def resume(cls, folder: str | Path) -> Run:
        """The run to continue: the one in `folder`, or a new one where a run was killed before it wrote
        anything.
        """
        run = cls(folder)
        if (run.folder / "config.yaml").is_file():
            remove_leftovers(run.folder)
            return run
        return cls.create(folder)

    def _clear(self) -> None:
        remove_leftovers(self.folder)
        # result.json first: what is half deleted must not look finished.
        for name in reversed(FILES):
            (self.folder / name).unlink(missing_ok=True)
        for name in FOLDERS:
            if (self.folder / name).is_dir():
                shutil.rmtree(self.folder / name)

    # Paths

    @property
    def split_path(self) -> Path:
        """split.csv, which `regard.data.splits` writes and reads."""
        return self.folder / "split.csv"

    @property
    def weights_path(self) -> Path:
        """model.safetensors."""
        return self.folder / "model.safetensors"

    @property
    def finished(self) -> bool:
        """True once everything is written."""
        return (self.folder / "result.json").is_file()

    # Configuration

    @property
    def config(self) -> dict[str, Any]:
        """config.yaml as nested dictionaries."""
        return self._read("config.yaml", yaml.safe_load)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml: plain numbers, words, lists and dictionaries only."""
        self._write("config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return tuple(self._read("classes.json", json.loads))

    def write_classes(self, classes: tuple[str, ...]) -> None:
        """Write classes.json."""
        self._write("classes.json", json.dumps(list(classes), ensure_ascii=False, indent=1))

    @property
    def preprocess(self) -> dict[str, Any]:
        """The preprocessing in timm's words, for `Preprocess.from_config`."""
        return self.config["preprocess"]

    @property
    def timm_config(self) -> dict[str, Any]:
        """config.json."""
        return self._read("config.json", json.loads)

    def write_timm_config(self, config: Mapping[str, Any]) -> None:
        """Write config.json, by which timm rebuilds the model."""
        self._write("config.json", json.dumps(config, ensure_ascii=False, indent=2))

    @property
    def environment(self) -> dict[str, Any]:
        """environment.json."""
        return self._read("environment.json", json.loads)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write environment.json."""
        self._write("environment.json", json.dumps(environment, indent=2))

    # Metrics

    def metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl; a last line that a killed writer left incomplete is ignored."""
        path = self.folder / "metrics.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        line = json.dumps(row) + "\n"
        try:
            with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise self._refused("metrics.jsonl", error) from None

    def truncate_metrics(self, step: int) -> None:
        """Forget rows after `step`: the resumed run writes them again."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        self._write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    # Predictions

    def write_predictions(self, splits: Mapping[str, Predictions], seed: int, fraction: float) -> None:
        """Write predictions.parquet from {"val": ..., "test": ...}."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = [
            pa.table(
                {
                    "id": pa.array(list(predictions.ids), pa.string()),
                    "split": pa.array([name] * len(predictions), pa.string()),
                    "label": pa.array(predictions.labels, pa.int64()),
                    "seed": pa.array([seed] * len(predictions), pa.int64()),
                    "fraction": pa.array([fraction] * len(predictions), pa.float64()),
                    "logits": pa.array(list(predictions.logits.astype(np.float32)), pa.list_(pa.float32())),
                }
            )
            for name, predictions in splits.items()
        ]
        buffer = io.BytesIO()
        pq.write_table(pa.concat_tables(tables), buffer)
        self._write("predictions.parquet", buffer.getvalue())

    def predictions(self, split: str) -> Predictions:
        """What the model said about the images of `split` ("val" or "test"); none of them gives zero rows."""
        import pyarrow.parquet as pq

        path = self.folder / "predictions.parquet"
        if not path.is_file():
            raise RegardError(f"{path}: missing, the run is not finished; continue it with --resume")
        table = pq.read_table(path, filters=[("split", "=", split)])
        classes = self.classes
        logits = table["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return Predictions(
            ids=tuple(table["id"].to_pylist()),
            logits=logits.astype(np.float32).reshape(len(table), len(classes)),
            labels=table["label"].to_numpy().astype(np.int64),
            classes=classes,
        )

    # Result

    def write_result(self, result: Mapping[str, Any], cost: Cost) -> None:
        """Write result.json, which marks the run as finished: call it last."""
        self._write("result.json", json.dumps({**result, "cost": asdict(cost)}, indent=2))

    @property
    def cost(self) -> Cost:
        """What the model costs."""
        return _cost(self._result()["cost"], self.folder)

    def _result(self) -> dict[str, Any]:
        if not self.finished:
            raise RegardError(f"{self.folder}: the run is not finished (no result.json); continue it with --resume")
        return self._read("result.json", json.loads)

    def result(self) -> RunResult:
        """Everything that comparison and report read."""
        result = self._result()
        return RunResult(
            model=result["model"],
            method=result["method"],
            seed=result["seed"],
            fraction=result["fraction"],
            train_images=result["train_images"],
            images_seen=result["images_seen"],
            val=self.predictions("val"),
            test=self.predictions("test"),
            temperature=result["temperature"],
            unsure_below=result["unsure_below"],
            cost=_cost(result["cost"], self.folder),
            pretraining=result["pretraining"],
            curve=tuple(self.metrics()),
            recipe=self.config,
            folder=str(self.folder),
            deterministic=result["deterministic"],
        )

    # Files

    def _read(self, name: str, parse: Any) -> Any:
        path = self.folder / name
        try:
            return parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RegardError(f"{path}: missing; the run is incomplete: continue it with --resume") from None
        except (ValueError, yaml.YAMLError) as error:
            raise RegardError(f"{path}: damaged ({str(error).splitlines()[0]}); restore it or train anew") from None

    def _write(self, name: str, data: bytes | str) -> None:
        try:
            write_atomic(self.folder / name, data)
        except OSError as error:
            raise self._refused(name, error) from None

    def _refused(self, name: str, error: OSError) -> RegardError:
        reason = error.strerror or os.strerror(error.errno or 0)
        return RegardError(
            f"{self.folder / name}: cannot be written ({reason}); nothing is half-written: make room, then use --resume"
        )


def _cost(values: dict[str, Any], folder: Path) -> Cost:
    known = {field.name for field in fields(Cost)}
    if unknown := sorted(set(values) - known):
        raise RegardError(
            f"{folder / 'result.json'}: unknown cost {unknown[0]!r}; written by a newer version of regard?"
        )
    return Cost(**values)
