"""Contrastive representation distillation: an image's features in both networks are told from others'."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from neurordl.arrays import Ints
from neurordl.errors import NeurordlError
from neurordl.ids import check_ids, natural_key
from neurordl.io import sha256_array
from neurordl.measures.kernels import distances
from neurordl.teachers import Batch, LayerTeacher, NetworkTeacher
from neurordl.teachers.base import Record, sent
from neurordl.training.losses.base import (
    Features,
    LayerLoss,
    Weight,
    full_precision,
    passed,
)
from neurordl.validate import check_count, check_number, listed

_AT_ONCE = 256  # validation stimuli that are compared with the memory together
_SMALL = 1e-7  # what RepDistiller and torchdistill add to the densities
_SHORTEST = 1e-6  # embedding that is still brought to length 1


class ContrastiveLoss(LayerLoss, nn.Module):
    r"""Tell an image's features in the other network from those of other images (Tian et al. 2020).

    Two linear maps, which are trained with the student, embed the student's features and the teacher's on a
    sphere. Memories hold a recent embedding of each training stimulus by either network. The student's
    embedding s of an image should be close to the teacher's of the same image, :math:`m^T_+`, and not to
    the teacher's of k others, :math:`m^T_j`; the same with the networks exchanged is added:

    .. math:: L = -\frac{1}{n} \sum_i \left[\log h(s_i, m^T_+) + \sum_{j=1}^{k} \log(1 - h(s_i, m^T_j))
        \right] + (S \leftrightarrow T)

    .. math:: h(s, m) = \frac{e^{s \cdot m / \tau} / Z}{e^{s \cdot m / \tau} / Z + k / N}

    N is the number of ids. The constants Z are N times the mean of :math:`e^{s \cdot m / \tau}` over the
    first batch of training, and are kept. In each step of training the rows of the batch become
    ``momentum`` times the row plus (1 - ``momentum``) times the new embedding, at length 1.

    Parameters
    ----------
    teacher : NetworkTeacher, or one of its layers
        ``teacher["avgpool"]``, or a network with a single layer.
    layer : str
        Layer of the student, as in its ``named_modules()``. Maps (n, channels, height, width) are averaged
        over places; other features are flattened.
    ids : sequence of str, or mapping of str to int
        Ids of all training stimuli: ``stimuli.ids``, or those of the labelled images where they are the only
        stream. Ids that are never shown, such as those of a validation share, do no harm. From a mapping of
        ids to classes, such as ``dict(zip(stimuli.ids, stimuli.labels.tolist()))``, negatives are of other
        classes than the image.
    channels : int
        Dimensions of the embeddings.
    temperature : float
        Divisor of the inner products, :math:`\tau`.
    negatives : int
        Other stimuli that an image is told from, k; at most as many as there are.
    momentum : float
        Share of a memory's row that stays, from 0 to less than 1.
    weight : float, callable of the step, or TaskRatio
        Factor of the loss in the sum of all losses; 0.8 in the published runs.

    Raises
    ------
    NeurordlError
        If the teacher is not one layer of a network, the ids are not unique or leave no negatives, or an
        image in training has an id that is not among them.

    Notes
    -----
    The negatives of an image are drawn anew in each step, each at most once, from torch's random numbers,
    which `fit` seeds in each step: they depend neither on the order of the batch nor on the number of
    processes. The paper and the option of RepDistiller's loss to draw them itself take them from all stimuli,
    with repeats and with the image itself; the data sets that RepDistiller and torchdistill train with take
    them from other classes, without repeats. Both add 1e-7 to the denominator of h, and so does this loss.

    Like parameters, memories are made at the first call, from torch's random numbers. They are buffers, in
    each checkpoint: 51 MB for 50,000 ids and 128 channels. The processes of `fit` compute the same memories
    and do not send them to one another in each step. In eval mode nothing is changed, and negatives are
    the same at each call (before any training, constants are those of the call); a stimulus that was never
    trained on, as in validation, has the other network's embedding of the same image in place of its row.

    References
    ----------
    Tian Y, Krishnan D, Isola P (2020). Contrastive representation distillation. ICLR.

    Examples
    --------
    >>> import torch, neurordl as nrl
    >>> ids = [f"image{number}" for number in range(100)]
    >>> teacher = nrl.NetworkTeacher(nrl.students.small_cnn(), "fc1")
    >>> loss = nrl.ContrastiveLoss(teacher, "fc1", ids, weight=0.8)
    >>> images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    >>> total, terms = nrl.Objective(loss)(nrl.students.small_cnn(width=8), (images, labels, ids[:4]))
    >>> list(terms)
    ['task', 'contrastive:fc1']
    """

    name = "contrastive"
    same_in_processes = ("student_memory", "teacher_memory", "log_constants", "shown", "classes")
    student_memory: Tensor
    teacher_memory: Tensor
    log_constants: Tensor
    shown: Tensor
    classes: Tensor

    def __init__(
        self,
        teacher: LayerTeacher | NetworkTeacher,
        layer: str,
        ids: Sequence[str] | Mapping[str, int],
        channels: int = 128,
        temperature: float = 0.07,
        negatives: int = 16384,
        momentum: float = 0.5,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__()
        self._set_layers(teacher, layer, weight)
        self.channels = check_count("channels", channels)
        self.temperature = check_number("temperature", temperature, 0, open_low=True)
        self.momentum = check_number("momentum", momentum, 0, 1, open_high=True)
        self.ids = sorted(check_ids(ids, "ContrastiveLoss"), key=natural_key)
        self._row = {stimulus: row for row, stimulus in enumerate(self.ids)}
        classes = np.arange(len(self.ids))  # without classes, each stimulus is its own
        self.other_classes = isinstance(ids, Mapping)
        if isinstance(ids, Mapping):
            classes = np.unique([ids[stimulus] for stimulus in self.ids], return_inverse=True)[1]
        most = len(classes) - int(np.bincount(classes).max())
        if most < 1:
            least = "classes" if self.other_classes else "ids"
            raise NeurordlError(f"ContrastiveLoss: there are no negatives; give ids= of two {least} or more")
        self.negatives = min(check_count("negatives", negatives), most)
        self.student_embedding, self.teacher_embedding = (nn.LazyLinear(channels) for _ in range(2))
        for network in ("student", "teacher"):
            self.register_buffer(f"{network}_memory", torch.zeros(len(self.ids), channels))
        self.register_buffer("log_constants", torch.full((2,), -math.inf))
        self.register_buffer("shown", torch.zeros(len(self.ids), dtype=torch.bool))
        self.register_buffer("classes", torch.from_numpy(classes), persistent=False)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The mean over a batch of the sum of both directions."""
        rows = self._rows(batch.ids)
        features = [_vectors(student[self.layer]), _vectors(teacher[self.teacher.layer].detach())]
        with distances.full_precision(features[0].device):
            embedded = self._embed(features)
            # Backward needs the memories as they are now.
            copies = [
                memory.to(embedded.dtype, copy=self.training)
                for memory in (self.student_memory, self.teacher_memory)
            ]
            parts = [slice(None)]
            if not self.training:
                parts = [slice(start, start + _AT_ONCE) for start in range(0, len(rows), _AT_ONCE)]
            values = []
            for part in parts:
                at, unique, places, first = self._places(rows[part], embedded.device)
                values.append(self._compare(embedded[:, part], copies, at, unique, places))
            if self.training:  # all in one part
                self._remember(embedded.detach(), unique, first)
            return torch.cat(values).mean()

    def _rows(self, ids: Sequence[str] | None) -> Ints:
        """The row of each id in the memories; -1 for those without one."""
        if ids is None:
            remedy = "in fit pass a StimulusSet, in your own loop (images, labels, ids) or (images, ids)"
            raise NeurordlError(f"{self.name}: memories are read by id, but the images have none; {remedy}")
        if self.training:
            self.check_stimuli(ids)
        return np.array([self._row.get(stimulus, -1) for stimulus in ids], dtype=np.int64)

    def check_stimuli(self, ids: Sequence[str]) -> None:
        """Raise an error if training stimuli have no row in the memories."""
        if names := [stimulus for stimulus in ids if stimulus not in self._row]:
            problem = f"{len(names)} of {len(ids)} images have an id that is not in ids= ({listed(names)})"
            raise NeurordlError(f"{self.name}: {problem}; give ids= those of all training stimuli")

    def _embed(self, features: Sequence[Tensor]) -> Tensor:
        """Embeddings of the student's and the teacher's features, (2, n, channels), of length 1."""
        modules = self.student_embedding, self.teacher_embedding
        if is_lazy(self.student_embedding.weight):
            for memory in (self.student_memory, self.teacher_memory):
                memory.uniform_(-1, 1).mul_(math.sqrt(3 / self.channels))
        vectors = [passed(module, values) for module, values in zip(modules, features, strict=True)]
        stacked = torch.stack(vectors)
        largest = stacked.detach().abs().amax(2, keepdim=True)  # squares of large numbers would overflow
        return functional.normalize(stacked / largest.clamp(min=1), dim=2, eps=_SHORTEST)

    def _places(self, rows: Ints, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The rows, each once, the place of every row among these, and the first place of each."""
        unique, first, places = np.unique(rows, return_index=True, return_inverse=True)
        arrays = (rows, unique, places, first)
        at, each, place, start = (sent(torch.from_numpy(array), device) for array in arrays)
        return at, each, place, start

    def _compare(
        self, embedded: Tensor, memories: Sequence[Tensor], at: Tensor, unique: Tensor, places: Tensor
    ) -> Tensor:
        """The loss of each stimulus, (n,)."""
        drawn = self._draw(unique)[places]  # by stimulus, whatever their order in the batch
        known = (at >= 0) if self.training else (at >= 0) & self.shown[at.clamp(min=0)]
        near, far = [], []
        for side, memory in enumerate(reversed(memories)):
            positive = memory[at.clamp(min=0)]
            positive = torch.where(known[:, None], positive, embedded[1 - side].detach())
            near.append((embedded[side] * positive).sum(1))
            far.append((embedded[side] @ memory.T).gather(1, drawn))
        scores = torch.stack(near) / self.temperature, torch.stack(far) / self.temperature
        log_constants = self._constants(*(score.detach() for score in scores)).to(embedded.dtype)
        share = self.negatives / len(self.ids)
        near_odds, far_odds = (
            (score.movedim(0, -1) - log_constants).movedim(-1, 0) - math.log(share + _SMALL)
            for score in scores
        )
        missed = functional.softplus(-near_odds) + self.negatives * math.log1p(_SMALL / share)
        return (missed + functional.softplus(far_odds).sum(2)).sum(0)

    def _draw(self, rows: Tensor) -> Tensor:
        """Rows of negatives, (n, negatives), for each row of the memories; for -1 they may be all."""
        generator = None if self.training else torch.Generator(rows.device).manual_seed(0)
        keys = torch.rand(len(rows), len(self.ids), device=rows.device, generator=generator)
        classes = torch.where(rows < 0, -1, self.classes[rows.clamp(min=0)])
        keys.masked_fill_(classes[:, None] == self.classes, 2.0)
        return keys.topk(self.negatives, dim=1, largest=False, sorted=False).indices

    @torch.no_grad()
    def _constants(self, near: Tensor, far: Tensor) -> Tensor:
        """Logarithms of both normalization constants: once there was training, those of its first batch."""
        total = torch.logaddexp(near.logsumexp(1), far.flatten(1).logsumexp(1))
        first = total - math.log(near[0].numel() + far[0].numel()) + math.log(len(self.ids))
        log_constants = torch.where(
            self.log_constants.isinf(), first.to(self.log_constants), self.log_constants
        )
        if self.training:
            self.log_constants.copy_(log_constants)
        return log_constants

    @torch.no_grad()
    def _remember(self, embedded: Tensor, unique: Tensor, first: Tensor) -> None:
        """Move the rows of a batch; where an id occurs more than once, by its first image."""
        self.shown.index_fill_(0, unique, True)
        for memory, new in zip((self.student_memory, self.teacher_memory), embedded[:, first], strict=True):
            moved = self.momentum * memory[unique] + (1 - self.momentum) * new
            memory.index_copy_(0, unique, functional.normalize(moved, eps=_SHORTEST).to(memory.dtype))

    def describe(self) -> Record:
        """What ``run.json`` records of the loss."""
        names = ("channels", "temperature", "negatives", "momentum", "other_classes")
        knobs = {name: getattr(self, name) for name in names}
        checksums = [sha256_array(np.array(self.ids)), sha256_array(self.classes)]
        return {**super().describe(), **knobs, "ids": len(self.ids), "sha256_ids": checksums}


def _vectors(features: Tensor) -> Tensor:
    """Features (n, channels): maps are averaged over places."""
    features = full_precision(features)
    return features.mean(dim=(2, 3)) if features.ndim == 4 else features.flatten(1)
