"""``python -m distill3d`` is the command ``distill3d``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
