"""`Run`: one trained model in a folder.

config.yaml           what was run, resolved: model, data, preprocessing, recipe, measured choices
split.csv             which image was used for what (id, class, split)
contents.csv          what each image was, byte for byte (id, BLAKE2b)
classes.json          class names in the order of the logits
metrics.jsonl         one row per evaluation
model.safetensors     the best weights by the validation metric
config.json           timm's, for `timm.create_model("local-dir:RUN", pretrained=True)`
last/ last.previous/  full states to resume from, two generations
predictions.parquet   id, split, label (a list of several labels or numbers), seed, fraction, logits: every figure
                      can be recomputed without a model
environment.json      versions and machine
snapshots/            weights at moments of the training, STEP.safetensors
track/                what a tracker draws
not-finite.safetensors   the batch at which training stopped because a loss or gradient was not finite
trials.json           learning rates that were tried before the run, with what each scored on validation
unknown.json          with unknown.safetensors: how unknown photos are told from known ones, where some were given
masks.csv             of a segmenter: each held-out object, and how well it was found before and after
result.json           cost, temperature, thresholds; written last: its presence means "finished"
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
    "contents.csv",
    "classes.json",
    "metrics.jsonl",
    "model.safetensors",
    "config.json",
    "predictions.parquet",
    "environment.json",
    "trials.json",
    "not-finite.safetensors",
    "unknown.safetensors",
    "unknown.json",
    "masks.csv",
    "result.json",
    "report.html",
)
FIRST_FILES = (  # what may be there before config.yaml
    "split.csv",
    "contents.csv",
    "classes.json",
    "metrics.jsonl",
    "config.json",
    "environment.json",
    "trials.json",
)
STATES = ("last", "last.previous")
FOLDERS = (*STATES, "snapshots", "track")


class _Entries(dict[str, Any]):
    """What a file of a run holds; asking for an entry that it lacks is a user's error, not ours."""

    def __init__(self, path: Path, values: Mapping[str, Any]):
        super().__init__(values)
        self.path = path

    def __missing__(self, name: str) -> Any:
        raise RegardError(f"{self.path}: has no entry {name!r}; restore the file or train anew")


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
        if held and not any(run.folder / name in held for name in ("config.yaml", "trials.json", *STATES)):
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
        """The run to continue: the one in `folder`, also one that was killed on the way to its config.yaml, or a
        new one.
        """
        run = cls(folder)
        held = (
            {path.name for path in {*run.folder.glob("*")} - {*leftovers(run.folder)}} if run.folder.is_dir() else set()
        )
        if "config.yaml" in held or (held and held <= {*FIRST_FILES}):
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
    def contents_path(self) -> Path:
        """contents.csv, which `regard.data.contents` writes and reads."""
        return self.folder / "contents.csv"

    @property
    def weights_path(self) -> Path:
        """model.safetensors."""
        return self.folder / "model.safetensors"

    def snapshot_path(self, step: int) -> Path:
        """Where the weights after `step` are kept."""
        return self.folder / "snapshots" / f"{step:08d}.safetensors"

    @property
    def bad_batch_path(self) -> Path:
        """Where a batch is kept whose loss or gradient was not finite."""
        return self.folder / "not-finite.safetensors"

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
        names = self._read("classes.json", json.loads, list)
        if not all(isinstance(name, str) for name in names):
            raise RegardError(f"{self.folder / 'classes.json'}: damaged (a list of names was expected); restore it")
        return tuple(names)

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

        def column(labels: np.ndarray) -> pa.Array:
            return pa.array(labels, pa.int64()) if labels.ndim == 1 else pa.array(list(labels), pa.list_(pa.float32()))

        tables = [
            pa.table(
                {
                    "id": pa.array(list(predictions.ids), pa.string()),
                    "split": pa.array([name] * len(predictions), pa.string()),
                    "label": column(predictions.labels),
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
        classes, problem = self.classes, self.config.get("problem", "single_label")

        def matrix(column: str) -> np.ndarray:
            values = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            return values.astype(np.float32).reshape(len(table), len(classes))

        return Predictions(
            ids=tuple(table["id"].to_pylist()),
            logits=matrix("logits"),
            labels=table["label"].to_numpy().astype(np.int64) if problem == "single_label" else matrix("label"),
            classes=classes,
            problem=problem,
        )

    # Result

    def write_result(self, result: Mapping[str, Any], cost: Cost) -> None:
        """Write result.json, which marks the run as finished: call it last."""
        self._write("result.json", json.dumps({**result, "cost": asdict(cost)}, indent=2))

    @property
    def cost(self) -> Cost:
        """What the model costs."""
        return _cost(self._result()["cost"], self.folder)

    @property
    def facts(self) -> dict[str, Any]:
        """result.json: what `result()` reads, and what the method of training adds."""
        return self._result()

    def _result(self) -> dict[str, Any]:
        if not self.finished:
            raise RegardError(f"{self.folder}: the run is not finished (no result.json); continue it with --resume")
        return self._read("result.json", json.loads)

    def result(self) -> RunResult:
        """Everything that comparison and report read."""
        try:
            return self._as_result(self._result())
        except (TypeError, ValueError, AttributeError) as error:
            path = self.folder / "result.json"
            raise RegardError(f"{path}: damaged ({_first_line(error)}); restore it or train anew") from None

    def _as_result(self, result: Mapping[str, Any]) -> RunResult:
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
            fold=result.get("fold"),
            thresholds=tuple(result.get("thresholds", ())),
        )

    # Files

    def _read(self, name: str, parse: Any, kind: type = dict) -> Any:
        path = self.folder / name
        try:
            value = parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RegardError(f"{path}: missing; the run is incomplete: continue it with --resume") from None
        except (OSError, ValueError, TypeError, RecursionError, OverflowError, yaml.YAMLError) as error:
            raise RegardError(f"{path}: damaged ({_first_line(error)}); restore it or train anew") from None
        if not isinstance(value, kind):
            found = f"a {type(value).__name__} where a {kind.__name__} was expected"
            raise RegardError(f"{path}: damaged ({found}); restore it or train anew")
        return _Entries(path, value) if kind is dict else value

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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
