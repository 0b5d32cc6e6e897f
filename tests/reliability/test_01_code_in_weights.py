"""Row 1: no weight file can run code."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
from figures import record
from weight_files import GADGETS, HOSTILE, Evil, as_legacy, as_zip, gadget, refusal, torch_saved

from regard.errors import RegardError
from regard.weights import read_state


def test_every_gadget_is_refused_by_the_name_of_its_global(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.pth"
    for name in GADGETS:
        for wrap in (as_zip, as_legacy):
            path.write_bytes(wrap(gadget(name, canary)))
            assert f"forbidden global {name};" in refusal(path)
            assert not canary.exists(), name
    count = 2 * len(GADGETS)
    record(
        1, "torch files, new and legacy, that ask for a forbidden global", count, f"{count} of {count} refused by name"
    )


def test_hostile_files_are_refused_under_any_suffix(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for kind, build in HOSTILE.items():
        for suffix in (".pth", ".safetensors", ".npz"):
            path = tmp_path / f"model{suffix}"
            path.write_bytes(build(canary))
            refusal(path)
            assert not canary.exists(), (kind, suffix)
    count = 3 * len(HOSTILE)
    record(1, "other hostile files, each under three suffixes", count, f"{count} of {count} refused, no canary written")


def test_a_hostile_file_in_a_hugging_face_folder_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(torch_saved(Evil(canary)))
    with pytest.raises(RegardError, match=r"pytorch_model\.bin: .*forbidden global posix\.system"):
        read_state(tmp_path)
    assert not canary.exists()


def test_a_distributed_checkpoint_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "canary")))
    (tmp_path / "__0_0.distcp").write_bytes(b"\0" * 100)
    assert "folder without weights" in refusal(tmp_path)


def test_no_source_file_switches_a_safe_reader_off() -> None:
    source = Path(__file__).parents[2] / "src"
    unsafe = re.compile(
        r"weights_only\s*=\s*False|allow_pickle\s*=\s*True|\bpickle\.loads?\b|\bUnpickler\b|torch\.jit\.load"
    )
    calls = 0
    for path in source.rglob("*.py"):
        text = path.read_text()
        assert not unsafe.search(text), path
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, path
            calls += 1
        for call in re.findall(r"np\.load\([^)]*\)", text):
            assert "allow_pickle=False" in call, path
    assert calls, "the pattern has lost sight of torch.load"
