"""What the loop is given: the part of a model that is trained, its batches, and how it answers."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from regard.data.augment import Augment
from regard.data.loader import Batch, Batches
from regard.data.mixing import Mixing
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel
from regard.inference.memory import InParts
from regard.inference.pooling import head_input, set_head, set_head_module
from regard.inference.rows import predict_rows
from regard.models import Heads, create_model
from regard.results import Predictions
from regard.training import lora
from regard.training.processes import own_device
from regard.training.recipe import Recipe
from regard.training.tasks import Task, refuse_unfoldable

if TYPE_CHECKING:
    from regard.data.sources import ImageSet


@dataclass(frozen=True)
class Trainee:
    """What is trained: the whole model, or only its last layer on the frozen rest.

    module: holds the trained parameters; logits(module or its average, images (B, 3, S, S) on the device) ->
    (B, K), or `Heads` in training, in standard deviations where they are numbers; task: what they are trained for;
    others_weight: the share of each further head's loss.
    """

    module: nn.Module
    logits: Callable[[nn.Module, Tensor], Tensor | Heads]
    task: Task
    device: torch.device
    layout: torch.memory_format
    others_weight: float = 0.0

    def place(self, images: Tensor) -> Tensor:
        """Images on the device, in the layout that the model computes in."""
        return images.to(self.device, non_blocking=True, memory_format=self.layout)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of the batch; smoothing and mixing are in the targets."""
        answers = self.logits(module, self.place(batch.images))
        targets = batch.targets.to(self.device, non_blocking=True)
        if isinstance(answers, Tensor):
            return self.task.loss(answers.float(), targets)
        others = [self.task.loss(other.float(), targets) for other in answers.others]
        return self.task.loss(answers.logits.float(), targets) + self.others_weight * sum(others)

    def further_flops(self, images_seen: int) -> float:
        """Of what runs beside the module while it is trained on so many images: nothing here."""
        return 0.0

    def answers(self, module: nn.Module, images: Tensor) -> Tensor:
        """(B, K) float32 of images (B, 3, S, S), in the units of the labels."""
        logits = self.logits(module, self.place(images))
        assert isinstance(logits, Tensor)  # in evaluation a model gives one tensor
        return self.task.answers(logits.float())


def answer_these(loaded: LoadedModel, images: ImageSet) -> None:
    """Let the model be one for this kind of labels; for boxes it sees the whole photo, squashed into its square."""
    loaded.problem, loaded.boxes, loaded.thresholds = images.problem, images.boxes, ()
    if images.boxes:
        loaded.preprocess = replace(loaded.preprocess, resize="squash", crop_pct=1.0)


def prepare(loaded: LoadedModel, recipe: Recipe, task: Task) -> Trainee:
    """Put `loaded.model` into the state from which training starts; the seed of the recipe draws what is
    random.

    scratch: a registered model is made anew with the recipe's dropout and stochastic depth. finetune: the
    same with the loaded weights and a new last layer. lora: as finetune, then everything is frozen but the last
    layer and the adapters. A module from elsewhere is trained as it is given. head: everything is frozen but a
    new last layer, zero at first (ViT paper, section 4).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f"initialisation {recipe.seed}".encode()))
        if recipe.method == "head":
            return _frozen(loaded, task)
        refuse_unfoldable(loaded, task.problem)
        _rebuild(loaded, recipe)
        loaded.model.requires_grad_(True)
        if recipe.method == "lora":
            lora.adapt(loaded.model, recipe.lora_rank, loaded.preprocess.size, loaded.name)
            for head in loaded.heads:
                loaded.model.get_submodule(head).requires_grad_(True)
    device, layout = lay_out(loaded)
    others_weight = getattr(loaded.model, "OTHERS_WEIGHT", 0.0)
    return Trainee(loaded.model, lambda model, images: model(images), task, device, layout, others_weight)


def lay_out(loaded: LoadedModel) -> tuple[torch.device, torch.memory_format]:
    """Bring the model to the device of this process, in the layout that it computes in; both are returned."""
    # Convolutions run faster in channels_last, on the CPU too.
    convolutional = loaded.spec is not None and loaded.spec.convolutional
    layout = torch.channels_last if convolutional else torch.contiguous_format
    device = own_device()
    loaded.model.to(device).to(memory_format=layout)  # pyright: ignore[reportCallIssue]  (not in torch's stub)
    return device, layout


def settle(loaded: LoadedModel, task: Task) -> None:
    """After training: the model as it is saved, under the names that it came with, in the units of the labels."""
    lora.merge(loaded.model)
    task.fold(loaded)
    loaded.model.requires_grad_(True).eval()


def settled_state(loaded: LoadedModel, trainee: Trainee, module: nn.Module) -> dict[str, Tensor]:
    """The whole model's state dict as `settle` would leave it, with `module` (the trained part, or its average) as it
    is now; nothing is changed.
    """
    whole = trainee.module is loaded.model
    now = replace(loaded, model=copy.deepcopy(module if whole else loaded.model))
    if not whole:
        set_head_module(now, copy.deepcopy(module))  # pyright: ignore[reportArgumentType]  # a Linear (`_frozen`)
    settle(now, trainee.task)
    return now.model.state_dict()


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
    if recipe.method != "scratch":
        state = loaded.model.state_dict()
        # Heads are the new model's own, drawn by the seed, and not what loading happened to draw.
        heads = tuple(f"{head}." for head in loaded.heads)
        own = {name: value for name, value in model.state_dict().items() if name.startswith(heads)}
        model.load_state_dict({name: value for name, value in state.items() if not name.startswith(heads)} | own)
    loaded.model = model


def _frozen(loaded: LoadedModel, task: Task) -> Trainee:
    if not loaded.head:
        raise RegardError(
            f"{loaded.name}: its output comes from no nn.Linear that could be replaced; use --method finetune"
        )
    classes = len(loaded.classes)
    set_head(loaded, torch.zeros(classes, head_input(loaded)), torch.zeros(classes))
    linear = loaded.model.get_submodule(loaded.head)
    device = own_device()
    loaded.model.to(device).requires_grad_(False)
    linear.requires_grad_(True)

    def logits(head: nn.Module, images: Tensor) -> Tensor:
        loaded.model.eval()
        with torch.no_grad():
            features = loaded.pooled(images)
        return head(features)

    return Trainee(linear, logits, task, device, torch.contiguous_format)


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
    several = images.problem == "multi_label"
    mixing = Mixing(recipe.mixup, recipe.cutmix, recipe.mixing_probability, recipe.label_smoothing, several)
    return Batches(
        images,
        rows,
        loaded.preprocess,
        augment,
        mixing,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        num_classes=len(loaded.classes),
        strata=images.strata if recipe.balance == "sampler" else None,
        repeats=recipe.repeated_augmentation,
        boxes=images.boxes,
    )


def predict_set(loaded: LoadedModel, images: ImageSet, rows: np.ndarray, batch_size: int = 64) -> Predictions:
    """Logits in float32 for labelled images; RegardError (by name) for an image that cannot be read."""
    ids = (images.ids[int(row)] for row in rows)
    sources = (images.sources[int(row)] for row in rows)
    logits = np.empty((len(rows), len(loaded.classes)), np.float32)
    for number, row in enumerate(predict_rows(loaded, ids, sources, batch_size)):
        if row.logits is None:
            raise RegardError(row.message)
        logits[number] = row.logits
    return labelled(images, rows, logits)


def labelled(images: ImageSet, rows: np.ndarray, logits: np.ndarray) -> Predictions:
    """Answers (N, K) for these rows of the images, with their labels beside them."""
    ids = tuple(images.ids[int(row)] for row in rows)
    return Predictions(ids, logits, images.labels[rows], images.classes, images.problem)


def validation_answers(
    images: ImageSet, rows: np.ndarray, loaded: LoadedModel, trainee: Trainee
) -> Callable[[nn.Module], Predictions]:
    """From the trained module to its predictions of `rows`, for an evaluator; pixels are kept where memory
    allows.
    """
    batches = Batches(images, rows, loaded.preprocess, batch_size=64)

    def answer(module: nn.Module) -> Predictions:
        answers = InParts(partial(trainee.answers, module))
        parts = [answers(batch.images).cpu().numpy() for batch in batches.once()]
        return labelled(images, rows, np.concatenate(parts))

    return answer
