"""Tables that are no tables."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regard.data.tables import read_table
from regard.errors import RegardError


def test_a_parquet_column_that_is_no_text_is_named(tmp_path: Path) -> None:
    """Found by fuzzing: Arrow reads such a column and fails only when a cell is asked for."""
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\x91")])
    pq.write_table(pa.table({"path": ["a.png"], "label": bad}), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    with pytest.raises(RegardError, match=r"t\.parquet: column 'label' cannot be read"):
        table.cells(1)
