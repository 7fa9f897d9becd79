"""Train the teachers of the transfer study.

They never see the 5,000 validation images of the study. A state is written every few epochs, from which the
same command goes on; a state of a GPU does not fit the CPU.

    python benchmarks/transfer/teachers.py mnist cifar100 [--device cuda] [--epochs N]
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from fast import Contestant, Images, Step, accuracy, cosine
from safetensors.torch import load_file, save_file
from setting import RUNS, SOURCES, TEACHERS, load
from torch import nn
from torch.nn import functional as F

import neurordl as nrl
from neurordl.io import versions, write_json

EPOCHS = {"mnist": 30, "cifar100": 200}
BATCH, LR, WARM = 128, 0.1, 400


def on_device(stimuli: nrl.StimulusSet, name: str, device: torch.device, augment: bool = False) -> Images:
    """Images of the study in the device's memory."""
    source = SOURCES[name]
    shifts = (source.pad, source.mirror) if augment else (0, False)
    assert stimuli.labels is not None
    return Images(stimuli.pixels, stimuli.labels, source.mean, source.std, device, *shifts)


class Teacher:
    """A teacher in training: SGD with Nesterov's momentum and a cosine schedule after a short rise."""

    def __init__(self, name: str, device: torch.device, epochs: int) -> None:
        self.images = on_device(load(name).train, name, device, augment=True)
        torch.manual_seed(0)
        network = SOURCES[name].network().to(device).train()
        if device.type == "cuda":
            network = network.to(memory_format=torch.channels_last)
        self.x = self.images.plain(slice(0, BATCH)).clone()
        self.y = self.images.labels[:BATCH].clone()
        self.lr = torch.tensor(LR, device=device)
        make = partial(
            torch.optim.SGD, lr=self.lr, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True
        )
        self.network: nn.Module = network
        self.per_epoch, self.epochs = len(self.images) // BATCH, epochs
        contestant = Contestant(name, network, lambda: F.cross_entropy(network(self.x), self.y), make)
        self.step = Step([contestant], [], device)

    def epoch(self, number: int) -> None:
        """Train for one epoch; its batches are a function of its number."""
        generator = torch.Generator(self.images.device).manual_seed(number)
        order = torch.randperm(len(self.images), generator=generator, device=self.images.device)
        for place in range(self.per_epoch):
            rows = order[place * BATCH : (place + 1) * BATCH]
            self.x.copy_(self.images.draw(rows, generator))
            self.y.copy_(self.images.labels[rows])
            step = number * self.per_epoch + place
            self.lr.fill_(LR * cosine(step, self.per_epoch * self.epochs, WARM))
            self.step()


def train(name: str, device: torch.device, epochs: int, out: Path) -> None:
    """Train a teacher, from its state if there is one; write its weights and a record."""
    teacher, state_file, first = Teacher(name, device, epochs), RUNS / f"{name}_state.safetensors", 0
    parts = {part: on_device(getattr(load(name), part), name, device) for part in ("validation", "test")}
    RUNS.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    if state_file.exists():
        state = load_file(state_file, device=str(device))
        first = int(state.pop("epoch"))
        teacher.step()  # makes the optimizer's state
        teacher.step.load_state_dict(state)
    every, start = (5 if device.type == "cpu" else 40), time.time()
    for epoch in range(first, epochs):
        teacher.epoch(epoch)
        if (epoch + 1) % every == 0 or epoch + 1 == epochs:
            beside = state_file.with_suffix(".part")
            save_file({**teacher.step.state_dict(), "epoch": torch.tensor(epoch + 1)}, beside)
            beside.replace(state_file)
            score = accuracy(teacher.network, parts["validation"])
            print(f"{name} {epoch + 1} {time.time() - start:.0f} s validation {score:.4f}", flush=True)
    weights = {key: value.detach().cpu().contiguous() for key, value in teacher.network.state_dict().items()}
    save_file(weights, out / f"{name}.safetensors")
    record = {
        "teacher": name,
        "accuracy": {part: accuracy(teacher.network, images) for part, images in parts.items()},
        "schedule": {"epochs": epochs, "batch": BATCH, "lr": LR, "weight_decay": 5e-4, "momentum": 0.9},
        "images": len(teacher.images),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "seconds": round(time.time() - start),
        "versions": versions(),
    }
    write_json(out / f"{name}.json", record)
    print(record, flush=True)


def main() -> None:
    """Train the teachers that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("teachers", nargs="+", choices=list(EPOCHS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, help="30 for mnist, 200 for cifar100")
    parser.add_argument("--out", type=Path, default=TEACHERS)
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    for name in options.teachers:
        train(name, device, options.epochs or EPOCHS[name], options.out)


if __name__ == "__main__":
    main()
