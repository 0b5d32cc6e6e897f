from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for `figures` and what the tests of several rows share
sys.path.insert(0, str(HERE.parent / "reporting"))  # for `hostile` and `synthetic`

_found = importlib.util.spec_from_file_location("reporting_conftest", HERE.parent / "reporting" / "conftest.py")
assert _found is not None and _found.loader is not None
_reporting = importlib.util.module_from_spec(_found)
_found.loader.exec_module(_reporting)
browser = _reporting.browser  # the same Chromium as the report's own tests
