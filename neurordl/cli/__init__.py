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
    "resample 'stimuli' or 'both'": "--bootstrap stimuli or both",
}


# Remedies that a command has only if it has the option.
_ONLY_WITH = {"missing": ', or pass missing="ignore"'}


def _in_the_shell(message: str) -> str:
    """A message with the options of the command beside the arguments that it names."""
    command = typer.main.get_command(app)
    ran = getattr(command, "commands", {}).get(sys.argv[1] if len(sys.argv) > 1 else "")
    options = {one.name: one.opts[0] for one in getattr(ran, "params", []) if one.opts[0].startswith("--")}
    for name, remedy in _ONLY_WITH.items():
        message = message if name in options else message.replace(remedy, "")
    said = {f"{name}=": option for name, option in options.items()}
    said |= {asked: option for asked, option in _OPTIONS.items() if option.split()[0] in options.values()}
    named = [
        option for asked, option in said.items() if re.search(rf"(?<![\w.-]){re.escape(asked)}", message)
    ]
    named = [one for one in dict.fromkeys(named) if one not in message]
    named = [one for one in named if not any(other.startswith(f"{one} ") for other in named)]
    return f"{message} (in the shell: {', '.join(named)})" if named else message


def _note(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as a person reads it, without the line of code that gave it."""
    typer.echo(f"note: {_in_the_shell(str(message))}", err=True)


def main() -> None:
    """Run the shell: exit code 0, 1 if it failed, 2 if it was used wrongly."""
    with warnings.catch_warnings():
        warnings.showwarning = _note
        try:
            app()
        except NeurordlError as error:
            typer.echo(f"neurordl: {_in_the_shell(str(error))}", err=True)
            sys.exit(1)
