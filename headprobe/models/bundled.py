"""Find the files that ship with headprobe: needles, haystacks, the nano model."""

from __future__ import annotations

from pathlib import Path

from headprobe.errors import HeadprobeError

_PACKAGE = Path(__file__).resolve().parents[1]


def bundled(*parts: str) -> Path:
    """Return the path of a bundled file or directory, as in ``bundled("models", "nano")``.

    ``data/`` lies inside the installed package and beside it in a checkout.

    Raises:
        HeadprobeError: the file or directory is missing.
    """
    for root in (_PACKAGE / "data", _PACKAGE.parent / "data"):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise HeadprobeError(
        f"{'/'.join(parts)} is missing from the installed headprobe: install it again"
    )
