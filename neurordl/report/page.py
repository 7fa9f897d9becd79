"""The page of a report: its parts, figures with a text alternative, and the HTML without paths."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO

import matplotlib.pyplot as plt
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.axes import Axes

from neurordl.validate import without_paths

MOST_ROWS = 500
_MOST_IDS = 2000
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "neurordl", "text.parse_math": False, "pdf.fonttype": 42}
_STYLE["font.sans-serif"] = ["DejaVu Sans", "Verdana", "sans-serif"]


@dataclass(frozen=True)
class Table:
    """A table of text, folded or not."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False
    block = "table"

    @property
    def shown(self) -> Sequence[Sequence[str]]:
        """The rows that a page has room for."""
        return self.rows[:MOST_ROWS]


@dataclass(frozen=True)
class Figure:
    """A figure as SVG and as PDF, and what stands below it."""

    title: str
    svg: Markup
    pdf: bytes
    caption: str
    mapped: bool = False  # whether its colors stand for numbers
    block = "figure"


@dataclass(frozen=True)
class Notes:
    """A list of sentences."""

    lines: Sequence[str]
    block = "notes"


@dataclass(frozen=True)
class Text:
    """A paragraph, or, under a summary, a folded one."""

    text: str
    summary: str = ""
    block = "text"


Block = Table | Figure | Notes | Text


@dataclass(frozen=True)
class Section:
    """A heading with the parts below it."""

    title: str
    blocks: Sequence[Block]
    level: int = 2


def ids_text(ids: Iterable[object]) -> str:
    """Ids separated by commas; of very many the first."""
    texts = list(map(str, ids))
    more = f", and {len(texts) - _MOST_IDS:,} more" if len(texts) > _MOST_IDS else ""
    return ", ".join(texts[:_MOST_IDS]) + more


def number(value: object, digits: int = 3) -> str:
    """A number as text: whole ones with thousands, undefined ones as such."""
    if value is None or isinstance(value, bool):
        return "–" if value is None else "yes" if value else "no"
    if isinstance(value, str):
        return value
    real = float(value)  # type: ignore[arg-type]  # numpy's, too
    if not math.isfinite(real):
        return "undefined" if math.isnan(real) else str(real)
    if real == int(real) and abs(real) < 1e15:
        return f"{int(real):,}".replace("-", "−")
    return (
        f"{real:.{digits}f}".replace("-", "−")
        if 0.001 <= abs(real) < 1e5
        else f"{real:.2g}".replace("-", "−")
    )


def draw(plot: Callable[[], Axes], title: str, description: str, caption: str = "") -> Figure:
    """Draw a figure of the package; screen readers read the title and the description of its SVG."""
    nothing = {"svg": ("Creator", "Date", "Format", "Type"), "pdf": ("Creator", "Producer", "CreationDate")}
    contents = {name: BytesIO() for name in nothing}
    with plt.style.context("default"), plt.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = plot().get_figure(root=True)
        assert figure is not None
        mapped = any(axes.images for axes in figure.axes)
        try:
            for name, content in contents.items():
                data = dict.fromkeys(nothing[name])
                figure.savefig(content, format=name, transparent=True, bbox_inches="tight", metadata=data)
        finally:
            plt.close(figure)
    svg = contents["svg"].getvalue().decode()
    svg = svg[svg.index("<svg") :]
    words = f'<title id="title">{escape(title)}</title><desc id="desc">{escape(description)}</desc>'
    head = '<svg role="img" aria-labelledby="title desc" '
    svg = svg.replace("<svg ", head, 1).replace(">", f">{words}", 1)
    return Figure(title, Markup(svg), contents["pdf"].getvalue(), caption or description, mapped)


def figure_files(sections: Sequence[Section]) -> Mapping[str, bytes]:
    """The figures by the name of their files, such as "figure-02-training-curves.pdf", numbered as shown."""
    files, above = dict[str, bytes](), ""
    for section in sections:
        above = section.title if section.level == 2 else above
        for figure in (part for part in section.blocks if isinstance(part, Figure)):
            number, prefix = len(files) // 2 + 1, above if section.level > 2 else ""
            words = without_paths(f"figure {number:02d} {prefix} {figure.title}")
            name = re.sub(r"[^\w.]+", "-", words).strip("-.")[:100].lower()
            files |= {f"{name}.pdf": figure.pdf, f"{name}.svg": figure.svg.encode()}
    return files


def render(title: str, lead: str, sections: Sequence[Section], origin: str = "") -> str:
    """The page as one HTML file, which needs no other; ``origin`` is a note that no reader sees."""

    def numbered(svg: Markup, number: int) -> Markup:
        """Ids that no other figure of the page has."""
        prefix = f"f{number}-"
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", str(svg))
        return Markup(text.replace('"title desc"', f'"{prefix}title {prefix}desc"', 1))

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: without_paths(value) if type(value) is str else value,
    )
    environment.filters["numbered"] = numbered
    folder = files(__package__)
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    style = Markup((folder / "page.css").read_text(encoding="utf-8"))
    texts = {"title": title, "lead": lead, "origin": origin}
    return template.render(**texts, sections=sections, style=style, most=MOST_ROWS)
