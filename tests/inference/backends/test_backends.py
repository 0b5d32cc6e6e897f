"""torch and OpenVINO answer alike; what OpenVINO needs is skipped where it is not installed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.backends import Maker, Rehearsal, Wish, choose_backend
from regard.inference.backends import choose as module
from regard.inference.backends.contract import Backend
from regard.inference.backends.openvino_backend import SignalStack, available, cache, can_quantise, signal_stack_kept
from regard.inference.loaded import LoadedModel, fresh_model, load_model

needs_openvino = pytest.mark.skipif(not available(), reason="needs OpenVINO: pip install 'regard[fast]'")
needs_nncf = pytest.mark.skipif(not can_quantise(), reason="needs OpenVINO and NNCF: pip install 'regard[fast]'")
PIXELS = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def fresh(name: str) -> LoadedModel:
    torch.manual_seed(0)
    if name == "tiny":
        layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
        return load_model(nn.Sequential(*layers), preprocess=Preprocess(32, 1.0, "squash"))
    model = fresh_model(name, ("a", "b", "c"))
    model.model.eval()
    return model


@pytest.fixture(scope="module", params=["vit_nano_patch4_32", "resnet20_32"])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return fresh(request.param)


@pytest.fixture(scope="module")
def maker(loaded: LoadedModel) -> Maker:
    return Maker(loaded, batch_size=4, threads=1)


def apart(backend: Backend, maker: Maker) -> float:
    """Largest difference to torch in float32, over the largest logit."""
    exact = maker.make("torch fp32").run(PIXELS)
    return float(np.abs(backend.run(PIXELS) - exact).max() / np.abs(exact).max())


def test_torch_gives_what_the_model_gives(loaded: LoadedModel, maker: Maker) -> None:
    with torch.inference_mode():
        expected = loaded.model(loaded.preprocess.normalise(PIXELS)).numpy()
    found = maker.make("torch fp32").run(PIXELS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert 0 < apart(maker.make("torch bf16"), maker) < 0.03


def test_features_follow_the_logits_in_one_pass(loaded: LoadedModel) -> None:
    found = Maker(loaded, 4, 1, features=True).make("torch fp32").run(PIXELS)
    np.testing.assert_allclose(found[:, 3:], loaded.embed(list(PIXELS)), atol=1e-5)
    np.testing.assert_allclose(found[:, :3], loaded.predict(list(PIXELS)).logits, atol=1e-5)


@needs_openvino
def test_openvino_is_within_its_precision_of_torch(maker: Maker) -> None:
    exact, rough = maker.make("openvino fp32"), maker.make("openvino bf16")
    assert apart(exact, maker) < 1e-5
    assert apart(rough, maker) < 0.03
    np.testing.assert_array_equal(exact.run(PIXELS[:3]), exact.run(PIXELS)[:3])
    assert sys.modules["openvino_telemetry"] is None


def signal_stack() -> tuple[int | None, int]:
    state = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(state))
    return state.ss_sp, state.ss_size


@pytest.mark.skipif(sys.platform != "linux", reason="sigaltstack is read with Linux's layout")
def test_a_signal_stack_installed_within_is_gone_after() -> None:
    before, other = signal_stack(), ctypes.create_string_buffer(1 << 16)
    with signal_stack_kept():
        theirs = SignalStack(ctypes.addressof(other), 0, len(other))
        assert ctypes.CDLL(None).sigaltstack(ctypes.byref(theirs), None) == 0
        assert signal_stack() == (ctypes.addressof(other), len(other))
    assert signal_stack() == before


@needs_openvino
@pytest.mark.skipif(sys.platform != "linux", reason="sigaltstack is read with Linux's layout")
def test_openvino_leaves_the_stack_of_signal_handlers(maker: Maker) -> None:
    before = signal_stack()
    maker.make("openvino fp32").run(PIXELS)
    assert signal_stack() == before


@needs_nncf
@pytest.mark.parametrize(
    "name",
    ["tiny", *(pytest.param(name, marks=pytest.mark.long) for name in ("resnet20_32", "vit_nano_patch4_32"))],
)
def test_int8_is_made_once_and_opened_again(name: str) -> None:
    maker = Maker(fresh(name), batch_size=4, threads=1)
    asked = []

    def calibration() -> Iterator[Tensor]:
        asked.append(1)
        return iter(PIXELS)

    rehearsal = Rehearsal(calibration, "these four", lambda first, second: (0.0, 4), "top1")
    backend = maker.make("openvino int8", rehearsal)
    assert 0 < apart(backend, maker) < 0.2
    answers = backend.run(PIXELS)
    again = maker.make("openvino int8", rehearsal)
    np.testing.assert_array_equal(maker.again("openvino int8", again.converted).run(PIXELS), answers)
    assert asked == [1]
    folder = cache() / backend.converted.partition(":")[0]
    weights = bytearray((folder / "model.bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    (folder / "model.bin").write_bytes(weights)
    with pytest.raises(RegardError, match="no longer in the cache"):
        maker.again("openvino int8", backend.converted)
    maker.make("openvino int8", rehearsal)
    assert asked == [1, 1]


@needs_openvino
def test_what_cannot_be_converted_is_one_line() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eig(x.mean(1))[0].real[:, :2]

    odd = load_model(Odd(), preprocess=Preprocess(8, 1.0, "squash"))
    with pytest.raises(RegardError, match=r"Odd: OpenVINO cannot convert it \(.*use --backend torch") as refusal:
        Maker(odd, 2, 1).make("openvino fp32")
    assert "\n" not in str(refusal.value)


@needs_openvino
def test_a_batch_that_the_model_writes_into_its_graph() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, 1, 192))
            self.last = nn.Linear(192, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = torch.cat([self.token.expand(len(x), -1, -1), x.flatten(2)[:, :, :192]], dim=1)
            return self.last(tokens.mean(1))

    counting = load_model(Counting(), preprocess=Preprocess(32, 1.0, "squash"))
    maker = Maker(counting, batch_size=4, threads=1)
    assert apart(maker.make("openvino fp32"), maker) < 1e-5


# the choice


class Paced:
    """A backend of a set speed; the clock is what it says."""

    converted = ""

    def __init__(self, name: str, seconds: float, clock: list[float]):
        self.name, self.seconds, self.clock = name, seconds, clock

    def run(self, pixels: Tensor) -> np.ndarray:
        self.clock[0] += self.seconds * len(pixels)
        return np.zeros((len(pixels), 3), np.float32)


Choose = Callable[..., tuple[str, list[str]]]


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Choose:
    """`choose_backend` among backends whose speeds are given (seconds an image)."""
    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(module, "choose_precision", lambda *arguments: "bf16")
    monkeypatch.setattr(module, "available", lambda: True)
    monkeypatch.setattr(module, "can_quantise", lambda: True)

    def choose(speeds: dict[str, float], work: int, lost: float = 0.0, **wish) -> tuple[str, list[str]]:
        said: list[str] = []
        monkeypatch.setattr(Maker, "make", lambda self, name, rehearsal=None: Paced(name, speeds[name], clock))
        loaded = fresh_model("resnet20_32", ("a", "b", "c"))
        rehearsal = Rehearsal(lambda: iter(()), "", lambda first, second: (lost, 500), "top1")
        return choose_backend(Maker(loaded, 4, 1), work, Wish(**wish), rehearsal, said.append).name, said

    return choose


SPEEDS = {
    "torch fp32": 0.07,
    "torch bf16": 0.036,
    "openvino fp32": 0.05,
    "openvino bf16": 0.027,
    "openvino int8": 0.018,
}


def test_the_fastest_that_is_allowed(choose: Choose) -> None:
    name, said = choose(SPEEDS, 100_000)
    assert name == "openvino bf16"
    assert said == ["openvino bf16, by images/s: torch bf16 27.8, openvino bf16 37.0"]
    name, said = choose(SPEEDS, 100_000, lost=0.004, max_drop=0.01)
    assert name == "openvino int8"
    assert said[0] == "int8 loses 0.0040 of top1 on 500 validation photos; --max-drop 0.01 allows it"
    name, said = choose(SPEEDS, 100_000, lost=0.02, max_drop=0.01)
    assert name == "openvino bf16"
    assert "--max-drop 0.01 does not allow it" in said[0]
    assert choose(SPEEDS, 100_000, backend="openvino", precision="fp32")[0] == "openvino fp32"
    assert choose(SPEEDS, 10, backend="openvino")[0] == "openvino bf16"


def test_torch_is_kept(choose: Choose, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(SPEEDS, 100) == ("torch bf16", [])  # not worth a conversion
    assert choose(SPEEDS, 100_000, backend="torch") == ("torch bf16", [])
    assert choose(SPEEDS, 100_000, precision="fp32") == ("torch bf16", [])  # what the double of choose_precision says
    assert choose(SPEEDS | {"openvino bf16": 0.034}, 100_000)[0] == "torch bf16"  # a tie
    monkeypatch.setattr(module, "available", lambda: False)
    assert choose(SPEEDS, 100_000) == ("torch bf16", [])


def test_without_openvino(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert not available()
    assert choose_backend(Maker(loaded, 4, 1), 10**9, Wish(precision="bf16"), None, print).name == "torch bf16"
    with pytest.raises(RegardError, match=r"not installed; pip install 'regard\[fast\]'"):
        choose_backend(Maker(loaded, 4, 1), 10, Wish(backend="openvino"), None, print)


@pytest.mark.parametrize("wish", [{"backend": "onnx"}, {"precision": "int8"}, {"max_drop": -0.1}, {"max_drop": 1.0}])
def test_wishes_are_checked(wish: dict) -> None:
    with pytest.raises(RegardError, match="expected"):
        Wish(**wish)


def test_the_cache_lies_beside_the_features(own_cache: Path) -> None:
    assert cache() == own_cache / "regard" / "openvino"
