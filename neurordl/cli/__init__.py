"""The shell: ``neurordl rdm``, ``merge``, ``train``, ``compare``, ``report``, ``data``."""

from __future__ import annotations

import atexit
import gc
import sys
import warnings
from typing import Annotated

import typer

from neurordl import __version__
from neurordl.cli.options import COMMANDS, app
from neurordl.errors import NeurordlError

# isort: off
from neurordl.cli import rdms, train, compare, report, data  # noqa: F401 - the help lists them in this order
# isort: on

__all__ = ["COMMANDS", "app", "main"]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"neurordl {__version__}")
        raise typer.Exit


@app.callback()
def neurordl(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Train networks on labels and on the representational geometry of brains or of other networks."""


def main() -> None:
    """Run the shell. It exits with 0, with 1 after an error, and with 2 if it was used wrongly."""
    # Torch and rsatoolbox make millions of objects that stay. A search for garbage among them, again and
    # again and at the end, takes almost half of the CPU time of their import.
    gc.set_threshold(100_000, 50, 100)
    atexit.register(gc.freeze)
    shown = set[str]()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        """Print a warning once, without the line of code that gave it."""
        if issubclass(category, UserWarning) and str(message) not in shown:
            shown.add(str(message))
            typer.echo(f"note: {message}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            app()
        except NeurordlError as error:
            typer.echo(f"neurordl: {error}", err=True)
            sys.exit(1)
