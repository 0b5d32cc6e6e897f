"""The images that a run was trained on, found again where they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regard.data.sources import ImageSet
    from regard.data.splits import Split
    from regard.runs import Run


def images_of_run(run: Run) -> tuple[ImageSet, Split]:
    """A run's images with their split. Raises RegardError where they are not there any more, or are others."""
    from regard.data.sources import open_images
    from regard.data.splits import read_split

    config = run.config
    data = config.get("source", {}).get("data") or config["data"]
    target, problem = config.get("target") or (), config.get("problem", "auto")
    images = open_images(data, run.classes, target=target, problem=problem)
    return images, read_split(run.split_path, images)
