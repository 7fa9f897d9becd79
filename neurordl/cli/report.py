"""The command ``report`` of the shell."""

from __future__ import annotations

from pathlib import Path

import typer

from neurordl.cli.options import app, command
from neurordl.errors import NeurordlError
from neurordl.validate import listed


@command(app)
def report(
    paths: list[Path],
    /,
    out: Path | None = None,
    reference: str | None = None,
    title: str | None = None,
    figures: bool = True,
    overwrite: bool = False,
) -> None:
    """Write what runs, comparisons and studies found as one HTML file, to read offline, print or send.

    Several runs are also set side by side. The file has no path of this machine in it. A folder beside it has
    each figure as PDF and SVG.

    Parameters
    ----------
    paths
        Folders of runs, with the comparisons in folders below them; folders of comparisons; folders of
        studies (run_grid); a folder of several of these; or a CSV table with the column condition.
    out
        The .html file to write. By default it is report.html in the folder PATHS, or in the current folder if
        there are several or it is a file.
    reference
        Condition of a study that is subtracted from the others. By default it is labels, or the first one.
    title
        Heading of the page. By default the names of the folders.
    figures
        Write the figures also as PDF and SVG, into a folder beside the file: report_figures for report.html.
    overwrite
        Replace a report.html in the folder PATHS also where it is a report of something else. A file that is
        named by --out is always replaced.

    Examples
    --------
    neurordl report runs/it

    neurordl report runs/labels runs/it runs/permuted --out controls.html
    """
    import matplotlib.pyplot as plt

    from neurordl.report import figures_folder, page_title, read_contents, title_of, write_report

    plt.switch_backend("agg")  # there may be no screen
    alone = len(paths) == 1 and paths[0].is_dir()
    named = out is not None
    out = out or (paths[0] if alone else Path()) / "report.html"
    contents = read_contents(paths)
    heading = page_title(contents, title)
    if not named and not overwrite and out.is_file() and (earlier := title_of(out)) != heading:
        remedy = "choose another file with --out, or replace it with --overwrite"
        raise NeurordlError(f"{out} is a report of {earlier or 'something else'}, not of {heading}; {remedy}")
    inside = set(contents) - {
        path.resolve().stem if path.is_file() else path.resolve().name for path in paths
    }
    if inside:
        typer.echo(f"note: the report is of what is in folders below: {listed(sorted(inside), most=6)}")
    write_report(out, contents, reference=reference, title=title, figures=figures)
    beside = figures_folder(out)
    drawn = f"; its figures are in {beside}" if figures and beside.is_dir() else ""
    typer.echo(f"{out} holds the report{drawn}")
