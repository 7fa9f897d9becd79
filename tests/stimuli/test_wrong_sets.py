"""What is not a stimulus set, tables whose ids are paths, and normalization on the wrong scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rsatoolbox.data import Dataset

import neurordl as nrl
from neurordl import plots
from tests.helpers import random_rdms, student

IDS = [f"i{k}" for k in range(5)]

CALLS: dict[str, Callable[[], object]] = {
    "evaluate": lambda: nrl.evaluate(student(), random_rdms(IDS), stimuli="pics"),  # type: ignore[arg-type]
    "evaluate RDMs": lambda: nrl.evaluate(random_rdms(IDS), random_rdms(IDS), stimuli="pics"),  # type: ignore[arg-type]
    "extract_patterns": lambda: nrl.extract_patterns(student(), "pics"),  # type: ignore[arg-type]
    "image_rdms": lambda: nrl.image_rdms("pics"),  # type: ignore[arg-type]
    "plot_rdm": lambda: plots.plot_rdm(random_rdms(IDS), stimuli="pics"),  # type: ignore[arg-type]
    "fit": lambda: nrl.fit(student(), nrl.Objective([]), stimuli="pics", epochs=1),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", CALLS)
def test_a_folder_is_no_stimulus_set(name: str) -> None:
    with pytest.raises(nrl.NeurordlError, match="expected StimulusSet, got str; read the images with"):
        CALLS[name]()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for k, name in enumerate(IDS):
        Image.fromarray(np.full((4, 4), 40 * k, np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_one_column_is_both_id_and_path(pictures: Path) -> None:
    """Ids are then those of the folder; the column stays in the table."""
    table = pd.DataFrame({"picture": [f"{name}.png" for name in IDS[::-1]], "animate": [0, 1, 0, 1, 0]})
    for given in (table, pictures / "table.csv"):
        if given is not table:
            table.to_csv(given, index=False)
        read = nrl.StimulusSet.from_table(given, id="picture", path="picture", folder=pictures)
        assert read.ids == tuple(IDS[::-1])
        assert [int(x.max()) for x in read.pixels] == [160, 120, 80, 40, 0]
        assert read.table["animate"].tolist() == [0, 1, 0, 1, 0]


def test_a_mean_from_0_to_255_is_pointed_out(pictures: Path) -> None:
    with pytest.warns(UserWarning, match=r"is above 1, but images go from 0 \(black\) to 1"):
        nrl.StimulusSet.from_folder(pictures, mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4])


def test_tables_have_a_column_id_or_stimulus(pictures: Path) -> None:
    for column in ("id", "stimulus"):
        table = pd.DataFrame({column: IDS, "label": [0, 1, 0, 1, 0]})
        assert nrl.property_rdms(table).pattern_descriptors["stimulus"] == IDS
        assert nrl.StimulusSet.from_folder(pictures, labels=table).labels is not None
        table.to_csv(pictures / "labels.csv", index=False)
        np.save(pictures / "rdm.npy", random_rdms(IDS).get_matrices()[0])
        rdms = nrl.load_rdms(pictures / "rdm.npy", labels=pictures / "labels.csv")
        assert rdms.pattern_descriptors["stimulus"] == IDS
        betas = nrl.read_betas(np.random.default_rng(0).normal(size=(5, 7)), table, condition="label_")
        assert isinstance(betas, Dataset)
        assert betas.obs_descriptors["stimulus"] == IDS
