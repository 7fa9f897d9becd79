"""What the loaders share: the cache, and values that are standardized, on a miniature of NSD."""

from __future__ import annotations

import errno
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from neurordl.datasets import find_dataset, load_nsd
from neurordl.errors import NeurordlError
from tests.datasets import miniatures


def test_cache_is_a_memory_map_and_is_never_stale(nsd: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = load_nsd(nsd, 1, "floc-faces", sessions=[1, 2]).measurements
    first = load_nsd(nsd, 1, "floc-faces", sessions=[1, 2], cache=cache).measurements
    assert isinstance(first, np.memmap)
    np.testing.assert_array_equal(first, expected)
    files = set(cache.iterdir())
    written = [path.stat().st_mtime_ns for path in sorted(files)]
    load_nsd(nsd, 1, "floc-faces", sessions=[1, 2], cache=cache)
    assert set(cache.iterdir()) == files
    assert [path.stat().st_mtime_ns for path in sorted(files)] == written
    other = [
        load_nsd(nsd, 1, "floc-faces", sessions=[1, 3], cache=cache),
        load_nsd(nsd, 1, "OFA", sessions=[1, 2], cache=cache),
        load_nsd(nsd, 1, "floc-faces", sessions=[1, 2], standardize=True, cache=cache),
    ]
    assert len(set(cache.iterdir())) == 4 * len(files)
    assert other[1].measurements.shape[1] < first.shape[1]
    changed = shutil.copytree(nsd, tmp_path / "nsd")
    with h5py.File(next(changed.rglob("betas_session01.hdf5")), "a") as file:
        file["betas"][:] += 1
    again = load_nsd(changed, 1, "floc-faces", sessions=[1, 2], cache=cache)
    np.testing.assert_allclose(again.measurements[:12], expected[:12] + 1 / 300, rtol=1e-4, atol=1e-5)
    damaged = next(path for path in files if "kept" not in path.name)
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(NeurordlError, match=r"cannot read .*remove it"):
        load_nsd(nsd, 1, "floc-faces", sessions=[1, 2], cache=cache)


def test_a_full_disk_leaves_nothing_in_the_cache(
    nsd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", refuse, raising=False)
    with pytest.raises(NeurordlError, match="the disk is full"):
        load_nsd(nsd, 1, "floc-faces", sessions=[1], cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_cache_that_several_calls_fill_at_once_or_that_was_interrupted(
    nsd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: int) -> np.ndarray:
        return np.array(load_nsd(nsd, 1, "floc-faces", sessions=[1, 2], cache=tmp_path).measurements)

    expected = load_nsd(nsd, 1, "floc-faces", sessions=[1, 2]).measurements
    with ThreadPoolExecutor(4) as pool:
        for values in pool.map(load, range(4)):
            np.testing.assert_array_equal(values, expected)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    for path in files:  # which a call that was killed had not written yet
        path.unlink()
        np.testing.assert_array_equal(load(0), expected)
        assert sorted(tmp_path.iterdir()) == files
    for path in files:
        path.unlink()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("neurordl.datasets.large.nsd.values_of_volumes", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load(0)
    assert list(tmp_path.iterdir()) == []


def test_standardized_sessions(nsd: Path) -> None:
    raw = load_nsd(nsd, 1, "nsdgeneral", sessions=[1, 5]).measurements.astype(np.float64)
    patterns = load_nsd(nsd, 1, "nsdgeneral", sessions=[1, 5], standardize=True).measurements
    for part in (slice(0, 12), slice(12, 24)):
        expected = scipy.stats.zscore(raw[part], axis=0)
        np.testing.assert_allclose(patterns[part], expected, rtol=1e-4, atol=1e-5)


def test_a_session_of_one_trial_is_not_standardized(tmp_path: Path) -> None:
    folder = miniatures.nsd(tmp_path, sessions=1)
    (path,) = folder.rglob("nsd_expdesign.mat")
    design = {key: value for key, value in scipy.io.loadmat(path).items() if key[0] != "_"}
    pattern = np.zeros((40, 1, 12))
    pattern[0, 0, 0] = 1
    pattern[1:, 0, :] = 1
    design["masterordering"] = design["masterordering"][:, : int(pattern.sum())]
    scipy.io.savemat(path, design | {"stimpattern": pattern})
    (path,) = folder.rglob("betas_session01.hdf5")
    with h5py.File(path, "r+") as file:
        values = file["betas"][:1]
        del file["betas"]
        file["betas"] = values
    assert load_nsd(folder, 1, sessions=[1]).measurements.shape[0] == 1
    with pytest.raises(NeurordlError, match="no channel is left"):
        load_nsd(folder, 1, sessions=[1], standardize=True)


def test_registry_sends_to_the_loaders() -> None:
    for name in ("nsd", "NSD", "algonauts", "things", "bold5000"):
        with pytest.raises(NeurordlError, match=f"load_{name.lower()} reads it from the folder"):
            find_dataset(name)
