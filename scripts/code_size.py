"""Count how large and how plain the package is; ``make size`` prints it, ``--check`` fails above the limits.

Counted are lines of code (without docstrings, comments and blank lines) and files per folder, functions with
many parameters, ``dict[str, Any]``, comparisons of a measure's name with a string outside
``neurordl/measures``, and names that say nothing about what they hold.

    python scripts/code_size.py [--check] [--verbose] [FOLDER]
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "neurordl"

LIMITS = {
    "code lines": 27_240,
    "files": 123,
    "functions above 12 parameters": 0,
    "functions above 8 parameters": 10,
    "dict[str, Any]": 15,
    "comparisons with a measure's name": 0,
    "forbidden names": 0,
}

# They say nothing about what they hold. `left` is allowed beside `right`, see `_forbidden`.
FORBIDDEN = {"one", "found", "there", "own", "given", "left", "told", "kind", "held", "here"}
FORBIDDEN |= {"made", "asked", "others", "how", "what", "who", "much"}

# Values of an argument that is not a measure may have the name of a measure: "cosine" is a scheduler, too.
OTHER_ARGUMENTS = frozenset({"scheduler"})

_NO_CODE = ("COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Size:
    """What was counted: lines and files per folder, and where each thing that has a limit stands."""

    lines: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    long: list[tuple[int, str]] = field(default_factory=list)
    """(number of parameters, where) of each function above 8."""
    dicts: list[str] = field(default_factory=list)
    comparisons: list[str] = field(default_factory=list)
    forbidden: list[str] = field(default_factory=list)

    def totals(self) -> dict[str, int]:
        """Total of each thing that has a limit, under the names of `LIMITS`."""
        return {
            "code lines": self.lines.total(),
            "files": self.files.total(),
            "functions above 12 parameters": sum(count > 12 for count, _ in self.long),
            "functions above 8 parameters": len(self.long),
            "dict[str, Any]": len(self.dicts),
            "comparisons with a measure's name": len(self.comparisons),
            "forbidden names": len(self.forbidden),
        }


def count(package: Path = PACKAGE) -> Size:
    """Count a package, folder by folder; a module at its top counts as a folder of its own."""
    size, measures = Size(), measure_names()
    texts = {path.relative_to(package): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    trees = {relative: ast.parse(text) for relative, text in texts.items()}
    lists = {name for tree in trees.values() for name in _lists_of_measures(tree, measures)}
    for relative, tree in sorted(trees.items()):
        text = texts[relative]
        size.lines[relative.parts[0]] += len(code_lines(text, tree))
        size.files[relative.parts[0]] += 1
        size.dicts += [
            f"{relative}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Subscript) and ast.unparse(node).lower() == "dict[str, any]"
        ]
        size.long += [
            (n_parameters, f"{relative}:{node.lineno} {node.name}")
            for node in ast.walk(tree)
            if isinstance(node, _FUNCTIONS) and (n_parameters := _count_parameters(node)) > 8
            if not (relative.parts[0] == "cli" and node.decorator_list)
        ]
        if relative.parts[0] != "measures":
            size.comparisons += [
                f"{relative}:{getattr(node, 'lineno', 0)} {ast.unparse(node)}"
                for node in ast.walk(tree)
                if _compares_measure(node, measures, lists)
            ]
        size.forbidden += [f"{relative}:{line} {name}" for line, name in _forbidden(tree)]
        if relative.stem in FORBIDDEN:
            size.forbidden.append(f"{relative} (the module)")
    return size


def code_lines(text: str, tree: ast.Module) -> set[int]:
    """Numbers of the lines that hold code; a string over several lines counts with each of them."""
    documented = (ast.Module, ast.ClassDef, *_FUNCTIONS)
    docstrings: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            docstrings |= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if tokenize.tok_name[token.type] not in _NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


def measure_names() -> set[str]:
    """Names of all dissimilarities and comparisons, and the other names under which files write them."""
    from neurordl.measures.comparisons import COMPARISONS
    from neurordl.measures.dissimilarities import DISSIMILARITIES

    names = {*COMPARISONS, *DISSIMILARITIES}
    for measure in (*COMPARISONS.values(), *DISSIMILARITIES.values()):
        names |= set(getattr(measure, "aliases", ()))
    return names


def _count_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def _lists_of_measures(tree: ast.Module, measures: set[str]) -> Iterator[str]:
    """Names of a module's constants that list measures by name; a registry, name -> measure, is not one."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and _strings(statement.value) & measures:
            yield from (target.id for target in statement.targets if isinstance(target, ast.Name))


def _compares_measure(node: ast.AST, measures: set[str], lists: set[str]) -> bool:
    """Whether a comparison (==, in, ...) or a case has names of measures, or a list of them, on one side."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
    elif isinstance(node, ast.MatchValue):
        sides = [node.value]
    else:
        return False
    words = {word for side in sides for word in re.findall(r"\w+", ast.unparse(side))}
    listed = any(isinstance(side, ast.Name) and side.id in lists for side in sides)
    named = listed or any(_strings(side) & measures for side in sides)
    return named and not OTHER_ARGUMENTS & words


def _strings(node: ast.expr) -> set[object]:
    """The constants that a node is, or lists."""
    elements = node.elts if isinstance(node, (ast.Tuple, ast.List, ast.Set)) else [node]
    return {element.value for element in elements if isinstance(element, ast.Constant)}


def _forbidden(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Lines and names of forbidden variables, parameters, stored attributes, functions and classes."""
    for scope in _scopes(tree):
        names = list(_stored_names(scope))
        sides = any(name == "right" for _, name in names)
        for line, name in names:
            if name.strip("_") in FORBIDDEN and not (name == "left" and sides):
                yield line, name


def _scopes(tree: ast.Module) -> Iterator[list[ast.AST]]:
    """Nodes of the module's level and of each of its functions and classes, methods with their class."""
    inner = [node for node in tree.body if isinstance(node, (ast.ClassDef, *_FUNCTIONS))]
    yield [node for statement in tree.body if statement not in inner for node in ast.walk(statement)]
    for definition in inner:
        yield list(ast.walk(definition))


def _stored_names(nodes: list[ast.AST]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, (ast.ClassDef, ast.ExceptHandler, ast.MatchAs, *_FUNCTIONS)) and node.name:
            yield node.lineno, node.name


def main() -> int:
    """Print the counts; with ``--check`` return 1 where one is above its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=PACKAGE, help="the package to count")
    parser.add_argument("--check", action="store_true", help="exit with 1 above a limit")
    parser.add_argument("--verbose", action="store_true", help="say where each thing with a limit stands")
    arguments = parser.parse_args()
    size = count(arguments.folder)
    print(f"{'folder':20}{'code lines':>12}{'files':>8}")
    for folder in sorted(size.lines):
        print(f"{folder:20}{size.lines[folder]:12,}{size.files[folder]:8}")
    print()
    if arguments.verbose:
        long = [f"{n_parameters} parameters: {place}" for n_parameters, place in sorted(size.long)]
        for places in (size.dicts, size.comparisons, size.forbidden, long):
            print("\n".join(places), end="\n\n")
    above = False
    for name, total in size.totals().items():
        too_many = total > LIMITS[name]
        print(f"{name:36}{total:10,}  (at most {LIMITS[name]:,}{': above' if too_many else ''})")
        above |= too_many
    return int(arguments.check and above)


if __name__ == "__main__":
    raise SystemExit(main())
