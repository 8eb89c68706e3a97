"""Peak memory against prompt length, beside the KV cache's own bytes: ``make bench``.

Each length is run by a process of its own, whose peak is what the kernel counted (on a GPU, what
torch's allocator counted). The slope is that of the straight line through the peaks.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from models import NAMES, draw, load

from headprobe.models.device import DTYPES
from headprobe.runs.case_runner import observe_cases
from headprobe.runs.memory import MemoryOptions, cache_bytes, chunk_sizes_for, parse_bytes
from headprobe.tasks import TASKS


def peak(device: torch.device) -> int:
    """Bytes held at most so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def run(options: argparse.Namespace, length: int) -> int:
    """The peak of one forced case of that length."""
    loaded = load(options.model, device=options.device, dtype=options.dtype)
    cases = draw(loaded, lengths=str(length), depths="50", needles=1)
    chunk_sizes = chunk_sizes_for(
        loaded.model.config,
        MemoryOptions(activation_memory=parse_bytes(options.activation_memory)),
        longest=length,
        element=loaded.model.dtype.itemsize,
    )
    list(observe_cases(loaded, cases, TASKS["r2"], decode="forced", chunk_sizes=chunk_sizes))
    return peak(loaded.device)


def main() -> None:
    """Print the peak at each length, and the slope."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="random-8x512", help=NAMES)
    parser.add_argument("--lengths", default="1024,2048,4096,8192")
    parser.add_argument("--activation-memory", default="32MiB")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument("--one", type=int, help="print the peak at this length alone, in bytes")
    parser.add_argument("--most", type=float, help="fail above so many times the KV cache")
    options = parser.parse_args()
    if options.one:
        print(run(options, options.one))
        return
    lengths = [int(length) for length in options.lengths.split(",")]
    peaks = [
        int(
            subprocess.run(
                [sys.executable, *sys.argv, "--one", str(length)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for length in lengths
    ]
    loaded = load(options.model, device="cpu", dtype=options.dtype)
    own = cache_bytes(loaded.layout, tokens=1, element=loaded.model.dtype.itemsize)
    slope = np.polyfit(lengths, peaks, 1)[0]
    print("| tokens | peak, MiB |\n|---|---|")
    for length, held in zip(lengths, peaks, strict=True):
        print(f"| {length:,} | {held / 2**20:.1f} |")
    print(f"\n{slope:,.0f} bytes a token, {own:,} of them the KV cache: {slope / own:.2f}")
    if options.most is not None and slope > options.most * own:
        raise SystemExit(f"expected at most {options.most} times the KV cache")


if __name__ == "__main__":
    main()
