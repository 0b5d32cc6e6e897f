from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regard.runs.atomic import remove_leftovers, sha256_of, write_atomic, write_folder_atomic


def test_writes_text_and_bytes(tmp_path):
    write_atomic(tmp_path / "a", "grün")
    assert (tmp_path / "a").read_bytes() == "grün".encode()
    write_atomic(tmp_path / "a", b"\x00\x01")
    assert (tmp_path / "a").read_bytes() == b"\x00\x01"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_refusing_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    write_atomic(tmp_path / "a", "old")

    def refuse(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "a", "new")
    monkeypatch.undo()
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_file_and_folder_are_flushed_before_and_after_the_rename(tmp_path, monkeypatch):
    calls = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), real_fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), real_replace(a, b)))
    write_atomic(tmp_path / "a", "x")
    assert [Path(call).name[:2] for call in calls[:1]] == [".a"]
    assert calls[1:] == ["rename", str(tmp_path)]


def fill_with(text):
    def fill(folder):
        (folder / "one").write_text(text)
        (folder / "two").write_text(text)

    return fill


def test_folders_have_two_generations(tmp_path):
    last, previous = tmp_path / "last", tmp_path / "last.previous"
    for text in ("1", "2", "3"):
        write_folder_atomic(last, fill_with(text), previous)
    assert (last / "one").read_text() == "3"
    assert (previous / "two").read_text() == "2"
    assert sorted(os.listdir(tmp_path)) == ["last", "last.previous"]


def test_a_fill_that_fails_changes_nothing(tmp_path):
    last, previous = tmp_path / "last", tmp_path / "last.previous"
    write_folder_atomic(last, fill_with("1"), previous)

    def fill(folder):
        (folder / "one").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_folder_atomic(last, fill, previous)
    assert (last / "one").read_text() == "1"
    assert sorted(os.listdir(tmp_path)) == ["last"]


WRITER = """
import os, sys
from pathlib import Path
from regard.runs.atomic import write_folder_atomic
folder = Path(sys.argv[1])
os.fsync = lambda fd: None
print("ready", flush=True)
n = 0
while True:
    n += 1
    def fill(beside):
        for name in ("one", "two", "three"):
            (beside / name).write_text(str(n) * 20000)
    write_folder_atomic(folder / "last", fill, folder / "last.previous")
"""


@pytest.mark.parametrize("attempt", range(5))
def test_killed_while_writing(tmp_path, attempt):
    """Whatever the instant, one generation is whole."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, env=os.environ)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.05 + 0.013 * attempt)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    remove_leftovers(tmp_path)
    assert set(os.listdir(tmp_path)) <= {"last", "last.previous"}
    newest = tmp_path / "last" if (tmp_path / "last").exists() else tmp_path / "last.previous"
    texts = {path.read_text() for path in newest.iterdir()}
    assert len(texts) == 1
    assert len(list(newest.iterdir())) == 3


def test_a_real_limit_on_file_size(tmp_path):
    """The kernel refuses in the middle of the file."""
    write_atomic(tmp_path / "a", "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomic(tmp_path / "a", b"x" * 20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_leftovers_go_and_the_rest_stays(tmp_path):
    (tmp_path / ".last.tmp-0123abcd").mkdir()
    (tmp_path / ".last.tmp-0123abcd" / "x").write_text("x")
    (tmp_path / ".a.tmp-0123abcd").write_text("x")
    (tmp_path / ".model.safetensors.k3j.part").write_text("x")
    (tmp_path / "mine.tmp-1").write_text("x")
    (tmp_path / ".hidden").write_text("x")
    assert len(remove_leftovers(tmp_path)) == 3
    assert sorted(os.listdir(tmp_path)) == [".hidden", "mine.tmp-1"]


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
