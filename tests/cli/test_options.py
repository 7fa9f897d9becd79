"""Options of commands: read from signatures, docstrings and checks, and the same as in Python."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import typer

from neurordl import __version__
from neurordl.cli import COMMANDS
from neurordl.cli.options import REQUIRED, Takes, describe_parameters, option_value, read_arguments
from neurordl.patterns.network import OUTPUT
from neurordl.training import losses


def python_of(function: str) -> Any:
    module, _, name = function.rpartition(":")
    return attrgetter(name)(import_module(f"neurordl.{module}".rstrip(".")))


@pytest.mark.parametrize(
    "takes",
    [takes for command in COMMANDS.values() for takes in command.takes.values()],
    ids=lambda takes: takes.function,
)
def test_options_are_those_of_python(takes: Takes) -> None:
    """Each argument that is taken exists, and has a help and the default of Python or of the command."""
    parameters = inspect.signature(python_of(takes.function)).parameters
    for place, argument in enumerate(takes.options().values()):
        default = parameters[argument.name].default
        if argument.name in takes.defaults:
            assert argument.default == takes.defaults[argument.name]
        elif takes.optional and place == 0:
            assert argument.default is None  # without it the object is not made, or the function not called
        elif default is inspect.Parameter.empty:
            assert argument.default is REQUIRED
        else:
            assert argument.default == default
        assert argument.help.endswith((".", ")")), f"{takes.function}({argument.name}=): {argument.help!r}"
        assert argument.help[0].isupper() or argument.help[0] in '"0123456789.'


def options_of(name: str) -> dict[str, Any]:
    return {parameter.name: parameter for parameter in COMMANDS[name].with_options().params}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name: str, shell: Any) -> None:
    path = ["data", name] if name in ("list", "info", "fetch") else [name]
    code, printed, _ = shell(*path, "--help")
    assert code == 0
    assert f"neurordl {' '.join(path)} " in printed.partition("Examples:")[2] + " "
    assert "`" not in printed
    for option in options_of(name).values():
        assert option.help, option.name


ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def calls_in(text: str) -> list[str]:
    """The calls of the shell in a text: lines that begin with neurordl, with the lines that continue them."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [line.strip() for line in lines if re.match(r"\s*(\S+=\S+ )*neurordl \w", line)]


def examples() -> dict[str, str]:
    """The examples in the help of each command, and the calls in the README and the pages of the site."""
    calls = {}
    for name, command in COMMANDS.items():
        text = (inspect.getdoc(command.function) or "").partition("Examples\n--------\n")[2]
        for number, example in enumerate(filter(None, text.split("\n\n"))):
            calls[f"{name}-{number}"] = " ".join(example.split())
    for page in PAGES:
        blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for number, call in enumerate(call for block in blocks for call in calls_in(block)):
            calls[f"{page.stem}-{number}"] = call
    return calls


@pytest.mark.parametrize("call", examples().values(), ids=examples())
def test_examples_parse(call: str) -> None:
    """With options that exist, values of their types, and all that is required."""
    words = shlex.split(call, comments=True)
    words = words[words.index("neurordl") + 1 :]
    name, *arguments = words[1:] if words[0] == "data" else words
    context = COMMANDS[name].with_options().make_context(name, arguments)
    values = {option: value for option, value in context.params.items() if value is not None}
    assert values or not arguments


def test_every_command_has_an_example() -> None:
    assert {name.rpartition("-")[0] for name in examples()} >= set(COMMANDS)
    assert any(name.startswith(("README", "bring_rdms")) for name in examples())


def test_arguments_of_a_signature() -> None:
    arguments = read_arguments("cli.options:Takes")
    assert list(arguments) == ["function", "arguments", "panel", "optional"]  # no mapping
    assert arguments["function"].default is REQUIRED
    assert arguments["panel"].default == "Options"
    assert arguments["panel"].help == "The heading on the help page."
    loss = read_arguments("RDMLoss")
    assert (loss["pairs"].choices, loss["pairs"].default) == (("all", "within", "between"), "all")
    assert loss["scale"].type is bool
    epochs = read_arguments("fit")["epochs"]
    assert (epochs.type, epochs.default, epochs.least) == (int, 20, 0)
    images = read_arguments("StimulusSet.from_folder")
    assert (images["folder"].type, images["mean"].type, images["mean"].several) == (Path, float, True)
    assert images["mean"].choices == ("imagenet",)
    with pytest.raises(LookupError, match="defines no function or class 'nothing'"):
        read_arguments("nothing")


def test_descriptions_of_a_docstring() -> None:
    docstring = """Summary.

    Parameters
    ----------
    a, b : int
        Two ``numbers``, as in `numpy`
        [1]_.

        Another paragraph.
    *c
        The others.

    Returns
    -------
    d
        Not this.
    """
    described = describe_parameters(inspect.cleandoc(docstring))
    assert described == {"a": r"Two numbers, as in numpy \[1]_.", "b": described["a"], "c": "The others."}


def test_an_object_is_made_where_its_first_argument_is_given() -> None:
    takes = Takes("cli.options:Takes", "function:takes panel:takes_panel", optional=True)
    assert list(takes.options()) == ["takes", "takes_panel"]
    assert takes.call({"takes": None, "takes_panel": "Options"})() is None
    call = takes.call({"takes": "fit", "takes_panel": "Training"})
    assert call() == Takes("fit", panel="Training")
    assert call(panel="RDMs") == Takes("fit", panel="RDMs")
    assert call.words == {"function": ["--takes", "fit"], "panel": ["--takes-panel", "Training"]}
    with pytest.raises(typer.BadParameter, match="--takes-panel needs --takes"):
        takes.call({"takes": None, "takes_panel": "Training"})


def test_value_objects_in_a_file(shell: Any, tmp_path: Path) -> None:
    """A table of the file holds the fields of an object; the command line goes before."""
    (tmp_path / "it.h5").touch()
    text = "epochs = 3\n[batches]\nlabelled = 16\n[optimization]\nlr = 0.1"
    (tmp_path / "train.toml").write_text(text, encoding="utf-8-sig")  # as some editors of Windows save it
    command = COMMANDS["train"].with_options()
    context = command.make_context(
        "train",
        f"--config {tmp_path}/train.toml --labelled mnist --stimuli {tmp_path} --out run "
        f"--rdms {tmp_path}/it.h5 --lr 0.2".split(),
    )
    values = context.params
    assert (values["epochs"], values["batches_labelled"], values["lr"]) == (3, 16, 0.2)
    (tmp_path / "train.toml").write_text("[batches]\nsize = 16\nepochs = 2")
    code, _, errors = shell("train", "--config", tmp_path / "train.toml")
    assert code == 2
    assert "unknown batches.size" in errors


def test_none_is_a_value_where_python_takes_it() -> None:
    takes = Takes("GLM", "hrf_model high_pass")
    context = (
        COMMANDS["rdm"].with_options().make_context("rdm", ["a.nii", "--out", "x", "--hrf-model", "none"])
    )
    assert context.params["hrf_model"] == "none"
    call = takes.call({"hrf_model": None, "high_pass": 0.01})
    assert call().hrf_model is None
    assert call.words == {"hrf_model": ["--hrf-model", "none"]}


def test_several_files_and_several_values() -> None:
    arguments = "--events a.tsv b.tsv x.nii y.nii.gz --rois IT,EVC --rois FFA --out it.h5 --confounds c.tsv"
    values = COMMANDS["rdm"].with_options().make_context("rdm", arguments.split()).params
    assert [str(path) for path in values["events"]] == ["a.tsv", "b.tsv"]
    assert [str(path) for path in values["images"]] == ["x.nii", "y.nii.gz"]
    assert list(values["rois"]) == ["IT,EVC", "FFA"]
    assert option_value(read_arguments("Regions")["rois"], values["rois"]) == ["IT", "EVC", "FFA"]
    sources = read_arguments("cli.compare:compare")["sources"]
    assert option_value(sources, ["runs/a, b", "runs/c"], True) == ["runs/a, b", "runs/c"]  # paths are whole
    mean = read_arguments("StimulusSet.from_folder")["mean"]
    assert option_value(mean, ["0.5,0.25", "1"]) == [0.5, 0.25, 1]
    assert option_value(mean, ["imagenet"]) == "imagenet"
    assert option_value(read_arguments("StimulusSet.from_folder")["size"], ["224"]) == 224
    with pytest.raises(typer.BadParameter, match="expected numbers separated by commas"):
        option_value(mean, ["half"])


def test_version_and_module() -> None:
    for start in (["-m", "neurordl"], ["-c", "from neurordl.cli import main; main()"]):
        done = subprocess.run(
            [sys.executable, *start, "--version"], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"neurordl {__version__}\n"


@pytest.mark.parametrize("path", [[], ["data"]])
def test_flags_have_no_value_in_the_help(path: list[str], shell: Any) -> None:
    code, printed, _ = shell(*path, "--help")
    assert code == 0
    assert "bool" not in printed


def test_completion() -> None:
    """The words of the shell are completed: commands, options and choices."""
    environment = {**os.environ, "_NEURORDL_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    for words, expected in (("neurordl train --held", "--held-out"), ("neurordl data inf", "info")):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; sys.argv[0] = 'neurordl'; from neurordl.cli import main; main()",
            ],
            env=environment | {"COMP_WORDS": words},
            capture_output=True,
            text=True,
            check=False,
        )
        assert expected in done.stdout.split()


def test_precision_of_fabric_is_a_text() -> None:
    precision = read_arguments("Execution")["precision"]
    assert (precision.type, precision.default) == (str, "32-true")


def test_the_help_of_train_names_all_losses() -> None:
    """Those of Python that have a teacher, by the names of their terms."""
    public = [getattr(losses, name) for name in losses.__all__]
    taught = [loss for loss in public if isinstance(loss, type) and hasattr(loss, "weight")]
    names = {loss.name for loss in taught if "teacher" in inspect.signature(loss).parameters}
    help_text = options_of("train")["loss"].help
    assert names == set(re.findall(r"\w+", help_text.partition(":")[2].partition(".")[0])) - {"or"}
    assert len(names) == 10
    assert read_arguments("NetworkTeacher")["layers"].default == OUTPUT
