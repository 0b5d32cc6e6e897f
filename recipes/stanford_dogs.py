"""The fourth deck's proof of concept: a frozen ViT-S/16 against a frozen ResNet-50 on Stanford Dogs.

    python recipes/stanford_dogs.py DATA --out runs/dogs [--weights-vit FILE] [--weights-resnet FILE]

DATA is the folder of the data set's `Images` sorted into its official lists: train/<breed>/* (12,000 images) and
test/<breed>/* (8,580 images), 120 breeds. Backbones: `vit_small_patch16_224.augreg_in21k_ft_in1k` and
`resnet50.tv_in1k`, frozen; what trains is one softmax layer by SGD over epochs of augmented views: for the ViT
384 x 120 + 120 = 46,200 parameters, the deck's figure. The deck reports 83.4% (ViT) and 76.3% (a ResNet-50, "lightly
optimised") on its validation set and gives neither resolution, batch, rate, epochs nor split: they are quoted beside
ours and are no bar. Both backbones were pre-trained on ImageNet, from which Stanford Dogs is drawn: they have seen
these photos.

Writes both run folders, the comparison of their answers (report.html), and the deck's two figures of learning
curves (curves_vit.svg, curves_resnet.svg). Not run by us yet: neither the images nor the weights can be had
where this project is built; tests/recipes/test_stanford_dogs.py runs a stand-in of the same shape.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

import regard

VIT = "vit_small_patch16_224.augreg_in21k_ft_in1k"
RESNET = "resnet50.tv_in1k"
DECK = {VIT: 0.834, RESNET: 0.763}


def draw_curves(rows: tuple[dict, ...], title: str, path: Path) -> None:
    """The deck's figure: loss and accuracy by images seen, from the rows of metrics.jsonl."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    images = [row["images"] for row in rows]
    left.plot(images, [row["loss"] for row in rows], label="training (augmented)")
    left.plot(images, [row["val/nll"] for row in rows], label="validation")
    left.set(xlabel="images seen", ylabel="cross-entropy", title=title)
    left.legend()
    right.plot(images, [100 * row["val/top1"] for row in rows], color="C1")
    right.set(xlabel="images seen", ylabel="validation top1, %", title="accuracy")
    figure.savefig(path)
    plt.close(figure)


def main(
    data: Path,
    out: Path,
    models: tuple[str, str] = (VIT, RESNET),
    weights: tuple[Path | None, Path | None] = (None, None),
    epochs: float = 30.0,
    img_size: int | None = None,
) -> list[regard.Run]:
    """Train both heads and write curves and comparison; returns the runs, ViT first."""
    runs = []
    for model, file, name in zip(models, weights, ("vit", "resnet"), strict=True):
        run = regard.train(
            data,
            model=model,
            weights=file,
            method="head",
            head="sgd",
            epochs=epochs,
            evaluations=max(1, round(epochs)),
            img_size=img_size,
            out=out / name,
            on_event=lambda event: print(event["text"]) if event["event"] == "note" else None,
        )
        result = run.result()
        draw_curves(result.curve, model, out / f"curves_{name}.svg")
        deck = f"; the deck's, on its own split: {100 * DECK[model]:.1f}%" if model in DECK else ""
        print(
            f"{model}: {result.cost.trainable_parameters:,} parameters trained, test top1 "
            f"{100 * result.test.correct.mean():.1f}%{deck}"
        )
        runs.append(run)
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights-vit", type=Path)
    parser.add_argument("--weights-resnet", type=Path)
    parser.add_argument("--epochs", type=float, default=30.0)
    given = parser.parse_args()
    main(given.data, given.out, weights=(given.weights_vit, given.weights_resnet), epochs=given.epochs)
