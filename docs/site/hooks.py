"""What mkdocs does for this site: runs the pages of the course, sets formulas as MathML, makes home and API pages."""

from __future__ import annotations

import hashlib
import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
SITE = Path(__file__).parent
CACHE = ROOT / "build" / "course"
sys.path.insert(0, str(SITE))

from pages import INK, Code, page_files, parse, write_notebooks  # noqa: E402

FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$([^$\n]+?)\$(?![\w$])", re.DOTALL)
PLAIN = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)  # where a dollar is a dollar
LINKS_OUT = re.compile(r"\[([^\]]+)\]\((?:\.\./)*(?:src|tests|recipes|benchmarks|examples)/[^)]*\)")  # into the code
_later: dict[str, dict[str, str]] = {}  # page -> placeholder -> what replaces it


def on_files(files: Files, config: Any) -> Files:
    """Adds what lies elsewhere or is made: home, API pages, style and logo."""
    list(write_notebooks())
    made = {"index.md": _home(), "style.css": (SITE / "style.css").read_text("utf-8")}
    made["logo.svg"] = (SITE / "logo.svg").read_text("utf-8")
    made |= {f"api/{name}.md": text for name, text in _api_pages().items()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    for path in sorted((SITE.parent / "course" / "notebooks").glob("*.ipynb")):  # those that were made just now
        name = f"course/notebooks/{path.name}"
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_config(config: Any) -> Any:
    """The menu."""
    course: list[Any] = [{"Overview": "course/index.md"}]
    for path in page_files():
        title = path.read_text("utf-8").split("\n", 1)[0].removeprefix("# ")
        course.append({title: f"course/{path.name}"})
    api = [{title: f"api/{name}.md"} for name, title in API_TITLES.items()]
    documents = [
        {"The house": "architecture.md"},
        {"What breaks, and how often it was tried": "reliability.md"},
        {"Log of experiments": "log.md"},
    ]
    config.nav = [{"Home": "index.md"}, {"Course": course}, {"Python": api}, {"Documents": documents}]
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Runs the blocks of a course page and marks the places of outputs and formulas."""
    later = _later[page.file.src_uri] = {}
    if not page.file.src_uri.startswith("course/"):
        return LINKS_OUT.sub(r"\1", markdown)
    path = SITE.parent / page.file.src_uri
    if path in page_files():
        outputs = iter(_outputs(path))
        shown = []
        for number, part in enumerate(parse(markdown)):
            if not isinstance(part, Code):
                shown.append(part.markdown)
                continue
            text, figures = next(outputs)
            place = f"@@output{number}@@"
            later[f"<p>{place}</p>"] = _output_html(text, figures)
            mark = (
                f'<p class="exercise">Exercise: in the <a href="notebooks/{path.stem}.ipynb" download>notebook</a> \
these lines are yours to write.</p>\n\n'
                if "# solution" in part.source
                else ""
            )
            shown.append(f"{mark}```python\n{part.solved}```\n\n{place}\n\n")
        title, rest = "".join(shown).split("\n", 1)
        link = f'<p class="notebook"><a href="notebooks/{path.stem}.ipynb" download>This page as a notebook</a></p>'
        markdown = f"{title}\n\n{link}\n{rest}"
    return _without_formulas(markdown, later)


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Puts outputs and formulas in their places."""
    for place, what in _later[page.file.src_uri].items():
        content = content.replace(place, what)
    return content


def on_post_build(config: Any) -> None:
    """The index of the search as a script too, which the theme asks for where pages are opened from the disk."""
    folder = Path(config.site_dir) / "search"
    (folder / "search_index.js").write_text(
        "var __index = " + (folder / "search_index.json").read_text("utf-8"), "utf-8"
    )


def _without_formulas(markdown: str, later: dict[str, str]) -> str:
    def place(found: re.Match[str]) -> str:
        name = f"@@formula{len(later)}@@"
        block = found[1] is not None
        later[name] = convert(found[1] or found[2], display="block" if block else "inline")
        return f"\n\n{name}\n\n" if block else name

    pieces = PLAIN.split(markdown)
    return "".join(piece if number % 2 else FORMULA.sub(place, piece) for number, piece in enumerate(pieces))


def _outputs(path: Path) -> list[tuple[str, list[str]]]:
    """What the blocks of a page give; run in a process of its own, and again only if the page changed or a file of
    regard that it imports."""
    kept = CACHE / f"{path.stem}.json"
    if kept.exists():
        before = json.loads(kept.read_text("utf-8"))
        if before["hashes"] == {name: _hash(Path(name)) for name in before["hashes"]}:
            return before["outputs"]
    CACHE.mkdir(parents=True, exist_ok=True)
    code = (
        "import json, sys; from pathlib import Path; from pages import run\n"
        "outputs = run(Path(sys.argv[1]))[1]\n"
        "files = [m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in ('regard', 'pages', 'checkers')]\n"
        "Path(sys.argv[2]).write_text(json.dumps([[f for f in files if f], [(o.text, o.figures) for o in outputs]]))"
    )
    subprocess.run([sys.executable, "-c", code, str(path), str(kept)], cwd=SITE, check=True)
    files, outputs = json.loads(kept.read_text("utf-8"))
    hashes = {name: _hash(Path(name)) for name in [str(path), *files]}
    kept.write_text(json.dumps({"hashes": hashes, "outputs": outputs}), "utf-8")
    return outputs


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _output_html(text: str, figures: list[str]) -> str:
    shown = f'<pre class="printed"><code>{html.escape(text.rstrip())}</code></pre>' if text.strip() else ""
    for figure in figures:
        svg = figure[figure.index("<svg") :]
        svg = svg.replace(INK, "currentColor").replace("#000000", "currentColor").replace("#444444", "currentColor")
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r' (width|height)="[\d.]+pt"', r"", svg, count=2)
        width = float(re.search(r'viewBox="[\d.]+ [\d.]+ ([\d.]+)', svg)[1])  # type: ignore[index]
        shown += f'<figure class="drawn"><div style="max-width:{width * 1.45:.0f}px">{svg}</div></figure>'
    return shown


def _home() -> str:
    """README, with the links of its place."""
    text = (ROOT / "README.md").read_text("utf-8")
    return text.replace("](docs/", "](")


API_TITLES = {
    "verbs": "Verbs",
    "models": "Models and recording",
    "layers": "Layers",
    "explanation": "Explanations and figures",
    "results": "Results and errors",
}


def _api_pages() -> dict[str, str]:
    """Pages of names whose docstrings mkdocstrings sets."""
    sys.path.insert(0, str(ROOT / "src"))
    import regard

    homes = regard._HOME
    verbs = [f"{home}.{name}" for name, home in homes.items() if home.startswith("regard.verbs.")]
    others = [f"{home}.{name}" for name, home in homes.items() if not home.startswith("regard.verbs.")]
    others.remove("regard.errors.RegardError")  # stands among the results
    rooms = {
        "layers": [f"regard.layers.{path.stem}" for path in _files("layers")],
        "explanation": [f"regard.{room}.{path.stem}" for room in ("explanation", "analysis") for path in _files(room)],
        "results": ["regard.results", "regard.errors"],
    }
    names = {"verbs": sorted(verbs), "models": sorted(others), **rooms}
    intro = {
        "verbs": "Each is a command, `regard VERB`, and a function of the same name and arguments.",
        "models": "What `import regard` offers besides the verbs.",
        "layers": "What several papers share; one file each.",
        "explanation": "What a model looks at, and what its figures measure; one file each.",
        "results": "What the parts hand to each other.",
    }
    return {
        key: f"# {API_TITLES[key]}\n\n{intro[key]}\n\n" + "\n\n".join(f"::: {name}" for name in listed) + "\n"
        for key, listed in names.items()
    }


def _files(room: str) -> list[Path]:
    return [path for path in sorted((ROOT / "src" / "regard" / room).glob("*.py")) if path.stem != "__init__"]
