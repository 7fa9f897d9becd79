"""A teacher of a user's own, written as docs/extending.md shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from rsatoolbox.rdm import RDMs
from torch import Tensor

import neurordl as nrl

IDS = [f"s{number}" for number in range(12)]
LABELS = [number % 3 for number in range(12)]


class CategoryTeacher(nrl.Teacher):
    """Stimuli of one class are alike."""

    dissimilarity = "correlation"

    def target(self, batch: nrl.Batch, features: Mapping[str, Tensor]) -> nrl.Target:
        assert batch.labels is not None
        rows, columns = torch.triu_indices(len(batch.labels), len(batch.labels), offset=1)
        rdm = (batch.labels[rows] != batch.labels[columns]).float()[None]
        return nrl.Target(rdm, torch.ones_like(rdm))


def train(teacher: nrl.Teacher, out: Path) -> nrl.Run:
    pixels = np.random.default_rng(0).random((12, 8, 8, 1), dtype=np.float32)
    images = nrl.StimulusSet.from_array(pixels, IDS, labels=LABELS)
    torch.manual_seed(0)
    student = nrl.students.small_cnn(num_classes=3, in_channels=1, width=4)
    objective = nrl.Objective([nrl.RDMLoss(teacher, layer="conv3")])
    return nrl.fit(student, objective, images, epochs=2, out=out, execution=nrl.Execution(progress=False))


def test_a_user_teacher_trains_as_the_same_rdms_do(tmp_path: Path) -> None:
    labels = np.array(LABELS)
    matrix = (labels[:, None] != labels).astype(float)[None]
    rdms = RDMs(matrix, dissimilarity_measure="correlation", pattern_descriptors={"stimulus": IDS})
    of_labels = train(CategoryTeacher(), tmp_path / "own")
    of_rdms = train(nrl.RDMTeacher(rdms), tmp_path / "rdms")
    np.testing.assert_array_equal(of_labels.history["rdm:conv3"], of_rdms.history["rdm:conv3"])
    record = json.loads((tmp_path / "own" / "run.json").read_text(encoding="utf-8"))
    assert record["objective"]["losses"]["rdm:conv3"]["teacher"]["teacher"] == "CategoryTeacher"


def test_a_teacher_without_a_dissimilarity_needs_it_from_the_loss() -> None:
    class Distances:
        """Not derived from `Teacher`, and its dissimilarity is not known."""

        transformed = False

        def target(self, batch: nrl.Batch, features: Mapping[str, Tensor]) -> nrl.Target:
            return CategoryTeacher().target(batch, features)

    with pytest.raises(nrl.NeurordlError, match="dissimilarity is unknown; set dissimilarity="):
        nrl.RDMLoss(Distances(), layer="conv3")  # type: ignore[arg-type]
    loss = nrl.RDMLoss(Distances(), layer="conv3", dissimilarity="euclidean")  # type: ignore[arg-type]
    images = torch.rand(6, 1, 8, 8)
    batch = nrl.Batch(images, list(IDS[:6]), torch.tensor(LABELS[:6]))
    value = loss({"conv3": torch.rand(6, 4)}, {}, batch)
    assert value.isfinite()
