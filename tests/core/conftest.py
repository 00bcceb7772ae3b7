"""Loads harness.py under a name of its own, since tests are imported one by one and cannot see their siblings."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

if "ice_harness" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("ice_harness", Path(__file__).with_name("harness.py"))
    assert _spec is not None
    assert _spec.loader is not None
    _module = importlib.util.module_from_spec(_spec)
    sys.modules["ice_harness"] = _module
    _spec.loader.exec_module(_module)
