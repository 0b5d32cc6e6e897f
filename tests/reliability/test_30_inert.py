"""Row 30: reports, worklists and tables are inert to whatever files and classes are called."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from figures import record
from hostile import HOSTILE, hostile_names
from PIL import Image
from synthetic import make_report, photo

from regard.data.contents import contents, read_contents, write_contents
from regard.data.decoding import decode
from regard.data.sources import ImageSet
from regard.data.splits import read_split, split_images, write_split
from regard.reporting import write_report
from regard.reporting.records import Suspect
from regard.reporting.thumbnails import encode_thumbnail, make_thumbnails
from regard.reporting.worklist import render_worklist
from regard.verbs.tables import FORMULA, table_writer

CELLS = (
    "=cmd|'/c calc'!A1", "=HYPERLINK(\"http://x.invalid\")", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "=1\n=2",
    '"=1', "'=1", ' =1', "a,b", 'a"b', "a\nb", "\u202e=1", "x" * 4096,
)  # fmt: skip


def opened(browser, path: Path):
    """The page, and everything that it complained of or asked the network for."""
    page = browser.new_page()
    page.set_default_timeout(20_000)
    trouble: list[str] = []
    page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else trouble.append(r.url))
    page.goto(path.as_uri())
    return page, trouble


def assert_inert(page, trouble: list[str]) -> None:
    assert page.evaluate("window.hit") is None
    assert page.locator("iframe, base, main img[src=x], [onerror], [onload], [onmouseover], style + style").count() == 0
    assert page.locator("meta[http-equiv=refresh]").count() == 0
    assert page.locator("meta[http-equiv=Content-Security-Policy]").count() == 1
    assert page.locator("h1").is_visible()
    assert trouble == []
    page.close()


def test_sixty_hostile_names_in_a_report(browser, tmp_path: Path) -> None:
    names = hostile_names()
    data = make_report(
        photos=60, classes=tuple(HOSTILE), ids=names, seeds=2, fractions=(1.0,), methods=("head",),
        models=("vit" + HOSTILE[1], HOSTILE[2]),
    )  # fmt: skip
    page, trouble = opened(browser, write_report(data, tmp_path / "report.html"))
    assert page.locator("script").count() == 2
    assert len(page.evaluate("JSON.parse(document.getElementById('store').textContent).photos")) == 60
    assert_inert(page, trouble)
    record(
        30, "hostile file and class names in a report, in Chromium", len(names), f"{len(names)} of {len(names)} inert"
    )


def test_sixty_hostile_names_in_a_worklist(browser, tmp_path: Path) -> None:
    names = hostile_names()
    found = [Suspect(name, names[0], names[1], 0.9) for name in names]
    text = render_worklist(names[2], names[3], found, photo)
    (tmp_path / "list.html").write_bytes(text.encode("utf-8", "backslashreplace"))
    page, trouble = opened(browser, tmp_path / "list.html")
    assert page.locator("script").count() == 0
    assert page.locator("tbody tr").count() == page.locator("tbody img").count() == 60
    assert_inert(page, trouble)
    record(30, "hostile names in a worklist, in Chromium", len(names), f"{len(names)} of {len(names)} inert")


def test_cells_are_no_formulas(tmp_path: Path) -> None:
    cells = [*CELLS, *hostile_names()]
    with table_writer(tmp_path / "a.csv", {"name": str, "number": float}) as write:
        for cell in cells:
            write({"name": cell, "number": -1.5})
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        _, *rows = list(csv.reader(file))
    assert len(rows) == len(cells)
    for cell, (name, number) in zip(cells, rows, strict=True):
        assert not name.startswith(FORMULA), cell
        plain = cell.encode("utf-8", "backslashreplace").decode()
        assert name == (f"'{plain}" if cell.startswith(FORMULA) else plain)
        assert float(number) == -1.5
    record(30, "hostile cells of a CSV", len(cells), f"{len(cells)} of {len(cells)} neutral")


def located(number: int) -> bytes:
    """A photo that tells where and by what it was taken, in each place that formats have for it."""
    exif = Image.Exif()
    exif[0x010F] = f"SECRET-{number}"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, float(number)), 3: "E", 4: (13.0, 22.0, 0.0)})
    stream = io.BytesIO()
    kind = ("JPEG", "PNG", "WEBP", "TIFF")[number % 4]
    options: dict = {"exif": exif}
    if kind == "JPEG":
        options |= {"comment": b"SECRET", "xmp": b"<x:xmpmeta>SECRET</x:xmpmeta>", "icc_profile": b"SECRET" * 30}
    Image.fromarray(photo(str(number))).save(stream, kind, **options)
    return stream.getvalue()


def test_thumbnails_carry_no_metadata(tmp_path: Path) -> None:
    paths = {}
    for number in range(60):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(located(number))
        assert b"SECRET" in path.read_bytes()
        paths[str(number)] = path

    def pixels(id_: str) -> np.ndarray:
        return decode(paths[id_])

    for id_ in paths:
        data = encode_thumbnail(pixels(id_), 96, 72)
        opened_again = Image.open(io.BytesIO(data))
        assert not opened_again.getexif() and not {"exif", "icc_profile", "xmp", "comment"} & opened_again.info.keys()
        assert not any(word in data for word in (b"SECRET", b"EXIF", b"XMP ", b"ICCP"))
    assert all(make_thumbnails(list(paths), pixels).data.values())
    record(
        30, "photos with GPS, maker, XMP and profile as thumbnails", len(paths), f"{len(paths)} of {len(paths)} bare"
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_other_tables_keep_hostile_names_as_data(tmp_path: Path, suffix: str) -> None:
    with table_writer(tmp_path / f"a{suffix}", {"name": str}) as write:
        for name in hostile_names():
            write({"name": name})
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        assert pq.read_table(tmp_path / "a.parquet").num_rows == 60
    else:
        assert len((tmp_path / "a.jsonl").read_bytes().splitlines()) == 60


def test_hostile_names_come_back_from_the_files_of_a_run(tmp_path: Path) -> None:
    """A carriage return in a name must not begin a row of its own."""
    names = [name for name in dict.fromkeys((*CELLS, *hostile_names())) if "\udcff" not in name and "\0" not in name]
    pixels = [np.full((2, 2, 3), number, np.uint8) for number in range(len(names))]
    labels = np.arange(len(names)) % 2
    images = ImageSet("n", tuple(names), labels, (names[0], names[6]), ("",) * len(names), pixels)
    split = split_images(images, 0)
    write_split(tmp_path / "split.csv", images, split)
    again = read_split(tmp_path / "split.csv", images)
    assert all(np.array_equal(getattr(split, part), getattr(again, part)) for part in ("train", "val", "test"))
    found = contents(images, range(len(images)))
    write_contents(tmp_path / "contents.csv", found)
    assert read_contents(tmp_path / "contents.csv") == found and len(set(found.values())) == len(names)
