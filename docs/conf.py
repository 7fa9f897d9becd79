"""Configuration of the site, which ``make docs`` builds.

The source folder is the root of the repository, so that links between its Markdown files are the same here
and on GitHub. Notebooks are shown as they were committed; the examples are run, for the gallery.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole

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
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
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
exclude_patterns = [".*", "docs/_*", "docs/README.md", "docs/gallery/*.ipynb", "**/.ipynb_checkpoints"]
templates_path = [str(ROOT / "docs" / "_templates")]
nitpicky = True
nitpick_ignore_regex: list[tuple[str, str]] = []

# Markdown and notebooks
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_merge_streams = True

# API
default_role = "name"
autodoc_typehints = "none"  # the docstrings say what the arguments are
autodoc_member_order = "bysource"
autosummary_generate = True
numpydoc_show_class_members = False

# Examples: all but the demo are run, on data that come with the package
sphinx_gallery_conf = {
    "examples_dirs": ["examples"],
    "gallery_dirs": ["docs/gallery"],
    "filename_pattern": r"/(?!demo\.)\w+\.py$",
    "within_subsection_order": "FileNameSortKey",
    "backreferences_dir": "docs/gallery/used",
    "doc_module": ("neurordl",),
    "image_scrapers": ("matplotlib",),
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "plot_gallery": True,
    "abort_on_example_error": True,
}

warnings.formatwarning = lambda message, *_, **__: f"{message}\n"  # notices without the path of a machine

# HTML
html_math_renderer = "mathml"
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
    "examples/README.md": "docs/gallery/index.rst",
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
            target = f"docs/gallery/{Path(target).stem}.rst"
        target = STAND_INS.get(target, target)
        return f"]({os.path.relpath(ROOT / target, page.parent)}{hash_sign}{anchor})"

    parts = re.split(r"(```.*?```)", source[0], flags=re.DOTALL)
    parts[::2] = [re.sub(r"\]\((?![\w+]+:|#)([^)\s]+)\)", adapt, part) for part in parts[::2]]
    if (page.parent / f"{page.name}.md").exists():
        parts[::2] = [re.sub(r"(?<!\[)`((?:nrl\.)?(\w+))`(?!\])", link_name, part) for part in parts[::2]]
    source[0] = "".join(parts)
    if docname in SUBPAGES:
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n:glob:\n\n{SUBPAGES[docname]}\n```\n"


def write_inline_math(self, node: nodes.math) -> None:  # type: ignore[no-untyped-def]
    """Formulas as MathML, which browsers draw without a script."""
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def write_math_block(self, node: nodes.math_block) -> None:  # type: ignore[no-untyped-def]
    """Formulas that stand by themselves."""
    self.body.append(f'<div class="math">{tex2mathml(" ".join(node.astext().split()), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.add_role("name", name_role)
    app.add_html_math_renderer("mathml", (write_inline_math, None), (write_math_block, None))
    app.connect("source-read", adapt_page)
