"""Run ``headprobe`` and ``python -m headprobe``, whatever state the process is in."""

from __future__ import annotations

import sys

from headprobe.cli import process


def main() -> int:
    """Run the command line, and return its exit code: after a signal 128 and its number.

    A signal in the middle of an import is caught here, and an import that fails because of it.
    """
    code = 1
    try:
        process.set_up()
        from headprobe.cli.app import main as run

        code = run()
    except BaseException:
        if process.signal_received() is None:
            raise
        sys.stderr.write("error: stopped\n")
    process.end_quietly()
    received = process.signal_received()
    return 128 + received if received and code else code


if __name__ == "__main__":
    sys.exit(main())
