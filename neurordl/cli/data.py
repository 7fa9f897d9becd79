"""The commands ``data list``, ``data info`` and ``data fetch`` of the shell."""

from __future__ import annotations

import typer

from neurordl.cli.options import Group, app, command

data = typer.Typer(cls=Group, no_args_is_help=True, help="List, describe or download data sets.")
app.add_typer(data, name="data")


@command(data, "list")
def list_data() -> None:
    """List the public data sets, their sizes, and whether they are on this machine.

    Examples
    --------
    neurordl data list
    """
    from neurordl.datasets import REGISTRY, data_root, status

    typer.echo(f"in {data_root()}\n")
    for name, dataset in REGISTRY.items():
        size = f"{dataset.size / 1e6:.1f} MB" if dataset.size else ""
        typer.echo(f"{name:<14}  {size:>9}  {status(name):<31}  {dataset.summary}")


@command(data)
def info(name: str, /) -> None:
    """Describe a data set: its license, its citation, and its files with their sizes and checksums.

    Parameters
    ----------
    name
        Name of the data set, as shown by ``neurordl data list``.

    Examples
    --------
    neurordl data info mnist
    """
    from neurordl.datasets import find_dataset, folder_of, status

    dataset = find_dataset(name)
    readers = ", ".join(f"neurordl.datasets.{loader}" for loader in dataset.loaders)
    place = f"{status(name)}, in {folder_of(name)}" if dataset.files else status(name)
    typer.echo(f"{name}: {dataset.summary}")
    typer.echo(f"  license           {dataset.license}\n  cite              {dataset.citation}")
    typer.echo(f"  source            {dataset.source}\n  read by           {readers}")
    typer.echo(f"  on this machine   {place}")
    for file in dataset.files:
        typer.echo(f"  {file.name}, {file.size} bytes\n    {file.url}\n    sha256 {file.sha256}")


@command(data)
def fetch(name: str, /) -> None:
    """Download a data set into the folder NEURORDL_DATA, or into the user's cache, and verify it.

    Parameters
    ----------
    name
        Name of the data set, as shown by ``neurordl data list``.

    Examples
    --------
    neurordl data fetch mnist
    """
    from neurordl import datasets

    typer.echo(f"{name} is in {datasets.fetch(name, say=typer.echo)}")
