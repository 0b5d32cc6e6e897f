from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regard.errors import RegardError
from regard.verbs.segmenting.asked import Asked, asked, read_prompts
from regard.verbs.segmenting.photos import Photos


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "b.png", "sub/c.png", "sub/a.png"):
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / name)
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    return Photos([folder])


def test_a_prompt_from_its_entries() -> None:
    assert asked({"points": [[1, 2], [3.5, 4]], "labels": [1, 0]}) == Asked(((1, 2), (3.5, 4)), (1, 0))
    assert asked({"points": [1, 2, 3, 4]}) == Asked(((1, 2), (3, 4)), (1, 1))
    assert asked({"box": [1, 2, 3, 4], "name": " a  dog "}) == Asked(box=(1, 2, 3, 4), name="a dog")
    assert asked({"text": "a  dog"}) == Asked(text="a dog")
    assert asked({"points": [[1, 2]], "box": [1, 2, 3, 4]}).shape == (1, True)
    assert asked({"points": [[1, 2]]}).ambiguous


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, "nothing is asked; give points, a box or a text"),
        ({"name": "dog"}, "nothing is asked"),
        ({"point": [1, 2]}, "'point': no such entry; did you mean 'points'?"),
        ({"points": [[1, 2, 3]]}, "points: [[1, 2, 3]]; expected x, y for each"),
        ({"points": [[1, 2], [3]]}, "points: [[1, 2], [3]]; expected numbers"),
        ({"points": [["a", "b"]]}, 'points: [["a", "b"]]; expected numbers'),
        ({"points": [[True, False]]}, "points: [[true, false]]; expected numbers"),
        ({"points": "1,2"}, "points: 1,2; expected numbers"),
        ({"points": [1, 2, 3]}, "points: [1, 2, 3]; expected x, y for each"),
        ({"points": [[1, 2]], "labels": [1, 0]}, "labels: 2 for 1 point; give 1"),
        ({"labels": [1]}, "labels: 1 for points, of which there are none"),
        ({"points": [[1, 2]], "labels": [2]}, "labels: 2; expected 1 (on the object) or 0"),
        ({"box": [1, 2, 3]}, "box: 3 numbers; expected four"),
        ({"box": []}, "box: 0 numbers; expected four"),
        ({"text": " "}, "text: empty; expected words"),
        ({"text": 3}, "text: 3; expected words"),
        ({"text": "a dog", "box": [1, 2, 3, 4]}, "text: with points or a box"),
    ],
)
def test_what_is_no_prompt(entry: dict, said: str) -> None:
    with pytest.raises(RegardError) as error:
        asked(entry)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_a_file_of_prompts(photos: Photos, tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    wanted = {
        "b.png": [{"points": [[60, 40]]}],
        "sub/a.png": [{"box": [0, 0, 60, 40], "name": "dog"}, {"text": "a dog"}],
        str(tmp_path / "photos" / "a.png"): [{"points": [[0, 0]]}],
        "c.png": [{"points": [[1, 1]]}],
        "bad.jpg": [{"points": [[1000, 1000]]}],
    }
    path.write_text(json.dumps(wanted, indent=2), "utf-8")
    found = read_prompts(path, photos)
    assert {photos.files[place] for place in found} == {"b.png", "sub/a.png", "a.png", "sub/c.png", "bad.jpg"}
    assert found[photos.files.index("sub/a.png")] == (Asked(box=(0, 0, 60, 40), name="dog"), Asked(text="a dog"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n "b.png": [\n  {"points": [[1, 2]]},\n  {"box": [1, 2, 3]}\n ]\n}', ":4: b.png, prompt 2: box: 3 numbers"),
        (
            '{\n "b.png": [{"points": [[61, 2]]}]}',
            ":2: b.png, prompt 1: points: (61, 2) is not in the image, which is 60",
        ),
        ('{\n "b.png": [{"points": [[1, NaN]]}]}', ":2: b.png, prompt 1: points: (1, nan) is not in the image"),
        ('{"b.png": [{"box": [9, 9, 2, 2]}]}', ":1: b.png, prompt 1: box: 9, 9, 2, 2 is upside down"),
        ('{"b.png": [\n\n 3]}', ":3: b.png, prompt 1: 3; expected {...} with points, labels, box, text, name"),
        ('{"b.png":\n {"points": [[1, 2]]}}', ':1: b.png: {"points": [[1, 2]]}; expected a list of prompts'),
        ('{"b.png": []}', ":1: b.png: no prompts"),
        ('{"bb.png": [{"points": [[1, 2]]}]}', ":1: bb.png: no such photo was given; nearest: b.png"),
        ('{"b.png": [{"points": [[1, 2]]}],\n "b.png": [{"points": [[1, 2]]}]}', ":2: b.png: is there twice"),
        ("{\n\n,}", ":3: not JSON ("),
        ("\n[]", ":2: expected photos with their prompts"),
        ("{}", ": no photo is named"),
        ("", ":1: not JSON"),
    ],
)
def test_a_wrong_file_is_refused_with_line_photo_and_prompt(
    text: str, said: str, photos: Photos, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(text, "utf-8")
    with pytest.raises(RegardError) as error:
        read_prompts(path, photos)
    assert str(error.value).startswith(f"{path}{said}")
    assert "\n" not in str(error.value)


def test_a_name_that_two_photos_have_needs_its_folder(tmp_path: Path) -> None:
    for name in ("x/a.png", "y/a.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / name)
    path = tmp_path / "prompts.json"
    path.write_text('{"a.png": [{"points": [[1, 2]]}]}')
    with pytest.raises(RegardError, match=r"a\.png: 2 photos are called so; name the folder too"):
        read_prompts(path, Photos([tmp_path / "x", tmp_path / "y"]))


def test_a_file_that_cannot_be_read(photos: Photos, tmp_path: Path) -> None:
    with pytest.raises(RegardError, match=r"nowhere\.json: cannot be read \(No such file"):
        read_prompts(tmp_path / "nowhere.json", photos)
    (tmp_path / "latin.json").write_bytes('{"ä": []}'.encode("latin-1"))
    with pytest.raises(RegardError, match="no UTF-8 text"):
        read_prompts(tmp_path / "latin.json", photos)
