"""The command ``report`` of the shell."""

from __future__ import annotations

from pathlib import Path

import typer

from neurordl.cli.options import app, command
from neurordl.cli.origin import is_finished
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
        there are several or it is a file. If it exists and was made of the same contents with the same
        settings, nothing is done; otherwise the command says what differs, and --overwrite replaces it.
    reference
        Condition of a study that is subtracted from the others. By default it is labels, or the first one.
    title
        Heading of the page. By default the names of the folders.
    figures
        Write the figures also as PDF and SVG, into a folder beside the file: report_figures for report.html.
    overwrite
        Replace an earlier file that was made of other contents or with other settings.

    Examples
    --------
    neurordl report runs/it

    neurordl report runs/labels runs/it runs/permuted --out controls.html
    """
    import matplotlib.pyplot as plt

    from neurordl.report import (
        figures_folder,
        is_whole,
        read_contents,
        read_origin,
        report_origin,
        write_report,
    )

    alone = len(paths) == 1 and paths[0].is_dir()
    out, contents = out or (paths[0] if alone else Path()) / "report.html", read_contents(paths)
    if out.is_file():
        origin, before = report_origin(contents, reference, title), read_origin(out)
        whole = before != origin or not figures or is_whole(out)  # figures that are gone are drawn again
        if whole and is_finished(out, origin, before, overwrite, "a report"):
            return
    plt.switch_backend("agg")  # there may be no screen
    inside = set(contents) - {
        path.resolve().stem if path.is_file() else path.resolve().name for path in paths
    }
    if inside:
        typer.echo(f"note: the report is of what is in folders below: {listed(sorted(inside), most=6)}")
    write_report(out, contents, reference=reference, title=title, figures=figures)
    beside = figures_folder(out)
    drawn = f"; its figures are in {beside}" if figures and beside.is_dir() else ""
    typer.echo(f"{out} holds the report{drawn}")
