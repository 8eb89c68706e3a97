"""``python -m headprobe``."""

from headprobe.cli import main

if __name__ == "__main__":
    main()
