"""Links within the repository lead to files and headings that exist, and code uses names that exist."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import neurordl
from tests.docs_files import FILES

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


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", CODE)
def test_code_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other, with the files and names that they take as present."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": __name__, **FILES.get(page, dict)()}
    for number, block in enumerate(CODE[page]):
        exec(compile(block.replace("epochs=20", "epochs=1"), f"{page}, block {number + 1}", "exec"), names)


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


MODULES = (
    "neurordl",
    *(f"neurordl.{name}" for name in ("experiments", "plots", "report", "simulate", "students")),
)


@pytest.mark.parametrize("name", MODULES)
def test_the_api_has_every_public_name(name: str) -> None:
    module = importlib.import_module(name)
    public = getattr(module, "__all__", [key for key in vars(module) if not key.startswith("_")])
    objects = {key: getattr(module, key) for key in public}
    names = {key for key, thing in objects.items() if getattr(thing, "__module__", "").startswith(name)}
    assert names - set(documented()) == set()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "module"), documented().items())
def test_examples_of_docstrings_run(name: str, module: str) -> None:
    """Each name has an example. Those that take a user's files or a download are marked, and not run."""
    thing = getattr(importlib.import_module(module), name)
    tests = doctest.DocTestFinder(recurse=False).find(thing, name, globs=dict(vars(inspect.getmodule(thing))))
    assert sum(len(test.examples) for test in tests) > 0
    runner, report = doctest.DocTestRunner(), list[str]()
    for test in tests:
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_how_tos_are_listed() -> None:
    folder = ROOT / "docs" / "howto"
    index = (folder / "index.md").read_text(encoding="utf-8")
    assert [
        page.name for page in folder.glob("*.md") if page.stem != "index" and f"]({page.name})" not in index
    ] == []
