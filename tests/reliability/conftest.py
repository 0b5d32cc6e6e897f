from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for `figures` and what the tests of several rows share
sys.path.insert(0, str(HERE.parent / "reporting"))  # for `hostile` and `synthetic`
