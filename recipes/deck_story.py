"""The decks' story on CIFAR-10: from convolutions to attention to patches, every step trained and set side by side.

    python recipes/deck_story.py ../shared/data/cifar10.tar.gz --out runs/story [--images-seen 10000] [--seeds 1]
        [--at-most 120] [--resume]

DATA is a folder of images by class, or an archive of one, which is unpacked to OUT/data. Every model is the member of
its family that is registered for small images; it is trained from scratch on the same split and on as many images by
its family's recipe (`regard compare`), DeiT once alone and once taught by the residual network (`regard distil`).
Networks of 56 layers, plain and residual, stand beside those of 20: the first deck says that without shortcuts depth
costs accuracy on the training images too.

The minutes expected are printed before anything is trained (decoding, the check of the images and the answers to the
test images are not in them). Where they exceed --at-most, the transformer on all 1,024 pixels gives way to the one on
images of 16 x 16, and the table says so. Interrupted, it goes on with --resume: finished runs are not repeated.

Writes OUT/compare (runs, report.html), OUT/deit (the same of the distillation) and the table that it prints,
OUT/compare/story.md: V1 attention in a CNN, V2 local attention, V3 pixels, V4 patches.
"""

from __future__ import annotations

import argparse
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import regard
from regard.comparison.classical import METHOD, NAMES
from regard.comparison.estimate import Estimate
from regard.comparison.plan import FILE, Condition, Plan, read_arguments
from regard.comparison.students import Estimate as DistilEstimate
from regard.data.sources import open_images
from regard.data.splits import read_split
from regard.evaluation.intervals import Metric
from regard.evaluation.statistics import mean_score, sentence
from regard.inference.loaded import fresh_model
from regard.models import model_spec
from regard.models.counting import cost_shares
from regard.results import RunResult
from regard.training.trainee import predict_set
from regard.verbs.compare import Answer
from regard.verbs.distil import Distilled

STUDENT, TEACHER = "deit_nano_distilled_patch4_32", "resnet20_32"
STORY = (  # in the order in which the decks tell it
    ("CNN", "vgg_nano_32"),
    ("CNN", "googlenet_nano_32"),
    ("CNN", "plain20_32"),
    ("CNN", "plain56_32"),
    ("CNN", "resnet20_32"),
    ("CNN", "resnet56_32"),
    ("V1", "resnet20_nl_32"),
    ("V1", "botnet20_32"),
    ("V2", "lrnet20_32"),
    ("V2", "local_resnet20_32"),
    ("V3", "pixel_transformer_32"),
    ("V4", "vit_nano_patch4_32"),
    ("V4", STUDENT),
    ("V4", "t2t_vit_nano_32"),
    ("V4", "vit_nano_r8_s4_32"),
    ("V4", "swin_nano_patch2_window4_32"),
)
CHEAPER = {"pixel_transformer_32": "pixel_transformer_16", "pixel_transformer_16": "pixel_transformer_8"}
TITLES = {
    "CNN": "convolutional networks",
    "V1": "attention in a CNN",
    "V2": "local attention in place of convolution",
    "V3": "a transformer on pixels",
    "V4": "transformers on patches",
}
KINDS = ("convolution", "attention", "mlp", "embedding")
TRAIN_PHOTOS = 5000  # of which the training error is measured, spread evenly over the training images


class Line(NamedTuple):
    """One line of the table: a network and its runs, one of each seed."""

    version: str
    name: str
    runs: tuple[RunResult, ...]

    @property
    def top1(self) -> Metric:
        """The mean over seeds on the test images, with its interval."""
        return mean_score(np.stack([run.test.correct for run in self.runs]))

    def cells(self) -> tuple[str, ...]:
        """As the table shows them."""
        cost = self.runs[0].cost
        shares = ["-"] * len(KINDS)
        if cost.gmacs is not None:
            found = shares_of(self.runs[0])
            shares = [f"{100 * found[kind]:.0f}%" for kind in KINDS]
        return (
            self.version,
            self.name,
            f"{cost.parameters:,}",
            "-" if cost.gmacs is None else f"{cost.gmacs:.3f}",
            *shares,
            mean_of([run.cost.train_seconds for run in self.runs]),
            mean_of([run.cost.images_per_second for run in self.runs]),
            mean_of([run.cost.peak_memory_mb for run in self.runs]),
            percent(self.top1),
        )


def shares_of(run: RunResult) -> dict[str, float]:
    """Kind of layer -> its share of the multiply-adds, of the network that was trained."""
    size = run.recipe["img_size"]
    model = regard.create_model(run.recipe["model"], run.recipe["num_classes"], size)
    return cost_shares(model, size).macs


def mean_of(values: Sequence[float | None]) -> str:
    """Their mean, `-` where one was not measured."""
    known = [value for value in values if value is not None]
    return f"{np.mean(known):,.0f}" if len(known) == len(values) else "-"


def percent(figure: Metric) -> str:
    """`35.2% (34.3 to 36.1)`."""
    if figure.low is None or figure.high is None:
        return f"{100 * figure.value:.1f}%"
    return f"{100 * figure.value:.1f}% ({100 * figure.low:.1f} to {100 * figure.high:.1f})"


def say(event: dict[str, Any]) -> None:
    """Notes and warnings on the terminal."""
    if event["event"] in ("note", "warning"):
        print(event["text"], flush=True)


def unpacked(data: Path, out: Path) -> Path:
    """The folder of images; of an archive the one in it, which is unpacked whole or not at all."""
    if data.is_dir():
        return data
    if not data.is_file() or not tarfile.is_tarfile(data):
        raise SystemExit(f"{data}: expected a folder of images by class, or a tar archive of one")
    place = out / "data"
    if not place.is_dir():
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out) as folder, tarfile.open(data) as archive:
            archive.extractall(Path(folder) / "data", filter="data")
            (Path(folder) / "data").rename(place)
    held = list(place.iterdir())
    return held[0] if len(held) == 1 and held[0].is_dir() else place


def expected(data: Path, models: tuple[str, ...], out: Path, images_seen: int, seeds: int) -> tuple[float, list[str]]:
    """(minutes of all runs by a few measured steps, what to say of them)."""
    shared: dict[str, Any] = {"seeds": seeds, "images_seen": images_seen, "dry_run": True}
    runs = regard.compare(data, models=models, methods=("scratch",), out=out / "compare", **shared)
    teacher = fresh_model(TEACHER, open_images(data).classes)
    taught = regard.distil(
        data, teacher=teacher, student=STUDENT, method="scratch", alone="images", out=out / "deit", **shared
    )
    assert isinstance(runs, Estimate) and isinstance(taught, DistilEstimate)
    return runs.minutes + taught.minutes, [f"expected: {runs}", f"expected for {STUDENT}: {taught}"]


def affordable(
    data: Path, models: tuple[str, ...], out: Path, images_seen: int, seeds: int, at_most: float
) -> tuple[str, ...]:
    """The models, the pixel transformer in a smaller size where all would take longer than `at_most` minutes."""
    minutes, lines = expected(data, models, out, images_seen, seeds)
    if minutes > at_most and any(name in CHEAPER for name in models):
        print(f"with {', '.join(name for name in models if name in CHEAPER)}: about {minutes:.0f} min")
        models = tuple(CHEAPER.get(name, name) for name in models)
        minutes, lines = expected(data, models, out, images_seen, seeds)
    print(*lines, f"about {minutes:.0f} min in all, {at_most:g} allowed", sep="\n", flush=True)
    if minutes > at_most:
        print("that is more than allowed: fewer --images-seen or --seeds would fit")
    return models


def training_error(data: Path, runs: Sequence[RunResult]) -> Metric:
    """The mean over seeds of the share of training images that are answered wrongly, unaugmented."""
    images = open_images(data)
    wrong = []
    for run in runs:
        rows = read_split(Path(run.folder) / "split.csv", images).train
        rows = rows[np.linspace(0, len(rows) - 1, min(TRAIN_PHOTOS, len(rows))).astype(int)]
        wrong.append(~predict_set(regard.load_model(run.folder), images, rows).correct)
    return mean_score(np.stack(wrong))


def results(folder: Path, model: str, method: Any, seeds: int) -> tuple[RunResult, ...]:
    """The runs of a comparison in `folder`, by seed."""
    places = (folder / "runs" / Condition(model, method, seed, 1.0).folder for seed in range(seeds))
    return tuple(regard.Run.open(place).result() for place in places)


def lines_of(story: Sequence[tuple[str, str]], models: tuple[str, ...], out: Path, seeds: int) -> Iterator[Line]:
    """The table's lines in the order of the story; `models` are those that the comparison in OUT has trained."""
    trained = iter(models)
    reference = NAMES["single_label"]
    yield Line("-", f"{reference}, no network", results(out / "compare", reference, METHOD, seeds))
    for version, name in story:
        if name != STUDENT:
            model = next(trained)
            yield Line(version, model, results(out / "compare", model, "scratch", seeds))
            continue
        for role, words in (("alone-images", "alone"), ("student", f"taught by {TEACHER}")):
            found = tuple(regard.Run.open(place).result() for place in sorted((out / "deit").glob(f"{role}*")))
            yield Line(version, f"{name}, {words}", found)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def depth_lines(data: Path, lines: Sequence[Line]) -> Iterator[str]:
    """The first deck's claim: training and test error of plain and residual networks by depth."""
    rows = []
    for line in lines:
        kind = next((kind for kind in ("plain", "resnet") if line.name.removeprefix(kind)[:2].isdigit()), None)
        if kind is not None and "_nl" not in line.name:
            depth = line.name.removeprefix(kind).partition("_")[0]
            wrong = mean_score(np.stack([~run.test.correct for run in line.runs]))
            words = "plain" if kind == "plain" else "residual"
            rows.append((depth, words, percent(training_error(data, line.runs)), percent(wrong)))
    rows.sort(key=lambda row: int(row[0]))
    yield from table(("layers", "network", "training error", "test error"), rows)


def written(
    data: Path, lines: Sequence[Line], swapped: dict[str, str], answer: Answer, taught: Distilled, images_seen: int
) -> str:
    """The whole story in Markdown."""
    seeds, photos = len(lines[0].runs), len(lines[0].runs[0].test)
    runs = f"{seeds} seed{'' if seeds == 1 else 's'}"
    tested = (*answer.verdicts, *taught.verdicts) if seeds > 1 else ()  # one seed never yields a verdict
    head = ("", "model", "parameters", "GMACs", *KINDS, "training s", "images/s", "peak MB", "top1")
    steps = (f"{version}: {words}" for version, words in TITLES.items())
    text = [
        f"# {data.name}: {images_seen:,} images seen, {runs}, {photos:,} test photos",
        "",
        *table(head, [line.cells() for line in lines]),
        "",
        f"{'; '.join(steps)}. The shares are of the multiply-adds; the rest is norms and heads. Training: seconds with "
        "evaluations, the teacher's answers among those of its student. images/s: inference in batches of 32. Peak: "
        "resident set of the process. top1: 95% intervals over photos, and over seeds where there are several.",
        *(
            f"{new} sees images of {model_spec(new).img_size} pixels a side, in place of {old}, with which all would "
            "have taken longer than was allowed."
            for old, new in swapped.items()
        ),
        "",
        "## Plain and residual",
        "",
        *depth_lines(data, lines),
        "",
        "## Verdicts",
        "",
        f"- {answer.sentence}",
        f"- {taught.sentence}",
        *(f"- {sentence(one)}" for one in tested),
        "",
    ]
    return "\n".join(text)


def main(
    data: Path,
    out: Path,
    images_seen: int = 10_000,
    seeds: int = 1,
    resume: bool = False,
    at_most: float = 120.0,
    story: Sequence[tuple[str, str]] = STORY,
) -> Path:
    """Train what is missing, print the story; returns the file that holds it."""
    data = unpacked(data, out)
    folder = out / "compare"
    asked = tuple(name for _, name in story if name != STUDENT)
    if resume and (folder / FILE).is_file():
        models = tuple(read_arguments(folder / FILE)["models"])
    else:
        models = affordable(data, asked, out, images_seen, seeds, at_most)
    shared: dict[str, Any] = {"seeds": seeds, "images_seen": images_seen, "resume": resume, "on_event": say}
    answer = regard.compare(data, models=models, methods=("scratch",), out=folder, **shared)
    taught = regard.distil(
        data,
        teacher=str(folder / "runs" / Condition(TEACHER, "scratch", 0, 1.0).folder),
        student=STUDENT,
        method="scratch",
        alone="images",
        precision=Plan.measured_precision(folder),  # type: ignore[arg-type]
        out=out / "deit",
        **shared,
    )
    assert isinstance(answer, Answer) and isinstance(taught, Distilled)
    swapped = {old: new for old, new in zip(asked, models, strict=True) if old != new}
    text = written(data, list(lines_of(story, models, out, seeds)), swapped, answer, taught, images_seen)
    print(f"\n{text}")
    path = folder / "story.md"
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images-seen", type=int, default=10_000, help="of each run")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each; a verdict needs 3")
    parser.add_argument("--at-most", type=float, default=120.0, help="minutes above which fewer pixels are taken")
    parser.add_argument("--resume", action="store_true", help="go on with what is in OUT")
    given = parser.parse_args()
    main(given.data, given.out, given.images_seen, given.seeds, given.resume, given.at_most)
