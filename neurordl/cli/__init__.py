"""The shell: ``neurordl demo``, ``data``, ``rdm``, ``train``, ``compare``; nothing heavy comes with it."""

from __future__ import annotations

import sys

import typer

from neurordl.cli import comparing, data, measuring, training  # noqa: F401 - they add their commands to the application
from neurordl.cli.app import app
from neurordl.errors import NeurordlError

__all__ = ["app", "main"]


def main() -> None:
    """Run the shell: exit code 0, 1 if it failed, 2 if it was used wrongly."""
    try:
        app()
    except NeurordlError as error:
        typer.echo(f"neurordl: {error}", err=True)
        sys.exit(1)
