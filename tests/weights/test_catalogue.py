"""The catalogue agrees with what its sources say, as far as their packages carry it."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import timm
import torch
import torchvision.models
from timm.models import get_pretrained_cfg

from regard.errors import RegardError
from regard.models import count_parameters, create_model, list_models, model_spec
from regard.weights import CHECKPOINTS, Checkpoint, checkpoints_of, find_checkpoint
from regard.weights.catalogue import HubFile, imagenet_classes

TIMM = [checkpoint for checkpoint in CHECKPOINTS if str(checkpoint.source).startswith("timm/")]
TORCHVISION = [checkpoint for checkpoint in CHECKPOINTS if checkpoint.tag.endswith(("tv_in1k", "tv2_in1k"))]
SEGMENTERS = [checkpoint for checkpoint in CHECKPOINTS if checkpoint.tag.endswith("tv_coco")]
PUBLISHED = {
    weights.url: weights
    for module in (torchvision.models, torchvision.models.segmentation)
    for name in torchvision.models.list_models(module=module)
    for weights in torchvision.models.get_model_weights(name)
}
HALVED = ("googlenet", "inception_v3")  # torchvision's models of these names map their input to mean 0.5 and std 0.5


def test_tags_are_unique_and_belong_to_registered_models() -> None:
    assert max(Counter(checkpoint.tag for checkpoint in CHECKPOINTS).values()) == 1
    assert {checkpoint.architecture for checkpoint in CHECKPOINTS} <= set(list_models())
    assert all(checkpoint.tag.partition(".")[0] == checkpoint.architecture for checkpoint in CHECKPOINTS)


@pytest.mark.parametrize("checkpoint", TIMM, ids=lambda checkpoint: checkpoint.tag)
def test_timm_publishes_this_tag_with_this_preprocessing(checkpoint: Checkpoint) -> None:
    config = get_pretrained_cfg(checkpoint.tag)
    assert config is not None
    assert checkpoint.source == HubFile(config.hf_hub_id, "model.safetensors")
    ours = checkpoint.preprocess.to_config()
    for key in ("input_size", "crop_pct", "interpolation", "mean", "std", "crop_mode"):
        theirs = getattr(config, key)
        assert ours[key] == (list(theirs) if isinstance(ours[key], list) else theirs), key
    assert (checkpoint.num_classes, checkpoint.licence) == (config.num_classes, config.license)
    assert checkpoint.preprocess.size == model_spec(checkpoint.architecture).img_size


@pytest.mark.parametrize("checkpoint", TORCHVISION, ids=lambda checkpoint: checkpoint.tag)
def test_torchvision_publishes_this_file_with_this_preprocessing(checkpoint: Checkpoint) -> None:
    weights = PUBLISHED[checkpoint.source]
    transforms = weights.transforms()
    ours = checkpoint.preprocess
    assert [ours.size] == transforms.crop_size
    assert [math.floor(ours.size / ours.crop_pct)] == transforms.resize_size
    assert ours.interpolation == transforms.interpolation.value
    halved = checkpoint.architecture in HALVED
    expected = ([0.5] * 3, [0.5] * 3) if halved else (list(transforms.mean), list(transforms.std))
    assert (list(ours.mean), list(ours.std)) == expected
    # torchvision counts GoogLeNet without the auxiliary classifiers that its file has.
    counted = 6_624_904 if checkpoint.architecture == "googlenet" else checkpoint.parameters
    assert counted == weights.meta["num_params"]
    metrics = weights.meta["_metrics"]["ImageNet-1K"]
    assert (checkpoint.top1, checkpoint.top5) == (metrics["acc@1"], metrics["acc@5"])
    assert checkpoint.size_mb == pytest.approx(weights.meta["_file_size"] * 2**20 / 1e6, rel=0.01)
    assert checkpoint.sha256 is not None
    assert checkpoint.sha256 == str(checkpoint.source).removesuffix(".pth").rsplit("-", 1)[1]
    assert len(checkpoint.sha256) == 8


@pytest.mark.parametrize("checkpoint", SEGMENTERS, ids=lambda checkpoint: checkpoint.tag)
def test_torchvision_publishes_this_file_of_a_segmenter(checkpoint: Checkpoint) -> None:
    weights = PUBLISHED[checkpoint.source]
    transforms = weights.transforms()
    ours = checkpoint.preprocess
    assert [ours.size] == transforms.resize_size
    assert ours.interpolation == transforms.interpolation.value
    assert (list(ours.mean), list(ours.std)) == (list(transforms.mean), list(transforms.std))
    assert checkpoint.parameters == weights.meta["num_params"]
    assert checkpoint.num_classes == len(weights.meta["categories"])
    metrics = weights.meta["_metrics"]["COCO-val2017-VOC-labels"]
    assert f"mean IoU {metrics['miou']}, pixel accuracy {metrics['pixel_acc']}" in checkpoint.note
    assert checkpoint.sha256 == str(checkpoint.source).removesuffix(".pth").rsplit("-", 1)[1]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda checkpoint: checkpoint.tag)
def test_the_size_is_that_of_our_model(checkpoint: Checkpoint) -> None:
    with torch.device("meta"):
        model = create_model(checkpoint.architecture, num_classes=checkpoint.num_classes)
    assert checkpoint.parameters == count_parameters(model)


def test_a_bare_name_means_its_first_tag() -> None:
    assert find_checkpoint("vit_small_patch16_224").tag == "vit_small_patch16_224.augreg_in21k_ft_in1k"
    assert find_checkpoint("resnet50").tag == "resnet50.tv_in1k"
    assert find_checkpoint("resnet50.tv2_in1k").top1 == 80.858
    assert find_checkpoint("vit_huge_patch14_224").num_classes == 0


def test_pretraining_is_told_in_words() -> None:
    told = {name: find_checkpoint(f"vit_base_patch16_224.{name}").pretraining for name in ("augreg_in21k", "sam_in1k")}
    assert told == {"augreg_in21k": "ImageNet-21k", "sam_in1k": "ImageNet-1k"}
    assert find_checkpoint("vit_base_patch16_224").pretraining == "ImageNet-21k, then ImageNet-1k"


def test_an_unknown_tag_names_the_tags_there_are() -> None:
    with pytest.raises(RegardError, match=r"resnet50\.v3: .* are: resnet50\.tv_in1k, resnet50\.tv2_in1k$"):
        find_checkpoint("resnet50.v3")


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(RegardError, match=r"vit_smal_patch16_224: .*nearest: vit_small_patch16_224.*--weights FILE"):
        find_checkpoint("vit_smal_patch16_224")
    assert checkpoints_of("vit_tiny_patch4_32") == ()


def test_class_names_are_imagenets_where_the_head_is() -> None:
    assert find_checkpoint("resnet18").class_names[281] == "tabby"
    assert find_checkpoint("vit_tiny_patch16_224.augreg_in21k").class_names == ()
    assert len(set(imagenet_classes())) == 1000


def test_timm_knows_every_architecture_of_its_weights_by_our_name() -> None:
    assert {checkpoint.architecture for checkpoint in TIMM} <= set(timm.list_models())


@pytest.mark.parametrize(
    "checkpoint", [c for c in CHECKPOINTS if ".meta_" in c.tag], ids=lambda checkpoint: checkpoint.tag
)
def test_metas_files_are_those_that_timm_copied(checkpoint: Checkpoint) -> None:
    config = get_pretrained_cfg(checkpoint.tag.replace("meta_in1k", "fb_in1k").replace("meta_lvd", "lvd"))
    assert config is not None
    assert checkpoint.source == config.url
    assert checkpoint.sha256 is None or f"-{checkpoint.sha256}.pth" in str(checkpoint.source)
    assert (checkpoint.sha256 is None) == (checkpoint.num_classes == 0)


@pytest.mark.parametrize("size", ["base", "large", "huge"])
def test_the_files_of_sam_are_those_whose_encoders_timm_copied(size: str) -> None:
    config = get_pretrained_cfg(f"samvit_{size}_patch16.sa1b")
    assert config is not None
    checkpoint = find_checkpoint(f"sam_vit_{size[0]}")
    ours = checkpoint.preprocess
    assert checkpoint.source == config.url and checkpoint.licence == config.license
    assert (3, ours.size, ours.size) == config.input_size and (ours.mean, ours.std) == (config.mean, config.std)
    assert checkpoint.sha256 is not None and len(checkpoint.sha256) == 64
