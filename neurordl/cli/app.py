"""The application of the shell, its options from a file, and options that several commands share."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Average", "Config", "Rdms", "Roi", "app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train networks on labels and on the representational geometry of brains or other networks.",
)


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Options from a TOML file, under the names of the command; the command line goes before."""
    if path is None:
        return None
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}") from error
    options = {key.replace("-", "_"): value for key, value in given.items()}
    known = {parameter.name: parameter for parameter in context.command.params if parameter.name != "config"}
    if unknown := sorted(set(options) - set(known)):
        raise typer.BadParameter(
            f"{path}: unknown {', '.join(unknown)}; known: {', '.join(sorted(map(str, known)))}"
        )
    for name, value in options.items():
        if getattr(known[name], "multiple", False):
            options[name] = value if isinstance(value, list) else [value]
        elif isinstance(value, list):  # several names, which the command line takes with commas
            options[name] = ",".join(map(str, value))
    context.default_map = {**(context.default_map or {}), **options}
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        callback=_read_config, is_eager=True, help="A TOML file with these options under the same names."
    ),
]
Rdms = Annotated[
    Path, typer.Option(help="RDMs: an .h5, .mat, .npz, .csv or .tsv file that names its stimuli.")
]
Roi = Annotated[str | None, typer.Option(help="Keep the RDMs of this ROI.")]
Average = Annotated[list[str] | None, typer.Option(help="RDM descriptor to average over, such as session.")]
