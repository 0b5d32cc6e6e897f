"""One file from modules, styles and data: everything inline, and a policy that lets nothing else in or out."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from regard.errors import RegardError

STATIC = Path(__file__).parent / "static"
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.-]+)";\n', flags=re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?function |const |let |class )", flags=re.MULTILINE)
_NAMES = re.compile(r"^(?:export )?(?:async )?(?:function\*?|const|let|class) (\w+)", flags=re.MULTILINE)
_UNKNOWN = re.compile(r"^(?:import|export)\b.*$", flags=re.MULTILINE)


@cache
def joined_modules(entry: str) -> str:
    """A module of static/ and all that it imports as one script, each after those that it needs.

    Modules share one scope in it, so no two may have a name in common at their top level. They are plain ES modules,
    which a browser also runs unjoined; of imports only `import { a, b } from "./file.js";` is used. Raises RegardError
    for a common name, a circle of imports, and any other form of import or export.
    """
    texts: dict[str, str] = {}
    _collect(entry, texts, ())
    owner: dict[str, str] = {}
    for file, text in texts.items():
        for name in _NAMES.findall(text):
            if name in owner:
                raise RegardError(f"{file}: {name} is also in {owner[name]}; joined modules share one scope")
            owner[name] = file
    bodies = [_EXPORT.sub("", _IMPORT.sub("", text)) for text in texts.values()]
    for file, body in zip(texts, bodies, strict=True):
        if found := _UNKNOWN.search(body):
            raise RegardError(
                f'{file}: {found.group()}; expected import {{ ... }} from "./file.js"; or export of one name'
            )
    return '"use strict";\n' + "\n".join(bodies)


def _collect(file: str, texts: dict[str, str], above: tuple[str, ...]) -> None:
    """Adds a module to `texts` after those that it imports."""
    if file in above:
        raise RegardError(f"{file}: imports itself by way of {', '.join(above[above.index(file) + 1 :]) or 'itself'}")
    if file in texts:
        return
    text = (STATIC / file).read_text("utf-8")
    for needed in _IMPORT.findall(text):
        _collect(needed, texts, (*above, file))
    texts[file] = text


def build(template: str, entry: str, styles: Sequence[str], words: Mapping[str, Any], blobs: Mapping[str, str]) -> str:
    """The page as HTML text.

    template, entry, styles: files of static/. words: what the template says and the script reads as JSON, under
    "page"; blobs: texts that the script finds by their names (`Store.texts`). The template gets `style`, `script`,
    `policy`, `content` (the JSON and the blobs, as script elements that no browser runs) and the words.
    """
    style = "\n".join((STATIC / name).read_text("utf-8") for name in styles)
    script = joined_modules(entry)
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    content = [f'<script type="application/json" id="page">{script_json(words)}</script>']
    content += [f'<script type="text/plain" id="blob-{name}">{text}</script>' for name, text in blobs.items()]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(STATIC), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(
        style=Markup(style), script=Markup(script), policy=policy, content=Markup("\n".join(content)), **words
    )


def write_page(path: str | Path, html: str) -> Path:
    """Writes the page beside `path`, then renames it into place. Raises RegardError where that cannot be done."""
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(html.encode("utf-8", "backslashreplace"))
        os.replace(beside, target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise RegardError(f"{target}: cannot be written ({error.strerror}); choose another --html") from None
    return target


def script_json(content: object) -> str:
    """JSON that can stand inside a script element whatever the names in it are: `<`, `>`, `&` are \\uXXXX."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
