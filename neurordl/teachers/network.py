"""A network as a teacher: any torch module, one forward pass however many of its layers are used."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from neurordl.errors import NeurordlError
from neurordl.ids import Match
from neurordl.io import sha256_state
from neurordl.measures.condensed import condensed_index
from neurordl.measures.dissimilarities import Dissimilarity, DissimilarityLike, network_dissimilarity
from neurordl.patterns.network import (
    OUTPUT,
    as_input,
    batches,
    explain_unfit,
    frozen_eval,
    read_layers,
    resolve_layers,
    unwrapped,
)
from neurordl.stimuli import StimulusSet
from neurordl.students.loading import TRAINED_ON
from neurordl.teachers.base import Batch, ById, Record, Target, Teacher, sent
from neurordl.validate import check_choice, listed

_AT_ONCE = 64


class NetworkTeacher:
    """A network as a teacher, frozen and always in eval mode.

    The model is copied when the teacher is made: later changes of the original have no effect on the teacher,
    and its weights are in no optimizer and no checkpoint. It runs in the precision of its weights, not in the
    student's mixed precision; pass ``model.bfloat16()`` for a teacher in that precision.

    The teacher sees the student's images, as they are prepared for the student. If it needs another
    preprocessing, pass as ``cache=`` a StimulusSet that is prepared for the teacher.

    Parameters
    ----------
    model : torch.nn.Module
        Network.
    layers : str or sequence of str
        Names, globs, ``"all"`` or ``"top"``; ``""`` is the output of the network. ``teacher["layer3"]`` is
        the teacher with the RDMs of that layer.
    cache : StimulusSet, optional
        Stimuli whose features are computed once and then looked up by id, for images that are not augmented.
        They may be prepared in another way than the student's images (a larger size, another normalization).
    dissimilarity : str, Dissimilarity or callable
        Dissimilarity of the teacher's RDMs, unless the loss sets one.

    Raises
    ------
    NeurordlError
        If a layer does not exist.

    Examples
    --------
    >>> import neurordl as nrl
    >>> teacher = nrl.NetworkTeacher(nrl.students.small_cnn(), layers=["conv2", "conv3"])
    >>> loss = nrl.RDMLoss(teacher["conv3"], layer="conv3")
    """

    def __init__(
        self,
        model: nn.Module,
        layers: str | Sequence[str] = OUTPUT,
        *,
        cache: StimulusSet | None = None,
        dissimilarity: DissimilarityLike = "correlation",
    ) -> None:
        model = unwrapped(model)
        self.layers = resolve_layers(model, layers)
        self.dissimilarity = network_dissimilarity(dissimilarity)
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        undefined = [name for name, weights in model.named_parameters() if weights.isnan().any()]
        if undefined:
            problem = f"the teacher's weights hold NaN ({listed(undefined)}): its training has failed"
            raise NeurordlError(f"{problem}; give a network without NaN")
        self._cached = cache
        self._table: dict[str, Tensor] = {}
        self._ids = ById(cache.ids, "error", "cached stimuli") if cache is not None else None

    def __getitem__(self, layer: str) -> LayerTeacher:
        layer = check_choice("the teacher's layer", layer, self.layers)
        return LayerTeacher(self, layer, self.dissimilarity)

    def __repr__(self) -> str:
        control = self._ids.control if self._ids is not None else None
        permuted = f", permuted with seed {control['permuted']}" if control else ""
        return f"NetworkTeacher({type(self._model).__name__}, {listed(self.layers, quote=True)}{permuted})"

    @property
    def cached(self) -> bool:
        """Whether its features are those of cached stimuli, whatever images are in a batch."""
        return self._ids is not None

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """Features (n, ...) of its layers, and its output under ``""``, from one pass or the cache."""
        if self._ids is None:
            return self._run(batch.images)
        rows, device = torch.from_numpy(self._ids.rows(batch.ids)), batch.images.device
        return {name: sent(table[rows], device) for name, table in self._cache(device).items()}

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        images = as_input(images, self._model.to(images.device))
        # The same features live and from the cache, which may be made in or out of the student's autocast.
        with frozen_eval(self._model), torch.autocast(images.device.type, enabled=False):
            # Soft targets need the output, which may be of any form for other losses.
            names = list(dict.fromkeys([*self.layers, OUTPUT]))
            with explain_unfit(self._model, [images], "teacher"):
                features = read_layers(self._model, images, names, missing=True)[1]
            if absent := [layer for layer in self.layers if layer not in features]:
                read_layers(self._model, images, absent)  # raises an error with the reason
        return features

    def _cache(self, device: torch.device) -> dict[str, Tensor]:
        """Features of all cached stimuli, in the order of `_ids`; one table for all permuted controls."""
        if not self._table and self._cached is not None and self._ids is not None:
            stimuli = self._cached.subset(self._ids.ids)
            parts: dict[str, list[Tensor]] = {}
            for start, end in batches(len(stimuli), _AT_ONCE):
                images = stimuli.images(slice(start, end)).to(device)
                if end - start == 1:
                    images = torch.cat([images, images])
                for name, values in self._run(images).items():
                    parts.setdefault(name, []).append(values[: end - start].cpu())
            self._table.update({name: torch.cat(values) for name, values in parts.items()})
        return self._table

    def match(self, ids: Sequence[str]) -> Match | None:
        """Match ids with those of the cached stimuli, if there is a cache."""
        return self._ids.match(ids) if self._ids is not None else None

    def permuted(self, ids: Sequence[str], seed: int, within: Mapping[str, object] | None = None) -> Self:
        """A control, as `RDMTeacher.permuted`: features of other stimuli, which needs ``cache=``."""
        if self._ids is None:
            remedy = "make the teacher with NetworkTeacher(network, layers, cache=stimuli)"
            raise NeurordlError(f"permuted() needs cached features; {remedy}")
        control = copy.copy(self)
        control._ids = self._ids.permuted(ids, seed, within)
        return control

    def describe(self) -> Record:
        """What ``run.json`` records of the teacher, with a checksum of its weights."""
        return {
            "teacher": "NetworkTeacher",
            "model": type(self._model).__name__,
            "layers": self.layers,
            "cached": self.cached,
            "control": self._ids.control if self._ids is not None else None,
            "sha256": sha256_state(self._model.state_dict()),
        }

    def exposure(self) -> Record:
        """What the network was trained on before, if it was a student of `fit`."""
        return {"before": getattr(unwrapped(self._model), TRAINED_ON, [])}


class LayerTeacher(Teacher):
    """One layer of a `NetworkTeacher`: the RDM of a batch, from the features that were computed for it.

    Examples
    --------
    >>> import neurordl as nrl
    >>> teacher = nrl.NetworkTeacher(nrl.students.small_cnn(), ["conv2", "conv3"])
    >>> layer = teacher["conv3"]
    >>> type(layer).__name__, layer.layer
    ('LayerTeacher', 'conv3')
    >>> loss = nrl.RDMLoss(layer, "conv3")
    """

    def __init__(self, network: NetworkTeacher, layer: str, dissimilarity: DissimilarityLike) -> None:
        self.network, self.layer = network, layer
        self.dissimilarity: Dissimilarity = network_dissimilarity(dissimilarity)

    def __repr__(self) -> str:
        return f"{self.network!r}[{self.layer!r}]"

    def target(self, batch: Batch, features: Mapping[str, Tensor]) -> Target:
        """The RDM of the network's features for this batch.

        Undefined pairs have weight 0. So have, as with measured teachers, pairs of a stimulus (by id) with
        itself: their distance, 0 in any network, would teach nothing and look like agreement. Images without
        ids are all taken as different stimuli.
        """
        with torch.no_grad():
            rdm = self.dissimilarity(features[self.layer].flatten(1).float())[None]
        measured = (rdm - rdm) == 0  # it is finite, in fewer operations
        if batch.ids is not None and len(set(batch.ids)) < len(batch.ids):
            first = {stimulus: row for row, stimulus in reversed(list(enumerate(batch.ids)))}
            rows = torch.tensor([first[stimulus] for stimulus in batch.ids])
            i, j = condensed_index(len(rows))
            measured &= sent(rows[i] != rows[j], rdm.device)
        return Target(rdm.nan_to_num(nan=0.0), measured.to(rdm.dtype))

    def match(self, ids: Sequence[str]) -> Match | None:
        """Match ids with those of the network's cached stimuli, if there are any."""
        return self.network.match(ids)

    def describe(self) -> Record:
        """What ``run.json`` records of the network, with this layer and its dissimilarity."""
        return {**self.network.describe(), "layer": self.layer, "dissimilarity": self.dissimilarity.name}

    def exposure(self) -> Record:
        """What the network was trained on before."""
        return self.network.exposure()
