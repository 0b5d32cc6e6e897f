"""Several processes train as one: `together.py` forks them, as torchrun would start them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from together import Job, farthest, final_state, progress, said, seen

from regard.errors import RegardError
from regard.training.processes import Team, explain, join, place

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_ERROR_FILE", "TORCHELASTIC_USE_AGENT_STORE")


@pytest.fixture(scope="module")
def alone(together, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    assert together.train(Job(str(folder), world=1))["codes"] == [0]
    return folder


@pytest.fixture
def second_of_two(tmp_path, monkeypatch) -> Path:
    """torchrun's environment of rank 1; returns its private folder."""
    for rank in "01":
        (tmp_path / rank).mkdir()
    values = ("1", "2", "2", str(tmp_path / "1" / "error.json"), "True")
    for name, value in zip(TORCHRUN, values, strict=True):
        monkeypatch.setenv(name, value)
    return tmp_path


def test_two_processes_end_with_the_weights_of_one(together, alone, tmp_path):
    """No batch norm, float32, ten steps with MixUp, CutMix, crops and an average: weights, moments, everything."""
    assert together.train(Job(str(tmp_path)))["codes"] == [0, 0]
    assert seen(tmp_path) == seen(alone)  # the same images, augmented and mixed alike
    assert farthest(final_state(tmp_path), final_state(alone)) <= 1e-5
    assert progress(tmp_path)["step"] == 10
    assert progress(tmp_path)["parts"] == 2


def test_two_parts_of_one_process_are_two_processes_dropout_included(together, tmp_path):
    parts, processes = tmp_path / "parts", tmp_path / "processes"
    together.train(Job(str(parts), world=1, accumulation=2, dropout=0.2, steps=5))
    together.train(Job(str(processes), world=2, dropout=0.2, steps=5))
    assert farthest(final_state(parts), final_state(processes)) <= 1e-5


def test_no_memory_in_one_process_halves_the_parts_of_all(together, alone, tmp_path):
    fault = {"kind": "memory", "rank": 1, "step": 4, "where": "backward"}
    assert together.train(Job(str(tmp_path), fault=fault))["codes"] == [0, 0]
    assert farthest(final_state(tmp_path), final_state(alone)) <= 1e-5
    assert progress(tmp_path)["parts"] == 4
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    warnings = [event["text"] for event in events if event["event"] == "warning"]
    assert len(warnings) == 1
    assert warnings[0].startswith("step 5: out of memory; the 4 images of a step pass through the model in 2 parts")


def test_batch_norm_is_said_and_trains(together, tmp_path):
    assert together.train(Job(str(tmp_path), model="resnet", steps=3))["codes"] == [0, 0]
    text = (tmp_path / "events.jsonl").read_text()
    assert text.count("batch norm: each of the 2 processes uses the statistics of its own part") == 1


def test_a_signal_to_one_process_stops_all_at_one_step(together, alone, tmp_path):
    fault = {"kind": "signal", "rank": 1, "step": 3, "number": signal.SIGINT}
    ended = together.train(Job(str(tmp_path), fault=fault))
    assert ended["codes"] == [130, 130]
    assert progress(tmp_path)["step"] == 4
    assert together.train(Job(str(tmp_path), resume=True))["codes"] == [0, 0]
    assert farthest(final_state(tmp_path), final_state(alone)) <= 1e-5


def test_what_one_process_meets_ends_all_and_is_said_once(together, tmp_path):
    ended = together.train(Job(str(tmp_path), fault={"kind": "file", "rank": 1, "step": 3}))
    assert ended["first"] == 1
    assert ended["codes"][1] == 2
    assert ended["reason"] == "rank 1: photos/cat.jpg: truncated, 1,000 bytes of 4,000; leave it out"
    assert said(tmp_path) == [f"regard: {ended['reason']}"]


def test_alone_everything_is_the_plain_thing():
    team = Team()
    assert (team.first, team.rank, team.world, team.notes) == (True, 0, 1, ())
    assert team.gather(1.0, 2.0) == [[1.0, 2.0]]
    assert team.first_does(lambda: 5) == 5
    assert team.say(0, "hello") == "hello"
    team.close()


def test_without_torchrun_there_is_one_process(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    assert place().world == 1
    assert explain(RegardError("no such folder")) == "no such folder"
    assert join() is join()


def test_torchrun_is_told(second_of_two):
    here = place()
    assert (here.rank, here.world, here.folder) == (1, 2, second_of_two)
    assert explain(RegardError("cat.jpg: truncated")) == "rank 1: cat.jpg: truncated"
    message = json.loads((second_of_two / "1" / "error.json").read_text())["message"]
    assert message["message"] == "rank 1: cat.jpg: truncated"
    assert int(message["extraInfo"]["timestamp"]) > 0
    explain(RegardError("later"))  # the first reason counts
    assert json.loads((second_of_two / "1" / "error.json").read_text())["message"] == message


def test_several_machines_are_refused(second_of_two, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RegardError, match="several machines"):
        join()


def test_other_verbs_run_in_one_process(second_of_two):
    from regard.cli.main import run_verb

    with pytest.raises(RegardError, match="check: runs in one process; torchrun is for regard train"):
        run_verb("check", [str(second_of_two)], False)
    assert os.environ["RANK"] == "1"
