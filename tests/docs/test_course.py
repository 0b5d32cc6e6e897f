"""The course: its pages run, its checkers tell right from wrong, its notebooks follow the pages."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "site"))

import pages  # noqa: E402

PAGES = pages.page_files()
GIVEN = {"torch": torch, "F": F, "nn": nn, "math": math}  # what exercise cells find imported


def exercises() -> list[tuple[Path, pages.Code, str]]:
    """(page, block, name of its checker) of every exercise."""
    blocks = [(path, part) for path in PAGES for part in pages.parse(path.read_text("utf-8"))]
    return [
        (path, part, pages.CHECK.findall(part.source)[0])
        for path, part in blocks
        if isinstance(part, pages.Code) and "# solution" in part.source
    ]


def test_there_are_sixteen_pages_and_the_overview_names_each() -> None:
    overview = (pages.COURSE / "index.md").read_text("utf-8")
    titles = [path.read_text("utf-8").split("\n", 1)[0].removeprefix("# ") for path in PAGES]
    assert len(PAGES) == 16
    for path, title in zip(PAGES, titles, strict=True):
        assert f"[{title}]({path.name})" in overview


@pytest.mark.parametrize("path", PAGES, ids=[path.stem for path in PAGES])
def test_every_block_of_a_page_runs_and_its_assertions_hold(path: Path) -> None:
    namespace, outputs = pages.run(path)
    assert any(output.figures for output in outputs)
    assert (
        sum(
            part.source.count("assert ")
            for part in pages.parse(path.read_text("utf-8"))
            if isinstance(part, pages.Code)
        )
        > 3
    )
    assert all("not yet" not in output.text for output in outputs)
    assert namespace["__name__"] == "__main__"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_has_the_parts_of_a_lecture_note(path: Path) -> None:
    text = path.read_text("utf-8")
    for wanted in ("How to read it", "## Exercises", "## References", "$$", "deck"):
        assert wanted in text, f"{path.name} lacks {wanted!r}"
    assert 120 <= text.count("\n") <= 320
    for target in re.findall(r"\]\((\d\d_\w+\.md)\)", text):
        assert (pages.COURSE / target).exists(), f"{path.name} links to {target}"


def test_an_error_on_a_page_names_its_line(tmp_path: Path) -> None:
    page = tmp_path / "99_broken.md"
    page.write_text("# Broken\n\nWords.\n\n```python\nx = 1\nassert x == 2\n```\n", "utf-8")
    with pytest.raises(AssertionError) as caught:
        pages.run(page)
    assert caught.traceback[-1].lineno + 1 == 7


def test_a_page_with_a_wrong_solution_does_not_pass(tmp_path: Path) -> None:
    page = tmp_path / "99_wrong.md"
    page.write_text('# Wrong\n\n```python\ncheck("attention", lambda q, k, v: q @ k.T @ v)\n```\n', "utf-8")
    with pytest.raises(AssertionError, match="refuses the page's own solution"):
        pages.run(page)


@pytest.mark.parametrize(("path", "part", "name"), [pytest.param(*row, id=row[2]) for row in exercises()])
def test_a_checker_accepts_the_solution_and_the_notebook_asks_for_it(path: Path, part: pages.Code, name: str) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(part.solved, {**GIVEN, "check": pages.checkers().check})
    assert said.getvalue() == f"{name}: right\n"

    cells = json.loads(pages.notebook(path))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    judge = next(source for source in sources if source.startswith("# The checkers"))
    body, check = next((a, b) for a, b in pairwise(sources) if b.startswith(f'check("{name}"'))
    assert "# your turn" in body and "# solution" not in body
    namespace: dict[str, Any] = dict(GIVEN)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for cell in (judge, body, check):
            exec(cell, namespace)
    assert said.getvalue().startswith(f"{name}: not yet - it gives nothing back yet")
    assert set(namespace["CHECKERS"]) == set(pages.CHECK.findall(path.read_text("utf-8")))  # no other page's


def swapped(offsets: tuple[int, int]) -> Callable[[int, int], Tensor]:
    """A position code with other countings: of positions and of pairs."""

    def code(count: int, dim: int) -> Tensor:
        place = torch.arange(count)[:, None] + offsets[0]
        angle = place / 10_000 ** ((torch.arange(0, dim, 2) + offsets[1]) / dim)
        return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)

    return code


def pattern(by: Callable[[Tensor], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """Of nine heads, one that looks `by(shift)` away on an 8x8 grid."""
    place = torch.stack([torch.arange(64) // 8, torch.arange(64) % 8], dim=1).double()
    apart = place[None, :] - place[:, None]
    return lambda shift, alpha: (-alpha * (apart - by(shift)).square().sum(-1)).softmax(-1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of logits, mean over the batch."""
    return F.kl_div(q.log_softmax(1), p.log_softmax(1), reduction="batchmean", log_target=True)


def waves(angles: Tensor) -> Tensor:
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def unfolded(image: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    return F.unfold(image, kernel, stride=stride, padding=padding).transpose(1, 2)


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("attention", lambda q, k, v: (q @ k.T).softmax(-1) @ v, "not divided"),
    ("attention", lambda q, k, v: (q @ k.T / 2).softmax(0) @ v, "each row"),
    ("attention", lambda q, k, v: q @ k.T / 2 @ v, "softmax is missing"),
    ("attention", lambda q, k, v: (q @ k.T / 4).softmax(-1) @ v, "square root"),
    ("attention", lambda q, k, v: (q @ k.T).softmax(-1), "shape (3, 5); expected (3, 2)"),
    ("attention", lambda q, k, v: q @ v, "stops with RuntimeError"),
    ("position_code", swapped((1, 0)), "begin at 1"),
    ("position_code", swapped((0, 2)), "exponent begins at 2/d"),
    ("position_code", lambda c, d: swapped((0, 0))(c, d).unflatten(1, (-1, 2)).flip(2).flatten(1), "exchanged"),
    ("position_code", lambda c, d: swapped((0, 0))(c, d).unflatten(1, (-1, 2)).transpose(1, 2).flatten(1), "alternate"),
    ("position_code", lambda c, d: torch.arange(c)[:, None].expand(c, d).float(), "numbers are not"),
    ("field_of_view", lambda layers: 1 + sum(k - 1 for k, _ in layers), "dilation is forgotten"),
    ("field_of_view", lambda layers: sum(k for k, _ in layers), "do not add up"),
    ("field_of_view", lambda layers: 3, "expected 15, got 3"),
    ("soft_split", lambda i, k, s, p: unfolded(i, k, s, p).transpose(1, 2), "tokens stand in the columns"),
    ("soft_split", lambda i, k, s, p: unfolded(i, k, s, 0), "padding is forgotten"),
    ("soft_split", lambda i, k, s, p: unfolded(i, k, k, p), "do not overlap"),
    ("soft_split", lambda i, k, s, p: unfolded(i, k, s, p).unflatten(2, (3, -1)).transpose(2, 3).flatten(2), "fastest"),
    ("patchify", lambda i, side: i.reshape(2, 6, 12), "cuts across patches"),
    ("patchify", lambda i, side: unfolded(i, side, side, 0).flip(2), "another order"),
    ("patchify", lambda i, side: unfolded(i, side, side, 0).flip(1), "row after row of patches"),
    ("quadratic_scores", pattern(lambda shift: -shift), "opposite direction"),
    ("quadratic_scores", pattern(lambda shift: shift / 2), "factor 2"),
    ("quadratic_scores", lambda shift, alpha: pattern(lambda s: s)(shift, -alpha), "farthest"),
    ("quadratic_scores", pattern(lambda shift: 2 * shift), "is wrong"),
    ("causal_mask", lambda n: torch.ones(n, n).triu().bool(), "what follows them"),
    ("causal_mask", lambda n: torch.ones(n, n).tril(-1).bool(), "itself, too"),
    ("causal_mask", lambda n: ~torch.ones(n, n).tril().bool(), "wrong way round"),
    ("causal_mask", lambda n: torch.ones(n, n).tril(), "it gives numbers"),
    ("causal_mask", lambda n: torch.ones(n, n).bool(), "columns 0 to i"),
    ("soft_loss", lambda z, t, tau: kl(t / tau, z / tau), "tau^2 is missing"),
    ("soft_loss", lambda z, t, tau: tau**2 * kl(z / tau, t / tau), "exchanged"),
    ("soft_loss", lambda z, t, tau: tau**2 * kl(t / tau, z / tau) / z.shape[1], "mean over the classes"),
    ("soft_loss", lambda z, t, tau: tau**2 * kl(t / tau, z / tau) * len(z), "summed over the batch"),
    ("soft_loss", lambda z, t, tau: tau**2 * kl(t, z), "not divided by tau"),
    ("soft_loss", lambda z, t, tau: kl(t, z), "is expected"),
    ("mixup", lambda x, y, share: x, "two things"),
    ("mixup", lambda x, y, share: (x.lerp(x.flip(0), share), y), "not of its partner"),
    ("mixup", lambda x, y, share: (x, y), "the images are not"),
    ("mixup", lambda x, y, share: (x.lerp(x.flip(0), 1 - share), y), "targets are not"),
    ("mixup", lambda x, y, share: (x.lerp(x.flip(0), 1 - share), y.lerp(y.flip(0), 0.5)), "same share"),
    ("to_windows", lambda t, side: t.reshape(2, 6, 4, 3), "windows of 1 x 4"),
    ("to_windows", lambda t, side: t.reshape(2, 6, 4, 3).flip(1), "window after window"),
    ("fourier_code", lambda c, G: waves(2 * torch.pi * c @ G), "from -1 to 1"),
    ("fourier_code", lambda c, G: waves((2 * c - 1) @ G), "2 pi is missing"),
    ("fourier_code", lambda c, G: waves(2 * torch.pi * (2 * c - 1) @ G).roll(3, 1), "exchanged"),
    (
        "fourier_code",
        lambda c, G: waves(2 * torch.pi * (2 * c - 1) @ G).unflatten(1, (2, 3)).mT.flatten(1),
        "alternate",
    ),
    ("fourier_code", lambda c, G: waves(2 * torch.pi * (1 - 2 * c) @ G), "numbers are not"),
    ("retrieval_precision", lambda v, labels, k: self_included(v, labels, k), "its own nearest neighbour"),
    ("retrieval_precision", lambda v, labels, k: 0.25, "got 0.250"),
]


def self_included(vectors: Tensor, labels: Tensor, k: int) -> float:
    nearest = torch.cdist(vectors, vectors).topk(k, largest=False).indices
    return float((labels[nearest] == labels[:, None]).float().mean())


@pytest.mark.parametrize(("name", "function", "said"), WRONG)
def test_a_checker_says_what_is_wrong(name: str, function: Callable[..., Any], said: str) -> None:
    wrong = pages.checkers().verdict(name, function)
    assert wrong is not None and said in wrong and "\n" not in wrong


def test_every_checker_has_wrong_answers_and_an_exercise() -> None:
    known = set(pages.checkers().CHECKERS)
    assert known == {name for name, _, _ in WRONG} == {name for _, _, name in exercises()}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_notebooks_are_those_of_the_pages(path: Path) -> None:
    text = pages.notebook(path)
    kept = (pages.NOTEBOOKS / f"{path.stem}.ipynb").read_text("utf-8")
    assert kept == text, "out of date: run `python docs/site/pages.py`"
    content = json.loads(text)
    assert content["nbformat"] == 4 and len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        source = "".join(cell["source"])
        assert ".md)" not in source and "# solution" not in source
        if cell["cell_type"] == "code":
            compile(source, path.stem, "exec")
            assert cell["outputs"] == []


@pytest.mark.long
def test_the_site_builds_and_asks_the_network_for_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=900, env=quiet)
    for path in PAGES:
        page = (tmp_path / "course" / f"{path.stem}.html").read_text("utf-8")
        assert "@@" not in page and "<math" in page and "<figure" in page and "$$" not in page
        assert (tmp_path / "course" / "notebooks" / f"{path.stem}.ipynb").exists()
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]+src="(https?:[^"]+)', page.read_text("utf-8"))
        linked = re.findall(
            r'<link[^>]+rel="(?:stylesheet|preconnect)"[^>]+href="(https?:[^"]+)', page.read_text("utf-8")
        )
        assert not loaded + linked, f"{page.name} loads {loaded + linked}"
