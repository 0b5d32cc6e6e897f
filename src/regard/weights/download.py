"""From a catalogue entry to a file on this machine: the cache, then an announced and verified download."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from regard.errors import RegardError
from regard.weights.catalogue import Checkpoint, HubFile
from regard.weights.http import DownloadError, download, file_sha256
from regard.weights.read import carries_hashes, file_in

Announce = Callable[[str], object]
NOT_CACHED = "HF_HUB_OFFLINE is set and the file is not in the cache"


def obtain(
    checkpoint: Checkpoint,
    announce: Announce = print,
    fetch: Callable[[Checkpoint, Announce], Path] | None = None,
    otherwise: str = "pass --weights FILE, or --method scratch",
) -> Path:
    """The file of `checkpoint`: cached, or downloaded after tag, size, licence and data are announced.

    announce: called with one line of text at a time. fetch: replaces the download (for another mirror). otherwise: what
    a user without the weights can do.
    Caches are those of the Hugging Face hub (HF_HUB_CACHE, HF_HOME) and of torch (TORCH_HOME);
    HF_HUB_OFFLINE forbids any download. A file put by hand at `local_place(checkpoint)` is used first. The
    SHA-256 is verified wherever one is known.

    Raises RegardError, one line, when the weights cannot be had.
    """
    path = cached(checkpoint)
    if path is None:
        if offline():
            raise _unavailable(checkpoint, NOT_CACHED, otherwise)
        announce(describe(checkpoint))
        try:
            path = (fetch or _fetch)(checkpoint, announce)
        except DownloadError as error:
            raise _unavailable(checkpoint, str(error), otherwise) from None
    _verify(checkpoint, path)
    return path


def obtain_beside(checkpoint: Checkpoint, name: str, announce: Announce = print) -> Path:
    """A small file of the hub's repository that a checkpoint lies in, such as its tokenizer: cached, or downloaded.

    Raises RegardError, one line, where it cannot be had, or the checkpoint lies elsewhere.
    """
    source, reason = checkpoint.source, "it is not on the Hugging Face hub"
    if isinstance(source, HubFile):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(source.repo, name, cache_dir=hub_cache())
        if isinstance(found, str):
            return Path(found)
        try:
            if not offline():
                announce(f"downloading {name} of {source.repo} from the Hugging Face hub")
                return _fetch_from_hub(HubFile(source.repo, name))
            reason = NOT_CACHED
        except DownloadError as error:
            reason = str(error)
    raise RegardError(
        f"{checkpoint.tag}: its {name} cannot be had ({' '.join(reason.split())}); "
        "give a folder that holds it and the weights"
    )


def describe(checkpoint: Checkpoint) -> str:
    """One line before a download: tag, size, licence, pre-training data, source."""
    return (
        f"downloading {checkpoint.tag}: {checkpoint.size_mb:,.0f} MB, licence {checkpoint.licence}, "
        f"pre-trained on {checkpoint.pretraining}, from {checkpoint.source}"
    )


def cached(checkpoint: Checkpoint) -> Path | None:
    """Where the file of `checkpoint` lies on this machine already, or None."""
    place = local_place(checkpoint)
    if place.is_file():
        return place
    if isinstance(checkpoint.source, HubFile):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(checkpoint.source.repo, checkpoint.source.file, cache_dir=hub_cache())
        return Path(found) if isinstance(found, str) else None
    return None


def local_place(checkpoint: Checkpoint) -> Path:
    """Where a file put by hand is found: torch's checkpoint folder, under its published name or the tag's."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    source = checkpoint.source
    name = f"{checkpoint.tag}{Path(source.file).suffix}" if isinstance(source, HubFile) else source.rsplit("/", 1)[1]
    return Path(home).expanduser() / "hub" / "checkpoints" / name


def hub_cache() -> Path:
    """The Hugging Face hub's cache, read from the environment at each call."""
    given = os.environ.get("HF_HUB_CACHE")
    if given:
        return Path(given).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def offline() -> bool:
    """True where HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def _fetch(checkpoint: Checkpoint, announce: Announce) -> Path:
    """Raises DownloadError."""
    if isinstance(checkpoint.source, HubFile):
        return _fetch_from_hub(checkpoint.source)
    return download(checkpoint.source, local_place(checkpoint), checkpoint.sha256, announce)


def _fetch_from_hub(source: HubFile) -> Path:
    """Raises DownloadError."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # The client logs each failed try; the one line that we raise says it all.
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:  # the hub's client resumes by itself and writes under the final name only what is complete
        return Path(hf_hub_download(source.repo, source.file, cache_dir=hub_cache()))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = (str(error).split("\n\n")[0].splitlines() or [type(error).__name__])[0]
        if isinstance(error, LocalEntryNotFoundError):
            reason = "the hub cannot be reached and the file is not in its cache"
        raise DownloadError(reason) from None
    finally:
        logger.setLevel(level)


def expected_sha256(checkpoint: Checkpoint, path: Path) -> str | None:
    """The published hash (whole or its first digits), or the one that the hub names its large files by."""
    blob = path.resolve().name
    return checkpoint.sha256 or (blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None)


def unverified(path: Path, checkpoints: Sequence[Checkpoint] = ()) -> list[str]:
    """A line for the user where nothing shows that a weight file is whole; no line where something does.

    checkpoints: what it may be; a file under the published name of one whose hash is known is compared with that.
    Our own files carry a SHA-256 per tensor, which `read_state` compares. Raises RegardError for a wrong hash.
    """
    file = file_in(path)
    for checkpoint in checkpoints:
        if file.name == local_place(checkpoint).name and expected_sha256(checkpoint, file) is not None:
            _verify(checkpoint, file)
            return []
    if carries_hashes(file):
        return []
    return [
        f"{file}: unverified: it carries no SHA-256 of its tensors and no published one is known, "
        "so a changed tensor might not be noticed"
    ]


def _verify(checkpoint: Checkpoint, path: Path) -> None:
    expected = expected_sha256(checkpoint, path)
    if expected is not None and not file_sha256(path).startswith(expected):
        raise RegardError(
            f"{path}: damaged, or not the file of {checkpoint.tag}; "
            f"its SHA-256 should start with {expected[:8]}; delete it and run again"
        )


def _unavailable(checkpoint: Checkpoint, reason: str, otherwise: str) -> RegardError:
    reason = " ".join(reason.split()).rstrip(".")
    return RegardError(
        f"{checkpoint.tag}: its weights cannot be had ({reason}); {otherwise}, "
        f"or put the file from {checkpoint.source} at {local_place(checkpoint)}"
    )
