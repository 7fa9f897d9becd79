"""Stimuli that come in groups: resamples and variances of whole groups."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rsatoolbox.rdm import compare
from rsatoolbox.rdm.rdms import RDMs

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.rsa.compare import similarity
from neurordl.rsa.inference.fitted import Folds, Model, cross_validate, infer_fitted
from neurordl.rsa.inference.infer import infer
from neurordl.rsa.inference.resampling import Bootstrap, Draws, Jackknife

N, GROUPS = 12, 4
IDS = [str(k) for k in range(N)]
CATEGORY = [f"c{k % GROUPS}" for k in range(N)]  # mixed, not in blocks
OF = dict(zip(IDS, CATEGORY, strict=True))
MEMBER = np.arange(N) % GROUPS


def study(seed: int = 0, models: int = 3, subjects: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(N * (N - 1) // 2)
    return tuple(truth + rng.random((n, len(truth))) for n in (models, subjects))


def brain(data: np.ndarray, **descriptors) -> RDMs:
    names = {"subject": [f"p{k}" for k in range(len(data))]}
    return RDMs(data, rdm_descriptors=names, pattern_descriptors={"stimulus": IDS, **descriptors})


@pytest.mark.parametrize("variance", ["bootstrap", "components"])
@pytest.mark.parametrize("resample", ["stimuli", "both"])
def test_groups_of_a_single_stimulus_change_nothing(resample, variance):
    models, data = study()
    alone = infer(models, data, "corr", Bootstrap(resample, n=150, variance=variance))
    groups = {stimulus: f"group of {stimulus}" for stimulus in IDS}
    grouped = infer(models, data, "corr", Bootstrap(resample, n=150, variance=variance, groups=groups))
    assert_array_equal(alone.evaluations, grouped.evaluations)
    assert_array_equal(alone.model_var, grouped.model_var)
    assert alone.dof == grouped.dof


@pytest.mark.parametrize("method", ["corr", "rho-a", "cosine_cov"])
def test_resamples_of_groups_equal_those_of_rsatoolbox(method):
    models, data = study()
    scheme = Bootstrap("stimuli", n=8, groups=OF)
    found = infer(models, data, method, scheme)
    counts = scheme.draw(["a"] * 5, IDS).stimuli
    stacks = [RDMs(x, pattern_descriptors={"category": CATEGORY}) for x in (models, data)]
    for row, evaluation in zip(counts, found.evaluations, strict=True):
        assert_array_equal(row, row[:GROUPS][MEMBER])
        drawn = [f"c{k}" for k in range(GROUPS) for _ in range(row[k])]
        theirs = compare(*(rdms.subsample_pattern("category", drawn) for rdms in stacks), method)
        assert_allclose(theirs.mean(1), evaluation, rtol=1e-9)
    assert found.dof == GROUPS - 1


def test_components_of_groups_equal_plain_loops():
    models, data = study()
    scheme = Bootstrap("stimuli", n=200, variance="components", groups=OF)
    found = infer(models, data, "corr", scheme)
    counts = scheme.draw(["a"] * 5, IDS).stimuli[:, :GROUPS].astype(float)
    i, j = np.triu_indices(N, 1)
    without = []
    for group in range(GROUPS):
        kept = (MEMBER[i] != group) & (MEMBER[j] != group)
        without.append(similarity(models[:, kept], data[:, kept], "corr").mean(1))
    single = (GROUPS - 1) / GROUPS * ((without - np.mean(without, axis=0)) ** 2).sum(0)
    design = np.column_stack([np.ones(200), counts[:, 1:]])
    fit = design @ np.linalg.lstsq(design, found.evaluations, rcond=None)[0]
    pairs = ((found.evaluations - fit) ** 2).sum(0) / (200 - GROUPS)
    want = np.maximum(single - 2 * (GROUPS - 1) / (GROUPS - 2) * pairs, 0) + np.maximum(pairs, 0)
    assert_allclose(found.model_var, want, rtol=1e-9)


def test_a_jackknife_leaves_out_groups():
    models, data = study()
    model, folds = Model("w", models), Folds(splits=3)
    parts = folds.all_folds(5, N)
    found = infer_fitted([model], data, "corr", Jackknife("stimuli", groups=OF), folds)
    without = []
    for group in range(GROUPS):
        scores = cross_validate([model], data, "corr", parts, stimuli=(group != MEMBER).astype(int))[0]
        without.append(np.nanmean(scores))
    first = (GROUPS - 1) / GROUPS * ((without - np.mean(without)) ** 2).sum()
    assert found.variances[0, 0, 0] == pytest.approx(first, rel=1e-9)
    assert found.dof == GROUPS - 1
    alone = {stimulus: stimulus for stimulus in IDS}
    each, single = (
        infer_fitted([model], data, "corr", Jackknife("both", groups=groups), folds)
        for groups in (alone, None)
    )
    assert_array_equal(each.variances, single.variances)


@pytest.mark.parametrize(
    "each, groups, folds, n", [(1, 10, 2, 45), (1, 9, 2, 0), (3, 4, 2, 0), (4, 10, 2, 45), (4, 10, 4, 0)]
)
def test_pairs_of_groups_are_left_out_only_where_each_fold_keeps_three_stimuli(each, groups, folds, n):
    assert len(Jackknife("stimuli").pairs(np.arange(groups * each) % groups, folds)) == n


def test_evaluate_takes_groups_by_name_and_says_what_results_hold_for():
    models, data = study()
    rdms = brain(data, category=CATEGORY)
    layers = RDMs(models, rdm_descriptors={"layer": list("abc")}, pattern_descriptors={"stimulus": IDS})
    by_name = nrl.evaluate(layers, rdms, bootstrap=Bootstrap("both", n=100, groups="category"))
    by_id = nrl.evaluate(layers, rdms, bootstrap=Bootstrap("both", n=100, groups={**OF, "spare": "c9"}))
    assert by_name.frame.equals(by_id.frame)
    means = by_name.frame[by_name.frame["subject"] == "mean"]
    assert set(means["generalizes_to"]) == {"subjects and groups of stimuli"}
    order = sorted(IDS, key=int)
    assert by_name.settings["groups"] == [OF[stimulus] for stimulus in order]
    with pytest.warns(UserWarning, match="12 stimuli come in 4 groups by 'category', but each is resampled"):
        single = nrl.evaluate(layers, rdms, bootstrap=Bootstrap("both", n=100))
    assert single.settings["groups"] is None
    with pytest.warns(UserWarning, match="groups='category' to Jackknife"):
        nrl.evaluate_fitted({"w": layers}, rdms)
    frame = nrl.evaluate_fitted({"w": layers}, rdms, bootstrap=Jackknife("both", groups="category"))
    assert set(frame["generalizes_to"]) == {"subjects and groups of stimuli"}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda: Bootstrap("subjects", groups=OF), "groups= are of stimuli, and none are resampled"),
        (lambda: Jackknife("subjects", groups=OF), "groups= are of stimuli, and none are resampled"),
        (lambda: Bootstrap("both", groups=CATEGORY), "mapping from stimulus to group, or a name, not list"),
        (lambda: Bootstrap("both", groups={}), "mapping from stimulus to group, or a name, not dict"),
    ],
)
def test_groups_that_are_none(change, message):
    with pytest.raises(NeurordlError, match=message):
        change()


@pytest.mark.parametrize(
    "groups, message",
    [
        (dict.fromkeys(IDS[2:], "x"), "no group for 2 stimuli: 0, 1"),
        ("kind", "groups='kind', but what is known of the stimuli is: category"),
        (dict.fromkeys(IDS, "x"), "draws of 1 groups of stimuli"),
        (dict(zip(IDS, "aabb" * 3, strict=True)), "draws of 2 groups of stimuli"),
    ],
)
def test_stimuli_without_enough_groups(groups, message):
    models, data = study()
    rdms = brain(data, category=CATEGORY)
    layers = RDMs(models, rdm_descriptors={"layer": list("abc")}, pattern_descriptors={"stimulus": IDS})
    with pytest.raises(NeurordlError, match=message):
        nrl.evaluate(layers, rdms, bootstrap=Bootstrap("stimuli", n=100, groups=groups))


def test_infer_takes_groups_by_the_ids_of_rdms():
    """Ids that are numbers, of which some are left out, are not mistaken for places."""
    models, data = study()
    ids = [str(2 * k) for k in range(N)]
    names = {"subject": list("abcde")}
    rdms = RDMs(data, rdm_descriptors=names, pattern_descriptors={"stimulus": ids, "kind": CATEGORY})
    layers = RDMs(models, pattern_descriptors={"stimulus": ids})
    groups = {str(k): "other" for k in range(2 * N)} | dict(zip(ids, CATEGORY, strict=True))
    wanted = infer(models, data, "corr", Bootstrap("both", n=150, groups=OF))
    numbers = {int(stimulus): group for stimulus, group in groups.items()}
    for named in (groups, numbers, "kind"):
        result = infer(layers, rdms, "corr", Bootstrap("both", n=150, groups=named))
        assert_array_equal(result.model_var, wanted.model_var)
    with pytest.raises(NeurordlError, match="the draws do not fit 'both'"):
        infer(models, data, "corr", "both", draws=Draws())


@pytest.mark.parametrize("scheme", [Bootstrap, Jackknife])
@pytest.mark.parametrize("none", [None, float("nan"), "n/a", " "])
def test_stimuli_without_a_group_are_no_group(scheme, none):
    models, data = study()
    category = [*CATEGORY[:-2], none, none]
    layers = RDMs(models, pattern_descriptors={"stimulus": IDS})
    for groups in ("category", dict(zip(IDS, category, strict=True))):
        with pytest.raises(NeurordlError, match="no group for 2 stimuli: 10, 11"):
            nrl.evaluate_fitted(
                {"w": layers}, brain(data, category=category), bootstrap=scheme("both", groups=groups)
            )


def test_the_notice_of_groups_advises_what_can_be_done():
    models, data = study()
    layers = RDMs(models, pattern_descriptors={"stimulus": IDS})
    halves = brain(data, half=["a", "b"] * 6, none=["n/a", *CATEGORY[1:]])
    with pytest.warns(UserWarning, match="'half'.*which are too few to be resampled") as notices:
        nrl.evaluate(layers, halves, bootstrap=Bootstrap("stimuli", n=120))
    assert [notice.filename for notice in notices] == [__file__]
    by_halves = Bootstrap("stimuli", groups="half")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # more resamples would not help
        with pytest.raises(NeurordlError, match="draws of 2 groups"):
            nrl.evaluate(layers, halves, bootstrap=by_halves)


def test_the_repr_of_groups_is_short():
    assert repr(Bootstrap("both", groups=OF)) == ("Bootstrap('both', n=1000, seed=0, groups=<4 groups>)")
    assert repr(Jackknife("stimuli", groups="category")) == "Jackknife('stimuli', groups='category')"


@pytest.mark.parametrize("groups", [4, 7, 8])
def test_few_groups_are_a_note_with_their_number(groups):
    ids = [str(k) for k in range(16)]
    rng = np.random.default_rng(0)
    named = {"subject": ["a", "b", "c"]}
    data, model = (
        RDMs(rng.random((n, 120)), rdm_descriptors=names, pattern_descriptors={"stimulus": ids})
        for n, names in ((3, named), (1, {"layer": ["m"]}))
    )
    scheme = Bootstrap("both", n=150, groups={name: k % groups for k, name in enumerate(ids)})
    scores = nrl.evaluate(model, data, bootstrap=scheme)
    assert f"subjects and groups of stimuli ({groups} groups)" in scores.title
    text = (
        f"there are only {groups} groups of stimuli: intervals and p rest on {groups - 1} degrees of freedom"
    )
    assert any(note.startswith(text) for note in scores.notes) == (groups < 8)


def test_one_sided_p_beside_a_two_sided_interval_is_a_note():
    models, data = study(models=1)
    rdms = RDMs(models, rdm_descriptors={"layer": ["m"]}, pattern_descriptors={"stimulus": IDS})
    scores = nrl.evaluate(rdms, brain(data))
    for low, said in ((-0.01, True), (0.01, False)):
        frame = scores.frame.assign(p=0.04, ci_low=low)
        notes = nrl.Evaluation(frame, scores.match).notes
        assert (
            any(note.startswith("1 mean has p < .05 and an interval that includes 0") for note in notes)
            == said
        )
