"""The command `regard VERB ...`: every verb is a typed Python function, its help is that function's docstring."""

from __future__ import annotations

import builtins
import importlib
import inspect
import json
import os
import select
import signal
import sys
import traceback
import types
import typing
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from regard.errors import RegardError

VERBS = {
    "check": "Look at a folder of labelled images before anything is trained on it.",
    "train": "Train a classifier on a folder of labelled images.",
    "evaluate": "Score a trained model on labelled images.",
    "predict": "Classify photos, one row each, whatever state they are in.",
    "embed": "Turn images into feature vectors.",
    "explain": "Show where in photos the answers of a model come from.",
    "figures": "Draw what goes on inside a model.",
    "look": "See a vision transformer think about one photo, in one offline page.",
    "segment": "Cut objects out of photos: by points, a box, a text, or all of them.",
    "models": "List the models, or show the sheet of one.",
    "reproduce": "Do a run once more from its folder, and say whether it comes out the same.",
    "compare": "Answer which model to use on these images, how sure, and at what cost.",
    "export": "Turn a model into ONNX files that run without regard.",
    "distil": "Teach a small model by a large one, and say what the teaching was worth.",
}
GLOBAL_FLAGS = ("--json", "--debug")
SPINS = "5000"  # of a thread that waits, before it sleeps: benchmarks/shared_machine.py
HELP = """usage: regard VERB ... [--json] [--debug]

Which model should I use on my images, how sure am I, and why.

{verbs}

`regard VERB --help` explains a verb. --json prints events and the result as JSON lines; --debug shows tracebacks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    0; 1 where `check` found what spoils a result or `reproduce` another result; 2 for a mistake; 130, 143 for a signal;
    141 where the reader of a pipe left (`| head`).
    """
    try:
        code = command(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        if not reader_left():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be printed at exit
        return 128 + signal.SIGPIPE
    return code


def command(argv: Sequence[str] | None) -> int:
    """What `main` does while somebody reads."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json, debug = (flag in words for flag in GLOBAL_FLAGS)
    words = [word for word in words if word not in GLOBAL_FLAGS]
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP.format(verbs="\n".join(f"  {verb:<10}{line}" for verb, line in VERBS.items())))
        return 0
    if words[0] == "--version":
        from regard import __version__

        print(f"regard {__version__}")
        return 0
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is imported
    try:
        return run_verb(words[0], words[1:], as_json)
    except RegardError as error:
        if debug:
            raise
        return refuse(error, as_json)
    except KeyboardInterrupt:
        print("regard: interrupted", file=sys.stderr)
        return 130
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.filename is not None and not debug:
            return refuse(RegardError(f"{error.filename}: {error.strerror} (--debug shows where)"), as_json)
        return leave(error)


def reader_left() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), 0)
    return any(state & select.POLLERR for _, state in pipe.poll(0))


def refuse(error: RegardError, as_json: bool) -> int:
    """Print the line of a mistake; of several processes the one that made it does."""
    from regard.training.processes import depart, explain

    if line := explain(error):
        print(json.dumps({"error": line})) if as_json else print(f"regard: {line}", file=sys.stderr)
    return depart(2)


def leave(error: Exception | SystemExit) -> int:
    """What is no mistake of the user: a signal is named, an error passed on; of several processes one speaks."""
    from regard.training.interrupts import Stopped
    from regard.training.processes import PeerFailed, depart, explain, place

    here = place()
    line = error.line if isinstance(error, PeerFailed) else explain(error)
    if isinstance(error, Stopped | PeerFailed):
        if line and (isinstance(error, PeerFailed) or here.rank == 0):
            print(f"regard: {line}", file=sys.stderr)
        return depart(int(error.code or 0))
    if here.world == 1 or isinstance(error, SystemExit):
        raise error
    traceback.print_exception(error)
    print(f"regard: {line}", file=sys.stderr)
    return depart(1)


def run_verb(verb: str, words: list[str], as_json: bool) -> int:
    """Parse the words after a verb, call its function with a progress display, and show what it returns."""
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the verbs are {', '.join(VERBS)}"
        raise RegardError(f"no verb {verb!r}: {hint}")
    function = getattr(importlib.import_module(f"regard.verbs.{verb}"), verb)
    call, arguments = parse(function, words, prog=f"regard {verb}")

    from regard.cli.progress import Display
    from regard.cli.show import exit_code, show
    from regard.training.processes import place

    here = place()
    if here.world > 1 and verb != "train":
        raise RegardError(f"{verb}: runs in one process; torchrun is for regard train")
    if here.rank:  # the first process speaks
        call(**arguments)
        return 0
    with Display(as_json) as display:
        if "on_event" in inspect.signature(function).parameters:
            arguments["on_event"] = display.on_event
        result = call(**arguments)
    show(verb, result, as_json)
    return exit_code(verb, result)


def parse(function: Callable[..., Any], words: list[str], prog: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The verb's function and the keyword arguments that the words give it.

    Arguments without default are positional where the function takes them so; a list may be written with commas.
    """
    import tyro

    hints = argument_types(function)
    parameters = []
    lists = set()
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "on_event":
            continue
        kind = command_type(hints[name])
        if get_origin(kind) is tuple and parameter.kind is parameter.KEYWORD_ONLY and get_args(kind)[0] is not Path:
            lists.add(f"--{name.replace('_', '-')}")
        positional = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        metavar = name.upper() if positional else metavar_of(kind)
        annotated = Annotated[kind, tyro.conf.arg(metavar=metavar)]
        if positional:
            annotated = tyro.conf.Positional[annotated]
        parameters.append(parameter.replace(annotation=annotated, kind=parameter.KEYWORD_ONLY))

    def collect(**arguments: Any) -> dict[str, Any]:
        return arguments

    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # tyro reads it
    collect.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    collect.__doc__ = function.__doc__
    arguments = tyro.cli(collect, prog=prog, args=split_commas(words, lists), config=(tyro.conf.FlagCreatePairsOff,))
    return function, arguments


def argument_types(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of a function's arguments; what it returns is not looked at."""
    named = types.SimpleNamespace(
        __annotations__={name: hint for name, hint in function.__annotations__.items() if name != "return"}
    )
    known = function.__globals__
    return typing.get_type_hints(named, known, _Placeholders(known), include_extras=True)


def split_commas(words: list[str], lists: set[str]) -> list[str]:
    """`--models a,b` becomes `--models a b` for the flags that take a list."""
    split: list[str] = []
    flag = ""
    for word in words:
        if word.startswith("--"):
            flag, _, value = word.partition("=")
            split += [flag, *value.split(",")] if value and flag in lists else [word]
        else:
            split += [part for part in word.split(",") if part] if flag in lists else [word]
    return split


def command_type(hint: Any) -> Any:
    """The part of a type that can be typed in a shell: `str | Path | nn.Module` is `str`."""
    if get_origin(hint) in (Union, types.UnionType):
        members = [command_type(member) for member in get_args(hint)]
        plain = [member for member in members if member in (int, float, bool, str) or get_origin(member) is Literal]
        lists = [member for member in members if get_origin(member) is tuple]
        chosen = (lists or plain or [member for member in members if member is Path])[0]
        return chosen | None if type(None) in members else chosen
    if get_origin(hint) in (list, tuple) or getattr(get_origin(hint), "__name__", "") == "Sequence":
        return tuple[command_type(get_args(hint)[0]), ...]
    return hint


def metavar_of(kind: Any) -> str:
    """How a value is written in the help: INT, FLOAT, TEXT, PATH, a|b, or A,B for a list."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(member for member in get_args(kind) if member is not type(None))
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        member = metavar_of(get_args(kind)[0])
        return f"{member} ..." if member == "PATH" else f"{member},..."
    return {str: "TEXT", int: "INT", float: "FLOAT", Path: "PATH"}.get(kind, "")


class _Placeholders(dict[str, Any]):
    """Stands in for names that a verb imports for type checkers only (torch's, say): none can be typed in a shell."""

    def __init__(self, known: dict[str, Any]) -> None:
        super().__init__()
        self.known = known

    def __missing__(self, name: str) -> Any:
        if name in self.known or hasattr(builtins, name):
            raise KeyError(name)
        return _NotTyped


class _NotTyped:
    """A type that has no words: a module, a tensor, an image."""


for _name in ("Module", "Tensor", "ndarray", "Image"):  # `nn.Module` and the like are no words either
    setattr(_NotTyped, _name, _NotTyped)


if __name__ == "__main__":
    sys.exit(main())
