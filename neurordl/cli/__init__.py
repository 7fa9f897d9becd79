"""The shell: ``neurordl demo``, ``data``, ``rdm``, ``train``, ``compare``; nothing heavy comes with it."""

from __future__ import annotations

import re
import sys
import warnings

import typer

from neurordl.cli import comparing, data, measuring, training  # noqa: F401 - they add their commands to the application
from neurordl.cli.app import app
from neurordl.errors import NeurordlError

__all__ = ["app", "main"]


# What a message asks for in Python, and the option that does it.
_OPTIONS = {
    'rdms.rdm_descriptors["subject"]': "--each-a-subject",
    'rdms.pattern_descriptors["stimulus"]': "--labels FILE",
    "rdms.pattern_descriptors['stimulus']": "--labels FILE",
}


def _in_the_shell(message: str) -> str:
    """A message with the options of the command beside the arguments that it names."""
    command = typer.main.get_command(app)
    ran = getattr(command, "commands", {}).get(sys.argv[1] if len(sys.argv) > 1 else "")
    options = {one.name: one.opts[0] for one in getattr(ran, "params", []) if one.opts[0].startswith("--")}
    said = {f"{name}=": option for name, option in options.items()}
    said |= {asked: option for asked, option in _OPTIONS.items() if option.split()[0] in options.values()}
    named = [
        option for asked, option in said.items() if re.search(rf"(?<![\w.-]){re.escape(asked)}", message)
    ]
    named = [option for option in dict.fromkeys(named) if option not in message]
    return f"{message} (in the shell: {', '.join(named)})" if named else message


def _note(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as a person reads it, without the line of code that gave it."""
    typer.echo(f"note: {message}", err=True)


def main() -> None:
    """Run the shell: exit code 0, 1 if it failed, 2 if it was used wrongly."""
    with warnings.catch_warnings():
        warnings.showwarning = _note
        try:
            app()
        except NeurordlError as error:
            typer.echo(f"neurordl: {_in_the_shell(str(error))}", err=True)
            sys.exit(1)
