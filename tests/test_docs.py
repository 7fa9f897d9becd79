"""Links lead to files and headings that exist, code uses names that exist, and the examples of names run."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib.pyplot as plt
import pytest

import neurordl
from neurordl.measures.dissimilarities import DISSIMILARITIES
from tests.docs_files import FILES, data_sets, haxby2001
from tests.docs_files import shell as shell_files

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").rglob("*.md"),
        *(ROOT / "tutorials").glob("*.md"),
        *(ROOT / "examples").glob("*.md"),
    ]
)


def anchors(page: Path) -> set[str]:
    """Names by which GitHub links to the headings of a page."""
    headings = re.findall(r"^#+ +(.*?)\s*$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):  # on the web
            continue
        path, _, anchor = link.partition("#")
        if "gallery/" in path:  # the site's build makes these pages
            assert (ROOT / "examples" / f"{Path(path).stem}.py").exists(), f"{page.name}: {link}"
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_is_python_with_public_names(page: Path) -> None:
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        attributes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute)]
        names = [node.attr for node in attributes if ast.unparse(node.value) == "nrl"]
        assert set(names) <= set(neurordl.__all__), page.name


def test_paths_exist() -> None:
    """Changelog and decisions may name files of earlier versions."""
    for page in PAGES:
        if page.name == "CHANGELOG.md" or page.parent.name == "decisions":
            continue
        folders = "neurordl|tests|scripts|examples|docs|data"
        for path in re.findall(rf"`((?:{folders})/[\w/.]*)`", page.read_text(encoding="utf-8")):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    for page in folder.glob("0*.md"):
        assert f"({page.name})" in index, page.name


CODE = {
    page.stem if page.stem != "README" else str(page.relative_to(ROOT)): blocks
    for page in PAGES
    if (blocks := re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
}


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", CODE)
def test_code_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other, with the files and names that they take as present."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": __name__, **FILES.get(page, dict)()}
    for number, block in enumerate(CODE[page]):
        exec(compile(block.replace("epochs=20", "epochs=1"), f"{page}, block {number + 1}", "exec"), names)


def same_line(printed: str, shown: str) -> bool:
    """Whether two lines have the same words, and numbers that differ by rounding only."""

    def alike(word: str, other: str) -> bool:
        try:
            return word == other or abs(float(word) - float(other)) < 0.02
        except ValueError:
            return False

    words, others = printed.split(), shown.split()
    return len(words) == len(others) and all(map(alike, words, others))


def test_the_shell_prints_what_the_page_shows(
    shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The four commands of docs/howto/shell.md, one after the other; lines of "..." stand for others."""
    monkeypatch.chdir(tmp_path)
    shell_files()
    page = (ROOT / "docs" / "howto" / "shell.md").read_text(encoding="utf-8")
    parts = re.findall(r"```sh\n(neurordl .*?)```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert [call.split()[1] for call, _ in parts] == ["rdm", "train", "compare", "report"]
    for call, text in parts:
        code, printed, errors = shell(*shlex.split(call.replace("\\\n", " "))[1:])
        assert code == 0, errors
        lines, place = printed.splitlines(), 0
        for line in text.splitlines():
            if line != "...":
                places = [k for k in range(place, len(lines)) if same_line(lines[k], line)]
                assert places, f"{line!r} is not in what {call.split()[1]} printed:\n{printed}"
                place = places[0] + 1


def test_a_script_for_several_processes_runs(tmp_path: Path) -> None:
    script = next(block for block in CODE["several_gpus"] if block.startswith("# train.py"))
    (tmp_path / "train.py").write_text(script, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "train.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 epochs" in done.stdout


def documented() -> dict[str, str]:
    """Names that have a page in the API, with the module from which users take them."""
    module, names = "", {}
    for line in (ROOT / "docs" / "api.rst").read_text(encoding="utf-8").splitlines():
        if line.startswith(".. currentmodule::"):
            module = line.split()[-1]
        elif re.fullmatch(r"   \w+", line):
            assert line.strip() not in names, line
            names[line.strip()] = module
    return names


def public(module: str) -> dict[str, Any]:
    """The functions and classes that a module offers."""
    room = importlib.import_module(module)
    names = getattr(room, "__all__", [name for name in dir(room) if not name.startswith("_")])
    things = {name: getattr(room, name) for name in names}
    return {
        name: thing for name, thing in things.items() if getattr(thing, "__module__", "").startswith(module)
    }


def shown(thing: object) -> list[doctest.Example]:
    """The examples of a docstring that are run, without imports."""
    every = doctest.DocTestFinder(recurse=False, exclude_empty=False).find(thing, "")[0].examples
    return [
        x for x in every if doctest.SKIP not in x.options and not x.source.startswith(("import ", "from "))
    ]


PACKAGE = ROOT / "neurordl"
INTERNAL = {"__main__", "arrays", "cli", "errors", "ids", "io", "mat5", "progress", "validate"}
ROOMS = [room.name for room in pkgutil.iter_modules([str(PACKAGE)]) if room.name not in INTERNAL]
EXAMPLES = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("module", ["neurordl", *(f"neurordl.{room}" for room in ROOMS)])
def test_the_api_has_every_public_name(module: str) -> None:
    assert public(module).keys() - documented().keys() == set()


@pytest.mark.parametrize(("name", "module"), documented().items())
def test_every_public_name_has_an_example(name: str, module: str) -> None:
    assert shown(getattr(importlib.import_module(module), name))


def test_examples_that_are_skipped_do_not_count() -> None:
    def skipped() -> None:
        """
        >>> import neurordl as nrl
        >>> nrl.fit(student, objective, labelled)  # doctest: +SKIP
        """

    assert not shown(skipped)


@pytest.fixture(scope="module")
def public_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The data sets that examples load: those that are on this machine, and stand-ins for the others."""
    folder = tmp_path_factory.mktemp("data")
    data_sets(folder, os.environ.get("NEURORDL_DATA"))
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(DISSIMILARITIES):
        patch.setenv("NEURORDL_DATA", str(folder))
        patch.setattr("nilearn.datasets.fetch_haxby", lambda **_: haxby2001(folder))
        yield


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_examples_of_docstrings_run(file: Path, public_data: None) -> None:
    """Those of public names run alone, as users paste them; those of other names have the module's names."""
    path = file.relative_to(ROOT).with_suffix("").parts
    module = importlib.import_module(".".join(path).removesuffix(".__init__"))
    runner, report = doctest.DocTestRunner(), list[str]()
    for test in doctest.DocTestFinder().find(module, module.__name__, globs={}):
        name = test.name.removeprefix(module.__name__).split(".")
        test.globs = {} if len(name) == 1 or name[1] in documented() else dict(vars(module))
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_how_tos_are_listed() -> None:
    folder = ROOT / "docs" / "howto"
    index = (folder / "index.md").read_text(encoding="utf-8")
    assert [
        page.name for page in folder.glob("*.md") if page.stem != "index" and f"]({page.name})" not in index
    ] == []
