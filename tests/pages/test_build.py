from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from regard.errors import RegardError
from regard.pages import build as building
from regard.pages.build import STATIC, build, joined_modules, script_json, write_page

ENTRIES = [f"{path.stem}.js" for path in sorted(STATIC.glob("*.html"))]
# Linear RGB as people without one kind of cone see it (Machado, Oliveira and Fernandes 2009, severity 1).
VISION = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.fixture
def static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(building, "STATIC", tmp_path)
    building.joined_modules.cache_clear()
    yield tmp_path
    building.joined_modules.cache_clear()


@pytest.mark.parametrize("entry", ENTRIES)
def test_modules_are_joined_after_what_they_need(entry: str) -> None:
    script = joined_modules(entry)
    assert not re.search(r"^(import|export)\b", script, flags=re.MULTILINE)
    assert "</script" not in script and "http://" not in script.replace("http://www.w3.org/2000/svg", "")
    for importer in STATIC.glob("*.js"):
        text = importer.read_text("utf-8")
        own = re.search(r"^(?:export )?(?:async )?((?:class|const|function) \w+)", text, flags=re.MULTILINE)[1]
        for names in re.findall(r"^import \{([^}]*)\}", text, flags=re.MULTILINE):
            for name in names.replace(",", " ").split():
                defined = re.search(rf"^(?:async )?(?:class|const|function) {name}\b", script, flags=re.MULTILINE)
                assert own not in script or script.index(own) > defined.start(), (importer.name, name)


def test_all_of_static_belongs_to_a_page() -> None:
    reached: set[str] = set()
    waiting = list(ENTRIES)
    while waiting:
        file = waiting.pop()
        if file not in reached:
            reached.add(file)
            waiting += re.findall(r'from "\./([\w.-]+)";', (STATIC / file).read_text("utf-8"))
    assert reached == {path.name for path in STATIC.glob("*.js")}


def test_a_name_in_two_modules_is_refused(static: Path) -> None:
    (static / "a.js").write_text('import { b } from "./b.js";\nconst same = 1;\n')
    (static / "b.js").write_text("const same = 2;\nexport const b = 3;\n")
    with pytest.raises(RegardError, match=r"a\.js: same is also in b\.js"):
        joined_modules("a.js")


def test_a_circle_is_refused(static: Path) -> None:
    (static / "a.js").write_text('import { b } from "./b.js";\nexport const a = 1;\n')
    (static / "b.js").write_text('import { a } from "./a.js";\nexport const b = 1;\n')
    with pytest.raises(RegardError, match=r"imports itself by way of b\.js"):
        joined_modules("a.js")


@pytest.mark.parametrize("line", ["export default 1;", 'import x from "./b.js";', "export { a };"])
def test_other_imports_and_exports_are_refused(static: Path, line: str) -> None:
    (static / "a.js").write_text(f"const a = 1;\n{line}\n")
    (static / "b.js").write_text("export const b = 1;\n")
    with pytest.raises(RegardError, match=re.escape(line)):
        joined_modules("a.js")


def test_the_policy_names_the_style_and_the_script_and_nothing_else(static: Path) -> None:
    (static / "a.js").write_text("const a = 1;\n")
    (static / "a.css").write_text("p { color: red; }\n")
    (static / "a.html").write_text(
        '<meta content="{{ policy }}"><style>{{ style }}</style><p>{{ title }}</p>'
        "{{ content }}<script>{{ script }}</script>"
    )
    hostile = "</script><script>window.hit=1</script>"
    page = build("a.html", "a.js", ["a.css"], {"title": hostile}, {"x": "QUJD"})
    parts = {tag: re.search(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)[1] for tag in ("style", "script")}
    for tag, text in parts.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src &#39;sha256-{digest}&#39;" in page or f"{tag}-src 'sha256-{digest}'" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert "window.hit=1</script>" not in page
    assert '<script type="text/plain" id="blob-x">QUJD</script>' in page


def test_json_ends_no_script() -> None:
    text = script_json({"<!--": ["</script>", "\u2028", "&amp;"]})
    assert not set("<>&\u2028") & set(text)


def test_a_page_is_written_whole_or_refused(tmp_path: Path) -> None:
    assert write_page(tmp_path / "new" / "a.html", "x\udcff").read_bytes() == b"x\\udcff"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.html"]
    with pytest.raises(RegardError, match=r"new.*cannot be written .*--html"):
        write_page(tmp_path / "new", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def stops(name: str) -> np.ndarray:
    """(n, 3) linear RGB of a list of colours in colours.js."""
    text = (STATIC / "colours.js").read_text("utf-8")
    body = re.search(rf"{name}(?: =|:) \[((?:\s*\[[\d, ]+\],?\s*)+)\]", text)[1]
    rgb = np.array([list(map(int, one.split(","))) for one in re.findall(r"\[([\d, ]+)\]", body)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("vision", VISION)
def test_more_is_lighter_to_every_eye(vision: str) -> None:
    seen = stops("HEAT") @ np.array(VISION[vision]).T
    light = seen @ np.array([0.2126, 0.7152, 0.0722])
    lightness = np.cbrt(np.clip(light, 0, None))
    assert (np.diff(lightness) > 0.02).all()
    assert lightness[-1] - lightness[0] > 0.6


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("vision", ["all cones", "protanopia", "deuteranopia"])
def test_below_and_above_zero_differ_to_common_eyes(vision: str, theme: str) -> None:
    seen = np.clip(stops(theme) @ np.array(VISION[vision]).T, 0, 1)
    middle = len(seen) // 2
    for distance in range(1, middle + 1):
        below, above = seen[middle - distance], seen[middle + distance]
        assert above[2] - above[0] < 0 < below[2] - below[0]  # yellowish against bluish
