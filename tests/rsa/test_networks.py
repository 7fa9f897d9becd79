"""Several networks in one evaluation, and what is said of things that are no network and no RDMs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.students import load_weights
from tests.helpers import random_rdms, random_stimuli, student

STIMULI = random_stimuli(14, seed=3)
PEOPLE = random_rdms(STIMULI.ids, seed=1, subject=[f"p{k}" for k in range(6)])


class MyNet(nn.Module):
    """A network of a user's own."""


def test_networks_in_one_table_are_those_of_each() -> None:
    """Scores are those of each network alone, and the difference is that of a paired t test."""
    networks = {"trained": student(1), "raw": student(2)}
    both = nrl.evaluate(networks, PEOPLE, stimuli=STIMULI, layers="conv2", comparison="corr")
    assert both.settings["layers"] == ["trained", "raw"]
    scores = {}
    for name, network in networks.items():
        alone = nrl.evaluate(network, PEOPLE, stimuli=STIMULI, layers="conv2", comparison="corr")
        table = both.frame[both.frame["layer"] == name].drop(columns="layer").reset_index(drop=True)
        names = ["subject", "score", "ceiling_lower", "ceiling_upper", "dissimilarity", "n_stimuli"]
        pd.testing.assert_frame_equal(table[names], alone.frame[names], rtol=1e-12)
        scores[name] = alone.frame[alone.frame["subject"] != "mean"]["score"].to_numpy()
    row = both.differences.iloc[0]
    expected = stats.ttest_rel(*(scores[row[name]] for name in ("layer_a", "layer_b")))
    assert row["difference"] == pytest.approx((scores[row["layer_a"]] - scores[row["layer_b"]]).mean())
    assert row["p"] == pytest.approx(expected.pvalue)
    sums = [both.settings["sha256"]["weights"][name] for name in networks]
    assert len(set(sums)) == 2
    several = nrl.evaluate(networks, PEOPLE, stimuli=STIMULI, layers=["conv1", "conv2"], comparison="corr")
    assert several.settings["layers"] == [f"{name}: {x}" for name in networks for x in ("conv1", "conv2")]
    mean = several.frame.query("subject == 'mean'").set_index("layer")["score"]
    raw = both.frame.query("subject == 'mean' and layer == 'raw'")["score"].item()
    assert mean["raw: conv2"] == pytest.approx(raw, rel=1e-12)


def test_what_a_network_among_others_was_trained_on_is_said() -> None:
    train, held_out = STIMULI.split(held_out=0.5, seed=0)
    loss = nrl.RDMLoss(nrl.RDMTeacher(PEOPLE, subjects=["p0", "p1"]), "conv2")
    quiet = nrl.Execution(progress=False)
    run = nrl.fit(student(1), nrl.Objective(loss, task=None), stimuli=train, epochs=1, execution=quiet)
    networks = {"fitted": run.student, "raw": student(1)}
    scores = nrl.evaluate(networks, PEOPLE, stimuli=held_out, layers="conv2", comparison="corr")
    alone = nrl.evaluate(run.student, PEOPLE, stimuli=held_out, layers="conv2", comparison="corr")
    assert scores.frame["fitted"].tolist() == [*alone.frame["fitted"]] * 2
    assert scores.settings["leaks"] == alone.settings["leaks"]
    assert scores.settings["in_mean"] == alone.settings["in_mean"]
    with pytest.raises(NeurordlError, match=r"'fitted' is a run; give its student \(run.student\)"):
        nrl.evaluate({**networks, "fitted": run}, PEOPLE, stimuli=held_out)
    with pytest.raises(NeurordlError, match="a network is evaluated on images: pass a StimulusSet"):
        nrl.evaluate(networks, PEOPLE)


def test_the_report_names_the_network_and_its_checkpoint(tmp_path: Path) -> None:
    torch.save(student(1).state_dict(), tmp_path / "mine.pth")
    network = student(2)
    load_weights(network, tmp_path / "mine.pth")
    scores = nrl.evaluate(network, PEOPLE, stimuli=STIMULI, layers="conv2", comparison="corr")
    page = scores.to_html(tmp_path / "a.html", figures=False).read_text()
    assert "The RDM of a layer (conv2) of small_cnn, weights of mine.pth, by correlation" in page
    nn.init.zeros_(network.fc2[1].bias)
    both = nrl.evaluate({"a": network, "b": student(3)}, PEOPLE, stimuli=STIMULI, layers="conv2")
    assert both.settings["networks"] == ["a (small_cnn, weights of mine.pth, changed since)", "b (small_cnn)"]


CALLS: dict[str, Callable[[Any], object]] = {
    "evaluate": lambda source: nrl.evaluate(source, PEOPLE, stimuli=STIMULI),
    "partition_variance": lambda source: nrl.partition_variance(source, PEOPLE),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "source, message",
    [
        (MyNet, r"got the class MyNet; MyNet is a class: make a network of it, MyNet\(\)"),
        ({"a": MyNet}, r"make a network of it, MyNet\(\)"),
        ("nets/my_net.pth", r"got 'nets/my_net.pth'; make the network, read my_net.pth with load_weights"),
        (Path("it.h5"), r"got 'it.h5'; read RDMs with load_rdms\('it.h5'\)"),
        (student().state_dict(), "got dict of Tensor; weights are no network"),
        (
            {"state_dict": student().state_dict()},
            "weights are no network: make it, read them with load_state",
        ),
        ({}, "got an empty dict"),
        (3, "got int"),
    ],
)
def test_what_is_no_network_has_its_remedy(call: str, source: Any, message: str) -> None:
    with pytest.raises(NeurordlError, match=message):
        CALLS[call](source)


def test_networks_where_rdms_are_needed() -> None:
    message = r"got dict of Sequential; for a network's RDMs, write compute_rdms\(extract_patterns\("
    with pytest.raises(NeurordlError, match=message):
        nrl.partition_variance({"a": student()}, PEOPLE)
