"""The task that the loop does not know: images with one label each."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.data.augment import Augment
from regard.data.loader import Batch, Batches
from regard.data.mixing import Mixing
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel
from regard.inference.pooling import set_head
from regard.inference.rows import predict_rows
from regard.models import create_model
from regard.results import Predictions
from regard.training.recipe import Recipe

if TYPE_CHECKING:
    from regard.data.sources import ImageSet


@dataclass(frozen=True)
class Trainee:
    """What is trained: the whole model, or only its last layer on the frozen rest.

    module: holds the trained parameters; logits(module or its average, images (B, 3, S, S) on the device) ->
    (B, K).
    """

    module: nn.Module
    logits: Callable[[nn.Module, Tensor], Tensor]
    device: torch.device
    layout: torch.memory_format

    def place(self, images: Tensor) -> Tensor:
        """Images on the device, in the layout that the model computes in."""
        return images.to(self.device, non_blocking=True, memory_format=self.layout)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy; smoothing and mixing are in the targets."""
        logits = self.logits(module, self.place(batch.images))
        return F.cross_entropy(logits.float(), batch.targets.to(self.device, non_blocking=True))


def prepare(loaded: LoadedModel, recipe: Recipe) -> Trainee:
    """Put `loaded.model` into the state from which training starts; the seed of the recipe draws what is
    random.

    scratch: a registered model is made anew with the recipe's dropout and stochastic depth. finetune: the
    same with the loaded weights and a new last layer. A module from elsewhere is trained as it is given.
    head: everything is frozen but a new last layer, zero at first (ViT paper, section 4).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f"initialisation {recipe.seed}".encode()))
        if recipe.method == "head":
            return _frozen(loaded)
        _rebuild(loaded, recipe)
    loaded.model.requires_grad_(True)
    # Convolutions run faster in channels_last, on the CPU too.
    convolutional = loaded.spec is not None and loaded.spec.family == "resnet"
    layout = torch.channels_last if convolutional else torch.contiguous_format
    device = _device()
    loaded.model.to(device).to(memory_format=layout)  # pyright: ignore[reportCallIssue]  (not in torch's stub)
    return Trainee(loaded.model, lambda model, images: model(images), device, layout)


def _rebuild(loaded: LoadedModel, recipe: Recipe) -> None:
    spec = loaded.spec
    if spec is None:
        return
    model = create_model(
        spec.name,
        num_classes=len(loaded.classes),
        img_size=loaded.preprocess.size,
        drop_rate=recipe.dropout,
        drop_path_rate=recipe.drop_path,
        force=True,  # `loaded` was made with this size, so it has been allowed before
    )
    if recipe.method == "finetune":
        state = loaded.model.state_dict()
        if loaded.head:  # the new model's own, drawn by the seed, and not what loading happened to draw
            state |= {name: value for name, value in model.state_dict().items() if name.startswith(f"{loaded.head}.")}
        model.load_state_dict(state)
    loaded.model = model


def _frozen(loaded: LoadedModel) -> Trainee:
    if not loaded.head:
        raise RegardError(
            f"{loaded.name}: its output comes from no nn.Linear that could be replaced; use --method finetune"
        )
    old = loaded.model.get_submodule(loaded.head)
    if not isinstance(old, nn.Linear):
        raise RegardError(
            f"{loaded.name}: {loaded.head} is a {type(old).__name__}, not an nn.Linear; use --method finetune"
        )
    classes = len(loaded.classes)
    set_head(loaded, torch.zeros(classes, old.in_features), torch.zeros(classes))
    linear = loaded.model.get_submodule(loaded.head)
    loaded.model.to(_device()).requires_grad_(False)
    linear.requires_grad_(True)

    def logits(head: nn.Module, images: Tensor) -> Tensor:
        loaded.model.eval()
        with torch.no_grad():
            features = loaded.pooled(images)
        return head(features)

    return Trainee(linear, logits, _device(), torch.contiguous_format)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training_batches(images: ImageSet, rows: np.ndarray, loaded: LoadedModel, recipe: Recipe) -> Batches:
    """The stream of augmented training batches of a recipe."""
    size = loaded.preprocess.size
    augment = Augment(
        crop=recipe.crop,
        scale=(recipe.crop_scale, 1.0),
        padding=max(1, size // 8),
        flip=0.5 if recipe.flip else 0.0,
        randaugment=recipe.randaugment,
        erase=recipe.erasing,
    )
    mixing = Mixing(recipe.mixup, recipe.cutmix, recipe.mixing_probability, recipe.label_smoothing)
    return Batches(
        images,
        rows,
        loaded.preprocess,
        augment,
        mixing,
        batch_size=recipe.micro_batch,
        seed=recipe.seed,
        num_classes=len(loaded.classes),
    )


def predict_set(loaded: LoadedModel, images: ImageSet, rows: np.ndarray, batch_size: int = 64) -> Predictions:
    """Logits in float32 for labelled images; RegardError (by name) for an image that cannot be read."""
    ids = tuple(images.ids[row] for row in rows)
    logits = np.empty((len(rows), len(loaded.classes)), np.float32)
    for number, row in enumerate(predict_rows(loaded, ids, (images.sources[int(row)] for row in rows), batch_size)):
        if row.logits is None:
            raise RegardError(row.message)
        logits[number] = row.logits
    return Predictions(ids, logits, np.asarray(images.labels[rows], np.int64), loaded.classes)


def validation_answers(
    images: ImageSet, rows: np.ndarray, loaded: LoadedModel, trainee: Trainee
) -> Callable[[nn.Module], Predictions]:
    """From the trained module to its predictions of `rows`, for an evaluator; pixels are kept where memory
    allows.
    """
    batches = Batches(images, rows, loaded.preprocess, batch_size=64)
    ids = tuple(images.ids[row] for row in rows)
    labels = np.asarray(images.labels[rows], np.int64)

    def answer(module: nn.Module) -> Predictions:
        parts = [trainee.logits(module, trainee.place(batch.images)).float().cpu().numpy() for batch in batches.once()]
        return Predictions(ids, np.concatenate(parts), labels, loaded.classes)

    return answer
