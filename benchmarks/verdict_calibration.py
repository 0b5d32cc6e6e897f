"""How often the verdict and the intervals of `regard.evaluation` err: simulated, and on real runs.

    python benchmarks/verdict_calibration.py usual      # false alarms of the usual ways and of the verdict
    python benchmarks/verdict_calibration.py verdict    # false alarms, power, coverage over settings
    python benchmarks/verdict_calibration.py intervals  # coverage of the intervals of single metrics
    python benchmarks/verdict_calibration.py collect    # trains 60 + 60 digits runs (minutes, one thread)
    python benchmarks/verdict_calibration.py digits     # draws from those runs

The simulated photos differ in difficulty: photo i is answered right with probability expit(mu + tau * d_i +
seed), d_i normal. mu and tau follow from the accuracy and from the share of photos on which two runs of one
recipe disagree, which are what one can see of real runs; the seed effect is normal and moves the accuracy by
the stated standard deviation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from scipy import optimize, special, stats

from regard.evaluation import intervals, metrics
from regard.evaluation.statistics import mcnemar, verdict
from regard.results import Predictions, Verdict

DIGITS_FILE = Path(__file__).parents[1] / "tests" / "evaluation" / "data" / "digits_runs.npz"
NORMAL = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)  # difficulties, as quantiles


@dataclass(frozen=True)
class Setting:
    """Two recipes on one kind of photo; shares as fractions of 1."""

    photos: int
    seeds: int = 3
    accuracy: float = 0.8
    disagreement: float = 0.18  # of two runs of one recipe
    seed_deviation: float = 0.014  # of the accuracy over seeds, on endless photos
    gap: float = 0.0
    likeness: float = 1.0  # correlation of the two recipes' difficulties; 1 and no gap: one recipe twice


@dataclass(frozen=True)
class Rates:
    """Shares of simulated comparisons."""

    different: float  # declared "better", either way
    found: float  # declared "better" in the true direction
    equivalent: float
    covered: float  # interval holds the true gap


def level_for(accuracy: float, tau: float) -> float:
    """mu at which the mean over photos is the accuracy."""
    return cast(float, optimize.brentq(lambda mu: special.expit(mu + tau * NORMAL).mean() - accuracy, -200, 200))


def spread_for(accuracy: float, disagreement: float) -> float:
    """tau at which two runs of a recipe disagree on this share of the photos."""

    def excess(tau: float) -> float:
        right = special.expit(level_for(accuracy, tau) + tau * NORMAL)
        return float((2 * right * (1 - right)).mean() - disagreement)

    return cast(float, optimize.brentq(excess, 0.05, 40))


def simulate(setting: Setting, sets: int, seed: int = 0):
    """Yields pairs of right answers, (seeds, photos) bool each."""
    rng = np.random.default_rng(seed)
    tau = spread_for(setting.accuracy, setting.disagreement)
    levels = [level_for(setting.accuracy - gap, tau) for gap in (0.0, setting.gap)]
    right = special.expit(levels[0] + tau * NORMAL)
    seed_scale = setting.seed_deviation / (right * (1 - right)).mean()
    shape = (setting.seeds, setting.photos)
    for _ in range(sets):
        shared, own = rng.standard_normal((2, setting.photos))
        other = setting.likeness * shared + np.sqrt(1 - setting.likeness**2) * own
        pair = []
        for level, difficulty in zip(levels, (shared, other), strict=True):
            effect = seed_scale * rng.standard_normal((setting.seeds, 1))
            pair.append(rng.random(shape) < special.expit(level + tau * difficulty + effect))
        yield pair[0], pair[1]


def rates(setting: Setting, sets: int = 2000, seed: int = 0) -> Rates:
    """What the verdict does in `sets` simulated comparisons."""
    return rates_of([verdict("a", "b", a, b) for a, b in simulate(setting, sets, seed)], setting.gap)


def rates_of(found: list[Verdict], gap: float) -> Rates:
    """Shares over verdicts whose true gap is known."""
    better = np.array([one.outcome == "better" for one in found])
    ahead = np.array([one.difference > 0 for one in found])
    covered = [one.low <= gap <= one.high for one in found]
    equivalent = [one.outcome == "equivalent" for one in found]
    return Rates(
        float(better.mean()),
        float((better & ahead).mean()),
        float(np.mean(equivalent)),
        float(np.mean(covered)),
    )


# --- the usual ways, for comparison


def photo_bootstrap(a: np.ndarray, b: np.ndarray, rng: np.random.Generator, resamples: int = 400) -> bool:
    """Seed means differ by a percentile bootstrap over photos: seeds are taken as fixed."""
    paired = a.mean(axis=0) - b.mean(axis=0)
    drawn = paired[rng.integers(len(paired), size=(resamples, len(paired)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return bool(low > 0 or high < 0)


def both_bootstrap(a: np.ndarray, b: np.ndarray, rng: np.random.Generator, resamples: int = 400) -> bool:
    """Seed means differ by a percentile bootstrap over seeds and photos."""
    seeds, photos = a.shape
    weights = rng.multinomial(photos, np.full(photos, 1 / photos), size=resamples) / photos
    seeds_a, seeds_b = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=(2, resamples)) / seeds
    drawn = (weights * (seeds_a @ a.astype(float) - seeds_b @ b.astype(float))).sum(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return bool(low > 0 or high < 0)


def seeds_t(a: np.ndarray, b: np.ndarray) -> bool:
    """Seed means differ by Student's t: photos are taken as fixed. Seeds that all tie are no difference."""
    top1_a, top1_b = a.mean(axis=1), b.mean(axis=1)
    error = np.sqrt((top1_a.var(ddof=1) + top1_b.var(ddof=1)) / len(a))
    return bool(abs(top1_a.mean() - top1_b.mean()) > stats.t.ppf(0.975, 2 * len(a) - 2) * max(error, 1e-12))


def usual_ways(setting: Setting, sets: int = 1000, seed: int = 0) -> dict[str, float]:
    """Share of comparisons that each way calls different."""
    rng = np.random.default_rng(seed + 1)
    ways: dict[str, Callable[[np.ndarray, np.ndarray], bool]] = {
        "McNemar on one pair of runs": lambda a, b: mcnemar(a[0], b[0]).p_value < 0.05,
        "photo bootstrap on seed means": lambda a, b: photo_bootstrap(a, b, rng),
        "bootstrap over seeds and photos": lambda a, b: both_bootstrap(a, b, rng),
        "t on seed means": seeds_t,
        "the verdict": lambda a, b: verdict("a", "b", a, b).outcome == "better",
    }
    hits = dict.fromkeys(ways, 0)
    for a, b in simulate(setting, sets, seed):
        for name, differs in ways.items():
            hits[name] += bool(differs(a, b))
    return {name: count / sets for name, count in hits.items()}


# --- intervals of single metrics


def population(
    accuracy: float, classes: int, imbalance: float = 0.0, size: int = 100_000, seed: int = 0
) -> Predictions:
    """A large set to draw test sets from: logits with noise, as accurate as asked, moderately calibrated.

    imbalance: the commonest class is exp(imbalance) times as frequent as the rarest.
    """
    rng = np.random.default_rng(seed)
    share = np.exp(-imbalance * np.arange(classes) / (classes - 1))
    labels = rng.choice(classes, size=size, p=share / share.sum())
    logits = rng.standard_normal((size, classes))
    rows = np.arange(size)
    own = logits[rows, labels].copy()
    logits[rows, labels] = -np.inf
    rival = logits.max(axis=1)
    lift = cast(float, optimize.brentq(lambda value: (own + value > rival).mean() - accuracy, -5, 50))
    logits[rows, labels] = own + lift
    names = tuple(f"class {number}" for number in range(classes))
    return Predictions(tuple(map(str, rows)), (lift * logits).astype(np.float32), labels, names)


def interval_coverage(
    whole: Predictions, photos: int, sets: int = 2000, seed: int = 0, resamples: int = 400
) -> dict[str, float]:
    """Share of drawn test sets whose interval holds the value of the whole population, by metric."""
    rng = np.random.default_rng(seed)
    additive = metrics.additive(whole, 1.0)
    truth = metrics.figures(np.asarray(additive.sum(axis=0)).reshape(1, -1))[0]
    accuracy = whole.correct.mean()
    first = whole.labels == 0
    recall = whole.correct[first].mean()
    hits = dict.fromkeys(("top1", "recall of a class", *metrics.BOOTSTRAPPED), 0)
    for draw in range(sets):
        rows = rng.integers(len(whole), size=photos)
        sums = additive[rows]
        values = metrics.figures(np.asarray(sums.sum(axis=0)).reshape(1, -1))[0]
        errors = intervals.bootstrap_errors(sums, metrics.figures, resamples, seed=draw)
        for name, value, error, true in zip(metrics.BOOTSTRAPPED, values, errors, truth, strict=True):
            hits[name] += _holds(metrics.interval_of(name)(float(value), float(error), photos), true)
        right = whole.correct[rows]
        hits["top1"] += _holds(intervals.proportion(int(right.sum()), photos), accuracy)
        of_class = right[first[rows]]
        if len(of_class):
            hits["recall of a class"] += _holds(intervals.proportion(int(of_class.sum()), len(of_class)), recall)
    return {name: count / sets for name, count in hits.items()}


def _holds(metric: intervals.Metric, truth: float) -> bool:
    return metric.low is not None and metric.high is not None and metric.low <= truth <= metric.high


# --- real runs: one recipe on scikit-learn's digits, 60 times


@dataclass(frozen=True)
class DigitsRecipe:
    """How one digits run is trained; the two recipes differ in the images seen and share no seed."""

    images_seen: int
    first_seed: int
    batch: int = 64
    learning_rate: float = 8e-3


RECIPES = {"recipe": DigitsRecipe(6_000, first_seed=1000), "weaker": DigitsRecipe(4_000, first_seed=0)}


def train_digits(recipe: DigitsRecipe, seed: int) -> np.ndarray:
    """(270,) bool: right answers of one small ResNet (8 layers, 3x3 stem) on a fixed test set.

    The seed redraws initialisation, order, augmentation (shifts by a pixel) and the cut of validation from
    training; the checkpoint is the best of four on validation.
    """
    import torch
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    from regard.models.resnet import BasicBlock, ResNet

    pictures, target = datasets.load_digits(return_X_y=True)
    labels = torch.from_numpy(target)
    grey = torch.from_numpy((pictures.reshape(-1, 8, 8) / 16).astype(np.float32))
    pixels = ((grey - 0.3) / 0.37)[:, None].expand(-1, 3, -1, -1)  # (1797, 3, 8, 8)
    rest, test = train_test_split(np.arange(len(labels)), test_size=270, stratify=target, random_state=0)
    train, val = train_test_split(rest, test_size=0.15, stratify=target[rest], random_state=seed)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ResNet(BasicBlock, (1, 1, 1), (16, 32, 64), small_stem=True, projections=False, num_classes=10)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.05)
    steps = recipe.images_seen // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps, pct_start=0.1)
    order = np.concatenate([rng.permutation(train) for _ in range(recipe.images_seen // len(train) + 1)])
    best, answers = -1.0, np.zeros(len(test), bool)
    for step in range(steps):
        rows = order[step * recipe.batch : (step + 1) * recipe.batch]
        shift = tuple(rng.integers(-1, 2, size=2).tolist())
        model.train()
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(pixels[rows].roll(shift, dims=(2, 3))), labels[rows])
        loss.backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % (steps // 4) == 0:
            model.eval()
            with torch.inference_mode():
                right = model(pixels[np.concatenate([val, test])]).argmax(dim=1) == labels[np.concatenate([val, test])]
            on_val = float(right[: len(val)].float().mean())
            if on_val >= best:
                best, answers = on_val, right[len(val) :].numpy()
    return answers


def collect(runs: int, path: Path = DIGITS_FILE) -> None:
    """Trains `runs` runs of each recipe and stores their right answers as bits."""
    import torch

    torch.set_num_threads(1)
    found = {}
    for name, recipe in RECIPES.items():
        started = time.perf_counter()
        right = np.stack([train_digits(recipe, recipe.first_seed + number) for number in range(runs)])
        top1 = right.mean(axis=1)
        seconds = time.perf_counter() - started
        print(
            f"{name}: top1 {100 * top1.mean():.1f} +- {100 * top1.std(ddof=1):.1f}, {seconds:.0f} s",
            flush=True,
        )
        found[name], photos = np.packbits(right, axis=1), right.shape[1]
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, photos=photos, **found)
    part.replace(path)


def load_digits_runs(path: Path = DIGITS_FILE) -> dict[str, np.ndarray]:
    """Recipe name -> (60, photos) bool."""
    with np.load(path, allow_pickle=False) as stored:
        photos = int(stored["photos"])
        return {
            name: np.unpackbits(stored[name], axis=1, count=photos).astype(bool)
            for name in stored.files
            if name != "photos"
        }


def same_against_same(pool: np.ndarray, seeds: int, draws: int, gap: float = 0.0, seed: int = 0) -> list[Verdict]:
    """Verdicts of random sides of one pool, no run on both; every run of b loses `gap` of all photos.

    The lost photos are drawn anew for each verdict, of those that nine in ten runs get right; rounded down.
    """
    rng = np.random.default_rng(seed)
    easy = np.flatnonzero(pool.mean(axis=0) > 0.9)
    found = []
    for _ in range(draws):
        runs = rng.permutation(len(pool))
        a, b = pool[runs[:seeds]], pool[runs[seeds : 2 * seeds]]  # copies
        b[:, rng.choice(easy, size=int(gap * pool.shape[1]), replace=False)] = False
        found.append(verdict("a", "b", a, b))
    return found


def pool_against_pool(pool: np.ndarray, other: np.ndarray, seeds: int, draws: int, seed: int = 0) -> list[Verdict]:
    """Verdicts of random runs of one recipe against random runs of another."""
    rng = np.random.default_rng(seed)
    return [
        verdict("a", "b", pool[rng.permutation(len(pool))[:seeds]], other[rng.permutation(len(other))[:seeds]])
        for _ in range(draws)
    ]


def print_usual(sets: int) -> None:
    """False alarms of one recipe against itself, 3 seeds."""
    print("One recipe against itself, 3 seeds of deviation 1.4 points: share called different")
    columns = {photos: usual_ways(Setting(photos), sets) for photos in (360, 2000)}
    for name in columns[360]:
        print(f"  {name:34}" + "".join(f"{100 * column[name]:7.1f}%" for column in columns.values()))


def print_verdict(sets: int) -> None:
    """False alarms, power and coverage of the verdict over settings."""
    print("The verdict: photos, seeds, accuracy, seed deviation, gap, likeness")
    print("  -> declared different, found in the true direction, equivalent, interval covers")
    for accuracy, disagreement in ((0.8, 0.18), (0.93, 0.06), (0.98, 0.015)):
        deviation = min(0.014, 0.2 * (1 - accuracy))
        for photos in (100, 270, 360, 2000):
            for seeds, gap, likeness in (
                (3, 0.0, 1.0),
                (2, 0.0, 1.0),
                (3, 0.0, 0.9),
                (3, 0.01, 0.95),
                (5, 0.05, 0.95),
            ):
                setting = Setting(photos, seeds, accuracy, disagreement, deviation, gap, likeness)
                one = rates(setting, sets)
                shares = (one.different, one.found, one.equivalent, one.covered)
                points = f"{100 * deviation:.1f} {100 * gap:3.0f}"
                print(
                    f"  {photos:5} {seeds} {accuracy:.2f} {points} {likeness:.2f}  ->  "
                    + "  ".join(f"{100 * share:5.1f}%" for share in shares)
                )


def print_intervals(sets: int) -> None:
    """Coverage of 95% intervals of single metrics."""
    print("Coverage of 95% intervals: accuracy, classes, imbalance, photos")
    for accuracy, classes, imbalance in (
        (0.5, 10, 0.0),
        (0.8, 10, 0.0),
        (0.9, 10, 0.0),
        (0.9, 10, 2.0),
        (0.9, 2, 0.0),
        (0.98, 10, 0.0),
    ):
        whole = population(accuracy, classes, imbalance)
        for photos in (100, 360, 1000, 3000):
            covered = interval_coverage(whole, photos, sets)
            line = "  ".join(f"{name} {100 * share:.1f}" for name, share in covered.items())
            print(f"  {accuracy:.2f} {classes:3} {imbalance:.0f} {photos:5}  {line}", flush=True)


def print_digits(sets: int) -> None:
    """False alarms and power on the stored digits runs."""
    runs = load_digits_runs()
    for name, rows in runs.items():
        top1 = rows.mean(axis=1)
        spread = f"{100 * top1.mean():.1f} +- {100 * top1.std(ddof=1):.1f}"
        print(f"{name}: {len(rows)} runs, {rows.shape[1]} photos, top1 {spread}")
    recipe, weaker = runs["recipe"], runs["weaker"]
    for name, rows in runs.items():
        same = rates_of(same_against_same(rows, 3, sets), 0.0)
        print(f"3 against 3, {name}: {100 * same.different:.1f}% declared different (bar: at most 7%)")
    for name, rows in runs.items():
        spoilt = rates_of(same_against_same(rows, 5, sets, gap=0.05), 0.05)
        print(f"5 against 5, {name}, one side loses 5 points: {100 * spoilt.found:.1f}% found (bar: 80%)")
    gap = float(recipe.mean() - weaker.mean())
    one = rates_of(pool_against_pool(recipe, weaker, 5, sets), gap)
    print(f"5 against 5, the two recipes, a gap of {100 * gap:.1f} points: {100 * one.found:.1f}% found")


def main() -> None:
    """One table per command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("usual", "verdict", "intervals", "collect", "digits"))
    parser.add_argument("--sets", type=int, default=2000, help="simulated comparisons or test sets per line")
    parser.add_argument("--runs", type=int, default=60, help="digits runs per recipe")
    arguments = parser.parse_args()
    if arguments.command == "collect":
        collect(arguments.runs)
    else:
        tables = {
            "usual": print_usual,
            "verdict": print_verdict,
            "intervals": print_intervals,
            "digits": print_digits,
        }
        tables[arguments.command](arguments.sets)


if __name__ == "__main__":
    main()
