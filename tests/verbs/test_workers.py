from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from regard.verbs import workers as module
from regard.verbs.workers import Workers


def test_a_worker_is_given_the_call_and_goes_with_its_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import json, sys; call = json.loads(sys.stdin.readline()); open(call['out'], 'w').write(call['model']);"
        "open(call['pipe'], 'w').close(); sys.stdin.read()"
    )
    monkeypatch.setattr(module, "CODE", code)
    pipe, out = tmp_path / "pipe", tmp_path / "out"
    os.mkfifo(pipe)
    workers = Workers(1, {"model": "m", "out": str(out), "pipe": str(pipe)})
    with workers:
        pipe.read_bytes()  # until the worker has opened and closed it
        assert out.read_text() == "m"
        ((process, _),) = workers._running
        assert process.poll() is None
    assert process.returncode == 0
    assert workers.problems == []


def test_what_stopped_a_worker_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CODE", "import sys; sys.exit('first line\\nno such model')")
    workers = Workers(2, {})
    with workers:
        for process, _ in workers._running:
            process.wait()
    assert workers.problems == ["no such model"] * 2


def test_join_makes_the_call(tmp_path: Path) -> None:
    code = (
        "import sys, types\n"
        "fake = types.ModuleType('regard.verbs.predict')\n"
        "def predict(**call): print(call['photos'])\n"
        "fake.predict = predict\n"
        "sys.modules['regard.verbs.predict'] = fake\n"
        "from regard.verbs.workers import join\n"
        "join()"
    )
    call = json.dumps({"photos": ["a"]}) + "\n"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        process.stdin.write(call.encode())
        process.stdin.flush()
        assert process.stdout.read() == b"['a']\n"
        assert process.wait() == 0
