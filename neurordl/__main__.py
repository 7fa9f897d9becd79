"""``python -m neurordl`` is the command ``neurordl``."""

import sys

from neurordl.cli import main

if __name__ == "__main__":
    sys.argv[0] = "neurordl"
    sys.exit(main())
