"""Labels as real folders have them: several per photo, numbers, boxes, and photos that belong together.

    python recipes/kinds_of_labels.py ../shared/data/clothing --out runs/kinds

Makes three data sets from a folder of class folders (here: photos of clothes), each with its table, and trains on each:

- `collages.csv`: one to three garments of different classes side by side on one photo; the label is all of them
  (`dress|hat`): several labels per photo.
- `placed.csv`: one garment pasted somewhere on a plain ground; its box (x0, y0, x1, y1 in pixels) and the share of the
  photo that it covers: localisation and regression, with the brightness of the ground as slices.
- `views.csv`: four views cut from each photo, with the photo as their group. It is trained on twice, with and without
  `--group photo`: without it, views of one photo lie on both sides of the split, and the figure flatters.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import regard

SIDE = 96  # pixels of every photo made here
MODEL = "vit_micro_patch4_32"


def photos_of(folder: Path, rng: np.random.Generator) -> Iterator[tuple[str, Path]]:
    """(class, file) in random order, again and again."""
    files = [(file.parent.name, file) for file in sorted(folder.glob("*/*/*.jpg"))]
    if not files:
        raise SystemExit(f"{folder}: no photos in {folder}/*/*/")
    while True:
        for place in rng.permutation(len(files)):
            yield files[place]


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A CSV with a column per key."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def collages(photos: Iterator[tuple[str, Path]], count: int, folder: Path, rng: np.random.Generator) -> Path:
    """Several labels per photo: one to three garments on grey quarters."""
    rows = []
    for number in range(count):
        canvas = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
        labels: set[str] = set()
        wanted = int(rng.integers(1, 4))
        quarters = rng.permutation(4)
        while len(labels) < wanted:
            label, file = next(photos)
            if label in labels:
                continue
            row, column = divmod(int(quarters[len(labels)]), 2)
            canvas.paste(
                Image.open(file).convert("RGB").resize((SIDE // 2,) * 2), (column * SIDE // 2, row * SIDE // 2)
            )
            labels.add(label)
        name = f"collage{number:05d}.png"
        canvas.save(folder / name)
        rows.append({"path": f"{folder.name}/{name}", "label": "|".join(sorted(labels))})
    return write_table(folder.with_suffix(".csv"), rows)


def placed(photos: Iterator[tuple[str, Path]], count: int, folder: Path, rng: np.random.Generator) -> Path:
    """Boxes and numbers: one garment on a plain ground."""
    rows = []
    for number in range(count):
        _, file = next(photos)
        grey = int(rng.integers(0, 256))
        canvas = Image.new("RGB", (SIDE, SIDE), (grey, grey, grey))
        width, height = (int(side) for side in rng.integers(SIDE // 4, 3 * SIDE // 4, 2))
        left, top = int(rng.integers(0, SIDE - width)), int(rng.integers(0, SIDE - height))
        canvas.paste(Image.open(file).convert("RGB").resize((width, height)), (left, top))
        name = f"placed{number:05d}.png"
        canvas.save(folder / name)
        rows.append(
            {
                "path": f"{folder.name}/{name}",
                "x0": left,
                "y0": top,
                "x1": left + width,
                "y1": top + height,
                "covered": round(width * height / SIDE**2, 4),
                "ground": "dark" if grey < 85 else "grey" if grey < 170 else "bright",
            }
        )
    return write_table(folder.with_suffix(".csv"), rows)


def views(photos: Iterator[tuple[str, Path]], count: int, folder: Path, rng: np.random.Generator) -> Path:
    """Photos that belong together: four random views of each, of half to nearly all of its sides."""
    rows = []
    for number in range(count // 4):
        label, file = next(photos)
        photo = Image.open(file).convert("RGB")
        for view in range(4):
            share = rng.uniform(0.5, 0.9)
            width, height = int(share * photo.width), int(share * photo.height)
            left, top = int(rng.integers(0, photo.width - width)), int(rng.integers(0, photo.height - height))
            name = f"photo{number:05d}_view{view}.png"
            photo.crop((left, top, left + width, top + height)).resize((SIDE, SIDE)).save(folder / name)
            rows.append({"path": f"{folder.name}/{name}", "label": label, "photo": f"photo{number:05d}"})
    return write_table(folder.with_suffix(".csv"), rows)


def main(data: Path, out: Path, photos: int = 2000, images_seen: int = 20_000, img_size: int = 32) -> list[regard.Run]:
    """Make the data sets, train on each, print what came out; the reports lie in the run folders."""
    tables = {}
    for seed, make in enumerate((collages, placed, views)):
        folder = out / make.__name__
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        tables[make.__name__] = make(photos_of(data, rng), photos, folder, rng)
    wanted: dict[str, tuple[str, dict[str, Any]]] = {
        "several labels": ("collages", {}),
        "boxes": ("placed", {"target": ("x0", "y0", "x1", "y1"), "slices": ("ground",)}),
        "a number": ("placed", {"target": ("covered",), "slices": ("ground",)}),
        "groups kept together": ("views", {"group": "photo"}),
        "groups ignored": ("views", {"keep_leaks": True}),
    }
    runs = []
    for name, (table, arguments) in wanted.items():
        run = regard.train(
            tables[table],
            model=MODEL,
            method="scratch",
            img_size=img_size,
            images_seen=images_seen,
            out=out / "runs" / name.replace(" ", "-"),
            on_event=lambda event: print(event["text"]) if event["event"] == "note" else None,
            **arguments,
        )
        figures = regard.evaluate(run.folder, tables[table]).metrics
        shown = ", ".join(f"{metric} {figure.value:.3f}" for metric, figure in figures.items())
        print(f"== {name}: {shown}; report: {run.folder / 'report.html'}\n")
        runs.append(run)
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=2000, help="photos in each data set")
    parser.add_argument("--images-seen", type=int, default=20_000, help="of each run")
    given = parser.parse_args()
    main(given.data, given.out, given.photos, given.images_seen)
