"""RDMs of a network's layers, in as few passes as memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from neurordl.io import sha256_state
from neurordl.measures.dissimilarities import Dissimilarity
from neurordl.measures.kernels.distances import WIDE
from neurordl.patterns.network import Compute, extract_patterns, read_batches
from neurordl.rdms.compute import compute_rdms
from neurordl.rdms.selection import reindex
from neurordl.stimuli import StimulusSet

__all__ = ["network_vectors", "weights_sha256"]

Floats = npt.NDArray[np.float64]

# The largest layer of all stimuli: up to here they go through the network together, and no pattern is kept.
_AT_ONCE_BYTES = 1 << 29
# Patterns of several layers are held together up to this size, where stimuli go through in batches.
_PATTERN_BYTES = 2 << 30


def network_vectors(
    network: nn.Module,
    stimuli: StimulusSet,
    ids: Sequence[str],
    layers: str | Sequence[str],
    measure: Dissimilarity,
    compute: Compute,
) -> dict[str, Floats]:
    """Condensed RDM of each layer, for the stimuli in the order of ``ids``.

    Without a batch size all stimuli go through the network at once where their largest layer is not too
    large, and of each layer nothing but its RDM is kept.
    """
    part = stimuli.subset(ids)
    probe = extract_patterns(network, part.subset(ids[:1]), layers, device=compute.device)
    sizes = {name: 4 * len(ids) * int(patterns.measurements.shape[1]) for name, patterns in probe.items()}
    if compute.batch_size is None and max(sizes.values()) <= _AT_ONCE_BYTES:

        def rdm(patterns: Tensor) -> Tensor:
            patterns = patterns.flatten(1)
            if patterns.device.type == "mps":  # which has no float64
                patterns = patterns.cpu()
            # wide ones are added up in float64 anyway, without a copy
            return measure(patterns.float() if patterns.shape[1] >= WIDE else patterns.double())

        ((_, found),) = read_batches(network, part, layers, replace(compute, batch_size=len(ids)), reduce=rdm)
        return {name: one.double().cpu().numpy() for name, one in found.items()}
    vectors = {}
    for group in _groups(sizes):
        read = extract_patterns(network, part, group, device=compute)
        for name, patterns in read.items():
            vectors[name] = reindex(compute_rdms(patterns, measure), ids)[0]
    return vectors


def weights_sha256(network: nn.Module) -> str | None:
    """Checksum of a network's weights; None where it has none, as of quantized ones."""
    state = network.state_dict()
    if not all(isinstance(one, Tensor) for one in state.values()):
        return None
    try:
        return sha256_state(state)
    except (TypeError, RuntimeError):  # numpy has no such kind of numbers
        return None


def _groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    total = 0
    for name, size in sizes.items():
        if group and total + size > _PATTERN_BYTES:
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    yield group
