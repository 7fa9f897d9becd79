"""Models of RDMs: fixed, one selected out of several, or a non-negative weighted sum; and their fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize

from neurordl.arrays import nan_mean
from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import Comparison, find_similarity
from neurordl.measures.kernels.products import InnerProducts
from neurordl.rsa.compare import similarity

__all__ = ["Model", "fit_model", "predict"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Model:
    """A model: one RDM, or several of which one is selected or that are added up.

    Attributes
    ----------
    name
        What it is called.
    rdms
        Condensed RDMs (rdms, pairs); one for a fixed model.
    kind
        "fixed", "select" or "weighted" (non-negative weights).
    """

    name: str
    rdms: Floats
    kind: Literal["fixed", "select", "weighted"] = "fixed"

    def __post_init__(self) -> None:
        if self.kind not in ("fixed", "select", "weighted"):
            raise NeurordlError(f"unknown kind of model {self.kind!r}; choose fixed, select or weighted")
        if self.rdms.ndim != 2 or not len(self.rdms) or (self.kind == "fixed" and len(self.rdms) != 1):
            raise NeurordlError(
                f"model {self.name!r} takes RDMs (rdms, pairs), one if it is fixed, but got {self.rdms.shape}"
            )


def predict(model: Model, theta: Floats) -> Floats:
    """The RDM (pairs,) that a fitted model predicts; a pair missing in any of its RDMs is missing."""
    return np.asarray(theta @ model.rdms)


def fit_model(model: Model, data: Floats, comparison: str | Comparison, rdms: Floats | None = None) -> Floats:
    """Weights of a model's RDMs, (rdms,), that bring it nearest to these subjects.

    "select": the one of the greatest mean similarity, as rsatoolbox's ``fit_select``. "weighted": the weights
    of 0 or more that maximise the mean similarity over subjects under cosine, corr and their whitened kin, of
    unit length, as its ``fit_regress_nn``; under other measures those that maximise corr, which rsatoolbox
    leaves to a search from random starts.

    Parameters
    ----------
    model
        What to fit.
    data
        Condensed RDMs (subjects, pairs) to fit it to: the training subjects' on the training stimuli.
    comparison
        As in `compare`.
    rdms
        The model's RDMs on the same pairs; by default all of them.

    Raises
    ------
    NeurordlError
        No RDM of the model, or of the subjects, says anything on these pairs.
    """
    comparison = find_similarity(comparison)
    rdms = model.rdms if rdms is None else rdms
    if len(rdms) == 1:
        return np.ones(1)
    if model.kind == "select":
        scores = nan_mean(similarity(rdms, data, comparison), 1)
        if not np.isfinite(scores).any():
            raise NeurordlError(
                f"no RDM of model {model.name!r} has a defined similarity with the training data"
            )
        return np.asarray(np.arange(len(rdms)) == np.nanargmax(scores), dtype=np.float64)
    kernel = (
        comparison.kernel if isinstance(comparison.kernel, InnerProducts) else InnerProducts(centered=True)
    )
    return _weights(model.name, rdms, data, kernel)


def _weights(name: str, rdms: Floats, data: Floats, kernel: InnerProducts) -> Floats:
    """Non-negative least squares against the pooled subjects, from inner products only."""
    kept = np.isfinite(rdms).all(axis=0) & np.isfinite(data).all(axis=0)
    stack = np.where(kept, np.concatenate([rdms, data]), 0)
    units = np.abs(stack).max(axis=1, initial=0)  # taken out, for `grams` may as well
    scaled = torch.as_tensor(stack / np.where(units > 0, units, 1)[:, None])
    measured = None if kept.all() else torch.as_tensor(kept)
    found = kernel.grams(scaled[:0], scaled, measured=measured, among=True)
    gram, k = found.data.numpy(), len(rdms)
    lengths = np.sqrt(np.maximum(gram.diagonal(), 0))
    usable = np.flatnonzero(lengths[k:] > 0) + k
    values, vectors = np.linalg.eigh(gram[:k, :k])
    there = values > 1e-12 * values.max()
    if not there.any() or not len(usable):
        raise NeurordlError(
            f"model {name!r} cannot be fitted: its RDMs, or the subjects', are constant on the training pairs"
        )
    goal = (gram[:k, usable] / lengths[usable]).sum(axis=1)
    root = np.sqrt(values[there])
    theta, _ = optimize.nnls(root[:, None] * vectors[:, there].T, vectors[:, there].T @ goal / root)
    theta = theta / np.where(units[:k] > 0, units[:k], 1)
    length = float(np.linalg.norm(theta))
    return theta / length if length > 0 else np.asarray(theta)
