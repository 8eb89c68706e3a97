"""``python -m headprobe``."""

import sys

from headprobe.cli import main

if __name__ == "__main__":
    sys.exit(main())
