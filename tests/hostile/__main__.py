"""Try thousands of hostile files and print what became of them: ``make fuzz``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.hostile.families import FAMILIES
from tests.hostile.trial import trials

_ROW = "{:24}{:>8}{:>10}{:>8}{:>8}"
_SHOWN = 10


def main() -> int:
    """Print a table of all families, then what was neither read nor refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=250, help="inputs of each family")
    parser.add_argument("--seed", type=int, default=0, help="seed of all inputs")
    parser.add_argument("--family", action="append", choices=FAMILIES, help="only this one")
    options = parser.parse_args()
    begun, faults, total = time.monotonic(), [], [0, 0, 0, 0]
    print(_ROW.format("family", "tried", "refused", "read", "else"))
    for name in options.family or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            found = trials(FAMILIES[name], Path(folder), count=options.each, seed=options.seed)
        outcomes = [trial.outcome for trial in found]
        counts = [len(found), *(outcomes.count(kind) for kind in ("refused", "read", "else"))]
        print(_ROW.format(name, *counts), flush=True)
        total = [one + other for one, other in zip(total, counts, strict=True)]
        faults += [(name, n, trial) for n, trial in enumerate(found) if trial.outcome == "else"]
    print(_ROW.format("all", *total))
    print(f"seed {options.seed}, {time.monotonic() - begun:.0f} seconds")
    for name, number, trial in faults[:_SHOWN]:
        told = f"truth {trial.input.truth!r:.200}, damage {trial.input.damage or 'none'}"
        print(f"{name} {number}: {trial.seen[:400]}\n    {told}", file=sys.stderr)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
