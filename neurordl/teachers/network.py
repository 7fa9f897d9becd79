"""A network as a teacher: any torch module, one forward pass however many of its layers are used."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from neurordl.artifacts import sha256_array
from neurordl.errors import NeurordlError
from neurordl.matching import Match, natural_key
from neurordl.patterns.network import OUTPUT, extract_patterns, frozen_eval, read_layers, resolve_layers
from neurordl.rdms.dissimilarity import dissimilarity as find_dissimilarity
from neurordl.stimuli import StimulusSet
from neurordl.teachers.base import Batch, ById, Target


class NetworkTeacher:
    """A DNN that teaches: frozen, in eval mode whatever the student does.

    The model is copied when the teacher is made, so that nothing that happens to the original (training, a change
    of mode) reaches the teacher, and the teacher reaches no optimiser and no checkpoint.

    Parameters
    ----------
    model : torch.nn.Module
    layers : str or sequence of str
        Names, globs or ``"all"``; ``""`` is its output. ``teacher["layer3"]`` teaches the RDMs of one layer.
    cache : StimulusSet, optional
        For images that are not augmented: the features of these stimuli are computed once, and looked up by id.
    dissimilarity : str or callable
        Measure of its RDMs unless the loss names one.

    Raises
    ------
    NeurordlError
        If a layer does not exist.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: str | Sequence[str] = OUTPUT,
        *,
        cache: StimulusSet | None = None,
        dissimilarity: str | Callable[..., Tensor] = "correlation",
    ) -> None:
        find_dissimilarity(dissimilarity)
        self.layers = resolve_layers(model, layers)
        self.dissimilarity = dissimilarity
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        self._cached = cache
        self._table: dict[str, Tensor] = {}
        self._ids = (
            ById(sorted(cache.ids, key=natural_key), "error", "cached stimuli") if cache is not None else None
        )

    def __getitem__(self, layer: str) -> LayerTeacher:
        if layer not in self.layers:
            raise NeurordlError(
                f"the teacher does not read layer {layer!r}; it reads {', '.join(map(repr, self.layers))}"
            )
        return LayerTeacher(self, layer, self.dissimilarity)

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """Features (n, channels) of all its layers, and its output under ``""``, from one pass or from the cache."""
        device = batch.images.device
        if self._ids is not None:
            rows = torch.from_numpy(self._ids.rows(batch.ids))
            return {name: table[rows].to(device) for name, table in self._cache().items()}
        self._model.to(device)
        with frozen_eval(self._model):
            return read_layers(self._model, batch.images, self._read)[1]

    @property
    def _read(self) -> list[str]:
        return list(dict.fromkeys([*self.layers, OUTPUT]))

    def _cache(self) -> dict[str, Tensor]:
        if not self._table and self._cached is not None and self._ids is not None:
            patterns = extract_patterns(self._model, self._cached.subset(self._ids.ids), self._read)
            self._table = {name: torch.from_numpy(one.measurements) for name, one in patterns.items()}
        return self._table

    def match(self, ids: Sequence[str]) -> Match | None:
        """Match ids with the cached stimuli's, where there is a cache."""
        return self._ids.match(ids) if self._ids is not None else None

    def permuted(self, ids: Sequence[str], seed: int, within: Mapping[str, object] | None = None) -> Self:
        """A control, as `RDMTeacher.permuted`; needs ``cache=``, since another stimulus's features are answered."""
        if self._ids is None:
            raise NeurordlError(
                "a permuted control of a network needs cache=stimuli: it answers with other stimuli's features"
            )
        self._cache()
        control = copy.copy(self)
        control._ids = self._ids.permuted(ids, seed, within)
        return control

    def describe(self) -> dict[str, Any]:
        """Kind, model, layers and a checksum of its weights."""
        state = "".join(
            f"{name} {sha256_array(tensor)}\n" for name, tensor in self._model.state_dict().items()
        )
        return {
            "teacher": "NetworkTeacher",
            "model": type(self._model).__name__,
            "layers": self.layers,
            "cached": self._ids is not None,
            "control": self._ids.control if self._ids is not None else None,
            "sha256": hashlib.sha256(state.encode()).hexdigest(),
        }


class LayerTeacher:
    """One layer of a `NetworkTeacher`: the RDM of a batch, from the features that were computed for it."""

    transformed = False

    def __init__(
        self, network: NetworkTeacher, layer: str, dissimilarity: str | Callable[..., Tensor]
    ) -> None:
        self.network, self.layer, self.dissimilarity = network, layer, dissimilarity
        self._measure = find_dissimilarity(dissimilarity)

    def measured_by(self, dissimilarity: str | Callable[..., Tensor]) -> LayerTeacher:
        """The same layer under another dissimilarity."""
        return LayerTeacher(self.network, self.layer, dissimilarity)

    def target(self, batch: Batch, features: Mapping[str, Tensor]) -> Target:
        """The RDM of the network's features for this batch; undefined pairs have weight 0."""
        with torch.no_grad():
            rdm = self._measure(features[self.layer].float())[None]
        measured = torch.isfinite(rdm)
        return Target(rdm.nan_to_num(nan=0.0), measured.to(rdm.dtype))

    def match(self, ids: Sequence[str]) -> Match | None:
        """Match ids with the network's cached stimuli, where there are any."""
        return self.network.match(ids)

    def prepare(self, ids: Sequence[str]) -> Match | None:
        """Match the training stimuli."""
        return self.match(ids)

    def groups(self, ids: Sequence[str]) -> list[list[str]]:
        """All stimuli may share a batch."""
        return [list(ids)]

    def describe(self) -> dict[str, Any]:
        """The network's description, with this layer and measure."""
        measure = (
            self.dissimilarity
            if isinstance(self.dissimilarity, str)
            else getattr(self.dissimilarity, "__name__", "callable")
        )
        return {**self.network.describe(), "layer": self.layer, "dissimilarity": measure}
