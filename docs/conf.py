"""Configuration of the site, which ``make docs`` builds.

The source folder is the root of the repository, so that links between its Markdown files are the same here
and on GitHub. Notebooks are shown as they were committed: nothing is run.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.highlighting import lexers

import neurordl as nrl

ROOT = Path(__file__).parents[1]

project = "neurordl"
author = "the neurordl developers"
project_copyright = author
version = release = nrl.__version__

root_doc = "docs/index"
extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
]
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**",
    "benchmarks/**/README.md",
    "benchmarks/README.md",
    "tutorials/**",
]
exclude_patterns = [".*", "docs/_*", "docs/README.md", "**/.ipynb_checkpoints"]
templates_path = [str(ROOT / "docs" / "_templates")]
nitpicky = True
nitpick_ignore_regex: list[tuple[str, str]] = []

# Markdown and notebooks
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_merge_streams = True
lexers["mermaid"] = TextLexer()  # GitHub draws these diagrams; here their text is shown

# API
default_role = "name"
autodoc_typehints = "none"  # the docstrings say what the arguments are
autodoc_member_order = "bysource"
autosummary_generate = True
numpydoc_show_class_members = False

# HTML
html_theme = "pydata_sphinx_theme"
html_title = "neurordl"
html_static_path = ["_static"]
html_extra_path = ["_extra"]
html_css_files = ["site.css"]
html_show_sourcelink = False
# Pages without pages below them have no navigation at their side.
html_sidebars = {
    f"docs/{page}": [] for page in ("index", "install", "quickstart", "concepts", "glossary", "coming_from")
}
html_theme_options = {
    "logo": {"text": "neurordl"},
    "show_toc_level": 2,
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
}
if "GITHUB_REPOSITORY" in os.environ:
    html_theme_options["github_url"] = f"https://github.com/{os.environ['GITHUB_REPOSITORY']}"

# Pages of GitHub that other pages of the site stand for, and folders that GitHub lists.
STAND_INS = {
    "docs/README.md": "docs/index.md",
    "examples/README.md": "docs/gallery/index.md",
    "benchmarks": "benchmarks/README.md",
    "docs/decisions": "docs/decisions/README.md",
}
# Pages whose subpages are found by pattern; GitHub needs no table of contents.
SUBPAGES = {
    "tutorials/README": "*",
    "benchmarks/README": "*/README\n*/results/README",
    "docs/decisions/README": "0*",
}


def api_names() -> dict[str, str]:
    """Names that have a page, as docs/api.rst lists them, with their module."""
    module, names = "", {}
    for line in (ROOT / "docs" / "api.rst").read_text(encoding="utf-8").splitlines():
        if line.startswith(".. currentmodule::"):
            module = line.split()[-1]
        elif re.fullmatch(r"   \w+", line):
            names[line.strip()] = f"{module}.{line.strip()}"
    return names


API = api_names()


def name_role(_name, rawtext, text, lineno, inliner, options=None, content=()):  # type: ignore[no-untyped-def]
    """Text in single backticks: a link if it is a public name, and code otherwise."""
    target = API.get(text.removesuffix("()").removeprefix("neurordl."))
    if target is None:
        return [nodes.literal(rawtext, text)], []
    return PyXRefRole()("py:obj", rawtext, f"{text} <{target}>", lineno, inliner, options or {}, content)


def link_name(code: re.Match[str]) -> str:
    """Markdown code as a link, if it is a public name; words such as `accuracy` only as `nrl.accuracy`."""
    text, name = code[1], code[2]
    is_word = name.islower() and "_" not in name and name not in ("compare", "evaluate", "fit", "searchlight")
    return code[0] if name not in API or (is_word and text == name) else f"{{py:obj}}`{text} <{API[name]}>`"


def adapt_page(_app: Sphinx, docname: str, source: list[str]) -> None:
    """Point links at the pages of the site, and add tables of contents that GitHub does not need."""
    page = ROOT / docname

    def adapt(match: re.Match[str]) -> str:
        path, hash_sign, anchor = match[1].partition("#")
        target = os.path.relpath((page.parent / path).resolve(), ROOT)
        if re.fullmatch(r"examples/\w+\.py", target):
            target = f"docs/gallery/{Path(target).stem}.md"
        target = STAND_INS.get(target, target)
        return f"]({os.path.relpath(ROOT / target, page.parent)}{hash_sign}{anchor})"

    parts = re.split(r"(```.*?```)", source[0], flags=re.DOTALL)
    parts[::2] = [re.sub(r"\]\((?![\w+]+:|#)([^)\s]+)\)", adapt, part) for part in parts[::2]]
    if (page.parent / f"{page.name}.md").exists():
        parts[::2] = [re.sub(r"(?<!\[)`((?:nrl\.)?(\w+))`(?!\])", link_name, part) for part in parts[::2]]
    source[0] = "".join(parts)
    if docname in SUBPAGES:
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n:glob:\n\n{SUBPAGES[docname]}\n```\n"


def write_gallery(_app: Sphinx) -> None:
    """A page for each example: its docstring as text, then its code."""
    folder = ROOT / "docs" / "gallery"
    folder.mkdir(exist_ok=True)
    table = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    jobs = dict(re.findall(r"^\| \[(\w+)\.py\]\(\w+\.py\) \| (.*) \|$", table, re.MULTILINE))
    cards = []
    for name, job in jobs.items():
        module = ast.parse((ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8"))
        summary, _, text = (ast.get_docstring(module) or "").partition("\n\n")
        title = summary.replace("\n", " ").removesuffix(".")
        command = f"```sh\npython examples/{name}.py\n```"
        first_line = module.body[1].lineno
        code = f"```{{literalinclude}} ../../examples/{name}.py\n:lines: {first_line}-\n```"
        write(folder / f"{name}.md", f"# {title}\n\n{text}\n\n{command}\n\n{code}\n")
        cards.append(f":::{{grid-item-card}} {title}\n:link: {name}\n:link-type: doc\n\n{job}\n:::\n")
    intro = (
        "Each script does one job in a few seconds (the demo: 2 minutes), on simulated data or on data that\n"
        "come with the package. Nothing is downloaded. Copy a page's code, or run the script in the folder\n"
        "`examples/`; the tests run all of them."
    )
    names = "\n".join(jobs)
    toctree = f"```{{toctree}}\n:hidden:\n\n{names}\n```"
    grid = "::::{grid} 1 2 2 2\n:gutter: 2\n\n" + "\n".join(cards) + "::::"
    write(folder / "index.md", f"# Gallery\n\n{intro}\n\n{grid}\n\n{toctree}\n")


def write(path: Path, text: str) -> None:
    """Write a file only if it changes, so that Sphinx reads it again only then."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.add_role("name", name_role)
    app.connect("builder-inited", write_gallery)
    app.connect("source-read", adapt_page)
