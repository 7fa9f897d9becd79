"""The application of the shell, its options from a file, and options that several commands share."""

from __future__ import annotations

import gc
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neurordl.errors import NeurordlError

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

__all__ = [
    "Average",
    "Config",
    "Dissimilarity",
    "Each",
    "Labels",
    "Measure",
    "Name",
    "Rdms",
    "Roi",
    "Seed",
    "Subjects",
    "app",
    "check_there",
    "importing",
    "read_rdms",
    "several",
]

_ARGUMENTS = ("source", "images")  # given without an option

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
        if getattr(known[name], "multiple", False) or known[name].nargs == -1:
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
Name = Annotated[
    str | None, typer.Option(help="Which variable of the RDM file, where it has several (.mat, .npz).")
]
Labels = Annotated[
    Path | None,
    typer.Option(help="Ids of the rows of the RDMs, where their file names none: a text, CSV or TSV file."),
]
Measure = Annotated[
    str | None,
    typer.Option(
        help="How the RDMs were measured, where their file does not say: correlation, euclidean, ..."
    ),
]
Each = Annotated[
    bool,
    typer.Option(
        "--each-a-subject", help="Each RDM is another person's, where their file does not say whose."
    ),
]
Subjects = Annotated[
    str | None, typer.Option(help="Subjects whose RDMs are taken, with commas; all by default.")
]
Dissimilarity = Annotated[
    str | None, typer.Option(help="Of the network's RDMs; that of the data by default.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of all that is drawn at random.")]
Roi = Annotated[str | None, typer.Option(help="Keep the RDMs of this ROI.")]
Average = Annotated[
    list[str] | None, typer.Option(help="RDM descriptors to average over, with commas, such as session.")
]


def several(given: Sequence[str] | str | None) -> list[str] | None:
    """Values of an option with commas, which may be given again; None for none."""
    texts = [given] if isinstance(given, str) else given or []
    return [one.strip() for text in texts if text for one in text.split(",")] or None


@contextmanager
def importing() -> Iterator[None]:
    """Import faster: no garbage is looked for meanwhile, nor ever after in what was imported.

    Torch and rsatoolbox make millions of objects that stay; looking through them, again and again and at the
    end, takes a third of the time in which the shell starts.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if before:
            gc.enable()


def check_there(**given: Path | Sequence[Path] | None) -> None:
    """Refuse files and folders that do not exist, by option, before anything is imported."""
    for name, paths in given.items():
        for path in [paths] if isinstance(paths, Path) else paths or ():
            if not path.exists():
                option = f"--{name.replace('_', '-')} " if name not in _ARGUMENTS else ""
                raise NeurordlError(f"{option}{path}: there is no such file or folder; check the path")


def read_rdms(path: Path, name: str | None, labels: Path | None, measure: str | None, each: bool) -> RDMs:
    """Read RDMs with what the options say of them."""
    from neurordl.rdms import load_rdms

    rdms = load_rdms(path, name=name, labels=labels, measure=measure)
    if each and "subject" in rdms.rdm_descriptors:
        raise NeurordlError(f"--each-a-subject: {path} says itself whose its RDMs are; leave it out")
    if each:
        width = max(2, len(str(rdms.n_rdm)))
        rdms.rdm_descriptors["subject"] = [f"s{place:0{width}d}" for place in range(1, rdms.n_rdm + 1)]
    return rdms
