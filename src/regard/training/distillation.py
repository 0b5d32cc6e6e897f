"""Learning from a teacher: a loss that draws the student's answers towards those of another model.

Hinton, Vinyals and Dean 2015 (arXiv 1503.02531, section 2) and DeiT (Touvron et al. 2020, arXiv 2012.12877, section
4). With the student's logits Z, the teacher's logits T, labels y and the softmax s, both terms means over the batch:

    soft   (1 - alpha) CE(Z, y) + alpha tau^2 KL(s(T / tau) || s(Z / tau))                    DeiT, equation 2
    hard   (1 - alpha) CE(Z, y) + alpha CE(Z, argmax T)                                       DeiT, equation 3

A model with a distillation head (its class names it in DISTILLATION_HEAD) learns the second term with that head and
the first with its own; with one head both act on it, as in Hinton. Label smoothing and mixing act on y alone; an
auxiliary classifier (GoogLeNet's) learns both terms, with the weight that its model gives it.

Deviation: DeiT's code divides the soft term by the number of classes too; the mean over the batch is the papers'.

The teacher sees the picture that the student sees, cropped, mirrored, erased and mixed, with its own normalisation and
at its own size, and in evaluation mode. Its answers are kept where the same pictures come again: when training images
are not varied, but for mirroring.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.data.loader import Batch, Batches, Plan
from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.features import backbone_hash, fingerprint
from regard.inference.loaded import LoadedModel
from regard.inference.memory import InParts
from regard.models import Heads, count_gmacs
from regard.training.recipe import Recipe
from regard.training.trainee import Trainee, lay_out
from regard.weights import read_state, save_state

if TYPE_CHECKING:
    from regard.data.sources import ImageSet

Kind = Literal["hard", "soft"]
TAU = 3.0  # DeiT, section 5.2
OnEvent = Callable[[dict[str, Any]], None]


def soft_loss(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """tau^2 KL(s(teacher / tau) || s(student / tau)), mean over the batch, of logits (B, K) -> scalar."""
    own, wanted = F.log_softmax(student / tau, dim=1), F.log_softmax(teacher / tau, dim=1)
    return tau**2 * F.kl_div(own, wanted, reduction="batchmean", log_target=True)


def hard_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of the student's logits (B, K) with the class that the teacher's (B, K) name -> scalar."""
    return F.cross_entropy(student, teacher.argmax(dim=1))


def teacher_view(images: Tensor, student: Preprocess, teacher: Preprocess) -> Tensor:
    """Images (B, 3, S, S) as the student sees them -> (B, 3, T, T) normalised and sized as the teacher was trained."""
    if (student.mean, student.std) != (teacher.mean, teacher.std):
        own, other = ([torch.tensor(values).view(3, 1, 1) for values in (p.mean, p.std)] for p in (student, teacher))
        scale, shift = own[1] / other[1], (own[0] - other[0]) / other[1]
        images = images * scale.to(images) + shift.to(images)
    if student.size != teacher.size:
        size = (teacher.size, teacher.size)
        images = F.interpolate(images, size, mode=teacher.interpolation, antialias=True)
    return images


def check_how(kind: str, alpha: float, tau: float) -> None:
    """RegardError for a way of teaching that there is not."""
    if kind not in ("hard", "soft"):
        raise RegardError(f"--kind {kind}: expected hard or soft")
    if not 0 < alpha <= 1:
        raise RegardError(f"--alpha {alpha:g}: expected a share above 0 and at most 1")
    if not 0 < tau <= 1000:
        raise RegardError(f"--tau {tau:g}: expected a temperature above 0 and at most 1000")


@dataclass(frozen=True)
class Teacher:
    """A model to learn from, and how.

    tau: temperature of the soft loss; alpha: share of the teacher's term, above 0 and at most 1.
    """

    loaded: LoadedModel
    kind: Kind = "hard"
    alpha: float = 0.5
    tau: float = TAU

    def __post_init__(self) -> None:
        check_how(self.kind, self.alpha, self.tau)

    def loss(self, student: Tensor, answers: Tensor) -> Tensor:
        """The teacher's term, of the student's logits (B, K) and the teacher's -> scalar."""
        if self.kind == "hard":
            return hard_loss(student, answers)
        return soft_loss(student, answers, self.tau)

    def answers(self, images: Tensor, student: Preprocess, classes: tuple[str, ...]) -> Tensor:
        """(B, K) float32 logits in the order of `classes`, of images (B, 3, S, S) as the student sees them."""
        order = [self.loaded.classes.index(name) for name in classes]
        with torch.no_grad():
            logits = self.loaded.model.eval()(teacher_view(images, student, self.loaded.preprocess))
        return logits.float()[:, order]

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that stand for its weights and preprocessing."""
        text = json.dumps([backbone_hash(self.loaded.model), self.loaded.preprocess.to_config()])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def to_config(self) -> dict[str, Any]:
        """For config.yaml: plain values; `source` is how to load it again."""
        how = {"kind": self.kind, "alpha": self.alpha, **({"tau": self.tau} if self.kind == "soft" else {})}
        return {
            **how,
            "teacher": self.loaded.name,
            "source": dict(self.loaded.source),
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True, kw_only=True)
class Taught(Trainee):
    """A student with its teacher.

    ask: what the student sees (B, 3, S, S) -> the teacher's logits (B, K); taught: place of the distillation head
    among the other heads, None where there is none; kept: views of images whose answers were computed once, before the
    first step, 0 where the teacher answers at every step.
    """

    teacher: Teacher
    ask: Callable[[Tensor], Tensor]
    taught: int | None = None
    kept: int = 0

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of the batch, by labels and by the teacher's answers."""
        images = self.place(batch.images)
        answers = self.logits(module, images)
        targets = batch.targets.to(self.device, non_blocking=True)
        wanted = batch.answers.to(self.device) if isinstance(batch, TaughtBatch) else self.ask(images)
        alpha, others = self.teacher.alpha, answers.others if isinstance(answers, Heads) else ()
        main = answers.logits if isinstance(answers, Heads) else answers

        def both(by_labels: Tensor, by_teacher: Tensor) -> Tensor:
            given = self.task.loss(by_labels.float(), targets)
            return (1 - alpha) * given + alpha * self.teacher.loss(by_teacher.float(), wanted)

        auxiliary = [both(other, other) for number, other in enumerate(others) if number != self.taught]
        return both(main, main if self.taught is None else others[self.taught]) + self.others_weight * sum(auxiliary)

    def further_flops(self, images_seen: int) -> float:
        """Of the teacher's forward passes, while the student is trained on so many images."""
        teacher = self.teacher.loaded
        return 2e9 * count_gmacs(teacher.model, teacher.preprocess.size) * (self.kept or images_seen)


@dataclass(frozen=True)
class TaughtBatch(Batch):
    """A batch that brings the teacher's answers, (B, K) float32, with it."""

    answers: Tensor

    def __getitem__(self, places: np.ndarray) -> TaughtBatch:
        part, index = super().__getitem__(places), torch.from_numpy(places)
        return TaughtBatch(part.images, part.targets, part.rows, self.answers[index])


class TaughtBatches(Batches):
    """The stream of `batches`, whose pictures come again, with the teacher's `answers` (V, N, K) to the sorted rows.

    The first view is the image, the second, where there is one, its mirror image.
    """

    def __init__(self, batches: Batches, answers: Tensor) -> None:
        vars(self).update(vars(batches))
        self.answers, self.sorted_rows = answers, np.unique(batches.rows)

    def _finish(self, plan: Plan, images: Tensor) -> Batch:
        batch = super()._finish(plan, images)
        assert self.augment is not None
        view = np.zeros(len(batch), np.int64)
        if len(self.answers) > 1:
            view = np.array([self.augment.mirrors(rng) for rng in self._generators(plan)], np.int64)
        wanted = self.answers[view, np.searchsorted(self.sorted_rows, batch.rows)]
        return TaughtBatch(batch.images, batch.targets, batch.rows, wanted)


def teach(
    teacher: Teacher,
    trainee: Trainee,
    loaded: LoadedModel,
    images: ImageSet,
    batches: Batches,
    recipe: Recipe,
    cache_dir: Path,
    on_event: OnEvent,
) -> tuple[Taught, Batches]:
    """The trainee and its batches with `teacher` beside them; `loaded` is the student.

    The answers are computed before the first step, and kept in `cache_dir`, where pictures come again and that costs
    less than answering at every step. Raises RegardError where the teacher does not answer the student's classes.
    """
    if trainee.task.problem != "single_label" or teacher.loaded.problem != "single_label":
        raise RegardError("distilling: needs one class per photo, of the data and of the teacher")
    if sorted(teacher.loaded.classes) != sorted(loaded.classes):
        raise RegardError(
            f"{teacher.loaded.name}: answers {len(teacher.loaded.classes)} classes that are not those of the student; "
            "fit its head to these images first (regard train --method head)"
        )
    name = getattr(loaded.model, "DISTILLATION_HEAD", None)
    taught = loaded.heads.index(name) - 1 if name else None
    if taught is not None and teacher.alpha == 1:
        raise RegardError(f"--alpha 1: {loaded.name} has a head for the labels, which would learn nothing; use less")
    lay_out(teacher.loaded)

    def answer(images: Tensor) -> Tensor:
        return teacher.answers(images, loaded.preprocess, loaded.classes)

    views, rows = recurring_views(batches), np.unique(batches.rows)
    passes = len(views) * len(rows)
    length = recipe.length(len(batches.rows)) if recipe.minutes is None else None
    worth = bool(passes) and (length is None or passes < length * recipe.batch_size)
    student = Taught(
        **{one.name: getattr(trainee, one.name) for one in fields(Trainee)},
        teacher=teacher,
        ask=InParts(answer),
        taught=taught,
        kept=passes if worth else 0,
    )
    if not worth:
        return student, batches
    return student, TaughtBatches(batches, _answers(student, loaded, images, rows, views, cache_dir, on_event))


def recurring_views(batches: Batches) -> tuple[bool, ...]:
    """Whether mirrored, of each picture of an image that comes again in later epochs; empty where all are new."""
    augment, mixing = batches.augment, batches.mixing
    assert augment is not None
    if augment.crop != "centre" or augment.randaugment is not None or augment.erase or (mixing and mixing.mixes):
        return ()
    return (False, True) if augment.flip else (False,)


def _answers(
    student: Taught,
    loaded: LoadedModel,
    images: ImageSet,
    rows: np.ndarray,
    views: tuple[bool, ...],
    cache_dir: Path,
    on_event: OnEvent,
) -> Tensor:
    """(V, N, K) the teacher's logits for these rows, from the cache, or computed in one pass and kept there.

    One file holds them all and always the same batches make it, so that a resumed run learns from the same bits.
    """
    teacher = student.teacher
    prints = hashlib.sha256(b"".join(fingerprint(images, int(row)) for row in rows)).hexdigest()
    identity = [teacher.fingerprint, loaded.preprocess.to_config(), loaded.classes, views, prints, student.device.type]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    path = cache_dir / f"teacher-{key}.safetensors"
    if path.is_file():
        try:
            return read_state(path)["logits"]
        except (RegardError, KeyError):  # damaged: computed again
            path.unlink(missing_ok=True)
    title, parts = f"answers of {teacher.loaded.name}", []
    on_event({"event": "note", "text": f"{title}: once for each of {len(views) * len(rows):,} pictures, which recur"})
    done = 0
    for batch in Batches(images, rows, loaded.preprocess, batch_size=64, cache_bytes=0).once():
        seen = [student.place(batch.images.flip(-1) if mirrored else batch.images) for mirrored in views]
        parts.append(torch.stack([student.ask(images).cpu() for images in seen]))
        done += len(batch)
        on_event({"event": "progress", "title": title, "done": done, "total": len(rows)})
    answers = torch.cat(parts, dim=1)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        save_state(path, {"logits": answers})
    except OSError as error:
        raise RegardError(
            f"{path}: the teacher's answers cannot be kept ({error.strerror}); make room, or set XDG_CACHE_HOME"
        ) from None
    return answers
