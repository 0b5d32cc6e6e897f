"""The run folder: layout, reader, atomic writer. Reads and writes, computes nothing."""

from regard.runs.atomic import remove_leftovers, write_atomic, write_folder_atomic
from regard.runs.run import Run

__all__ = ["Run", "remove_leftovers", "write_atomic", "write_folder_atomic"]
