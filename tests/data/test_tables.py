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


def test_a_parquet_footer_that_claims_too_many_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    same = pa.array(["a.png"]).dictionary_encode()
    pq.write_table(pa.table({"path": pa.DictionaryArray.from_arrays([0] * 200_000, same.dictionary)}), path)
    assert path.stat().st_size < 1000
    with pytest.raises(RegardError, match=r"t\.parquet: .*200,000 rows are claimed in \d+ bytes"):
        read_table(path)


def test_a_parquet_part_that_claims_other_rows_than_the_whole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"path": ["a.png"] * 7}), path)
    claims = bytes([0x16, 2 * 7])  # Thrift: the next field, 64 bits, zigzag
    written = path.read_bytes()
    assert written.count(claims) >= 2
    path.write_bytes(written.replace(claims, bytes([0x16, 2 * 60]), 1))
    with pytest.raises(RegardError, match=r"t\.parquet: .*its parts claim \d+ rows and the whole \d+"):
        read_table(path)
