from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "reporting"))  # for `contrast`, which the pages share
sys.path.insert(0, str(Path(__file__).parent))  # for `opened`
