"""Feed mutated files to the readers: nothing but the package's own error comes out, and nothing is executed.

    python benchmarks/fuzz_readers.py --files 20000 --seed 0

Each file is a valid one of some format with a few bytes changed, cut out, doubled or replaced by large
numbers; for packed files (.npz, .ckpt, .pth, .nii.gz) also with the change made before packing, and for .png,
so that its checksum is right; and for text, JSON and TOML with cells and values replaced by odd ones. Files
are read in child processes, which report where they are: a crash or a hang is found, counted and passed over.
In a child, running a program, looking up a class to unpickle, opening a connection or writing a file is a
fault, and memory is limited.

To fuzz another reader, add it to ``READERS`` and valid files for it to ``seeds``.
"""

from __future__ import annotations

import argparse
import ast
import collections
import contextlib
import copy
import faulthandler
import gzip
import io
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
import pandas as pd
import torch
from rsatoolbox.rdm import RDMs
from typer.exceptions import TyperException

import neurordl as nrl
from neurordl.cli import app
from neurordl.errors import NeurordlError
from neurordl.experiments import run_grid
from neurordl.patterns.meshes import read_meshes
from neurordl.plots import plot_training
from neurordl.rdms import load_rdms
from neurordl.report import read_contents, write_report
from neurordl.students.loading import load_weights

matplotlib.use("Agg")
torch.set_num_threads(1)

SECONDS = 20  # of CPU time: more for a small file is a hang
MEMORY = 2 << 30  # beyond what the process has before it reads
BLOCK = 2500
INTERESTING = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    0x7FFFFFFFFFFFFFFF,
    (1 << 64) - 1,
]

ODD = [
    "",
    "n/a",
    "nan",
    "inf",
    "-1",
    "0",
    "1e400",
    '"',
    "'",
    "\t",
    ",",
    "1,5",
    "0x10",
    "1_0",
    "9" * 20,
    "\u00e9",
    "\0",
]
ODD_VALUES = [
    None,
    [],
    {},
    [[]],
    "",
    "x",
    "nan",
    -1,
    0,
    10**20,
    1e300,
    True,
    float("nan"),
    float("inf"),
    [None],
    {"a": None},
]
IDS = ["s1", "s10", "s2", "s3", "s4", "s5", "s6", "s7"]
SHAPE, VOLUMES, AFFINE = (3, 3, 2), 12, np.diag([3.0, 3.0, 3.0, 1.0])


def bold() -> nib.Nifti1Image:
    """A run of 24 seconds."""
    values = np.random.default_rng(0).integers(100, 900, (*SHAPE, VOLUMES)).astype(np.int16)
    image = nib.Nifti1Image(values, AFFINE)
    image.header.set_zooms((3, 3, 3, 2.0))
    image.header.set_xyzt_units("mm", "sec")
    return image


def atlas() -> nib.Nifti1Image:
    """Two labels."""
    return nib.Nifti1Image(np.repeat([1, 2], 9).reshape(SHAPE).astype(np.uint8), AFFINE)


def events() -> pd.DataFrame:
    """Blocks of two conditions."""
    return pd.DataFrame({"onset": [0.0, 8.0, 16.0], "duration": 4.0, "trial_type": ["a", "b", "a"]})


def read_image(path: Path) -> object:
    """An image, and the same file as a mask."""
    with contextlib.suppress(NeurordlError):
        nrl.read_patterns(bold(), path, events(), model="average")
    return nrl.read_patterns(path, None, events(), model=nrl.Average(t_r=2.0))


def read_sidecar(path: Path) -> object:
    """The sidecar of an image."""
    image = path.with_name("it_bold.nii")
    if not image.exists():
        nib.save(bold(), image)
    return nrl.read_patterns(image, None, events())


def read_pair(path: Path) -> object:
    """The header of an image that is stored in two files."""
    path.with_suffix(".img").write_bytes(bold().get_fdata().astype(np.int16).tobytes(order="F"))
    return nrl.read_patterns(path, None, events(), model=nrl.Average(t_r=2.0))


def stimuli() -> nrl.StimulusSet:
    """Eight images."""
    pixels = np.random.default_rng(0).integers(0, 256, (len(IDS), 6, 6), dtype=np.uint8)
    return nrl.StimulusSet.from_array(pixels, IDS, labels=[0, 1, 2, 0, 1, 2, 0, 1])


def student() -> torch.nn.Module:
    """A small network."""
    return nrl.students.build("mlp", 3, 1, image_size=6, hidden=(4,))


def fit(out: Path) -> nrl.Run:
    """A run of two epochs, begun anew or resumed."""
    rdms = RDMs(np.random.default_rng(0).random((1, 28)), pattern_descriptors={"stimulus": IDS})
    torch.manual_seed(0)
    return nrl.fit(
        student(),
        nrl.Objective([nrl.RDMLoss(nrl.RDMTeacher(rdms), "fc1", dissimilarity="euclidean")]),
        labelled=stimuli(),
        stimuli=stimuli(),
        epochs=2,
        validation=0.5,
        execution=nrl.Execution(progress=False),
        out=out,
        resume=out.exists(),
    )


def read_run(path: Path) -> object:
    """A file of the folder of a run, which is read, shown and resumed."""
    folder = path.with_name("run")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(path.parent / "seeds" / "run", folder)
    name = path.name.removeprefix("it_")
    shutil.copyfile(path, folder / name)
    with contextlib.suppress(NeurordlError):
        plot_training(nrl.load_run(folder))
        if name == "run.json":
            write_report(path.with_name("run.html"), read_contents([folder]))
        matplotlib.pyplot.close("all")
    with contextlib.suppress(NeurordlError):
        nrl.load_run(folder, weights="last")
    record = folder / "run.json"
    record.write_bytes(record.read_bytes().replace(b'"finished"', b'"started"'))
    return fit(folder)


def read_evaluation(path: Path) -> object:
    """The record of an evaluation, which is reported."""
    folder = path.with_name("evaluation")
    folder.mkdir(exist_ok=True)
    shutil.copyfile(path.parent / "seeds" / "scores" / "scores.csv", folder / "scores.csv")
    shutil.copyfile(path, folder / "evaluation.json")
    return write_report(path.with_name("evaluation.html"), read_contents([folder]))


def read_row(path: Path) -> object:
    """A row of a grid, and the same file as its settings."""
    folder = path.with_name("grid")
    shutil.rmtree(folder, ignore_errors=True)
    arguments: Any = ([{"seed": 1}], lambda **_: {"score": 1.0}, folder)
    run_grid(*arguments, progress=False)
    settings = (folder / "settings.json").read_bytes()
    with contextlib.suppress(NeurordlError):
        shutil.copyfile(path, folder / "settings.json")
        run_grid(*arguments, progress=False)
    (folder / "settings.json").write_bytes(settings)
    shutil.copyfile(path, next((folder / "rows").iterdir()))
    return run_grid(*arguments, progress=False)


def read_config(path: Path) -> object:
    """Options of the shell; a usage error of the shell is a refusal."""
    image, table = path.with_name("it_bold.nii"), path.with_name("it.tsv")
    if not image.exists():
        nib.save(bold(), image)
    events().to_csv(table, sep="\t", index=False)
    out = str(path.with_name("it.h5"))
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            with contextlib.suppress(TyperException, NeurordlError):
                app(["train", "--config", str(path)], standalone_mode=False)
            app(
                ["rdm", str(image), "--events", str(table), "--out", out, "--config", str(path)],
                standalone_mode=False,
            )
    except TyperException as error:
        raise NeurordlError(str(error)) from error
    return None


def read_labels(path: Path) -> object:
    """The names of the regions of an atlas."""
    return nrl.read_patterns(bold(), nrl.Regions(atlas(), path), events(), model="average")


def read_surface_atlas(path: Path) -> object:
    return nrl.read_betas(path.parent / "seeds" / "x_lh.func.gii", list("abc"), nrl.Regions(path))


READERS: dict[str, Callable[[Path], object]] = {
    **dict.fromkeys((".h5", ".mat", ".npz", ".npy", ".csv", ".tsv"), load_rdms),
    **dict.fromkeys((".nii", ".nii.gz", ".nii.bz2"), read_image),
    ".hdr": read_pair,
    **dict.fromkeys(("_lh.func.gii", ".dscalar.nii"), lambda path: nrl.read_betas(path, list("abc"))),
    **dict.fromkeys(("_lh.label.gii", "_lh.annot", ".dlabel.nii"), read_surface_atlas),
    **dict.fromkeys(("_lh.surf.gii", "_lh.white"), lambda path: read_meshes(path)),
    **dict.fromkeys(("_events.tsv", "_events.csv"), lambda path: nrl.read_patterns(bold(), None, path)),
    "_bold.json": read_sidecar,
    "_confounds.tsv": lambda path: nrl.read_patterns(bold(), None, events(), confounds=path),
    "_betas.tsv": lambda path: nrl.read_betas(bold(), path),
    **dict.fromkeys(("_labels.tsv", "_labels.json"), read_labels),
    "_ids.txt": lambda path: load_rdms(path.parent / "seeds" / "square.npy", labels=path),
    "_stimuli.csv": lambda path: nrl.StimulusSet.from_array(stimuli().pixels, IDS, table=path),
    **dict.fromkeys(
        (".png", ".jpg", ".webp", ".bmp", ".tif", ".gif", ".ppm"),
        lambda path: nrl.StimulusSet.from_table(pd.DataFrame({"id": ["a"], "path": [str(path)]}), size=6),
    ),
    **dict.fromkeys((".safetensors", ".pth", "_weights.npz"), lambda path: load_weights(student(), path)),
    **dict.fromkeys(("_run.json", "_history.csv", "_last.ckpt", "_student.safetensors"), read_run),
    "_evaluation.json": read_evaluation,
    "_row.json": read_row,
    ".toml": read_config,
}


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Valid files of each format, by suffix."""
    import h5py
    import scipy.io
    from scipy.spatial.distance import squareform

    from neurordl.rdms import save_rdms

    ids = ["s1", "s10", "Bär", "s3"]
    values = np.random.default_rng(0).random((3, 6))
    rdms = RDMs(
        values,
        dissimilarity_measure="correlation",
        descriptors={"study": "demo", "nested": {"a": "b"}},
        rdm_descriptors={"subject": ["a", "b", "c"], "session": [1, 2, 3]},
        pattern_descriptors={"stimulus": ids},
    )
    seeds: dict[str, list[bytes]] = {suffix: [] for suffix in READERS}
    for suffix in (".h5", ".mat", ".npz", ".npy"):
        save_rdms(rdms, folder / f"all{suffix}", lossy=True)
    save_rdms(rdms.subset("subject", "a"), folder / "one.csv", lossy=True)
    save_rdms(rdms.subset("subject", "a"), folder / "one.tsv", lossy=True)
    rdms.pattern_descriptors["stimulus"] = ["s1", "s10", "s2", "s3"]  # rsatoolbox writes ASCII only
    rdms.save(str(folder / "theirs.h5"), file_type="hdf5")
    matrices = np.stack([squareform(vector) for vector in values])
    np.save(folder / "square.npy", matrices)
    np.savez(folder / "plain.npz", D=matrices, ids=np.array(ids), subjects=np.array(["a", "b", "c"]))
    structs = np.empty((1, 2), dtype=[("RDM", object), ("name", object)])
    for k in range(2):
        structs[0, k] = (matrices[k], f"hIT | BE | Session: {k}")
    for packed in (True, False):
        scipy.io.savemat(folder / f"structs{packed}.mat", {"RDMs": structs}, do_compression=packed)
        scipy.io.savemat(folder / f"matrix{packed}.mat", {"D": matrices, "t": "x"}, do_compression=packed)
    with h5py.File(folder / "version73.mat", "w", userblock_size=512) as file:
        item = file.create_dataset("D", data=matrices, compression="gzip")
        item.attrs["MATLAB_class"] = np.bytes_("double")
        cell = [file.create_dataset(f"#refs#/{k}", data=np.array([[65 + k]], "<u2")).ref for k in range(4)]
        for k in range(4):
            file[f"#refs#/{k}"].attrs["MATLAB_class"] = np.bytes_("char")
        ids_ = file.create_dataset("ids", data=np.array([cell], dtype=h5py.ref_dtype))
        ids_.attrs["MATLAB_class"] = np.bytes_("cell")
    (folder / "bare.csv").write_text("\n".join(",".join(map(str, row)) for row in matrices[0]))
    nib.save(bold(), folder / "bold.nii")
    nib.save(bold(), folder / "bold.nii.gz")
    nib.save(atlas(), folder / "mask.nii")
    events().to_csv(folder / "x_events.tsv", sep="\t", index=False)
    events().to_csv(folder / "x_events.csv", index=False)
    betas = pd.DataFrame({"stimulus": [f"s{k}" for k in range(VOLUMES)], "run": np.arange(VOLUMES) % 2})
    betas.to_csv(folder / "x_betas.tsv", sep="\t", index=False)
    nib.save(bold(), folder / "bold.nii.bz2")
    nib.save(nib.Nifti1Pair(bold().dataobj, AFFINE, bold().header), folder / "bold.hdr")
    motion = pd.DataFrame(np.random.default_rng(1).normal(size=(VOLUMES, 2)), columns=["x", "y"])
    motion.to_csv(folder / "x_confounds.tsv", sep="\t", index=False)
    (folder / "x_bold.json").write_text('{"RepetitionTime": 2.0, "StartTime": 1.0, "SliceTiming": [0, 1]}')
    (folder / "x_ids.txt").write_text("\n".join(IDS[:4]))
    table = pd.DataFrame({"id": IDS, "label": list("abcabcab"), "size": range(len(IDS))})
    table.to_csv(folder / "x_stimuli.csv", index=False)
    save_stimuli_and_runs(folder)
    save_surfaces(folder)
    named = pd.DataFrame({"index": [1, 2], "name": ["V1", "IT"]})
    named.to_csv(folder / "x_labels.tsv", sep="\t", index=False)
    (folder / "x_labels.json").write_text('{"1": "V1", "2": "IT"}')
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if not any(path.name.endswith(ending) for ending in READERS):
            continue
        suffix = max((ending for ending in READERS if path.name.endswith(ending)), key=len)
        seeds[suffix].append(path.read_bytes())
    return seeds


def save_surfaces(folder: Path) -> None:
    """Valid GIFTI, CIFTI and files of FreeSurfer, on a mesh of four vertices."""
    from nibabel.cifti2.cifti2_axes import BrainModelAxis, LabelAxis, ScalarAxis

    def save(arrays: list[tuple[str, Any]], path: Path, names: tuple[str, ...] = ()) -> None:
        image = nib.GiftiImage(
            darrays=[
                nib.gifti.GiftiDataArray(values, intent=f"NIFTI_INTENT_{intent}", datatype=values.dtype)
                for intent, values in arrays
            ]
        )
        for number, name in enumerate(names):
            label = nib.gifti.GiftiLabel(number, 1, 0, 0, 1)
            label.label = name
            image.labeltable.labels.append(label)
        nib.save(image, path)

    values = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    numbers, names = np.array([0, 1, 2, 1], np.int32), ("???", "V1", "IT")
    points = 10 * np.eye(4)[:, :3].astype(np.float32)
    faces = np.array([[0, 1, 2], [1, 2, 3]], np.int32)
    save([("ESTIMATE", row) for row in values], folder / "x_lh.func.gii")
    save([("LABEL", numbers)], folder / "x_lh.label.gii", names)
    save([("POINTSET", points), ("TRIANGLE", faces)], folder / "x_lh.surf.gii")
    nib.freesurfer.write_geometry(folder / "x_lh.white", points, faces)
    colors = np.array([[1, 2, 3, 0], [4, 5, 6, 0], [7, 8, 9, 0]])
    nib.freesurfer.write_annot(folder / "x_lh.annot", numbers, colors, list(names), fill_ctab=True)
    model = BrainModelAxis.from_surface(np.arange(4), 4, "CORTEX_LEFT")
    nib.save(nib.Cifti2Image(values, (ScalarAxis(list("abc")), model)), folder / "x.dscalar.nii")
    table = {number: (name, (0, 0, 0, 1)) for number, name in enumerate(names)}
    labels = nib.Cifti2Image(numbers[None].astype(np.float32), (LabelAxis(["x"], [table]), model))
    nib.save(labels, folder / "x.dlabel.nii")


def save_stimuli_and_runs(folder: Path) -> None:
    """Valid images, weights, the files of a run and of an evaluation, a row of a grid, options."""
    import safetensors.torch
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".tif", ".gif", ".ppm"):
        exif = Image.Exif()
        exif[274] = 6
        tagged = {"exif": exif} if suffix in (".png", ".jpg", ".webp", ".tif") else {}
        Image.fromarray(pixels).save(folder / f"color{suffix}", **tagged)
        Image.fromarray(pixels[..., 0]).save(folder / f"gray{suffix}")
    weights = student().state_dict()
    safetensors.torch.save_file(weights, folder / "x.safetensors")
    torch.save(weights, folder / "x.pth")
    torch.save({"state_dict": weights, "epoch": 3}, folder / "y.pth")
    np.savez(folder / "x_weights.npz", **{name: value.numpy() for name, value in weights.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(folder / "run")
    for name in ("run.json", "history.csv", "last.ckpt", "student.safetensors"):
        shutil.copyfile(folder / "run" / name, folder / f"x_{name}")
    ids = [f"s{k}" for k in range(8)]
    people = nrl.simulate.simulate_subjects(np.random.default_rng(0).normal(size=(8, 5)), ids, n_subjects=4)
    nrl.evaluate({"first": people.subset("subject", "s01")}, people).save(folder / "scores")
    shutil.copyfile(folder / "scores" / "evaluation.json", folder / "x_evaluation.json")
    (folder / "x_row.json").write_text('{"job": {"seed": 1}, "values": {"score": 1.0}}')
    (folder / "rdm.toml").write_text(
        'model = "lsa"\nt-r = 2.0\nhigh_pass = 0.01\nruns = ["run-1"]\ndissimilarity = "euclidean"\n'
    )
    (folder / "train.toml").write_text(
        'epochs = 2\nheld-out = 0.2\nroi = "IT"\n[optimization]\nlr = 0.01\nbatchnorm = "both"\n'
    )


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """A few changes, most of them small: large ones are refused at the first byte."""
    data = bytearray(content)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3, 8]))):
        if not data:
            break
        at = int(rng.integers(len(data)))
        length = int(min(rng.geometric(0.05), len(data) - at))
        match rng.integers(8):
            case 0 | 1:
                data[at] ^= 1 << int(rng.integers(8))
            case 2:
                data[at] = int(rng.integers(256))
            case 3 | 4:
                width = int(rng.choice([1, 2, 4, 8]))
                number = int(rng.choice(np.array(INTERESTING, dtype=object))) % (1 << (8 * width))
                data[at : at + width] = number.to_bytes(width, "little" if rng.random() < 0.8 else "big")
            case 5:
                del data[at : at + length]
            case 6:
                data[at:at] = data[at : at + length]
            case 7:
                data[at : at + length] = rng.bytes(length) if rng.random() < 0.7 else b""
                if rng.random() < 0.1:
                    del data[at:]
    return bytes(data)


def repacked(content: bytes, rng: np.random.Generator) -> bytes:
    """An .npz with one of its arrays mutated before it is packed, so that the checksum is right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        names = old.namelist()
        chosen = names[int(rng.integers(len(names)))]
        for name in names:
            new.writestr(name, mutate(old.read(name), rng) if name == chosen else old.read(name))
    return out.getvalue()


def regzipped(content: bytes, rng: np.random.Generator) -> bytes:
    """A .nii.gz mutated before it is packed."""
    return gzip.compress(mutate(gzip.decompress(content), rng))


def rechecked(content: bytes, rng: np.random.Generator) -> bytes:
    """A .png with one of its chunks mutated before its checksum is taken."""
    start, chunks = 8, []
    while start + 8 <= len(content):
        length = struct.unpack(">I", content[start : start + 4])[0]
        chunks.append((content[start + 4 : start + 8], content[start + 8 : start + 8 + length]))
        start += 12 + length
    k = int(rng.integers(len(chunks)))
    chunks[k] = (chunks[k][0], mutate(chunks[k][1], rng))
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return content[:8] + b"".join(parts)


def restructured(content: bytes, rng: np.random.Generator) -> bytes:
    """JSON with one or two of its values replaced by others, or left out."""
    tree: Any = json.loads(content)
    for _ in range(int(rng.integers(1, 3))):
        places: list[tuple[Any, Any]] = []
        todo = [tree]
        while todo:
            node = todo.pop()
            keys = (
                list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
            )
            places += [(node, key) for key in keys]
            todo += [node[key] for key in keys]
        if not places or rng.random() < 0.03:
            return json.dumps(ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]).encode()
        node, key = places[int(rng.integers(len(places)))]
        if rng.random() < 0.2:
            del node[key]
        else:
            node[key] = copy.deepcopy(ODD_VALUES[int(rng.integers(len(ODD_VALUES)))])
    return json.dumps(tree).encode()


def reworded(content: bytes, rng: np.random.Generator) -> bytes:
    """Text with a few of its cells, or of the values of TOML, replaced by odd ones."""
    parts = re.split(r"([\t,\n=])", content.decode())
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        parts[2 * int(rng.integers(len(parts) // 2 + 1))] = ODD[int(rng.integers(len(ODD)))]
    return "".join(parts).encode()


def rewritten(content: bytes, rng: np.random.Generator) -> bytes:
    """A .safetensors with values of its header replaced, and the length of the header right."""
    length = int.from_bytes(content[:8], "little")
    header = restructured(content[8 : 8 + length], rng)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


INSIDE: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    **dict.fromkeys((".npz", ".pth", ".ckpt"), repacked),
    **dict.fromkeys((".csv", ".tsv", ".txt", ".toml"), reworded),
    ".gz": regzipped,
    ".png": rechecked,
    ".json": restructured,
    ".safetensors": rewritten,
}


def cases(seed: int, start: int, stop: int, folder: Path) -> Iterator[tuple[int, str, bytes]]:
    """Number, suffix and content of each mutated file, a function of seed and number (not so times)."""
    valid = seeds(folder)
    suffixes = list(valid)
    for number in range(start, stop):
        rng = np.random.default_rng([seed, number])
        suffix = suffixes[number % len(suffixes)]
        content = valid[suffix][int(rng.integers(len(valid[suffix])))]
        inside = INSIDE.get(Path(suffix).suffix or suffix)
        yield number, suffix, (inside if inside is not None and rng.random() < 0.7 else mutate)(content, rng)


def try_one(suffix: str, path: Path) -> str:
    """What came of reading a file: "read", "refused", or the fault."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    faulthandler.dump_traceback_later(15 * SECONDS, exit=True)  # C code does not let the timer's error in
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            READERS[suffix](path)
        return "read"
    except NeurordlError as error:
        # the timer's error is wrapped like any other
        return "hang" if isinstance(error.__cause__, TimeoutError) else "refused"
    except TimeoutError:
        return "hang"
    except BaseException as error:
        return f"fault: {type(error).__name__}: {error}"
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def guard(folder: Path, faults: list[str]) -> None:
    """Note whatever a reader must never do."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in (
            "pickle.find_class",
            "subprocess.Popen",
            "os.system",
            "os.exec",
            "os.fork",
            "socket.connect",
        ):
            faults.append(f"fault: {event} {arguments!r:.80}")
        writes = event == "open" and any(mode in str(arguments[1]) for mode in "wax+")
        if writes and not str(arguments[0]).startswith(str(folder)):
            faults.append(f"fault: opened {arguments[0]!r} for writing")

    sys.addaudithook(hook)


def child(seed: int, start: int, stop: int, report: Path) -> None:
    """Read the files of one block; a line per file goes to the report as soon as it is done."""
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as name, open(report, "a", buffering=1) as log:
        folder = Path(name)
        (folder / "seeds").mkdir()
        mutated = cases(seed, start, stop, folder / "seeds")
        first = next(mutated)
        guard(folder, faults)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        for number, suffix, content in [first, *mutated]:
            path = folder / f"it{suffix}"
            path.write_bytes(content)
            log.write(f"{number}\tstart\t{suffix}\n")
            began = time.perf_counter()
            outcome = try_one(suffix, path)
            took = time.perf_counter() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            if faults:
                outcome = faults.pop()
                faults.clear()
            log.write(f"{number}\tdone\t{suffix}\t{outcome!r}\t{took:.3f}\t{peak}\n")


def run(files: int, seed: int, keep: Path | None) -> dict[str, collections.Counter[str]]:
    """All files, block by block; a block that dies goes on after the file that killed it."""
    counts: dict[str, collections.Counter[str]] = {suffix: collections.Counter() for suffix in READERS}
    slowest = peak = (0.0, -1)
    with tempfile.TemporaryDirectory() as name:
        start = 0
        while start < files:
            stop, report = min(start + BLOCK, files), Path(name) / f"{start}.tsv"
            command = [
                sys.executable,
                __file__,
                "--child",
                str(start),
                str(stop),
                str(report),
                "--seed",
                str(seed),
            ]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            lines = [line.split("\t") for line in report.read_text().splitlines()] if report.exists() else []
            if not lines:
                raise SystemExit(f"the child did not start: {done.stderr[-2000:]}")
            for line in lines:
                if line[1] != "done":
                    continue
                outcome = ast.literal_eval(line[3])
                counts[line[2]][outcome] += 1
                slowest = max(slowest, (float(line[4]), int(line[0])))
                peak = max(peak, (float(line[5]), -int(line[0])))  # of the process: the first to reach it
                if outcome not in ("read", "refused"):
                    save(seed, int(line[0]), keep)
            if done.returncode == 0:
                start = stop
                continue
            number, suffix = int(lines[-1][0]), lines[-1][2].strip()
            counts[suffix][f"crash: {done.returncode}"] += 1
            save(seed, number, keep)
            start = number + 1
    print(
        f"{files} files, seed {seed}; slowest {slowest[0]:.2f} s (number {slowest[1]}), "
        f"peak memory {peak[0]:.0f} MiB (number {-peak[1]})"
    )
    for suffix, outcomes in counts.items():
        print(suffix, dict(outcomes))
    return counts


def save(seed: int, number: int, keep: Path | None) -> None:
    if keep is None:
        return
    keep.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        _, suffix, content = next(cases(seed, number, number + 1, Path(name)))
    (keep / f"{seed}-{number}{suffix}").write_bytes(content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the files at which something went wrong")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.seed, int(options.child[0]), int(options.child[1]), Path(options.child[2]))
    else:
        result = run(options.files, options.seed, options.keep)
        sys.exit(any(set(outcomes) - {"read", "refused"} for outcomes in result.values()))
