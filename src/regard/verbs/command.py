"""The command that does again what a call did, for reports."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

NOT_REPEATED = ("on_event", "resume", "overwrite", "dry_run")


def command_line(verb: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """`regard train photos --model vit_small_patch16_224 --out runs/a` from a verb and what it was called with.

    Arguments that have their default are left out; an object without words (a module) is named by its type.
    """
    words = ["regard", verb.__name__]
    for name, parameter in inspect.signature(verb).parameters.items():
        value = arguments[name]
        if name in NOT_REPEATED or value == parameter.default:
            continue
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            words += [str(item) for item in value] if isinstance(value, tuple | list) else [_word(value)]
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is True:
            continue
        if isinstance(value, tuple) and all(isinstance(item, Path) for item in value):
            words += [str(item) for item in value]
        elif isinstance(value, tuple | list):
            words.append(",".join(map(_word, value)))
        else:
            words.append(_word(value))
    return shlex.join(words)


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, str | int | Path) else f"<{type(value).__name__}>"
