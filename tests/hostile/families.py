"""All families of hostile files."""

from __future__ import annotations

from tests.hostile import asked, lists, prose, runs, tables
from tests.hostile.trial import Family

FAMILIES: dict[str, Family] = {
    **prose.FAMILIES,
    **asked.FAMILIES,
    **runs.FAMILIES,
    **tables.FAMILIES,
    **lists.FAMILIES,
}
