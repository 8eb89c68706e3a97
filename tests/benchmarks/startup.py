"""CPU seconds of a short command against those of importing its libraries: ``make bench``.

The command scores one case of the bundled model. The floor imports torch and transformers' code of
that model's architecture, and ends. Each is a process of its own, and they take turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from tempfile import TemporaryDirectory

import numpy as np

FLOOR = "import torch, transformers.models.llama.modeling_llama"


def seconds_of(*arguments: str) -> float:
    """CPU seconds of a Python process with these arguments, from its start to its end."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def score() -> float:
    """CPU seconds of scoring one case in a new directory."""
    with TemporaryDirectory() as folder:
        return seconds_of("-m", "headprobe", "score", "--limit", "1", "--out", f"{folder}/run")


def main() -> None:
    """Print seconds of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most", type=float, default=1.25, help="fail above this ratio")
    options = parser.parse_args()
    # What the first of each reads from the disk the others find in memory.
    score(), seconds_of("-c", FLOOR)
    rounds = [(score(), seconds_of("-c", FLOOR)) for _ in range(options.rounds)]
    whole, floor = np.median(rounds, axis=0)
    ratio = float(np.median([one / other for one, other in rounds]))
    print(
        f"nano, one case: {whole:.2f} CPU seconds; imports of torch and transformers alone "
        f"{floor:.2f}: {ratio:.2f} times"
    )
    if ratio > options.most:
        raise SystemExit(f"expected at most {options.most} times")


if __name__ == "__main__":
    main()
