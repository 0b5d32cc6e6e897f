"""Which model is better: one test stated in advance, on seeds and photos; what a test set can decide.

What is compared is a score per photo (`Verdict.metric`): right or wrong, label ranking average precision, or minus
the error in standard deviations. The estimate is the difference of seed means. Its variance has two sources that
are crossed (every seed answers the same photos): seeds, and photos paired between the models. By the analysis of
variance of two crossed factors (Searle, Casella and McCulloch 1992, section 4.3), with s2 the variance over seeds
of a model's mean score, v the variance over photos of the difference of seed means, and e the residual mean square
(seed x photo) of a model:

    seeds  = s2_a / S_a + s2_b / S_b                       (holds the interaction once)
    photos = (v - e_a / S_a - e_b / S_b) / N, at least 0   (so the interaction is taken out here)

and degrees of freedom by Satterthwaite (1946). Photos of one group (near-duplicates, or one patient's) are not
independent: then groups take the place of photos, and their number that of N (`by_group`). How often it errs:
benchmarks/verdict_calibration.py.

Folds are another design: every photo is tested once per repeat, by models whose training photos overlap. There the
corrected resampled t test applies (`corrected_resampled_t`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from regard.errors import RegardError
from regard.evaluation.intervals import Metric, grouped_proportion, proportion
from regard.results import Outcome, Verdict

ScoreName = Literal["top1", "lrap", "scaled_mae"]
MARGIN = 0.01  # a difference that does not matter: 1 point of 100, or 0.01 standard deviations of the labels
BOUND: dict[ScoreName, float] = {"top1": 1.0, "lrap": 1.0, "scaled_mae": math.inf}  # of a difference


class McNemar(NamedTuple):
    """Exact test of two given files of predictions: it says nothing about the recipes that made them."""

    only_a: int
    only_b: int
    p_value: float


def verdict(
    a_name: str,
    b_name: str,
    scores_a: np.ndarray,
    scores_b: np.ndarray,
    margin: float = MARGIN,
    alpha: float = 0.05,
    metric: ScoreName = "top1",
    groups: np.ndarray | None = None,
) -> Verdict:
    """Is recipe `a` better than recipe `b`, equivalent within `margin`, or can these runs not tell?

    scores_a: (S_a, N) bool or float, more is better, one row per seed, one column per test photo; scores_b: (S_b,
    N), the same photos in the same order. margin: in the units of the score. A single row of
    either gives "undecided" with the widest bounds: the spread over seeds is unknown. Rows that are all alike (a
    solver on fixed features) add no seed variance: the verdict then covers photos only. A gap that is surely smaller
    than `margin` is "equivalent", also where it is surely not zero. groups: (N,) number of each photo's group, as
    from `group_numbers`; each photo alone by default.
    """
    a, b = _checked(a_name, scores_a), _checked(b_name, scores_b)
    if a.shape[1] != b.shape[1]:
        raise RegardError(
            f"{a_name} and {b_name}: answers for {a.shape[1]} and {b.shape[1]} photos; "
            "the verdict is paired, so give both for the same test photos"
        )
    seeds, photos = (len(a), len(b)), a.shape[1]
    a, b = by_group(a, groups), by_group(b, groups)
    units = a.shape[1]
    difference = float(a.mean() - b.mean())
    if min(seeds) < 2 or units < 2:
        freedom, seed_variance = 0.0, 0.0
        photo_variance = float((a.mean(axis=0) - b.mean(axis=0)).var(ddof=1) / units) if units > 1 else 0.0
    else:
        seed_parts, photo_variance = _variances(a, b)
        seed_variance, parts = float(sum(seed_parts)), np.array([*seed_parts, photo_variance])
        freedom = float(parts.sum() ** 2 / (parts**2 / np.array([seeds[0] - 1, seeds[1] - 1, units - 1])).sum())
    return _tested(
        Verdict(
            a=a_name,
            b=b_name,
            outcome="undecided",
            difference=difference,
            low=-BOUND[metric],
            high=BOUND[metric],
            p_value=1.0,
            p_equivalent=1.0,
            margin=margin,
            alpha=alpha,
            seeds=seeds,
            photos=photos,
            degrees_of_freedom=freedom,
            seed_variance=seed_variance,
            photo_variance=photo_variance,
            metric=metric,
            groups=units if units < photos else 0,
        )
    )


def by_group(scores: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """(S, N) scores of photos -> (S, G), one for each group, whose mean and variance are those of the mean score.

    groups: (N,) numbers. A group's score is the row's mean m plus (G / N) times the sum over its photos of (score - m):
    the linearised mean of clusters of unequal size (Cochran 1977, section 9A.2). Groups of one photo each leave it as
    it is.
    """
    if groups is None or len(np.unique(groups)) == scores.shape[1]:
        return scores
    means = scores.mean(axis=1, keepdims=True)
    member = np.zeros((scores.shape[1], int(groups.max()) + 1))
    member[np.arange(len(groups)), groups] = 1
    return means + member.shape[1] / len(groups) * ((scores - means) @ member)


def corrected_resampled_t(
    a_name: str,
    b_name: str,
    differences: np.ndarray,
    test_size: float,
    train_size: float,
    margin: float = MARGIN,
    alpha: float = 0.05,
    metric: ScoreName = "top1",
) -> Verdict:
    """The verdict on folds (Nadeau and Bengio 2003).

    differences: (repeats r, folds k), mean score of `a` less that of `b` on the photos that the fold holds out;
    test_size: photos of one such fold, on average; train_size: photos that a model learns from or is chosen by. The
    folds' training photos overlap, so their spread s2 is too small a guide: the variance of the mean is taken as
    s2 (1 / (r k) + test_size / train_size), with r k - 1 degrees of freedom. `seeds` of the verdict are the repeats,
    `seed_variance` and `photo_variance` the two terms.
    """
    table = np.asarray(differences, float)
    if table.ndim != 2 or table.size < 2 or not np.isfinite(table).all():
        raise RegardError(
            f"{a_name} and {b_name}: differences of shape {table.shape}; expected finite (repeats, folds), 2 or more"
        )
    repeats, folds = table.shape
    photos = round(folds * test_size)
    spread = float(table.var(ddof=1))
    if spread < 1e-15:  # folds that all agree to the last photo: two pseudo-photos, as in `_variances`
        spread = 2 * table.size / photos**2
    own, shared = spread / table.size, spread * test_size / train_size
    return _tested(
        Verdict(
            a=a_name,
            b=b_name,
            outcome="undecided",
            difference=float(table.mean()),
            low=-BOUND[metric],
            high=BOUND[metric],
            p_value=1.0,
            p_equivalent=1.0,
            margin=margin,
            alpha=alpha,
            seeds=(repeats, repeats),
            photos=photos,
            degrees_of_freedom=float(table.size - 1),
            seed_variance=own,
            photo_variance=shared,
            metric=metric,
            folds=folds,
        )
    )


def _tested(verdict: Verdict) -> Verdict:
    """A verdict with its tests done, from its difference, variances and degrees of freedom; without these as it is.

    Two-sided t test of no difference, and the larger of the two one-sided tests against +-margin.
    """
    freedom, gap, margin = verdict.degrees_of_freedom, abs(verdict.difference), verdict.margin
    if not freedom:
        return verdict
    error = math.sqrt(verdict.seed_variance + verdict.photo_variance)
    p_value = float(2 * stats.t.sf(gap / error, freedom))
    # Chance to miss every photo of a kind that makes up `margin` of all photos.
    unseen = max(0.0, 1 - margin) ** (verdict.groups or verdict.photos)
    p_equivalent = max(float(stats.t.sf((margin - gap) / error, freedom)), unseen)
    half = float(stats.t.ppf(1 - verdict.alpha / 2, freedom)) * error
    return replace(
        verdict,
        outcome=_outcome(p_value, p_equivalent, verdict.alpha),
        low=max(verdict.low, verdict.difference - half),
        high=min(verdict.high, verdict.difference + half),
        p_value=p_value,
        p_equivalent=p_equivalent,
    )


def mean_score(
    scores: np.ndarray, metric: ScoreName = "top1", alpha: float = 0.05, groups: np.ndarray | None = None
) -> Metric:
    """Mean score over seeds with its t interval, from seeds and photos together; the same variances as `verdict`.

    scores: (S, N) bool or float; groups: as of `verdict`. One seed: the interval speaks of photos only, and for top1
    it is Wilson's. None where all photos are of one group.
    """
    rows = _checked("scores", scores)
    mean = float(rows.mean())
    numbers = np.arange(rows.shape[1]) if groups is None else groups
    single = len(rows) < 2 or (rows == rows[0]).all()
    if single and metric == "top1":
        return grouped_proportion(rows[0], numbers)
    rows = by_group(rows, groups)
    photos = rows.shape[1]
    if photos < 2:
        return Metric(mean)
    flips = 0.0 if single else _interaction(rows) / len(rows)
    seeds = 0.0 if single else max(float(rows.mean(axis=1).var(ddof=1)) / len(rows), flips / photos)
    spread = max(0.0, (float(rows.mean(axis=0).var(ddof=1)) - flips) / photos)
    if seeds + spread == 0:
        return Metric(mean) if metric == "scaled_mae" else proportion(mean * photos, photos)
    freedom = (seeds + spread) ** 2 / (seeds**2 / max(1, len(rows) - 1) + spread**2 / (photos - 1))
    half = float(stats.t.ppf(1 - alpha / 2, freedom)) * math.sqrt(seeds + spread)
    if metric == "scaled_mae":
        return Metric(mean, mean - half, min(0.0, mean + half))
    return Metric(mean, max(0.0, mean - half), min(1.0, mean + half))


def mean_of_folds(scores: np.ndarray, test_size: float, train_size: float, alpha: float = 0.05) -> Metric:
    """Mean of a figure over (repeats, folds) with the interval of `corrected_resampled_t`."""
    table = np.asarray(scores, float)
    error = math.sqrt(table.var(ddof=1) * (1 / table.size + test_size / train_size))
    half = float(stats.t.ppf(1 - alpha / 2, table.size - 1)) * error
    mean = float(table.mean())
    return Metric(mean, mean - half, mean + half)


def holm(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The same verdicts with both p-values corrected for their number (Holm 1979), and outcomes to match.

    The intervals stay those of each pair alone. Which pairs are tested is settled before the test split is
    read (those of the model that won on validation). Pairs with a single seed and no folds were not tested:
    they stay as they are.
    """
    tested = [number for number, one in enumerate(verdicts) if _is_tested(one)]
    better = holm_correct([verdicts[number].p_value for number in tested])
    equivalent = holm_correct([verdicts[number].p_equivalent for number in tested])
    corrected = list(verdicts)
    for number, p_value, p_equivalent in zip(tested, better, equivalent, strict=True):
        old = verdicts[number]
        outcome = _outcome(p_value, p_equivalent, old.alpha)
        corrected[number] = replace(old, p_value=p_value, p_equivalent=p_equivalent, outcome=outcome)
    return corrected


def holm_correct(p_values: Sequence[float]) -> list[float]:
    """Step-down adjusted p-values in the given order."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, float)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted.tolist()


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> McNemar:
    """Exact two-sided McNemar test of two given sets of answers: (N,) bool each, over the same photos."""
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise RegardError(f"mcnemar: answers of shape {a.shape} and {b.shape}; expected two rows over the same photos")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    either = only_a + only_b
    p_value = float(stats.binomtest(only_a, either).pvalue) if either else 1.0
    return McNemar(only_a, only_b, p_value)


def smallest_gap(photos: int, disagreement: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest gap in top1 found with this power between two given models (Miettinen 1968).

    disagreement: share of photos that exactly one of the two gets right. 1.0 where no gap is large enough.
    Seeds add to this: it is what the photos alone allow.
    """
    z2 = _z_sum(power, alpha) ** 2
    gap = math.sqrt(z2 * disagreement / (photos + z2))
    return gap if gap <= disagreement else 1.0


def photos_for_gap(gap: float, disagreement: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Photos needed to find a gap in top1 with this power; the inverse of `smallest_gap`."""
    if not 0 < gap <= disagreement <= 1:
        raise RegardError(f"gap {gap} and disagreement {disagreement}: expected 0 < gap <= disagreement <= 1")
    return max(1, math.ceil(_z_sum(power, alpha) ** 2 * (disagreement - gap**2) / gap**2))


def decides(photos: int, disagreement: tuple[float, float] = (0.1, 0.2)) -> str:
    """What a test set of this size can decide, in one sentence, for an expected range of disagreement."""
    low, high = (smallest_gap(photos, share) for share in disagreement)
    least, most = (photos_for_gap(0.01, share) for share in disagreement)
    if high >= 1:
        found = f"{_count(photos, 'test photo')} can hardly tell two models apart"
    else:
        assumed = f"80% power, {100 * disagreement[0]:.0f}-{100 * disagreement[1]:.0f}% disagreement"
        span = f"{100 * low:.0f} to {100 * high:.0f}" if round(100 * low) != round(100 * high) else f"{100 * low:.1f}"
        found = f"{_count(photos, 'test photo')} can tell two models apart from a gap of about {span} points"
        found += f" ({assumed})"
    return f"{found}; a gap of 1 point would need about {_round(least):,} to {_round(most):,}"


def seeds_needed(found: Verdict, power: float = 0.8) -> int | None:
    """Seeds per model that would show a gap as large as the one seen; None where photos hide it anyway."""
    wanted = (found.difference / _z_sum(power, found.alpha)) ** 2 - found.photo_variance
    if wanted <= 0 or min(found.seeds) < 2 or found.folds:
        return None
    return max(2, math.ceil(min(found.seeds) * found.seed_variance / wanted))


def photos_needed(found: Verdict, power: float = 0.8) -> int | None:
    """Photos that would show a gap as large as the one seen; None where the seeds hide it anyway."""
    wanted = (found.difference / _z_sum(power, found.alpha)) ** 2 - found.seed_variance
    if wanted <= 0 or min(found.seeds) < 2 or found.folds:
        return None
    return math.ceil(found.photos * found.photo_variance / wanted)


def sentence(found: Verdict) -> str:
    """The verdict in plain English, with its interval and what it rests on."""
    ahead, behind = (found.a, found.b) if found.difference >= 0 else (found.b, found.a)
    low, high = (found.low, found.high) if found.difference >= 0 else (-found.high, -found.low)
    gap, unit = abs(found.difference), _unit(found.metric)
    basis = f"{_seeds(found)}, {_count(found.photos, 'photo')}"
    if found.groups:
        basis += f" in {_count(found.groups, 'group')}"
    if not _is_tested(found):
        return (
            f"No verdict: {ahead} is {unit.amount(gap)} ahead of {behind} ({basis}), but one seed does not show "
            "how much training again would change; run at least 3 seeds."
        )
    bounds = f"{unit.number(low)} to {unit.number(high)}"
    interval = f"{100 * (1 - found.alpha):.0f}% interval {bounds}, {basis}"
    if found.outcome == "better":
        text = f"{ahead} is better than {behind} by {unit.amount(gap)} ({interval})"
    elif found.outcome == "equivalent":
        text = f"{found.a} and {found.b} are equivalent within {unit.amount(found.margin, trim=True)}: "
        text += f"{ahead} is {unit.amount(gap)} ahead ({interval})" if gap else f"no difference ({interval})"
    elif float(unit.number(gap)) == 0:
        text = f"Too close to call: {ahead} and {behind} are level ({interval})"
    else:
        text = f"Too close to call: {ahead} is {unit.amount(gap)} ahead of {behind} ({interval})"
        text += _remedy(found, low)
    if found.seed_variance == 0:
        text += "; every seed gave the same answers, so this covers photos only, not another training set"
    return text + "."


class _Unit(NamedTuple):
    """How a difference of scores is written."""

    factor: float
    digits: int
    one: str
    many: str

    def number(self, value: float) -> str:
        return f"{self.factor * value:.{self.digits}f}"

    def amount(self, value: float, trim: bool = False) -> str:
        text = f"{self.factor * value:g}" if trim else self.number(value)
        return f"{text} {self.one if float(text) == 1 else self.many}"


def _unit(metric: ScoreName) -> _Unit:
    if metric == "scaled_mae":
        return _Unit(1, 3, "standard deviation", "standard deviations")
    of = " of label ranking precision" if metric == "lrap" else ""
    return _Unit(100, 1, f"point{of}", f"points{of}")


def _is_tested(found: Verdict) -> bool:
    """Whether the verdict rests on enough runs to be one."""
    return found.folds > 0 or min(found.seeds) >= 2


def _remedy(found: Verdict, low: float) -> str:
    """What would settle an undecided pair."""
    if low > 0:
        return "; clear for this pair alone, not after correcting for the number of pairs tested"
    if found.folds:
        return "; more photos would narrow it, repeats of the folds hardly"
    photos, seeds = photos_needed(found), seeds_needed(found)
    if photos is not None and photos > found.photos:
        return f"; if the gap is that large, about {_round(photos):,} photos would be needed"
    if seeds is not None and seeds > min(found.seeds):
        return f"; if the gap is that large, about {seeds:,} seeds would be needed"
    return "; if the gap is that large, it needs more seeds and more photos"


def _checked(name: str, scores: np.ndarray) -> np.ndarray:
    rows = np.asarray(scores)
    if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] < 2:
        raise RegardError(f"{name}: scores of shape {rows.shape}; expected (seeds, photos) with 2 photos or more")
    if rows.dtype.kind not in "bf" or not np.isfinite(rows).all():
        raise RegardError(f"{name}: scores of type {rows.dtype}; expected bool or finite floats, one row per seed")
    return rows.astype(np.float64)


def _variances(a: np.ndarray, b: np.ndarray) -> tuple[tuple[float, float], float]:
    """Variance of the difference due to seeds of a, to seeds of b, and to photos; never all three 0."""
    photos = a.shape[1]
    paired = a.mean(axis=0) - b.mean(axis=0)  # (N,)
    flips_a, flips_b = _interaction(a), _interaction(b)
    seeds_a = _seed_variance(a, flips_a) / len(a)
    seeds_b = _seed_variance(b, flips_b) / len(b)
    if flips_a == flips_b == 0:
        # Two pseudo-photos, one for each side (Agresti and Min 2005): a few photos that agree prove little. Each is
        # as far apart as the photos get: 1 for right and wrong.
        apart = float(np.abs(paired).max())
        apart = apart if apart > 1e-12 else 1.0
        return (seeds_a, seeds_b), float((paired.var(ddof=1) * photos + 2 * apart**2) / photos**2)
    photo_part = (paired.var(ddof=1) - flips_a / len(a) - flips_b / len(b)) / photos
    return (seeds_a, seeds_b), max(0.0, float(photo_part))


def _seed_variance(rows: np.ndarray, flips: float) -> float:
    """Variance of the mean score over seeds; where seeds tie by luck though answers differ, what those flips imply."""
    spread = float(rows.mean(axis=1).var(ddof=1))
    return spread if spread > 1e-15 else flips / rows.shape[1]


def _interaction(rows: np.ndarray) -> float:
    """Residual mean square of (seed, photo) after both means; exactly 0 for identical rows."""
    if (rows == rows[0]).all():
        return 0.0
    residual = rows - rows.mean(axis=0) - rows.mean(axis=1, keepdims=True) + rows.mean()
    return float((residual**2).sum() / ((rows.shape[0] - 1) * (rows.shape[1] - 1)))


def _outcome(p_value: float, p_equivalent: float, alpha: float) -> Outcome:
    """Equivalence first: a gap surely below the margin is stated as such, however surely it is not zero."""
    if p_equivalent < alpha:
        return "equivalent"
    return "better" if p_value < alpha else "undecided"


def _z_sum(power: float, alpha: float) -> float:
    return float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power))


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _seeds(found: Verdict) -> str:
    a, b = found.seeds
    if found.folds:
        return f"{found.folds} folds" + (f" {a} times" if a > 1 else "")
    return _count(a, "seed") if a == b else f"{a} and {b} seeds"


def _round(number: int) -> int:
    """Two leading digits: more would pretend to be exact."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return math.ceil(number / unit) * unit
