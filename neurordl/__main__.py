"""``python -m neurordl`` is the shell."""

from __future__ import annotations

from neurordl.cli import main

main()
