"""The rules of the house, each as a test that names what breaks it."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

import regard
from regard.cli.main import VERBS, parse

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "regard"
RUNGS = [
    {"errors", "results"},
    {"taps", "masks"},
    {"layers", "reporting", "pages"},
    {"models", "data"},
    {"weights", "runs"},
    {"inference"},
    {"evaluation", "explanation", "analysis", "segmentation"},
    {"training"},
    {"comparison", "exporting"},
    {"verbs"},
    {"cli"},
]
RUNG_OF = {part: rung for rung, parts in enumerate(RUNGS) for part in parts}
SOURCES = sorted(SOURCE.rglob("*.py"))
PUBLIC = [
    "LoadedModel",
    "Recipe",
    "RegardError",
    "Run",
    "check",
    "compare",
    "create_model",
    "distil",
    "edit",
    "embed",
    "evaluate",
    "explain",
    "export",
    "figures",
    "list_models",
    "load_model",
    "load_segmenter",
    "look",
    "model_sheet",
    "predict",
    "record",
    "register_model",
    "reproduce",
    "segment",
    "train",
]


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> list[tuple[int, str]]:
    """(line, part) of every import of the package's own parts, inside functions and for type checkers too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("regard."):
            found.append((node.lineno, node.module.split(".")[1]))
        elif isinstance(node, ast.ImportFrom) and node.module == "regard":
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [
                (node.lineno, alias.name.split(".")[1]) for alias in node.names if alias.name.startswith("regard.")
            ]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_down_only(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    assert part in RUNG_OF, f"{path} is in a room that docs/architecture.md does not know"
    for line, other in imports_of(path):
        if other == "__version__" or other == part:
            continue
        assert RUNG_OF.get(other, 99) < RUNG_OF[part], f"{path}:{line} imports {other}: up or sideways"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_file_is_too_big_to_know(path: Path) -> None:
    lines = path.read_text("utf-8").count("\n")
    assert lines <= 600, f"{path} has {lines} lines"


def test_public_names_are_the_pinned_list() -> None:
    assert sorted(regard.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_exist_and_are_documented(name: str) -> None:
    assert getattr(regard, name).__doc__


def test_import_and_help_load_no_torch_and_help_is_quick() -> None:
    code = "import sys, regard, regard.cli.main as m; m.main(['--help']); assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "regard.cli.main", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.3, seconds


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_loads_no_torch(verb: str) -> None:
    code = (
        "import sys, regard.cli.main as m\n"
        f"try: m.main([{verb!r}, '--help'])\n"
        "except SystemExit as stop: assert stop.code in (0, None), stop.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert VERBS[verb] in done.stdout


def readme_commands() -> list[str]:
    text = re.sub(r"\\\n\s*", " ", (ROOT / "README.md").read_text("utf-8"))
    return [
        line.strip().removeprefix("$ ")
        for block in re.findall(r"```(?:console|sh|bash)\n(.*?)```", text, flags=re.S)
        for line in block.splitlines()
        if line.strip().removeprefix("$ ").startswith("regard ")
    ]


def test_readme_shows_every_verb() -> None:
    shown = {shlex.split(command)[1] for command in readme_commands()}
    assert shown >= set(VERBS)


@pytest.mark.parametrize("command", readme_commands())
def test_readme_commands_parse(command: str) -> None:
    verb, *words = shlex.split(command, comments=True)[1:]
    words = [word for word in words if word not in ("--json", "--debug")]
    parse(getattr(import_module(f"regard.verbs.{verb}"), verb), words, prog=verb)


def test_no_unsafe_loading_anywhere() -> None:
    for path in SOURCES:
        text = path.read_text("utf-8")
        for unsafe in (
            "weights_only=False",
            "allow_pickle=True",
            "pickle.load(",
            "LOAD_TRUNCATED_IMAGES = True",
        ):
            assert unsafe not in text, f"{path}: {unsafe}"
