"""One target under atheris: `python fuzz/run.py weights fuzz/corpus/weights -max_total_time=60` (libFuzzer's options).

The corpus folder is kept from run to run; what crashes is written to crash-* in the current folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["regard", "zipfile", "pickletools", "csv", "yaml", "PIL"]):
    from targets import TARGETS, seeds


def main() -> None:
    """Seed the corpus, then fuzz until the time is up."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"usage: python fuzz/run.py {'|'.join(TARGETS)} [CORPUS] [-max_total_time=60]")
    folder = next((Path(word) for word in sys.argv[1:] if not word.startswith("-")), None)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(seeds(name)):
            (folder / f"seed-{number}").write_bytes(data)
    limits = ["-timeout=30", "-rss_limit_mb=2048", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:]], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
