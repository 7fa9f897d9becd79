"""The tutorials run from first cell to last; they are committed executed, without any path of a machine."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tutorials"
TUTORIALS = sorted(FOLDER.glob("*.ipynb"))
NOTEBOOKS = [*TUTORIALS, *sorted((ROOT / "docs").glob("*.ipynb"))]
FAST = "NEURORDL_TUTORIAL_FAST"

# Folders in which people and programs work: absolute paths of Linux, macOS, Windows.
ABSOLUTE = re.compile(
    r"(?<![\w/.])/(?:home|root|Users|tmp|var|work|opt|mnt|usr|private)/|\b[A-Z]:\\\\?\w|file://"
)


def read(path: Path) -> NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def types(cell: NotebookNode) -> set[str]:
    """Types of a cell's outputs, but for those that say that a call takes long."""
    passing = re.compile("(comparisons by rank are compiled.*)?")
    texts = [(output.output_type, output.get("data", {}).get("text/plain", "-")) for output in cell.outputs]
    return {name for name, text in texts if name != "display_data" or not passing.fullmatch(text)}


def n_pictures(notebook: NotebookNode) -> int:
    outputs = (output for cell in code_cells(notebook) for output in cell.outputs)
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_tutorials_and_the_readme_lists_them() -> None:
    assert TUTORIALS
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in TUTORIALS if f"]({path.name})" not in readme] == []


def test_it_is_committed_as_it_ran(path: Path) -> None:
    notebook = read(path)
    cells = code_cells(notebook)
    # executed once, from top to bottom, in full
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert n_pictures(notebook) > 0
    assert [output for output in outputs if output.output_type == "error"] == []
    printed = [output for output in outputs if output.output_type == "stream"]
    assert [output.text for output in printed if output.name == "stderr"] == []
    assert not any("fast" in output.text for output in printed)
    assert notebook.metadata.kernelspec.name == "python3"
    assert path.stat().st_size < 1_000_000


def test_it_holds_no_path_of_a_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = ABSOLUTE.search(text)
    assert found is None, text[max(found.start() - 80, 0) : found.end() + 80]
    for folder in (ROOT, Path.home(), Path(sys.prefix)):
        # a root directory that is "/" itself says nothing
        assert folder == Path(folder.anchor) or str(folder) not in text


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("in /Users/me/data", True),
        ("source='/tmp/neurordl-1'", True),
        ("C:\\\\Users\\\\me", True),
        ("https://doi.org/10.3389/usr/x", False),
        ("stimuli/digits-0001.png and runs/it", False),
    ],
)
def test_what_counts_as_a_path(text: str, is_path: bool) -> None:
    assert (ABSOLUTE.search(text) is not None) == is_path


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_one_visible_cell_reads_the_setting(path: Path) -> None:
    reading = [cell for cell in code_cells(read(path)) if FAST in cell.source]
    assert len(reading) == 1
    assert not reading[0].metadata.get("jupyter", {}).get("source_hidden", False)


def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = read(path)
    fresh = read(path)
    for cell in code_cells(fresh):
        cell.outputs, cell.execution_count = [], None
    monkeypatch.setenv(FAST, "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what the notebook leaves goes with the test's folder
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own, which embeds the pictures
    client = NotebookClient(
        fresh, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # a cell that raises raises here, with its traceback

    assert n_pictures(fresh) == n_pictures(committed)
    for old, new in zip(code_cells(committed), code_cells(fresh), strict=True):
        told = [output.text for output in new.outputs if output.get("name") == "stderr"]
        assert told == []
        # the same kinds of output, whatever the numbers
        assert types(old) == types(new)
