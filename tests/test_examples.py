"""The examples run, and show what they say."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from neurordl.measures.comparisons import COMPARISONS
from neurordl.measures.dissimilarities import DISSIMILARITIES

EXAMPLES = Path(__file__).parents[1] / "examples"
# tests/test_demo.py runs the demo.
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "demo")

# What the docstring of an example says one sees, as a condition on the variables of the script.
SHOWN: dict[str, Callable[[dict[str, Any]], bool]] = {
    "compare_layers": lambda script: means(script).loc["fc1", "score"] > means(script).loc["fc2", "score"],
    "compare_models": lambda script: script["fitted"].set_index("model")["score"].idxmax() == "weighted sum",
    "fit_to_rdms": lambda script: (means(script)["score"] > means(script)["ceiling_lower"]).any(),
    "fmri_to_rdms": lambda script: script["similarity"].mean() > 0.5,
    "network_teacher": lambda script: (
        script["accuracies"]["teacher"] > script["accuracies"]["labels only"] + 0.1
    ),
    "own_loss": lambda script: script["run"].history["hint"].is_monotonic_decreasing,
    "own_measure": lambda script: script["run"].history["rdm:conv3"].is_monotonic_decreasing,
    "own_loop": lambda script: script["history"][-1]["rdm:conv3"] < script["history"][0]["rdm:conv3"],
    "pattern_teacher": lambda script: script["run"].history["rdm:conv3"].is_monotonic_decreasing,
    "permuted_control": lambda script: (
        max(script["similarities"], key=script["similarities"].get) == "teacher"
    ),
    "plan_study": lambda script: script["table"]["power"].iloc[-1] > script["table"]["power"].iloc[0],
    "model_time": lambda script: script["best"][0.12] < 0.1 < 0.25 <= script["best"][0.4],
    "time_course": lambda script: (script["onsets"]["onset"].round(3) == [0.065, 0.165]).all(),
    "shared_variance": lambda script: (
        means(script).loc["unique pixels", "p"] > 0.05 > means(script).loc["unique shape", "p"]
    ),
    "group_maps": lambda script: (
        set(script["table"]["cluster"]) == {1}
        and np.linalg.norm(script["table"].iloc[0][["x", "y", "z"]] - [6, -6, 0]) < 7
        and len(script["results"]["sound"].table()) == 0
    ),
    "surface_group_maps": lambda script: (
        set(script["table"]["cluster"]) == {1}
        and script["table"]["vertex"][0] in script["patch"]
        and set(script["table"]["hemisphere"]) == {"left"}
    ),
    "searchlight_map": lambda script: script["inside"] > script["outside"] + 0.3,
    "surface_searchlight": lambda script: script["inside"] > 0.5 > 0.1 > script["outside"],
}


def means(script: dict[str, Any]) -> pd.DataFrame:
    """The rows of an evaluation that are means over subjects, by layer."""
    table = script["scores"].to_frame()
    return table[table["subject"] == "mean"].set_index("layer")


@pytest.fixture
def _registries() -> Iterator[None]:
    """What an example registers is forgotten after it."""
    before = [(registry, dict(registry)) for registry in (DISSIMILARITIES, COMPARISONS)]
    yield
    for registry, measures in before:
        registry.clear()
        registry.update(measures)


@pytest.mark.usefixtures("_registries")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SCRIPTS)
def test_example_shows_what_it_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    assert capsys.readouterr().out.strip()
    assert SHOWN[name](script)
    assert plt.get_fignums()  # the picture in the gallery
    plt.close("all")


def test_every_example_is_in_the_index() -> None:
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}.py)" in index for name in [*SCRIPTS, "demo"])
    assert sorted(SHOWN) == SCRIPTS
