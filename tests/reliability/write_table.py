"""Writes docs/reliability.md from docs/reliability/ROW.json: `python tests/reliability/write_table.py`.

Our figures are what the tests recorded (`figures.py`), never typed. What the best other system does is quoted from
its source or documentation, as read in 2026.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs" / "reliability"
PAGE = FOLDER.with_suffix(".md")
# row -> (requirement, the best that was found elsewhere)
ROWS: dict[int, tuple[str, str]] = {
    1: ("No weight file can run code", "Composer, timm: about 5 tests each"),
    2: ("No silently wrong weights", "torch.load: 97% of flipped bits silent; NumPy's npz: 0%"),
    3: ("A save is all or nothing", "orbax: 2 tests with mocks; saves in place: 12 of 12 killed ones unreadable"),
    4: ("Resume is bit-exact, in mid-epoch too", "Composer: 24 cases at tolerance 0, 10 batches each"),
    5: ("Prediction loses and misfiles nothing", "timm's inference: another file's answer for a corrupt one"),
    6: ("Bad images never stop or poison training", "DINOv2 names the index; DALI cannot skip"),
    7: ("SIGTERM and SIGINT save and exit", "Lightning: opt-in; a field report: 0 of 6 preemptions"),
    8: ("Broken weight files explain themselves", "torch.load: 0 of 100 messages name the file"),
    9: ("Weight bombs are refused before anything is allocated", "safetensors alone"),
    10: ("Image bombs are refused", "Pillow: warns above 89, refuses above 179 Mpx; 43 formats open"),
    18: ("Decoded pixels are right", "Hugging Face datasets: EXIF orientation only"),
    20: ("Nothing non-finite reaches the weights", "torchtitan: stops before the step, names no batch"),
    21: ("Sample order does not depend on the machine", "StreamingDataset: order, for sizes that divide"),
    22: ("One dead rank stops all, with its reason", "torchrun: can hang (PyTorch #46874)"),
    23: ("Out of memory is survived or explained", "Composer: halves the micro-batch; accelerate: starts again"),
    24: ("The determinism flag means bits", "torchtitan: loss of 100 steps equal"),
    25: ("Every released checkpoint stays loadable", "Lightning: checkpoints of 114 releases load"),
    26: ("Parsers are fuzzed", "Pillow: 600 s for each change; safetensors: 38 million inputs, 0 crashes"),
    30: ("Reports and tables are inert", "Gradio: CVE-2022-24770"),
    32: ("Local multi-process is private", "PyTorch's TCPStore listens on all interfaces"),
}
HEAD = """# Reliability

What `regard` promises, and what its own tests found. Every figure of ours was recorded by the test beside it
(`make reliability`); none is typed. The last column is the best that we found in other systems when we read their
sources, tests and issues.

| row | requirement | tried | outcome | test | best elsewhere |
|---|---|---|---|---|---|
"""
NOTES = """
Where a row holds less than it sounds:

- Row 2: a file that carries no SHA-256 per tensor and has no published one (torch and npz files of others, safetensors
  not written by us) loads with a message that says "unverified". Its archive's own checksums find flipped bits; tensors
  that changed places whole, nobody would find. In torch's format before 1.6 there is no checksum at all.
- Row 6: nothing is drawn in place of a bad image; it is left out by name before the split is made.
- Row 10: of a file with many frames, directories or text chunks, the first picture is answered and the rest never read.
- Row 18: there are no switches for alpha, 16 bits or orientation: one rule each, the same in every verb
  (`src/regard/data/decoding.py`).
- Rows 21 and 23: the same images in the same order give the same mathematics, summed in another order. With AdamW, ten
  steps by two processes end within 1e-5 of one; by four, once 1.3e-5 was seen. Half the micro-batch stays within 1e-6
  with SGD, and was 3e-6 off with AdamW, in one number of 27,648.
- Row 22: a process that is slow is waited for; one that is suspended, dead or in error ends all.
- Row 26: what the table holds is one run. Others of the same minutes met a column name with a line break, an .npz
  header that ends inside a bracket and Parquet text that is no UTF-8; each is mended, and more may follow.
- Row 32: torchrun itself listens on all interfaces unless it is told not to; `train` says how, and README starts it so.
"""


def largest(entries: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """(test, entry) per requirement: the one with most inputs, since tests run with a tenth and with full counts."""
    best: dict[str, tuple[str, dict[str, Any]]] = {}
    for test, entry in entries.items():
        name = entry["requirement"]
        if name not in best or entry["count"] > best[name][1]["count"]:
            best[name] = test, entry
    return list(best.values())


def cell(text: str) -> str:
    """Text that cannot end a table cell."""
    return " ".join(text.split()).replace("|", "\\|")


def page(found: dict[int, dict[str, dict[str, Any]]]) -> str:
    """The page from what was recorded, row -> test -> entry."""
    lines = []
    for row, (requirement, best) in ROWS.items():
        first = True
        for test, entry in largest(found.get(row, {})):
            place = test.split("::")[0]
            lead = (str(row), requirement, best) if first else ("", "", "")
            tried = f"{entry['requirement']}: {entry['count']:,}"
            cells = (lead[0], lead[1], tried, entry["outcome"], f"[{Path(place).name}](../{place})", lead[2])
            lines.append(f"| {' | '.join(map(cell, cells))} |")
            first = False
        if first:
            lines.append(f"| {row} | {requirement} | not recorded | | | {best} |")
    return HEAD + "\n".join(lines) + "\n" + NOTES


def main() -> None:
    """Write the page; rows that nobody recorded are named."""
    found = {int(path.stem): json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
    if unknown := sorted(found.keys() - ROWS.keys()):
        sys.exit(f"{FOLDER}: no row {unknown[0]} in the table")
    PAGE.write_text(page(found), encoding="utf-8")
    missing = [str(row) for row in ROWS if row not in found]
    print(f"{PAGE}: {len(found)} of {len(ROWS)} rows" + (f"; without figures: {', '.join(missing)}" if missing else ""))


if __name__ == "__main__":
    main()
