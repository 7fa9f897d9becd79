"""Check the built site: links lead to pages and anchors, and no page loads a file from the network.

python scripts/check_site.py [FOLDER]
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """Anchors, links and loaded files of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors, self.links, self.loaded = set[str](), set[str](), set[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what a tag names."""
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        if tag in LOADED and LOADED[tag] in values and values.get("rel") != "canonical":
            self.loaded.add(values[LOADED[tag]])


def problems(site: Path) -> list[str]:
    """What is wrong with a built site, a line each."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}
    if not pages:
        return [f"{site} has no pages"]
    lines = []
    for path, page in pages.items():
        for link in sorted(page.links | page.loaded):
            outside = re.match(r"[a-z][a-z+.-]*:|//", link)
            if outside and link in page.loaded and not link.startswith("data:"):
                lines.append(f"{path.relative_to(site.resolve())} loads {link} from the network")
            if outside:
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / unquote(name.partition("?")[0])).resolve() if name else path
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                lines.append(f"{path.relative_to(site.resolve())} links to {link}, which is not there")
    for path in site.rglob("*.css"):
        for url in re.findall(r"url\(\s*[\"']?((?:https?:)?//[^)\"']+)", path.read_text(encoding="utf-8")):
            lines.append(f"{path.relative_to(site)} loads {url} from the network")
    return lines


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/_build/html"))
    print("\n".join(wrong) or "All links of the site lead somewhere, and nothing is loaded from the network.")
    raise SystemExit(bool(wrong))
