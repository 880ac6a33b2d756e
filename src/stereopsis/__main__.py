"""``python -m stereopsis``."""

import sys

from stereopsis.cli import main

if __name__ == "__main__":
    sys.exit(main())
