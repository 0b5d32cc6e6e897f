"""Weights: catalogue, downloads, reading without executing, conversion of dialects, strict loading."""

from regard.weights.catalogue import CHECKPOINTS, Checkpoint, checkpoints_of, find_checkpoint
from regard.weights.convert import convert, detect_dialect, left_out
from regard.weights.download import cached, expected_sha256, obtain, unverified
from regard.weights.load import load_state
from regard.weights.read import read_state
from regard.weights.save import save_state

__all__ = [
    "CHECKPOINTS",
    "Checkpoint",
    "cached",
    "checkpoints_of",
    "convert",
    "detect_dialect",
    "expected_sha256",
    "find_checkpoint",
    "left_out",
    "load_state",
    "obtain",
    "read_state",
    "save_state",
    "unverified",
]
