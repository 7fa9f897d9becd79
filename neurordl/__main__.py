"""``python -m neurordl`` is the command ``neurordl``."""

from neurordl.cli import main

if __name__ == "__main__":
    main()
