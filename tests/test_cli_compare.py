"""``neurordl compare`` on model RDMs: each bad input ends with one error, and nothing is written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rsatoolbox.rdm import RDMs

import neurordl as nrl
from neurordl.cli import main

N = 12
IDS = [f"s{k}" for k in range(N)]


def rdms(n: int, descriptor: str, ids: list[str] = IDS) -> RDMs:
    return RDMs(
        np.random.default_rng(n).random((n, len(ids) * (len(ids) - 1) // 2)),
        dissimilarity_measure="correlation",
        rdm_descriptors={descriptor: [f"{descriptor[0]}{k}" for k in range(n)]},
        pattern_descriptors={"stimulus": list(ids)},
    )


def unmeasured() -> RDMs:
    data = rdms(4, "subject")
    data.dissimilarities[1] = np.nan
    return data


def twice() -> RDMs:
    data = rdms(4, "subject")
    data.rdm_descriptors["subject"] = ["s0", "s0", "s2", "s3"]
    return data


Make = Callable[[], RDMs]


@pytest.mark.parametrize(
    "models, data, options, told",
    [
        (lambda: rdms(3, "layer", [f"t{k}" for k in range(N)]), None, [], "no id of the stimuli"),
        (None, unmeasured, [], "s1) has no measured pair"),
        (lambda: rdms(3, "layer", IDS[:3]), None, ["--bootstrap", "both"], "give more stimuli"),
        (None, lambda: rdms(1, "subject"), ["--bootstrap", "both"], "one subject cannot be resampled"),
        (None, twice, [], "subject 's0' has 2"),
        (None, None, ["--layers", "l7"], "no model RDM is named 'l7'"),
        (None, None, ["--bootstrap", "stimuli", "--method", "bures"], "bures needs complete RDMs"),
        (None, None, ["--device", "gpu"], "device 'gpu' cannot be used here"),
        pytest.param(
            *(None, None, ["--device", "cuda"], "torch sees no GPU"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_one_error_and_nothing_written(
    models: Make | None,
    data: Make | None,
    options: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    nrl.save_rdms(models() if models else rdms(3, "layer"), tmp_path / "models.h5")
    brain = data() if data else rdms(4, "subject")
    brain.save(str(tmp_path / "brain.h5"), file_type="hdf5")  # save_rdms would refuse some already
    given: list[Any] = ["compare", tmp_path / "models.h5", "--rdms", tmp_path / "brain.h5"]
    monkeypatch.setattr(sys, "argv", ["neurordl", *map(str, given), "--out", str(tmp_path / "out"), *options])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        sys.exit(main())
    errors = capsys.readouterr().err
    assert stop.value.code == 1, errors
    assert told in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()
