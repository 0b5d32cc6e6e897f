"""The command line: words to arguments, errors to one line, events to lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from regard.cli.main import VERBS, command_type, main, metavar_of, parse, split_commas
from regard.cli.progress import Display, duration, numbers_of
from regard.verbs.compare import compare
from regard.verbs.predict import predict
from regard.verbs.train import train


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text and line in text for verb, line in VERBS.items())


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nowhere" in error and "Traceback" not in error


@pytest.mark.parametrize("words", [["check"], ["predict", "vit_nano_patch4_32"], ["export", "--out", "o"]])
def test_a_name_too_long_for_a_file_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    name = "n" * 300
    assert main([*words, name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{name}: " in error and "Traceback" not in error


def test_what_the_system_refuses_is_one_line_naming_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(path: object, **_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("regard.data.sources.open_images", refused)
    assert main(["check", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"regard: {tmp_path}: No space left on device (--debug shows where)\n"


def test_a_mistake_is_json_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "nowhere"), "--json"]) == 2
    assert "nowhere" in json.loads(capsys.readouterr().out)["error"]


@pytest.mark.parametrize("words", [["--help"], ["models"], ["models", "--json"], ["predict", "--help"]])
def test_a_reader_who_leaves_is_told_nothing(words: list[str]) -> None:
    """`regard models | head -1`: no traceback, and the exit code of a closed pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    call = [sys.executable, "-c", "import sys; from regard.cli.main import main; sys.exit(main())", *words]
    done = subprocess.run(call, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writing)
    assert (done.stderr, done.returncode) == ("", 141)


def test_debug_shows_where_it_happened(tmp_path: Path) -> None:
    from regard.errors import RegardError

    with pytest.raises(RegardError):
        main(["check", str(tmp_path / "nowhere"), "--debug"])


def test_words_become_the_arguments_of_the_function() -> None:
    _, given = parse(train, ["photos", "--model", "resnet18", "--out", "runs/a", "--lr", "0.1", "--resume"], "train")
    assert given["data"] == "photos" and given["model"] == "resnet18"
    assert given["lr"] == 0.1 and given["resume"] is True and given["minutes"] is None


def test_lists_take_commas_and_spaces() -> None:
    for words in (["--models", "a,b", "--fractions", "0.1,1"], ["--models", "a", "b", "--fractions=0.1,1"]):
        _, given = parse(compare, ["photos", "--out", "c", *words], "compare")
        assert given["models"] == ("a", "b") and given["fractions"] == (0.1, 1.0)


def test_paths_keep_their_commas() -> None:
    _, given = parse(predict, ["runs/a", "one,two.jpg", "three.jpg"], "predict")
    assert [str(path) for path in given["photos"]] == ["one,two.jpg", "three.jpg"]


def test_split_commas_touches_only_the_flags_that_take_lists() -> None:
    assert split_commas(["a,b", "--m", "c,d", "--o", "e,f"], {"--m"}) == [
        "a,b",
        "--m",
        "c",
        "d",
        "--o",
        "e,f",
    ]


def test_types_that_cannot_be_typed_in_a_shell_are_left_out() -> None:
    assert command_type(str | Path) is str
    assert command_type(Path | None) == Path | None
    assert metavar_of(tuple[float, ...]) == "FLOAT,..."


def test_a_wrong_choice_ends_with_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "photos", "--model", "a", "--out", "b", "--method", "guess"])
    assert stop.value.code == 2
    assert "finetune" in capsys.readouterr().err


def test_progress_is_plain_lines_away_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        display.on_event({"event": "note", "text": "hello"})
        for step in (1, 2):
            display.on_event({"event": "step", "step": step, "steps": 2, "loss": 0.5, "images_per_second": 120.0})
        display.on_event({"event": "evaluation", "step": 2, "steps": 2, "loss": 0.4, "val/top1": 0.25})
    assert capsys.readouterr().err.splitlines() == [
        "hello",
        "training: 1/2 loss 0.500  120 images/s",  # the next is not due for some seconds
        "training: 2/2 loss 0.400  top1 25.0%",
    ]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("map", 0.7123, "mAP 71.2%"), ("mae", 3.2149, "MAE 3.215"), ("mae", 1234.4, "MAE 1,234")],
)
def test_progress_shows_the_headline_of_any_labels(
    name: str, value: float, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Display() as display:
        display.on_event({"event": "evaluation", "step": 1, "steps": 2, "loss": 0.4, f"val/{name}": value})
        display.on_event({"event": "step", "step": 2, "steps": 2, "loss": 0.3})
        display.on_event({"event": "evaluation", "step": 2, "steps": 2, "loss": 0.3, f"val/{name}": value})
    assert capsys.readouterr().err.splitlines()[-1] == f"training: 2/2 loss 0.300  {words}"


def test_events_are_json_lines_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(as_json=True) as display:
        display.on_event({"event": "step", "step": 1, "steps": 2, "loss": 0.5})
    assert json.loads(capsys.readouterr().out) == {"event": "step", "step": 1, "steps": 2, "loss": 0.5}


def test_numbers_and_durations_read_as_people_say_them() -> None:
    assert numbers_of({"loss": 1.0, "top1": 0.914}) == "loss 1.000  top1 91.4%"
    assert [duration(seconds) for seconds in (42, 200, 5000)] == ["42 s", "3 min", "1 h 23 min"]
