"""One HTML file of runs, budgets, evaluations and ablations, which opens anywhere and offline.

``sources`` finds what the named paths hold, ``runs``, ``cases``, ``budgets``, ``results`` and
``charts`` turn it into a record that JSON can hold, ``packing`` makes the large arrays of it small,
``record`` puts together as much as fits. ``page`` sets the record, the style and the scripts into
the template ``report.html.j2``, and reads the record back. In the browser ``base.js`` comes first,
``state.js`` holds what is looked at, ``heatmap.js`` is shared by the views, a file or two a view
follow, and ``main.js`` begins.
"""

from headprobe.report.page import read_page, room, write_page
from headprobe.report.record import build_record
from headprobe.report.sources import Sources, find_sources

__all__ = ["Sources", "build_record", "find_sources", "read_page", "room", "write_page"]
