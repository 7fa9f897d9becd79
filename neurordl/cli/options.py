"""Options of a command, read from the signatures and docstrings of the functions that do its work.

A command is a short function. Its own parameters are options, and so are the arguments of the functions and
the fields of the value objects that it takes (`Takes`): names, types, choices, bounds, defaults and helps are
those of Python and are written nowhere else. Sources are parsed with `ast`, not imported: to import torch and
rsatoolbox takes seconds, and neither a help page nor a mistyped option should wait for them.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from itertools import chain
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from neurordl.errors import NeurordlError

Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign

_PACKAGE = Path(__file__).parents[1]
_TYPES = {"bool": bool, "int": int, "float": float, "str": str, "Path": Path, "PathLike": Path}
_SEVERAL = ("Sequence", "Iterable", "list", "tuple")
_METAVARS = {int: "INT", float: "FLOAT"}
_FILES = "FILES"  # marks the options that take several files
_NOT_FILES = ("out", "figure", "mask")  # what is written need not exist, and a mask may be a pattern of names
_MEANT = {
    "stimuli": "give a folder with image files, whose names without suffix are the ids of the stimuli. "
    "Public images by name are for --labelled of neurordl train; in Python, nrl.datasets loads stimuli, too"
}
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
REQUIRED: Any = inspect.Parameter.empty


@dataclass(frozen=True)
class Argument:
    """An argument of a function, as its signature, its docstring and its checks describe it."""

    name: str
    type: type
    choices: tuple[str, ...]
    default: Any
    help: str
    least: float | None
    several: bool  # a list of values
    single: bool  # a value alone
    optional: bool  # None


# Reading the sources.


@cache
def _definitions(module: str) -> dict[str, Definition | tuple[str, str]]:
    """What a module of the package defines, or imports from a module of the package, by name."""
    path = _PACKAGE.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    definitions: dict[str, Definition | tuple[str, str]] = {}
    body = ast.parse(path.read_text(encoding="utf-8-sig")).body
    for node in [*body, *(part for block in body if isinstance(block, ast.If) for part in block.body)]:
        match node:
            case ast.ImportFrom(module=str(source)) if source.startswith("neurordl"):
                home = source.partition(".")[2]
                definitions |= {alias.asname or alias.name: (home, alias.name) for alias in node.names}
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                definitions[name] = node
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                definitions[name] = node
    return definitions


def _find(module: str, name: str) -> tuple[str, Definition | None]:
    """The module that defines a name, and the definition; None for a name from outside the package."""
    definition = _definitions(module).get(name)
    return _find(*definition) if isinstance(definition, tuple) else (module, definition)


def _method(node: Definition | None, name: str) -> ast.FunctionDef | None:
    methods = node.body if isinstance(node, ast.ClassDef) else []
    return next((part for part in methods if isinstance(part, ast.FunctionDef) and part.name == name), None)


@cache
def read_arguments(function: str) -> dict[str, Argument]:
    """Arguments that a shell can give to ``"name"``, ``"name.method"`` or ``"module:name"``, by name."""
    module, _, name = function.rpartition(":")
    name, _, method = name.partition(".")
    module, node = _find(module, name)
    node = _method(node, method) if method else node
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        raise LookupError(f"the package defines no function or class {function!r}")
    helps = describe_parameters(ast.get_docstring(node) or "")
    bounds = _bounds(_method(node, "__post_init__") or _method(node, "__init__") or node)
    arguments = dict[str, Argument]()
    signature = _method(node, "__init__") or node
    for base in signature.bases if isinstance(signature, ast.ClassDef) else ():
        if isinstance(base, ast.Name) and base.id in _definitions(module):
            arguments |= read_arguments(f"{module}:{base.id}")
    for name, annotation, default in _signature(signature):
        values = list(_values(module, annotation))
        elements = [value[0] for value in values if isinstance(value, tuple)]
        types = [value for value in values if isinstance(value, type)]
        choices = () if types else tuple(value for value in values if isinstance(value, str))
        if types or elements or choices:
            type_ = Path if Path in types else [*types, *elements, str][0]
            allowed = {"several": bool(elements), "single": bool(types), "optional": None in values}
            value, text, least = _literal(default, module), helps.get(name, ""), bounds.get(name)
            arguments[name] = Argument(name, type_, choices, value, text, least, **allowed)
    return arguments


def _signature(node: ast.FunctionDef | ast.ClassDef) -> Iterator[tuple[str, ast.expr, ast.expr | None]]:
    """Name, annotation and default of each parameter of a function, or of each field of a dataclass."""
    if isinstance(node, ast.ClassDef):
        for part in node.body:  # a field that is described by a call, such as field(init=False), is none
            if isinstance(part, ast.AnnAssign) and not isinstance(part.value, ast.Call):
                yield ast.unparse(part.target), part.annotation, part.value
        return
    positional = [*node.args.posonlyargs, *node.args.args]
    required = len(positional) - len(node.args.defaults)
    defaults = [*[None] * required, *node.args.defaults, *node.args.kw_defaults]
    for parameter, default in zip([*positional, *node.args.kwonlyargs], defaults, strict=True):
        if parameter.annotation is not None:
            yield parameter.arg, parameter.annotation, default


def _values(module: str, node: ast.expr) -> Iterator[Any]:
    """What an annotation allows: types, the texts of a Literal, None, and ``(type,)`` for several values."""
    match node:
        case ast.BinOp(left=left, right=right):
            yield from _values(module, left)
            yield from _values(module, right)
        case ast.Constant(value=None):
            yield None
        case ast.Subscript(value=ast.Name(id="Literal"), slice=texts):
            for text in texts.elts if isinstance(texts, ast.Tuple) else [texts]:
                yield ast.literal_eval(text)
        case ast.Subscript(value=ast.Name(id=name), slice=inside) if name in _SEVERAL:
            first = inside.elts[0] if isinstance(inside, ast.Tuple) else inside
            yield from ((value,) for value in _values(module, first) if isinstance(value, type))
        case ast.Subscript(value=generic):
            yield from _values(module, generic)
        case ast.Attribute(attr=name) | ast.Name(id=name) if name in _TYPES:
            yield _TYPES[name]
        case ast.Name(id="Any"):
            yield str
        case ast.Name(id=name):  # an alias
            home, definition = _find(module, name)
            if isinstance(definition, ast.Assign | ast.AnnAssign) and definition.value is not None:
                yield from _values(home, definition.value)


def _literal(default: ast.expr | None, module: str = "") -> Any:
    """A default value; None for those that are no plain values, which Python then puts in itself."""
    if default is None:
        return REQUIRED
    if isinstance(default, ast.Name) and module:  # a constant of the package
        home, definition = _find(module, default.id)
        if isinstance(definition, ast.Assign):
            return _literal(definition.value, home)
    try:
        return ast.literal_eval(default)
    except ValueError:
        return None


def _bounds(node: ast.AST) -> dict[str, float | None]:
    """The least value of each argument that the function or value object checks with `check_count`."""
    bounds: dict[str, float | None] = {}
    for part in ast.walk(node):
        match part:
            case ast.Call(func=ast.Name(id="check_count"), args=[ast.Constant(value=str(name)), _, *rest]):
                least = rest or [keyword.value for keyword in part.keywords if keyword.arg == "least"]
                bounds[name.rpartition(".")[2]] = _literal(least[0]) if least else 1
    return bounds


def describe_parameters(docstring: str) -> dict[str, str]:
    """The first paragraph on each parameter in a numpydoc docstring, without its markup."""
    sections = _sections(docstring)
    helps = {}
    for entry in re.split(r"\n(?=\S)", sections.get("Parameters") or sections.get("Attributes") or ""):
        names, _, text = entry.partition("\n")
        for name in names.partition(" : ")[0].split(","):
            helps[name.strip(" *")] = _plain(textwrap.dedent(text).partition("\n\n")[0])
    return helps


def _sections(docstring: str) -> dict[str, str]:
    """The sections of a numpydoc docstring; the text before the first one is that of ``""``."""
    parts = re.split(r"\n+(\w[\w ]*)\n-{3,}\n", docstring)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def _plain(text: str) -> str:
    """A paragraph in one line, without backticks, and with brackets that rich takes for text."""
    return re.sub(r"`+([^`]+)`+", r"\1", " ".join(text.split())).replace("[", "\\[")


# Making a command.


@dataclass(frozen=True)
class Takes:
    """A function, class or value object of the package whose arguments a command takes as options.

    Parameters
    ----------
    function
        A public name of the package (``"fit"``, ``"StimulusSet.split"``), or ``"module:name"``.
    arguments
        The arguments that become options, separated by blanks; all that a shell can give by default. An
        option has the name of its argument, or another one after a colon: ``"estimator:noise by:noise_by"``.
    panel
        The heading on the help page.
    optional
        The first argument may be left out, and then the call returns None. As in Python ``noise="full"`` is
        short for ``noise=Noise("full")``, so ``--noise full`` is all that asks for the object.
    defaults
        Values that the command has in place of Python's.
    """

    function: str
    arguments: str = ""
    panel: str = "Options"
    optional: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def options(self) -> dict[str, Argument]:
        """The arguments by the name of their option."""
        every = read_arguments(self.function)
        options: dict[str, Argument] = {}
        for text in self.arguments.split() or every:
            name, _, option = text.partition(":")
            default = None if self.optional and not options else every[name].default
            options[option or name] = replace(every[name], default=self.defaults.get(name, default))
        return options

    def call(self, values: Mapping[str, Any]) -> Call:
        """The function with the values of its options, which are found by the name of the option."""
        options = self.options()
        # where the default is None and there is no value, Python's own default applies
        passed = [k for k, argument in options.items() if (values[k], argument.default) != (None, None)]
        words = dict[str, list[str]]()
        for option, argument in options.items():
            if (value := values[option]) != argument.default:
                text = ",".join(map(str, value)) if isinstance(value, list) else str(value or "none")
                words[argument.name] = [_flag(option), *([] if isinstance(value, bool) else [text])]
        first = next(iter(options), "")
        absent = self.optional and values[first] is None
        if absent and words:
            raise typer.BadParameter(f"{next(iter(words.values()))[0]} needs {_flag(first)}, too")
        named = {option: values[option] for option in passed}
        return Call(self.function, {options[k].name: values[k] for k in passed}, words, absent, named)


@dataclass(frozen=True)
class Call:
    """A function of the package with the values of its options; it is imported when it is called.

    Parameters
    ----------
    function
        The function, as `Takes` names it.
    values
        Values by the name of the argument.
    words
        What is written in the shell for each argument that differs from its default.
    absent
        Whether the options ask for no object.
    options
        Values by the name of the option, which no other part of the command has.
    """

    function: str
    values: Mapping[str, Any]
    words: Mapping[str, list[str]]
    absent: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the function; None where the options ask for no object."""
        if self.absent:
            return None
        module, _, name = self.function.rpartition(":")
        function = attrgetter(name)(import_module(f"neurordl.{module}".rstrip(".")))
        return function(*arguments, **{**self.values, **keywords})


class Calls(SimpleNamespace):
    """What a command takes: each `Call` is an attribute."""


def _without_values(parameters: Any) -> Any:
    """Parameters whose flags have no value in the help, where typer would show <bool>."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


class Group(TyperGroup):
    """Commands under one name."""

    def get_params(self, ctx: Any) -> Any:
        """Its options, flags all of them."""
        return _without_values(super().get_params(ctx))


class LazyCommand(TyperCommand):
    """A command whose options are read when it is called, not for the list of commands.

    Options of several files take all files up to the next option or NIfTI image.
    """

    def get_params(self, ctx: Any) -> Any:
        """Take the options of `Command.with_options` before they are first used."""
        if not self.params and self.name in COMMANDS:
            complete = COMMANDS[self.name].with_options()
            self.params, self.callback = complete.params, complete.callback
        return _without_values(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write ``--events a b``, what a shell makes of ``--events *.tsv``, as ``--events a --events b``."""
        options = self.get_params(ctx)
        repeated = {flag for option in options if option.metavar == _FILES for flag in option.opts}
        written: list[str] = []
        option, n_values = "", 0
        for argument in args:
            if argument.startswith("-") or (
                n_values and argument.endswith((".nii", ".nii.gz", ".gii", ".gii.gz"))
            ):
                option, n_values = argument if argument in repeated else "", 0
            elif option:
                written += [option] if n_values else []
                n_values += 1
            written.append(argument)
        return list(super().parse_args(ctx, written))


@dataclass(frozen=True)
class Command:
    """A function of the shell, its name there, and what it takes; see `command`."""

    name: str
    function: Callable[..., None]
    takes: Mapping[str, Takes]

    def with_options(self) -> Any:
        """The command of typer, with all its options."""
        source = f"{self.function.__module__.partition('.')[2]}:{self.function.__name__}"
        signature = inspect.signature(self.function).parameters.values()
        unnamed = [p.name for p in signature if p.kind is inspect.Parameter.POSITIONAL_ONLY]
        parts = {"": Takes(source), **self.takes}
        # What the command's own docstring says of an option replaces the text of the function's docstring.
        texts = describe_parameters(inspect.getdoc(self.function) or "")
        tables = {name: part.options() for name, part in parts.items()}
        options, parameters = dict[str, Argument](), list[inspect.Parameter]()
        for name, table in tables.items():
            described = {k: replace(v, help=texts.get(k, v.help)) for k, v in table.items()}
            options |= described
            parameters += [_parameter(k, v, parts[name].panel, k in unnamed) for k, v in described.items()]
        parameters += [_config(tables)] if options else []

        def run(**values: Any) -> None:
            values = {
                option: option_value(argument, values[option], option in unnamed)
                for option, argument in options.items()
            }
            check_files(values, unnamed)
            calls = {name: part.call(values) for name, part in parts.items()}
            arguments = dict(calls.pop("").values)
            more = {"call": Calls(**calls)} if calls else {}
            self.function(*[arguments.pop(name) for name in unnamed], **arguments, **more)

        vars(run)["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        single = typer.Typer(add_completion=False)
        single.command(self.name, cls=LazyCommand)(run)
        return typer.main.get_command(single)


COMMANDS: dict[str, Command] = {}


def command(
    group: typer.Typer, name: str | None = None, **takes: Takes
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function to the shell.

    Its parameters become options; those before a ``/`` are arguments without a name. So do the arguments of
    the functions in ``takes``: the parameter ``call`` has a `Call` of each, under the name of the keyword.
    The help page shows the docstring with its examples. Where an option means something else in the shell
    than its argument does in Python, the docstring describes the option too.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        added = Command(name or function.__name__, function, takes)
        COMMANDS[added.name] = added
        sections = _sections(inspect.getdoc(function) or "")
        examples = textwrap.dedent(sections.get("Examples", "")).strip()
        text = "\n\n".join(map(_plain, sections[""].split("\n\n")))
        epilog = "\n\n".join(["Examples:", *map(_plain, examples.split("\n\n"))])
        group.command(added.name, cls=LazyCommand, help=text, epilog=epilog)(lambda: None)
        return function

    return add


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _parameter(option: str, argument: Argument, panel: str, unnamed: bool) -> inspect.Parameter:
    """An option for typer, or an argument without a name."""
    type_: Any = Literal[argument.choices] if argument.choices else argument.type
    default, metavar = argument.default, None
    if argument.several:
        type_ = list[Path] if argument.type is Path else list[str]
        default = [default] if isinstance(default, str | int | float) else default or None
        metavar = _FILES if argument.type is Path else f"{_METAVARS.get(argument.type, 'TEXT')},..."
    type_ = type_ | None if default is None else type_
    information = typer.Argument(help=argument.help, metavar=option.upper(), rich_help_panel="Arguments")
    if not unnamed:
        flag = _flag(option) + (f"/--no-{_flag(option)[2:]}" if default is True else "")
        bound, text = argument.least, argument.help
        information = typer.Option(flag, min=bound, metavar=metavar, help=text, rich_help_panel=panel)
    return inspect.Parameter(option, _KEYWORD, default=default, annotation=Annotated[type_, information])


def option_value(argument: Argument, value: Any, unnamed: bool = False) -> Any:
    """The value of an option as Python takes it: several values of a named one are separated by commas."""
    if value == "none" and argument.optional:
        return None
    if not argument.several or argument.type is Path:
        return value if value or not argument.several else argument.default
    words = map(str, value or ())
    parts = words if unnamed else chain.from_iterable(word.split(",") for word in words)
    texts = [part.strip() for part in parts if part.strip()]
    if not texts:
        return argument.default
    if texts[0] in argument.choices:
        return texts[0]
    try:
        values = [argument.type(text) for text in texts]
    except ValueError as error:
        raise typer.BadParameter(f"{','.join(texts)}: expected numbers separated by commas") from error
    return values[0] if argument.single and len(values) == 1 else values


def check_files(values: Mapping[str, Any], unnamed: Sequence[str] = ()) -> None:
    """Refuse files and folders that do not exist, before anything is imported."""
    for option, value in values.items():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and option not in _NOT_FILES and not path.exists():
                flag = "" if option in unnamed else f"{_flag(option)} "
                problem = f"{flag}{path}: there is no such file or folder"
                raise NeurordlError(f"{problem}; {_MEANT.get(option, 'check the path')}")


def _config(tables: Mapping[str, Mapping[str, Argument]]) -> inspect.Parameter:
    """The option ``--config``: a TOML file with options; those on the command line take precedence."""
    fields = {
        f"{part}.{argument.name}": option
        for part, table in tables.items()
        for option, argument in table.items()
    }

    def read(context: typer.Context, path: Path | None) -> Path | None:
        if path is None:
            return None
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise typer.BadParameter(f"{path} cannot be read: {error}") from error
        known = {p.name: p.multiple or p.nargs == -1 for p in context.command.params if p.name != "config"}
        values, options = dict[str, Any](), dict[str, object]()
        for key, value in content.items():
            table = value if isinstance(value, dict) else {}
            values |= {f"{key}.{name}": part for name, part in table.items()} or {key: value}
        for name, value in values.items():
            option = fields.get(name, name.replace("-", "_"))
            if option not in known:
                expected = ", ".join(sorted(map(str, known)))
                raise typer.BadParameter(f"{path}: unknown {name}; known: {expected}")
            options[option] = [value] if known[option] and not isinstance(value, list) else value
        context.default_map = {**(context.default_map or {}), **options}
        return path

    text = (
        "A TOML file with these options, such as held-out = 0.2. Those on the command line take precedence."
    )
    annotation = Annotated[Path | None, typer.Option(callback=read, is_eager=True, help=text)]
    return inspect.Parameter("config", _KEYWORD, default=None, annotation=annotation)


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Messages use the names of the arguments in Python: average= is the option --average.",
)
