"""Some hostile files of every family; ``make fuzz`` tries thousands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.families import FAMILIES
from tests.hostile.trial import trials

EACH = 100


@pytest.mark.parametrize("name", FAMILIES)
def test_every_file_is_read_rightly_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    found = trials(FAMILIES[name], tmp_path, count=EACH, seed=1)
    faults = [trial for trial in found if trial.outcome == "else"]
    assert not faults, "\n".join(
        f"{one.input.damage or 'undamaged'}: {one.seen[:300]} (truth {one.input.truth!r:.200})"
        for one in faults[:5]
    )
    assert sum(trial.outcome == "refused" for trial in found) > EACH / 10
    if name != "haystack: names":
        assert sum(trial.outcome == "read" for trial in found) > EACH / 10
