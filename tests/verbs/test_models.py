"""`regard models`: the table, the sheet, and checks that find what is broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import Tensor, nn

import regard
from regard.cli.main import main
from regard.errors import RegardError
from regard.models import count_gmacs, count_parameters, create_model, list_models, model_spec, registry
from regard.models.costs import COSTS
from regard.verbs.battery import Verification, verify_model
from regard.verbs.model_sheet import ModelSheet, Passing
from regard.verbs.models import ModelTable, models


def table(pattern: str = "*") -> ModelTable:
    found = models(pattern)
    assert isinstance(found, ModelTable)
    return found


def test_the_table_has_what_is_published_of_the_default_weights() -> None:
    (row,) = table("resnet5[0]").rows
    assert (row.name, row.task, row.parameters, row.gmacs, row.img_size) == (
        "resnet50",
        "classify",
        25_557_032,
        4.0892,
        224,
    )
    assert (row.top1, row.licence, row.tag) == (76.13, "bsd-3-clause", "tv_in1k")
    (row,) = table("vit_nano_patch4_3?").rows
    assert (row.parameters, row.top1, row.licence, row.tag) == (COSTS["vit_nano_patch4_32"][0], None, "", "")
    head, line = table("vit_nano_patch4_3?").lines()
    assert head.split() == ["name", "task", "parameters", "GMACs", "image", "top1", "top5", "licence", "tag"]
    assert line.split() == ["vit_nano_patch4_32", "classify", f"{row.parameters:,}", "0.0324", "32", *"----"]


def test_a_pattern_is_a_part_of_a_name_or_has_wildcards() -> None:
    assert [row.name for row in table("clip").rows] == ["clip_vit_base_patch16", "clip_vit_base_patch32"]
    assert [row.name for row in table("clip*16").rows] == ["clip_vit_base_patch16"]
    assert [row.name for row in table().rows] == list_models()
    with pytest.raises(RegardError, match=r"resnet5000: no model of this name; nearest: resnet50"):
        models("resnet5000")


def test_the_whole_table_makes_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*args: object, **kwargs: object) -> nn.Module:
        raise AssertionError("a model was made")

    monkeypatch.setattr("regard.models.examples.create_model", made)
    monkeypatch.setattr("regard.models.create_model", made)
    assert len(table().rows) == len(list_models())


def test_the_sheet_is_what_the_model_is() -> None:
    sheet = regard.model_sheet("vit_nano_patch4_32")
    model = create_model("vit_nano_patch4_32")
    assert sheet.parameters == count_parameters(model)
    assert sheet.gmacs == pytest.approx(count_gmacs(model, 32))
    assert sheet.pattern_bytes == 4 * 3 * 65 * 65 * 4  # blocks, heads, tokens twice, bytes
    assert Passing("blocks.*.attn.pattern", 4, (1, 3, 65, 65)) in sheet.passing
    assert sheet.passing[0] == Passing("patch_embed.patches", 1, (1, 64, 96))
    assert sheet.passing[-1] == Passing("head", 1, (1, 1000))
    for shares in zip(*sheet.shares.values(), strict=True):
        assert sum(shares) == pytest.approx(1)
    text = "\n".join(sheet.lines())
    for words in ("Dosovitskiy", "not a published size", f"{sheet.parameters:,}", "no published weights are known"):
        assert words in text


def test_the_sheet_of_a_cnn_follows_its_maps() -> None:
    sheet = models("resnet50.tv2_in1k")
    assert isinstance(sheet, ModelSheet)
    assert [(row.name, row.shape) for row in sheet.passing] == [
        ("conv1", (1, 64, 112, 112)),
        ("maxpool", (1, 64, 56, 56)),
        ("layer1.0", (1, 256, 56, 56)),
        ("layer2.0", (1, 512, 28, 28)),
        ("layer3.0", (1, 1024, 14, 14)),
        ("layer4.0", (1, 2048, 7, 7)),
        ("avgpool", (1, 2048, 1, 1)),
        ("fc", (1, 1000)),
    ]
    assert sheet.pattern_bytes == 0 and sheet.shares["convolution"][1] > 0.99
    text = "\n".join(sheet.lines())
    for words in ("resnet50.tv2_in1k", "11ad3fa6", "shorter side to 232 (bilinear), middle 224 x 224", "top1 80.9%"):
        assert words in text
    with pytest.raises(RegardError, match=r"resnet50\.nope: no such weights"):
        models("resnet50.nope")


def test_the_sheet_of_two_towers_and_of_sequences() -> None:
    rows = {row.name: row for row in regard.model_sheet("clip_vit_base_patch32").passing}
    assert rows["visual.transformer.resblocks.*.attn.pattern"].shape == (1, 12, 50, 50)
    assert rows["transformer.resblocks.*.attn.pattern"].shape == (1, 8, 77, 77)
    sheet = regard.model_sheet("gru_tiny")
    assert sheet.img_size == 0 and "image         none" in "\n".join(sheet.lines())


def test_the_sheet_of_sam_says_what_an_image_costs_once_and_what_a_prompt_does() -> None:
    sheet = regard.model_sheet("sam_vit_b")
    rows = {(row.name, row.shape): row.times for row in sheet.passing}
    assert rows["image_encoder.blocks.*.attn.pattern", (25, 12, 196, 196)] == 8  # windows, the last ones filled up
    assert rows["image_encoder.blocks.*.attn.pattern", (1, 12, 4096, 4096)] == 4
    assert rows["mask_decoder.transformer.layers.*.cross_attn_token_to_image.pattern", (1, 8, 7, 4096)] == 2
    text = "\n".join(sheet.lines())
    for words in (
        "for one example: image_encoder 471, mask_decoder 1.",
        "longer side to 1024 (bilinear), mean 0.485 0.456 0.406",
        "sam_vit_b_01ec64.pth",
        "apache-2.0",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ):
        assert words in text
    for shares in zip(*sheet.shares.values(), strict=True):
        assert sum(shares) == pytest.approx(1)


def test_a_sheet_may_have_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "vit_nano_patch4_32+pool=mean", "--json"]) == 0
    sheet = json.loads(capsys.readouterr().out)["result"]
    assert sheet["name"] == "vit_nano_patch4_32+pool=mean" and sheet["options"]["pool"] == ["token", "mean", "max"]
    assert [1, 3, 64, 64] in [row["shape"] for row in sheet["passing"]]
    assert main(["models", "vit_nano_patch4_32+pool=sum"]) == 2
    assert "no such option" in capsys.readouterr().err


def test_the_table_and_the_checks_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "clip", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["result"]["rows"]
    assert [row["parameters"] for row in rows] == [149_620_737, 151_277_313]


def test_what_is_right_is_verified(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    assert main(["models", "vit_nano_patch4_32", "--verify"]) == 0
    line, total = capsys.readouterr().out.splitlines()
    assert line.startswith("vit_nano_patch4_32  ok") and "names as timm" in line and "taps within" in line
    assert total == "1 models, 0 failed"
    for name in ("resnet20_32", "gru_tiny", "sam_nano_128"):
        found = verify_model(name)
        assert not found.failed and found.checks[1].outcome == "not run", found


class Broken(nn.Module):
    """A registered model to be broken in one way or another."""

    def __init__(self, original: nn.Module, change: Callable[[Tensor, nn.Module], object]) -> None:
        super().__init__()
        self.original, self.change = original, change

    def forward(self, x: Tensor) -> object:
        return self.change(self.original(x), self.original)


def listening(model: nn.Module) -> bool:
    return bool(model.get_submodule("blocks.0.attn.pattern").listeners)


@pytest.mark.parametrize(
    ("change", "what", "words"),
    [
        (lambda y, model: (y, y), "output", "gave tuple; expected one tensor"),
        (lambda y, model: y[:1], "output", "gave (1, 1000) for two examples"),
        (lambda y, model: y, "names", "is (1, 1, 96) in timm, absent here"),
        (lambda y, model: y @ y.new_ones(y.shape[1], y.shape[1]), "counts", "recorded is"),
        (lambda y, model: y - y.mean(0) if len(y) > 1 else y, "neighbours", "alone and in a batch of three"),
        (lambda y, model: y * 0, "neighbours", "two examples have one answer"),
        (lambda y, model: y * float("nan"), "neighbours", "not finite"),
        (lambda y, model: y + listening(model), "taps", "while recorded and not"),
    ],
)
def test_what_is_broken_is_found(
    change: Callable[[Tensor, nn.Module], object], what: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")
    spec = model_spec("vit_nano_patch4_32")

    def build(**given: object) -> nn.Module:
        return Broken(spec.build(**given), change)  # pyright: ignore[reportArgumentType]

    monkeypatch.setitem(registry._SPECS, spec.name, replace(spec, build=build))
    checks = {check.what: check for check in verify_model(spec.name).checks}
    assert checks[what].outcome == "failed" and words in checks[what].detail


def test_a_model_that_cannot_be_made_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = model_spec("resnet20_32")

    def build(**given: object) -> nn.Module:
        raise ZeroDivisionError("no width")

    monkeypatch.setitem(registry._SPECS, spec.name, replace(spec, build=build))
    (check,) = verify_model(spec.name).checks
    assert (check.outcome, check.detail) == ("failed", "ZeroDivisionError: no width")


def test_a_failure_is_the_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    parameters, gmacs = COSTS["resnet20_32"]
    monkeypatch.setitem(COSTS, "resnet20_32", (parameters + 1, gmacs))
    assert main(["models", "resnet20_3?", "--verify"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("resnet20_32  FAILED") and printed[-1] == "1 models, 1 failed"
    assert f"failed: counts: (parameters, GMACs) are {(parameters, gmacs)}" in "\n".join(printed)


def test_large_models_are_not_given_weights() -> None:
    pytest.importorskip("timm")
    found = verify_model("vit_large_patch32_224")
    outcomes = {check.what: check.outcome for check in found.checks}
    assert not found.failed and outcomes["taps"] == outcomes["neighbours"] == "not run"
    assert "not run: taps: more than 120 million weights" in "\n".join(Verification((found,)).lines())


@pytest.mark.long
@pytest.mark.parametrize("name", list_models())
def test_every_model_is_verified(name: str) -> None:
    found = verify_model(name)
    assert not found.failed, found
