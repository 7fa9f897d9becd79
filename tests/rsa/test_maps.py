"""Searchlight maps of a group: kept person by person, in any executor, and tested as nilearn tests them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial, wraps
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import RDMs

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.rsa import maps as module

N, SHAPE = 7, (5, 5, 4)
IDS = [f"s{k}" for k in range(N)]
AFFINE = np.array([[-3.0, 0, 0, 20], [0, 3, 0, -10], [0, 0, 3, 5], [0, 0, 0, 1]])
LIKE = nib.Nifti1Image(np.zeros(SHAPE, np.float32), AFFINE)
OPTIONS: dict[str, Any] = {"radius": 2, "threshold": 0.5, "progress": False}


def person(seed: int, where: Any = None, known: bool = True) -> Dataset:
    """Patterns of a person, with the grid of their images."""
    at = np.argwhere(np.ones(SHAPE) if where is None else where)
    record = {"grid": {"shape": SHAPE, "affine": AFFINE.tolist()}}
    return Dataset(
        np.random.default_rng(seed).normal(size=(N, len(at))),
        {"subject": f"sub-{seed:02d}", **({"provenance": json.dumps(record)} if known else {})},
        {"stimulus": IDS},
        dict(zip("xyz", at.T, strict=True)),
    )


def by_name(subject: str) -> Dataset:
    return person(int(subject.removeprefix("sub-")))


def counted_by_name(subject: str, log: Path) -> Dataset:
    with log.open("a") as file:
        file.write(f"{subject}\n")
    return by_name(subject)


def broken(subject: str) -> Dataset:
    if subject == "sub-02":
        raise OSError("the disk of sub-02 is gone")
    return by_name(subject)


def models(seed: int = 9) -> RDMs:
    values = np.random.default_rng(seed).random((2, N * (N - 1) // 2))
    return RDMs(values, pattern_descriptors={"stimulus": IDS}, rdm_descriptors={"name": ["a", "b"]})


NAMES = [f"sub-{seed:02d}" for seed in range(1, 5)]


def expected(subject: str, **options: Any) -> Any:
    maps = nrl.searchlight(by_name(subject), models(), **{**OPTIONS, **options})
    return maps.image(LIKE).get_fdata()


def test_each_person_has_the_maps_of_searchlight(tmp_path: Path) -> None:
    for k, patterns in enumerate(
        ({name: by_name(name) for name in NAMES}, [by_name(name) for name in NAMES], by_name)
    ):
        folder = tmp_path / f"deep/{k}"
        maps = nrl.group_searchlight(patterns, models(), folder, subjects=NAMES, **OPTIONS)
        assert maps.subjects == tuple(NAMES)
        assert maps.models == ("a", "b")
        for name in NAMES:
            image = maps.image(name)
            assert_allclose(image.get_fdata(), expected(name), atol=1e-6)
            assert_array_equal(image.affine, AFFINE)
            record = json.loads((folder / f"{name}.json").read_text())
            assert record["subject"] == name
            assert record["models"] == ["a", "b"]
            assert record["settings"]["options"]["comparison"] == "corr"
            assert record["n_centers"] == int(np.isfinite(image.get_fdata()[..., 0]).sum())
        names = {path.name for path in folder.iterdir()}
        assert names == {"settings.json", *(f"{x}.{y}" for x in NAMES for y in ("json", "nii.gz"))}
        again = nrl.load_maps(folder, ["sub-03"])
        assert again.models == maps.models
        assert again.settings == maps.settings
        assert_array_equal(again.image("sub-03").get_fdata(), maps.image("sub-03").get_fdata())
    assert nrl.load_maps(folder).subjects == tuple(NAMES)


def test_files_of_rsatoolbox_and_an_image_for_the_grid(tmp_path: Path) -> None:
    files = {}
    for name in NAMES[:2]:
        files[name] = tmp_path / f"{name}.h5"
        person(int(name[-1]), known=False).save(str(files[name]), file_type="hdf5")
    with pytest.raises(
        NeurordlError, match=r"2 of 2 subjects were not computed .*grid .* not known; pass like="
    ):
        nrl.group_searchlight(files, models(), tmp_path / "maps", **OPTIONS)
    maps = nrl.group_searchlight(files, models(), tmp_path / "maps", like=LIKE, **OPTIONS)
    assert_allclose(maps.image("sub-02").get_fdata(), expected("sub-02"), atol=1e-6)
    with pytest.warns(
        UserWarning, match=r"the maps of 2 of 2 subjects were finished before in .*: sub-01, sub-02"
    ):
        nrl.group_searchlight(files, models(), tmp_path / "maps", like=LIKE, **OPTIONS)


def test_what_is_finished_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], module.searchlight

    @wraps(real)
    def spied(*args: Any, **options: Any) -> Any:
        calls.append(args[0].descriptors["subject"])
        return real(*args, **options)

    monkeypatch.setattr(module, "searchlight", spied)
    people = {name: by_name(name) for name in NAMES}
    run = partial(nrl.group_searchlight, models=models(), folder=tmp_path / "maps", **OPTIONS)
    run({name: people[name] for name in NAMES[:2]})
    with pytest.warns(UserWarning, match="2 of 4 subjects were finished before"):
        run(people)
    assert calls == NAMES
    before = (tmp_path / "maps" / "sub-01.nii.gz").read_bytes()
    (tmp_path / "maps" / "sub-02.nii.gz").write_bytes(b"damaged")
    (tmp_path / "maps" / "sub-03.json").write_text("[")
    people["sub-04"].measurements[0, 0] += 1
    with pytest.warns(UserWarning, match="the maps of sub-04 were computed again, since their patterns"):
        run(people)
    assert calls[4:] == NAMES[1:]
    assert (tmp_path / "maps" / "sub-01.nii.gz").read_bytes() == before
    log = tmp_path / "log.txt"
    for recheck, n_read in ((True, 4), (False, 1)):  # sub-04 is another one now
        log.write_text("")
        people["sub-04"].measurements[0, 0] += 1
        function = partial(counted_by_name, log=log)
        (tmp_path / "maps" / "sub-02.json").unlink()
        run(function, subjects=NAMES, recheck=recheck)
        assert len(log.read_text().split()) == n_read


def test_other_settings_are_refused(tmp_path: Path) -> None:
    people = {name: by_name(name) for name in NAMES[:1]}
    run = partial(nrl.group_searchlight, people, folder=tmp_path / "maps")
    run(models(), **OPTIONS)
    order = [3, 1, 0, 2, 6, 5, 4]
    moved = models()
    moved.reorder(np.array(order))
    run(moved, **OPTIONS)  # the same models in another order of stimuli
    other = models()
    other.dissimilarities[1, 3] += 1
    covariate = models(4).subset("name", "a")
    for rdms, options, said in (
        (models(), {"radius": 3}, r"differ in radius \(2 before, 3 now\)"),
        (models(), {"comparison": "spearman"}, r"comparison \(corr before, spearman now\)"),
        (models(), {"comparison": nrl.Partial(covariate, "corr")}, r"comparison .*controlled"),
        (models(), {"dtype": np.float32}, r"dtype \(float64 before, float32 now\)"),
        (other, {}, "differ in model b"),
        (models().subset("name", "a"), {}, "differ in .*model b"),
    ):
        with pytest.raises(NeurordlError, match=f"{said}.*; choose another folder, or delete that one"):
            run(rdms, **{**OPTIONS, **options})
    assert nrl.load_maps(tmp_path / "maps").models == ("a", "b")


@pytest.mark.parametrize("kind", ["threads", "processes", "no future"])
def test_executors_give_the_same_maps(tmp_path: Path, kind: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    if kind == "threads":
        executor: Any = ThreadPoolExecutor(2)
    elif kind == "processes":
        executor = ProcessPoolExecutor(2, mp_context=spawn)
    else:
        executor = Jobs()
    with executor:
        for k, patterns in enumerate((by_name, {name: by_name(name) for name in NAMES})):
            options = {**OPTIONS, "subjects": NAMES, "executor": executor}
            maps = nrl.group_searchlight(patterns, models(), tmp_path / str(k), **options)
            for name in NAMES:
                assert_allclose(maps.image(name).get_fdata(), expected(name), atol=1e-6)
        with pytest.raises(
            NeurordlError, match=r"1 of 4 subjects were not computed \(sub-02\); those of the "
        ):
            nrl.group_searchlight(broken, models(), tmp_path / "broken", **options)
        assert nrl.load_maps(tmp_path / "broken").subjects == ("sub-01", "sub-03", "sub-04")
        if kind == "processes":
            options["comparison"] = nrl.Partial(models(4).subset("name", "a"), "corr")
            maps = nrl.group_searchlight(by_name, models(), tmp_path / "partial", **options)
            want = expected("sub-01", comparison=options["comparison"])
            assert_allclose(maps.image("sub-01").get_fdata(), want, atol=1e-6)
            assert maps.settings["controlled"] == ["a"]
            with pytest.raises(NeurordlError, match="define functions at the top of a module or script"):
                nrl.group_searchlight(lambda name: by_name(name), models(), tmp_path / "x", **options)


class Jobs:
    """An executor like submitit's, whose jobs are no futures."""

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *problem: object) -> None:
        pass

    def submit(self, function: Any, *args: Any) -> Any:
        class Job:
            def result(self) -> Any:
                return function(*args)

            def cancel(self) -> None:
                pass

        return Job()


class Traces(Jobs):
    """An executor whose errors are the traceback as text, as submitit's are."""

    def submit(self, function: Any, *args: Any) -> Any:
        def traced() -> Any:
            try:
                return function(*args)
            except Exception as error:
                text = "".join(traceback.format_exception(error))
                logs = "You can check full logs with 'job.stderr(0)'\n  - logs/1_0_log.err"
                raise RuntimeError(f"Job (task=0) failed:\n{'-' * 22}\n{text}\n{'-' * 22}\n{logs}") from None

        return super().submit(traced)


def test_an_error_with_a_whole_traceback_is_one_line(tmp_path: Path) -> None:
    options: dict[str, Any] = {**OPTIONS, "subjects": NAMES, "executor": Traces()}
    with pytest.raises(
        NeurordlError, match=r"^the maps of 1 of .*\. sub-02: OSError: the disk of sub-02 is gone$"
    ):
        nrl.group_searchlight(broken, models(), tmp_path / "a", **options)
    with pytest.raises(NeurordlError, match=r"sub-01: radius=0: expected a number above 0.*'8 mm'$"):
        nrl.group_searchlight(by_name, models(), tmp_path / "b", **{**options, "radius": 0})


def test_notices_are_said_once_for_all_people(tmp_path: Path) -> None:
    people = {name: by_name(name) for name in NAMES}
    people["sub-02"].measurements[2, 7] = np.nan
    flat = models()
    flat.dissimilarities[:] = 0.5
    for k, executor in enumerate((None, ThreadPoolExecutor(2))):
        for _ in range(2):  # of finished people, too
            with pytest.warns(UserWarning, match="all scores are NaN") as caught:
                nrl.group_searchlight(people, flat, tmp_path / str(k), executor=executor, **OPTIONS)
            texts = [str(x.message) for x in caught]
            assert sum("all scores are NaN: the models are constant" in x for x in texts) == 1
            assert any(
                "all scores" in x and "(4 subjects: sub-01, sub-02, sub-03, sub-04)" in x for x in texts
            )
            assert any("hold NaN" in x and x.endswith("(1 subject: sub-02)") for x in texts)


SCRIPT = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import neurordl as nrl
from tests.rsa.test_maps import NAMES, OPTIONS, by_name, models

def slowly(subject):
    if subject in ("sub-03", "sub-04") and "slowly" in sys.argv:
        time.sleep(60)
    return by_name(subject)

if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        executor = executor if "processes" in sys.argv else None
        nrl.group_searchlight(slowly, models(), sys.argv[1], subjects=NAMES, executor=executor, **OPTIONS)
"""


def test_a_call_that_was_killed_goes_on(tmp_path: Path) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "maps"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    command = [sys.executable, str(script), str(folder)]
    process = subprocess.Popen([*command, "processes", "slowly"], env=environment, start_new_session=True)
    until = time.monotonic() + 100
    while time.monotonic() < until and not all((folder / f"{x}.json").is_file() for x in NAMES[:2]):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert nrl.load_maps(folder).subjects == tuple(NAMES[:2])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "the maps of 2 of 4 subjects were finished before" in done.stderr
    for name in NAMES:
        assert_allclose(nrl.load_maps(folder).image(name).get_fdata(), expected(name), atol=1e-6)


def test_what_is_shown(tmp_path: Path) -> None:
    maps = nrl.group_searchlight(by_name, models(), tmp_path, subjects=NAMES, **OPTIONS)
    assert str(maps).splitlines()[0] == "searchlights  4 subjects: sub-01, sub-02, sub-03, sub-04"
    assert "models        a, b" in str(maps)
    assert "radius 2, threshold 0.5, dissimilarity correlation, comparison corr" in str(maps)
    assert "Searchlight maps of 4 subjects" in maps._repr_html_()
    with pytest.raises(NeurordlError, match="subject='sub-09': there are maps of sub-01"):
        maps.image("sub-09")


def test_bad_input_of_groups(tmp_path: Path) -> None:
    run = partial(nrl.group_searchlight, models=models(), folder=tmp_path / "maps")
    text = tmp_path / "x.npy"
    text.write_text("")
    for patterns, options, said in (
        (by_name, {}, "patterns= is a function; name the subjects"),
        (by_name, {"subjects": ["a", "a"]}, "subjects= repeats a name: a, a"),
        (by_name("sub-01"), {}, "patterns= are of one person"),
        ([person(1), person(1)], {}, "each another name, but have 'sub-01', 'sub-01'"),
        ({}, {}, "patterns= is empty"),
        ({"a": person(1)}, {"subjects": ["b"]}, "subjects='b': patterns= has a"),
        ({"a": 5}, {}, "patterns of a: expected a Dataset or a file, got int"),
        ({"a": text}, {}, r"x.npy is no HDF5 file \(.h5\) of rsatoolbox"),
        ({"a": "nowhere.h5"}, {}, "there is no file nowhere.h5"),
        ({"a/b": person(1), "a b": person(2)}, {}, "subject 'a/b' names no file of its own"),
        ({"settings": person(1)}, {}, "subject 'settings' names no file of its own"),
        ({"a": person(1)}, {"radios": 3}, "searchlight has no option 'radios'; it has radius"),
        ({"a": person(1)}, {"comparison": "nonsense"}, "nonsense"),
        ({"a": person(1)}, {"surface": {}}, "surface= is the keys .*; expected the meshes of"),
        ({"a": person(1)}, {"executor": 4}, "executor: expected Executor, got int"),
        (lambda name: 5, {"subjects": ["a"]}, "a: the function of patterns= returned int, no Dataset"),
        ({"a": person(1)}, {"radius": 9}, "a: no voxel has"),
    ):
        with pytest.raises(NeurordlError, match=said):
            run(patterns, **options)
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(b"damaged")
    with pytest.raises(NeurordlError, match=r"cannot read .*damaged.h5: it is damaged"):
        nrl.group_searchlight({"a": damaged}, models(), tmp_path / "y")
    with pytest.raises(NeurordlError, match="is not empty and holds no searchlight maps"):
        nrl.group_searchlight({"a": person(1)}, models(), tmp_path)
    with pytest.raises(NeurordlError, match=r"has no settings.json, so it is no folder of group_searchlight"):
        nrl.load_maps(tmp_path)
    nrl.group_searchlight({"a": person(1)}, models(), tmp_path / "z", **OPTIONS)
    for text in ("{}", "[]"):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "settings.json").write_text(text)
        with pytest.raises(NeurordlError, match=r"settings.json is not written by group_searchlight; choose"):
            nrl.load_maps(tmp_path / "other")
    with pytest.raises(NeurordlError, match="has no finished maps of b; it has those of a"):
        nrl.load_maps(tmp_path / "z", ["b"])


def test_people_who_are_partly_there_are_told(tmp_path: Path) -> None:
    path = tmp_path / "maps"
    nrl.group_searchlight({name: person(k) for k, name in enumerate("abcd")}, models(), path, **OPTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nrl.load_maps(path).subjects == tuple("abcd")
    (path / "b.json").unlink()
    (path / "c.nii.gz").unlink()
    with pytest.warns(
        UserWarning, match=r"not all files \(.json, .nii.gz\) of 2 subjects, left out: b, c; call"
    ):
        assert nrl.load_maps(path).subjects == ("a", "d")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nrl.load_maps(path, ["a"]).subjects == ("a",)


def test_maps_on_the_grid_of_another_image_are_not_kept(tmp_path: Path) -> None:
    """The grid of patterns without a record is that of like=: a corrected one moves the maps."""
    people = {name: person(int(name[-1]), known=False) for name in NAMES[:2]}
    nrl.group_searchlight(people, models(), tmp_path / "maps", like=LIKE, **OPTIONS)
    moved = AFFINE.copy()
    moved[:3, 3] += 40
    like = nib.Nifti1Image(np.zeros(SHAPE, np.float32), moved)
    maps = nrl.group_searchlight(people, models(), tmp_path / "maps", like=like, **OPTIONS)
    assert_array_equal(maps.image("sub-01").affine, moved)
    with pytest.warns(UserWarning, match="the maps of 2 of 2 subjects were finished before"):
        nrl.group_searchlight(people, models(), tmp_path / "maps", like=like, **OPTIONS)
