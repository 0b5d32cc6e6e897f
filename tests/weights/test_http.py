"""Downloads against a stand-in server on this machine: resumed, verified, whole or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from regard.weights.http import DownloadError, download, file_sha256

FILE = np.random.default_rng(0).bytes(300_000)
SHA = hashlib.sha256(FILE).hexdigest()


class StandIn(BaseHTTPRequestHandler):
    """Serves FILE at /file (with ranges) and at other paths with one fault each."""

    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        start = self.headers.get("Range")
        self.asked.append((self.path, start))
        if self.path == "/page":
            self.answer(200, b"<html>sign in</html>", "text/html; charset=utf-8")
        elif self.path == "/absent":
            self.answer(404, b"no")
        elif self.path == "/broken":
            self.answer(200, FILE[:100_000], claim=len(FILE))
        elif self.path == "/plain" or start is None:
            self.answer(200, FILE)
        elif int(start[6:-1]) >= len(FILE):
            self.answer(416, b"", extra={"Content-Range": f"bytes */{len(FILE)}"})
        else:
            self.answer(206, FILE[int(start[6:-1]) :])

    def answer(
        self,
        status: int,
        body: bytes,
        kind: str = "application/octet-stream",
        claim: int | None = None,
        extra: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(claim or len(body)))
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output quiet."""


@pytest.fixture
def asked() -> list[tuple[str, str | None]]:
    """(path, Range header) of each request."""
    return []


@pytest.fixture
def server(asked: list[tuple[str, str | None]]) -> Iterator[str]:
    handler = type("Handler", (StandIn,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_file_arrives_whole(tmp_path: Path, server: str) -> None:
    target = tmp_path / "new" / "file.pth"
    assert download(f"{server}/file", target, SHA[:8]) == target
    assert target.read_bytes() == FILE
    assert file_sha256(target) == SHA
    assert [path.name for path in target.parent.iterdir()] == ["file.pth"]


def test_a_broken_connection_leaves_a_part_and_the_next_attempt_continues(
    tmp_path: Path, server: str, asked: list[tuple[str, str | None]]
) -> None:
    target, part = tmp_path / "file.pth", tmp_path / "file.pth.part"
    with pytest.raises(DownloadError, match=r"broke off|run again"):
        download(f"{server}/broken", target, SHA)
    assert part.stat().st_size == 100_000
    assert not target.exists()
    download(f"{server}/file", target, SHA)
    assert asked[-1] == ("/file", "bytes=100000-")
    assert target.read_bytes() == FILE
    assert not part.exists()


def test_a_server_without_ranges_starts_over(tmp_path: Path, server: str) -> None:
    (tmp_path / "file.pth.part").write_bytes(FILE[:1000])
    assert download(f"{server}/plain", tmp_path / "file.pth", SHA).read_bytes() == FILE


def test_a_complete_part_only_needs_its_name(tmp_path: Path, server: str) -> None:
    (tmp_path / "file.pth.part").write_bytes(FILE)
    assert download(f"{server}/file", tmp_path / "file.pth", SHA).read_bytes() == FILE


def test_a_part_longer_than_the_file_starts_over(tmp_path: Path, server: str) -> None:
    (tmp_path / "file.pth.part").write_bytes(FILE + b"more")
    assert download(f"{server}/file", tmp_path / "file.pth", SHA).read_bytes() == FILE


def test_a_wrong_hash_is_refused_and_leaves_nothing(tmp_path: Path, server: str) -> None:
    with pytest.raises(DownloadError, match="SHA-256 does not start with 00000000"):
        download(f"{server}/file", tmp_path / "file.pth", "00000000")
    assert not list(tmp_path.iterdir())


def test_a_part_of_another_file_is_found_out_by_the_hash(tmp_path: Path, server: str) -> None:
    (tmp_path / "file.pth.part").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match="SHA-256"):
        download(f"{server}/file", tmp_path / "file.pth", SHA)
    assert not list(tmp_path.iterdir())


def test_a_web_page_is_no_file(tmp_path: Path, server: str) -> None:
    with pytest.raises(DownloadError, match="web page"):
        download(f"{server}/page", tmp_path / "file.pth")
    assert not list(tmp_path.iterdir())


def test_the_servers_refusal_is_passed_on(tmp_path: Path, server: str) -> None:
    with pytest.raises(DownloadError, match="answered 404"):
        download(f"{server}/absent", tmp_path / "file.pth")
    assert not list(tmp_path.iterdir())


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), StandIn) as closed:
        address = f"http://127.0.0.1:{closed.server_port}/file"
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1.*cannot be reached"):
        download(address, tmp_path / "file.pth")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, server: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match="file"):
        download(f"{server}/file", tmp_path / "file" / "a.pth")


def test_a_long_download_tells_how_far_it_is(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regard.weights.http.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr("regard.weights.http.CHUNK", 50_000)
    lines: list[str] = []
    download(f"{server}/file", tmp_path / "file.pth", SHA, lines.append)
    assert lines
    assert all(line.endswith(" of 0 MB") for line in lines)
