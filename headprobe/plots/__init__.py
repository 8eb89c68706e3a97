"""Pictures of runs and budgets.

What a file shows is in ``runs`` and ``budgets``, the page in ``figure``, and ``column`` is what the
one hands to the other. ``matrix`` draws layers by heads and other grids, ``ranking`` values in
order, both on ``scales``. matplotlib is used through its ``Figure``, never pyplot: no backend, no
global state.
"""

from __future__ import annotations

from headprobe.plots.figure import draw, save
from headprobe.plots.runs import RunPicture

__all__ = ["RunPicture", "draw", "save"]
