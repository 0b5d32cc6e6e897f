"""Obtaining weights: announced before, verified after, cached, and one line where they cannot be had."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from regard.errors import RegardError
from regard.weights import Checkpoint, cached, find_checkpoint, obtain
from regard.weights.catalogue import HubFile
from regard.weights.download import local_place, obtain_beside

FILE = b"weights" * 1000
SHA = hashlib.sha256(FILE).hexdigest()
COMMIT = "0" * 40


@pytest.fixture(autouse=True)
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty caches of this test's own."""
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


class Hub(BaseHTTPRequestHandler):
    """As much of a model hub as its client asks for: one large file whose ETag is its SHA-256."""

    body = FILE

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()
        if self.path.endswith((".safetensors", ".json")):
            self.wfile.write(self.body)

    def respond(self) -> None:
        known = "/good/resolve/" in self.path
        self.send_response(200 if known else 404)
        if known:
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{SHA}"')
            self.send_header("Content-Type", "application/octet-stream")
        else:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(self.body) if known else 0))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("Handler", (Hub,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        address = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield handler
        running.shutdown()
        thread.join()


def from_hub(repo: str) -> Checkpoint:
    checkpoint = find_checkpoint("vit_tiny_patch16_224")
    return dataclasses.replace(checkpoint, source=HubFile(repo, "model.safetensors"))


def from_url(url: str, sha256: str | None = SHA[:8]) -> Checkpoint:
    return dataclasses.replace(find_checkpoint("resnet18"), source=url, sha256=sha256)


def one_line(caught: pytest.ExceptionInfo[RegardError]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_tag_size_licence_and_data_are_announced_before_the_download(tmp_path: Path) -> None:
    said: list[str] = []

    def fetch(checkpoint: Checkpoint, announce: object) -> Path:
        assert len(said) == 1, "announced first"
        return tmp_path / "given"

    (tmp_path / "given").write_bytes(b"x")
    assert obtain(find_checkpoint("vit_small_patch16_224"), said.append, fetch) == tmp_path / "given"
    assert said == [
        "downloading vit_small_patch16_224.augreg_in21k_ft_in1k: 88 MB, licence apache-2.0, pre-trained on "
        "ImageNet-21k, then ImageNet-1k, from timm/vit_small_patch16_224.augreg_in21k_ft_in1k/"
        "model.safetensors on the Hugging Face hub"
    ]


def test_a_file_of_the_hub_is_fetched_once_and_then_found(hub: type[Hub], tmp_path: Path) -> None:
    checkpoint, said = from_hub("timm/good"), []
    assert cached(checkpoint) is None
    path = obtain(checkpoint, said.append)
    assert path.read_bytes() == FILE
    assert path.is_relative_to(tmp_path / "hf" / "hub")
    assert obtain(checkpoint, said.append) == path == cached(checkpoint)
    assert len(said) == 1, "nothing is announced for a file that is here"


def test_a_file_of_the_hub_that_is_not_what_its_hash_says_is_refused(hub: type[Hub]) -> None:
    """The client itself compares sizes only."""
    hub.body = FILE[:-1] + b"x"
    with pytest.raises(RegardError, match="damaged, or not the file"):
        obtain(from_hub("timm/good"), lambda line: None)


def test_an_unknown_repository_is_one_line_with_a_way_out(hub: type[Hub], tmp_path: Path) -> None:
    with pytest.raises(RegardError) as caught:
        obtain(from_hub("timm/absent"), lambda line: None)
    message = one_line(caught)
    for part in ("cannot be had", "--weights FILE", "--method scratch", str(tmp_path / "torch" / "hub")):
        assert part in message


def test_a_file_beside_the_weights_is_fetched_once_too(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, said = from_hub("timm/good"), []
    path = obtain_beside(checkpoint, "tokenizer.json", said.append)
    assert path.name == "tokenizer.json" and path.read_bytes() == FILE
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert obtain_beside(checkpoint, "tokenizer.json", said.append) == path and len(said) == 1
    with pytest.raises(RegardError, match=r"its vocab\.json cannot be had \(HF_HUB_OFFLINE is set.*give a folder"):
        obtain_beside(checkpoint, "vocab.json", said.append)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(RegardError, match=r"its tokenizer\.json cannot be had"):
        obtain_beside(from_hub("timm/absent"), "tokenizer.json", said.append)
    with pytest.raises(RegardError, match=r"cannot be had \(it is not on the Hugging Face hub\)"):
        obtain_beside(from_url("http://127.0.0.1:9/a.pth"), "tokenizer.json")


def test_a_hub_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its attempts
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )
    with pytest.raises(RegardError, match="cannot be had"):
        obtain(from_hub("timm/good"), lambda line: None)


@pytest.mark.parametrize("checkpoint", [from_hub("timm/good"), from_url("http://127.0.0.1:9/a.pth")])
def test_offline_without_the_file_says_where_to_put_it(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said: list[str] = []
    with pytest.raises(RegardError, match="HF_HUB_OFFLINE is set") as caught:
        obtain(checkpoint, said.append)
    message = one_line(caught)
    assert str(local_place(checkpoint)) in message
    assert "--weights FILE" in message
    assert "--method scratch" in message
    assert not said


def test_a_file_put_by_hand_is_used_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for checkpoint in (from_hub("timm/good"), from_url("http://127.0.0.1:9/file-abc.pth")):
        place = local_place(checkpoint)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(FILE)
        assert obtain(checkpoint, print) == place
    assert local_place(from_hub("timm/good")).name == "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"


def test_a_cached_file_with_another_hash_is_refused_by_path() -> None:
    checkpoint = from_url("http://127.0.0.1:9/file-abc.pth", "00000000")
    place = local_place(checkpoint)
    place.parent.mkdir(parents=True)
    place.write_bytes(FILE)
    with pytest.raises(RegardError, match="delete it and run again") as caught:
        obtain(checkpoint, print)
    assert str(place) in one_line(caught)


def test_a_url_that_cannot_be_reached_is_one_line_with_a_way_out() -> None:
    with pytest.raises(RegardError, match=r"resnet18\.tv_in1k: .*cannot be reached.*--weights FILE"):
        obtain(from_url("http://127.0.0.1:9/a.pth"), lambda line: None)


def test_the_environment_decides_where_the_caches_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = from_hub("timm/good")
    snapshot = tmp_path / "cache" / "models--timm--good" / "snapshots" / COMMIT / "model.safetensors"
    snapshot.parent.mkdir(parents=True)
    snapshot.write_bytes(FILE)
    (tmp_path / "cache" / "models--timm--good" / "refs").mkdir()
    (tmp_path / "cache" / "models--timm--good" / "refs" / "main").write_text(COMMIT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    assert cached(checkpoint) == snapshot
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "elsewhere"))
    assert local_place(checkpoint).is_relative_to(tmp_path / "elsewhere" / "hub" / "checkpoints")
