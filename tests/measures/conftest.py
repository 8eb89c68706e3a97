from __future__ import annotations

from importlib.util import find_spec

# Which needs kvpress: `make test-kvpress`.
collect_ignore = [] if find_spec("kvpress") else ["test_press_measures.py"]
