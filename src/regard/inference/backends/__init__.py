"""What computes a model's answers: torch, or OpenVINO where it is installed; chosen by measuring."""

from regard.inference.backends.choose import Maker, Rehearsal, Wish, choose_backend
from regard.inference.backends.contract import Backend

__all__ = ["Backend", "Maker", "Rehearsal", "Wish", "choose_backend"]
