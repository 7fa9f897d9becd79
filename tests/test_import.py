"""Importing the package is fast, and its public names exist."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import neurordl

HEAVY = (
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "rsatoolbox",
    "matplotlib",
    "lightning_fabric",
    "sklearn",
    "h5py",
    "nilearn",
    "numba",
)


def loaded_after(code: str) -> list[str]:
    """Run code in a fresh interpreter, and return the heavy packages that it loaded."""
    probe = f"import sys\n{code}\nprint('LOADED', *[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


def test_import_loads_nothing_heavy() -> None:
    assert loaded_after("import neurordl") == []
    assert loaded_after("import neurordl; dir(neurordl); neurordl.NeurordlError") == []


TRAINING = """
import torch
import neurordl as nrl
images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
teacher = nrl.NetworkTeacher(nrl.students.small_cnn(width=2), layers="conv3")
transfer = [nrl.SoftTargetLoss(teacher), nrl.RDMLoss(teacher, "conv3")]
objective = nrl.Objective(transfer)
stream = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=4)
run = nrl.fit(nrl.students.small_cnn(width=2), objective, stream, epochs=1)
assert len(run.history) == 1
"""


def test_training_with_a_network_loads_no_statistics_of_rdms() -> None:
    loaded = {"rsatoolbox", "matplotlib", "sklearn", "nilearn", "numba"} & set(loaded_after(TRAINING))
    assert not loaded


COMPARE = ["compare", "run", "--rdms", "brain.h5", "--out", "out"]
TRAIN = ["train", "--labelled", "digits", "--rdms", "brain.h5", "--stimuli", "images", "--out", "out"]


@pytest.mark.parametrize(
    "arguments, code",
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["compare", "--help"], 0),
        (["rdm", "--help"], 0),
        (["data", "list"], 0),
        (["data", "info", "mnist"], 0),
        (COMPARE, 1),  # files that are not there
        (TRAIN, 1),
        (["rdm", "run-1_bold.nii.gz", "--out", "it.h5"], 1),
        (["compare"], 2),
    ],
)
def test_shell_loads_nothing_heavy_for_help_and_early_errors(arguments: list[str], code: int) -> None:
    run = (
        f"sys.argv = ['neurordl', *{arguments}]\n"
        "from neurordl.cli import main\n"
        "try:\n    code = main()\n"
        "except SystemExit as stop:\n    code = stop.code\n"
        f"assert (code or 0) == {code}, code"
    )
    assert loaded_after(run) == []


def test_console_script_is_main() -> None:
    scripts = importlib.metadata.distribution("neurordl").entry_points.select(group="console_scripts")
    assert [(script.name, script.value) for script in scripts] == [("neurordl", "neurordl.cli:main")]
    assert importlib.metadata.version("neurordl") == neurordl.__version__


def test_the_module_runs_as_the_command() -> None:
    command = [sys.executable, "-m", "neurordl", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "python -m neurordl" in done.stdout


def test_public_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse(Path(neurordl.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    names = [alias.asname for node in imports for alias in node.names]
    assert sorted([*names, "__version__"]) == neurordl.__all__


@pytest.mark.parametrize("name", neurordl.__all__)
def test_every_public_name_loads(name: str) -> None:
    value = getattr(neurordl, name)
    assert name in dir(neurordl)
    assert name == "__version__" or value.__doc__


def test_public_names_come_with_a_star_import() -> None:
    names: dict[str, object] = {}
    exec("from neurordl import *", names)
    assert set(neurordl.__all__) <= set(names)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'RDMLos'"):
        neurordl.RDMLos  # noqa: B018


def test_no_module_can_unpickle() -> None:
    for path in Path(neurordl.__file__).parent.rglob("*.py"):
        imports = [
            node
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {getattr(node, "module", None) for node in imports} | {
            x.name for node in imports for x in node.names
        }
        assert not names & {"pickle", "cPickle", "dill", "cloudpickle", "joblib"}, path
