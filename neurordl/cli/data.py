"""``neurordl data``: list, info, fetch."""

from __future__ import annotations

from typing import Annotated

import typer

from neurordl.cli.app import app

data = typer.Typer(no_args_is_help=True, help="Public data sets: what there is, where it is from, download.")
app.add_typer(data, name="data")


@data.command("list")
def list_data() -> None:
    """List the data sets, their size and whether they are on this machine."""
    from neurordl.datasets import REGISTRY, data_root, status

    typer.echo(f"in {data_root()}\n")
    for name, dataset in REGISTRY.items():
        size = f"{dataset.size / 1e6:.1f} MB" if dataset.size else ""
        typer.echo(f"{name:<14}  {size:>9}  {status(name):<14}  {dataset.summary}")


@data.command()
def info(name: Annotated[str, typer.Argument(help="A name in the list.")]) -> None:
    """Say what a data set is: license, citation, files with their url, size and checksum."""
    from neurordl.datasets import find_dataset, folder_of, status

    dataset = find_dataset(name)
    typer.echo(f"{name}: {dataset.summary}")
    for what, text in (
        ("license", dataset.license),
        ("cite", dataset.citation),
        ("known from", dataset.source),
        ("read by", ", ".join(f"neurordl.datasets.{loader}" for loader in dataset.loaders)),
        ("on this machine", f"{status(name)}, in {folder_of(name)}" if dataset.files else status(name)),
    ):
        typer.echo(f"  {what:<16}  {text}")
    for file in dataset.files:
        typer.echo(f"  {file.name}, {file.size} bytes\n    {file.url}\n    sha256 {file.sha256}")


@data.command()
def fetch(name: Annotated[str, typer.Argument(help="A name in the list.")]) -> None:
    """Download a data set into NEURORDL_DATA or the user's cache, and verify it."""
    from neurordl import datasets

    typer.echo(f"{name} is in {datasets.fetch(name, say=typer.echo)}")
