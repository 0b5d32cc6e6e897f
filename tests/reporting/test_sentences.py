from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic import make_report

from regard.reporting import FileTest, answer
from regard.reporting.tables import facts
from regard.reporting.words import clip, duration, percent, points, probability, short


def test_numbers_read_as_people_write_them():
    assert percent(0.914) == "91.4%"
    assert percent(None) == percent(float("nan")) == "–"
    assert points(0.0321) == "3.2"
    assert (points(0.0321, True), points(-0.0321, True), points(0.0001, True)) == ("+3.2", "−3.2", "0.0")
    assert short(21_665_664) == "21.7 M"
    assert short(999_600) == "1 M"
    assert short(1.3e14, "FLOPs") == "130 TFLOPs"
    assert short(0) == "0"
    assert (duration(4.2), duration(42.3), duration(130), duration(4000)) == (
        "4.2 s",
        "42 s",
        "2 min 10 s",
        "1 h 7 min",
    )
    assert (duration(59.7), duration(3599.8)) == ("1 min", "1 h")
    assert (probability(0.0004), probability(0.03), probability(0.4)) == ("< 0.001", "= 0.030", "= 0.40")


def test_clip_keeps_one_short_line():
    assert clip("a\nb\u202ec") == "a b c"
    assert len(clip("x" * 5000)) == 80
    assert clip("begin" + "x" * 200 + "end.jpg").endswith("end.jpg")


def test_better_names_gap_sureness_cost_and_pretraining():
    text = answer(make_report(models=("vit_tiny_patch4_32", "resnet18"), methods=("head",), fractions=(1.0,)))
    for part in ("vit_tiny_patch4_32 beats resnet18 by", "95% interval +", "3 seeds each", "600 test photos"):
        assert part in text
    assert "1.4 times the images/s" in text
    assert "both pre-trained on ImageNet-21k" in text


@pytest.mark.parametrize(
    ("outcome", "words"),
    [("equivalent", "are equivalent within 1.0 points"), ("undecided", "Too close to call")],
)
def test_other_outcomes_claim_no_winner(outcome, words):
    text = answer(make_report(outcome=outcome, methods=("head",), fractions=(1.0,)))
    assert words in text
    assert "beats" not in text


def test_the_leader_comes_first_whatever_the_order_of_the_verdict():
    data = make_report(methods=("head",), fractions=(1.0,))
    one = data.verdicts[0]
    turned = replace(one, a=one.b, b=one.a, difference=-one.difference, low=-one.high, high=-one.low)
    assert answer(replace(data, verdicts=(turned,))) == answer(replace(data, verdicts=(one,)))


def test_remaining_pairs_are_told():
    text = answer(make_report())
    assert "ahead of resnet18 scratch by" in text


def test_files_are_not_recipes():
    data = make_report(methods=("head",), fractions=(1.0,), seeds=1)
    text = answer(replace(data, verdicts=(), file_tests=(FileTest("a.csv", "b.csv", 23, 11, 0.058),)))
    assert "a.csv is right on 23 photos that b.csv gets wrong" in text
    assert "McNemar p = 0.058" in text


def test_single_run_and_no_verdict():
    data = make_report(models=("resnet18",), methods=("scratch",), seeds=1, fractions=(1.0,))
    assert answer(data).startswith("resnet18 names ")
    assert "trained from scratch" in answer(data)
    several = replace(make_report(seeds=1, fractions=(1.0,)), verdicts=(), no_verdict="one seed never yields a verdict")
    assert answer(several).startswith("No verdict: ")
    assert "one seed never yields a verdict" in answer(several)


def taught(seeds: int):
    """A ResNet trained two ways, and its teacher, which stands last and is not tested."""
    data = make_report(models=("resnet18",), methods=("head", "scratch"), seeds=seeds, fractions=(1.0,))
    other = make_report(models=("vit_tiny_patch4_32",), methods=("head",), seeds=1, fractions=(1.0,))
    model, run = other.models[0], other.runs[0]
    return replace(
        data,
        models=(*data.models, replace(model, name=f"{model.name} (teacher)", method="teacher")),
        runs=(*data.runs, replace(run, method="teacher")),
        scores=(*data.scores, other.scores[0]),
        validation=(*data.validation, other.validation[0]),
        photo_scores=(*data.photo_scores, other.photo_scores[0]),
    )


def test_a_teacher_is_named_and_not_tested():
    data = taught(seeds=3)
    assert [detail.reference for detail in data.models] == [False, False, True]
    assert "; the teacher vit_tiny_patch4_32 reaches 9" in answer(data)
    assert "reference without a network" not in answer(data)
    assert ("1", "teacher") in facts(data) and ("2", "ways to train one model") in facts(data)


def test_one_model_in_several_ways_is_named_once():
    text = answer(replace(taught(seeds=1), verdicts=(), no_verdict="one seed never yields a verdict"))
    assert text.count("resnet18") == 1
    assert text.startswith("No verdict: resnet18 8") and "% (scratch), vit_tiny_patch4_32 (teacher) 9" in text
