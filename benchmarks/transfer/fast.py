"""Training on data in the device's memory; on a GPU each step is one CUDA graph.

Small networks leave a GPU idle while Python starts their kernels one by one. Here a step (forward, loss,
backward, update) of many students is recorded once and replayed, each on a stream of its own: students of one
seed see the same batches and differ in nothing but their losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Images:
    """Labelled images in the device's memory, normalized, and shifted and mirrored as they are drawn.

    Parameters
    ----------
    pixels : Tensor, (n, channels, height, width), uint8
        Images.
    labels : Tensor, (n,)
        Classes.
    mean, std : sequence of float
        Of each channel.
    device : torch.device
        Where they are kept.
    pad : int
        Largest shift in pixels; the border is black.
    mirror : bool
        Mirror half of the images.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        pad: int = 0,
        mirror: bool = False,
    ) -> None:
        padded = nn.functional.pad(pixels, (pad, pad, pad, pad))
        self.pixels = padded.permute(0, 2, 3, 1).contiguous().to(device)
        self.labels = labels.long().to(device)
        self.mean, self.std = (torch.tensor(part, device=device) * 255 for part in (mean, std))
        self.size, self.pad, self.mirror = tuple(pixels.shape[2:]), pad, mirror
        self.device = device

    def __len__(self) -> int:
        return len(self.labels)

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Images (n, channels, height, width), each shifted and mirrored at random."""
        n, (height, width) = len(rows), self.size
        top, start = torch.randint(2 * self.pad + 1, (2, n, 1), generator=generator, device=self.device)
        y = top + torch.arange(height, device=self.device)
        x = torch.arange(width, device=self.device).expand(n, width)
        if self.mirror:
            mirrored = torch.rand(n, 1, generator=generator, device=self.device) < 0.5
            x = torch.where(mirrored, width - 1 - x, x)
        return self._normalized(self.pixels[rows[:, None, None], y[:, :, None], (start + x)[:, None, :]])

    def plain(self, rows: Tensor | slice) -> Tensor:
        """Images as they are."""
        (height, width), pad = self.size, self.pad
        return self._normalized(self.pixels[rows, pad : pad + height, pad : pad + width])

    def _normalized(self, values: Tensor) -> Tensor:
        return ((values - self.mean) / self.std).permute(0, 3, 1, 2)


class Contestant:
    """A student with its loss (a function without arguments) and its optimizer."""

    def __init__(
        self,
        name: str,
        student: nn.Module,
        loss: Callable[[], Tensor],
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        modules: Sequence[nn.Module] = (),
    ) -> None:
        self.name, self.student, self.loss = name, student, loss
        self.modules = [student, *modules]
        self.parameters = [p for module in self.modules for p in module.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.parameters)
        self.value = torch.zeros((), device=self.parameters[0].device)

    def update(self) -> None:
        """One step."""
        loss = self.loss()
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None and gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient
        self.optimizer.step()
        self.value.copy_(loss.detach())

    def tensors(self) -> dict[str, Tensor]:
        """Weights, buffers and the optimizer's state, by name."""
        result = {}
        for place, module in enumerate(self.modules):
            for key, value in module.state_dict(keep_vars=True).items():
                result[f"{self.name}/{place}/{key}"] = value
        for place, parameter in enumerate(self.parameters):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    result[f"{self.name}/optimizer/{place}/{key}"] = value
        return result


class Step:
    """A step of all contestants, after the functions that prepare their batches.

    Parameters
    ----------
    contestants : sequence of Contestant
        Students, in training mode and on the device.
    before : sequence of callables
        Functions that fill what the losses read.
    device : torch.device
        On a CUDA device the step is recorded at the first call.
    """

    def __init__(
        self,
        contestants: Sequence[Contestant],
        before: Sequence[Callable[[], None]],
        device: torch.device,
    ) -> None:
        self.contestants, self.before, self.device = list(contestants), before, device
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self.device.type != "cuda":
            self.eager()
            return
        if self.graph is None:
            self.capture()
        assert self.graph is not None
        self.graph.replay()

    def eager(self) -> None:
        """The step, kernel by kernel."""
        with torch.no_grad():
            for prepare in self.before:
                prepare()
        self._update()

    def _update(self) -> None:
        if self.device.type != "cuda":
            for contestant in self.contestants:
                contestant.update()
            return
        current = torch.cuda.current_stream()
        for contestant, stream in zip(self.contestants, self._streams(), strict=False):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                contestant.update()
        for stream in self._streams():
            current.wait_stream(stream)

    def _streams(self) -> list[Any]:
        if not hasattr(self, "_made"):
            self._made = [torch.cuda.Stream() for _ in self.contestants]
        return self._made

    def capture(self) -> None:
        """Record the step as a CUDA graph; weights and buffers stay as they are, optimizers start anew."""
        saved = {k: v.detach().clone() for each in self.contestants for k, v in each.tensors().items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.eager()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.eager()
        self.graph = graph
        with torch.no_grad():
            for each in self.contestants:
                for key, value in each.tensors().items():
                    value.copy_(saved[key]) if key in saved else value.zero_()
        torch.cuda.synchronize()

    def state_dict(self) -> dict[str, Tensor]:
        """All that a step changes."""
        return {
            k: v.detach().clone().contiguous() for each in self.contestants for k, v in each.tensors().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from such a state, once a step has been taken or recorded."""
        with torch.no_grad():
            for each in self.contestants:
                for key, value in each.tensors().items():
                    value.copy_(state[key])


def cosine(step: int, steps: int, warm: int = 0) -> float:
    """The factor of the learning rate at a step."""
    return min(1.0, (step + 1) / max(warm, 1)) * 0.5 * (1 + np.cos(np.pi * step / steps))


@torch.no_grad()
def predictions(network: nn.Module, images: Images, batch: int = 1000) -> Tensor:
    """The class of the largest output for each image, in eval mode."""
    network.eval()
    classes = [
        network(images.plain(slice(start, start + batch))).argmax(1) for start in range(0, len(images), batch)
    ]
    network.train()
    return torch.cat(classes)


def accuracy(network: nn.Module, images: Images) -> float:
    """Share of images whose largest output is their label."""
    return float((predictions(network, images) == images.labels).float().mean())
