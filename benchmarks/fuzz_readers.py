"""Feed mutated files to the readers: nothing but the package's own error comes out, and nothing is executed.

    python benchmarks/fuzz_readers.py --files 20000 --seed 0

Each file is a valid one of some format with a few bytes changed, cut out, doubled or replaced by large
numbers; for .npz and .nii.gz also with the change made before packing, so that its checksum is right. Files
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
import faulthandler
import gzip
import io
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.rdms import load_rdms

SECONDS = 20  # more for one small file is a hang
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


def read_events(path: Path) -> object:
    """Events, and the same file as confounds and as the table of betas."""
    with contextlib.suppress(NeurordlError):
        nrl.read_patterns(bold(), None, events(), confounds=path)
    with contextlib.suppress(NeurordlError):
        nrl.read_betas(bold(), path)
    return nrl.read_patterns(bold(), None, path)


READERS: dict[str, Callable[[Path], object]] = {
    **dict.fromkeys((".h5", ".mat", ".npz", ".npy", ".csv", ".tsv"), load_rdms),
    **dict.fromkeys((".nii", ".nii.gz"), read_image),
    **dict.fromkeys(("_events.tsv", "_events.csv"), read_events),
    **dict.fromkeys(
        ("_labels.tsv", "_labels.json"),
        lambda path: nrl.read_patterns(bold(), nrl.Regions(atlas(), path), events(), model="average"),
    ),
}


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Valid files of each format, by suffix."""
    import h5py
    import scipy.io
    from rsatoolbox.rdm import RDMs
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
    betas.to_csv(folder / "betas_events.tsv", sep="\t", index=False)
    named = pd.DataFrame({"index": [1, 2], "name": ["V1", "IT"]})
    named.to_csv(folder / "x_labels.tsv", sep="\t", index=False)
    (folder / "x_labels.json").write_text('{"1": "V1", "2": "IT"}')
    for path in sorted(folder.iterdir()):
        suffix = max((ending for ending in READERS if path.name.endswith(ending)), key=len)
        seeds[suffix].append(path.read_bytes())
    return seeds


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


def cases(seed: int, start: int, stop: int, folder: Path) -> Iterator[tuple[int, str, bytes]]:
    """Number, suffix and content of each mutated file: a function of the seed and the number alone."""
    valid = seeds(folder)
    suffixes = list(valid)
    for number in range(start, stop):
        rng = np.random.default_rng([seed, number])
        suffix = suffixes[number % len(suffixes)]
        content = valid[suffix][int(rng.integers(len(valid[suffix])))]
        inside = suffix in (".npz", ".nii.gz") and rng.random() < 0.7
        change = mutate if not inside else repacked if suffix == ".npz" else regzipped
        yield number, suffix, change(content, rng)


def try_one(suffix: str, path: Path) -> str:
    """What came of reading a file: "read", "refused", or the fault."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)  # C code does not let the timer's error in
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
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


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
