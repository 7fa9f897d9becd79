"""Pictures: what they show, on the Axes they are given."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection
from numpy.testing import assert_allclose, assert_array_equal
from rsatoolbox.rdm import RDMs
from scipy.spatial.distance import pdist
from torch import nn

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.plots import plot_layer_roi, plot_paired, plot_scores, plot_training, plot_transfer, style
from neurordl.plots.shares import _distance
from neurordl.plots.style import elided
from neurordl.rsa.evaluate import evaluate
from neurordl.rsa.scores import Evaluation
from neurordl.training.run import Run


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def scores(rois: tuple[str, ...] = ("IT",), subjects: int = 4) -> Evaluation:
    rng = np.random.default_rng(0)
    ids = {"stimulus": [f"s{k}" for k in range(6)]}
    model = RDMs(
        rng.random((3, 15)), rdm_descriptors={"layer": ["conv1", "conv2", ""]}, pattern_descriptors=ids
    )
    data = RDMs(
        rng.random((subjects * len(rois), 15)),
        rdm_descriptors={
            "subject": [f"p{k}" for k in range(subjects)] * len(rois),
            "roi": [name for name in rois for _ in range(subjects)],
        },
        pattern_descriptors={"stimulus": list(ids["stimulus"])},
    )
    return evaluate(model, data)


def conditions() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = [
        {
            "condition": name,
            "seed": seed,
            "test_accuracy": accuracy + 0.1 * seed,
            "heldout_rdm_similarity": similarity + 0.1 * seed + rng.normal(0, 0.001),
            "ceiling_lower": 0.45,
            "ceiling_upper": 0.54,
        }
        for name, accuracy, similarity in (("labels", 0.6, 0.1), ("rdl", 0.6, 0.3), ("permuted", 0.5, 0.1))
        for seed in range(5)
    ]
    return pd.DataFrame(rows)


def test_scores_show_means_intervals_subjects_and_ceiling():
    _, ax = plt.subplots()
    found = scores()
    assert plot_scores(found, ax) is ax
    mean = found.frame[found.frame["subject"] == "mean"]
    (container,) = ax.containers
    assert_allclose(container.lines[0].get_ydata(), mean["score"])
    bars = np.array([segment[:, 1] for segment in container.lines[2][0].get_segments()])
    assert_allclose(bars, mean[["ci_low", "ci_high"]])
    (band,) = (c for c in ax.collections if isinstance(c, FillBetweenPolyCollection))
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(mean["ceiling_lower"].iloc[0])
    assert heights.max() == pytest.approx(mean["ceiling_upper"].iloc[0])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["conv1", "conv2", "output"]
    dots = [line for line in ax.lines if line.get_marker() == "."]
    assert sum(len(line.get_ydata()) for line in dots) == 12


def test_scores_say_what_they_are_of(tmp_path):
    """Stimuli, subjects, and what intervals are over; also of a table read again."""
    found = scores(("EVC", "IT"))
    read = pd.read_csv(found.save(tmp_path) / "scores.csv")
    for one in (found, read):
        assert plot_scores(one).get_legend().get_title().get_text() == (
            "6 stimuli, 4 subjects (dots)\n95 % CI over subjects"
        )
    read.loc[read["subject"] == "mean", "generalizes_to"] = "subjects and stimuli"
    read.loc[(read["subject"] == "mean") & (read["roi"] == "IT"), "n_subjects"] = 3
    assert plot_scores(read).get_legend().get_title().get_text() == (
        "6 stimuli, 3 to 4 subjects (dots)\n95 % CI over subjects and stimuli"
    )
    assert plot_layer_roi(read).get_xlabel().splitlines()[:2] == ["ROI", "6 stimuli, 3 to 4 subjects"]
    alone = plot_scores(scores(subjects=1)).get_legend()
    assert alone.get_title().get_text() == "6 stimuli, 1 subject (dots)"
    assert [text.get_text() for text in alone.get_texts()] == ["IT mean"]
    bare = plot_scores(read[["layer", "roi", "subject", "score"]]).get_legend()
    assert bare.get_title().get_text() == ""


def test_training_subjects_are_crosses_with_a_legend_entry():
    """The other subjects are dots, and so are all of them without a run."""
    table = scores().to_frame()
    trained = table["subject"].isin(["p0", "p1"])
    table["fitted"] = np.where(trained, "stimuli: no, subjects: yes", "stimuli: no, subjects: no")
    ax = plot_scores(table)
    (crosses,) = (line for line in ax.lines if line.get_marker() == style.CROSS)
    (filled,) = (line for line in ax.lines if line.get_marker() == ".")
    assert_allclose(crosses.get_ydata(), table["score"][trained])
    assert_allclose(filled.get_ydata(), table["score"][~trained & (table["subject"] != "mean")])
    assert "training subjects" in [text.get_text() for text in ax.get_legend().get_texts()]
    labels = [text.get_text() for text in plot_scores(scores()).get_legend().get_texts()]
    assert "training subjects" not in labels


def test_scores_and_layers_by_rois_use_the_same_p():
    table = scores().to_frame()
    table.loc[table["subject"] == "mean", "p"], table.loc[table["subject"] == "mean", "p_fdr"] = 0.01, 0.2
    assert all(text.get_text().startswith("(") for text in plot_layer_roi(table).texts)
    assert not any(text.get_text().startswith("(") for text in plot_layer_roi(table, p="p").texts)


def test_dots_of_subjects_stand_around_their_layer_in_order():
    found = scores(("EVC", "IT"))
    ax = plot_scores(found, roi="IT")
    (dots,) = (line for line in ax.lines if line.get_marker() == ".")
    frame = found.frame[(found.frame["roi"] == "IT") & (found.frame["subject"] != "mean")]
    assert_allclose(dots.get_ydata(), frame["score"])
    assert_allclose(dots.get_xdata(), np.repeat([0, 1, 2], 4) + np.tile([-0.1, -1 / 30, 1 / 30, 0.1], 3))
    (one,) = (line for line in plot_scores(scores(subjects=1)).lines if line.get_marker() == ".")
    assert_allclose(one.get_xdata(), [0, 1, 2])


def test_ceilings_of_many_layers_join():
    """Behind each mark where there is room; else a band for each ROI, not slivers."""
    found = scores(("EVC", "IT")).to_frame()
    many = [found.assign(layer=found["layer"] + f"features.{k}") for k in range(23)]
    for frame, joined in ((found, False), (pd.concat(many), True)):
        bands = [c for c in plot_scores(frame).collections if isinstance(c, FillBetweenPolyCollection)]
        assert len(bands) == 2
        assert [len(band.get_paths()) == 1 for band in bands] == [joined] * 2


def bands_of(ax: Axes) -> list[str]:
    """Labels of the noise ceilings that are drawn."""
    return [str(c.get_label()) for c in ax.collections if isinstance(c, FillBetweenPolyCollection)]


def test_equal_ceilings_are_drawn_once():
    """All ROIs have the same: a gray band. Some have the same: they share a color and an entry."""
    found = scores(("EVC",)).to_frame()
    runs = [found.assign(roi=f"run{k}") for k in range(4)]
    ax = plot_scores(pd.concat(runs))
    assert bands_of(ax) == ["noise ceiling"]
    assert [text.get_text() for text in ax.get_legend().get_texts()].count("noise ceiling") == 1
    assert bands_of(plot_scores(runs[0])) == ["run0 noise ceiling"]
    runs[3]["ceiling_upper"] += 0.1
    drawn = [name for name in bands_of(plot_scores(pd.concat(runs))) if not name.startswith("_")]
    assert drawn == ["run0; run1; and 1 more\nnoise ceiling", "run3 noise ceiling"]
    nothing = pd.concat(runs).assign(ceiling_lower=np.nan, ceiling_upper=np.nan)
    assert bands_of(plot_scores(nothing)) == []


@pytest.mark.parametrize("n_rois", [2, 12])
@pytest.mark.parametrize("n_layers", [5, 8, 60])
@pytest.mark.parametrize("width", [None, 5.0])
def test_names_of_layers_do_not_touch(n_rois, n_layers, width, all_inside):
    """A new figure grows with marks and legend, up to the width of a page; a given one shortens its names."""
    rois = [f"ROI{k}" for k in range(n_rois)]
    found = scores(tuple(rois)).to_frame()
    found = found[found["layer"] == "conv1"]
    found["ceiling_upper"] += found["roi"].map(rois.index) / 100
    frame = pd.concat([found.assign(layer=f"block{k}") for k in range(n_layers)])
    ax = None if width is None else plt.subplots(figsize=(width, 3.5), layout="constrained")[1]
    ax = plot_scores(frame, ax, legend=width is None or n_rois < 3)
    ax.figure.canvas.draw()
    names = ax.get_xticklabels()
    boxes = [name.get_window_extent() for name in names]
    across = 0.0 if names[0].get_rotation() else 1.0
    if names[0].get_rotation() in (0, 90) and n_layers < 60:
        assert all(a.x1 + across < b.x0 for a, b in pairwise(boxes))
    if width is None:
        assert ax.figure.get_figwidth() <= style.WIDEST
        assert all_inside(ax)
        room = ax.get_window_extent().width / ax.figure.dpi
        assert room > min(2.3, 0.2 * n_layers)


@pytest.mark.parametrize(
    "names, shown, pattern",
    [
        (["conv1", "conv2"], ["conv1", "conv2"], ""),
        (["features.encoder.blocks.conv1", "features.encoder.blocks.conv2"], ["conv1", "conv2"],
         "features.encoder.blocks.*"),
        (["module.encoder.1.activation.x", "module.encoder.2.activation.x"], ["1", "2"],
         "module.encoder.*.activation.x"),
        (["a" * 30 + "1" + "b" * 20, "a" * 30 + "2" + "b" * 20], None, ""),
        (["a" * 30 + "1", "b" * 30 + "2"], ["aaaaaaaaaaa…aaaaaaaaaa1", "bbbbbbbbbbb…bbbbbbbbbb2"], ""),
        (["only.one.very.long.name.of.a.layer"], ["only.one.very.long.name.of.a.layer"], ""),
        (["output", "encoder.blocks.of.many.layers"], ["output", "encoder.blo…many.layers"], ""),
    ],
)  # fmt: skip
def test_long_names_are_elided_but_differ(names, shown, pattern):
    assert elided(names) == (shown or names, pattern)


def test_scores_of_rois_and_of_a_csv(tmp_path):
    found = scores(("EVC", "IT"))
    assert len(plot_scores(found).containers) == 2
    assert len(plot_scores(found, roi="IT").containers) == 1
    with pytest.raises(NeurordlError, match="roi='V4': expected one of 'EVC', 'IT'"):
        plot_scores(found, roi="V4")
    with pytest.raises(NeurordlError, match="roi='IT': the scores have no ROIs; leave roi= out"):
        plot_scores(found.to_frame().assign(roi=""), roi="IT")
    read = pd.read_csv(found.save(tmp_path) / "scores.csv")
    assert [t.get_text() for t in plot_scores(read).get_xticklabels()] == ["conv1", "conv2", "output"]


def test_scores_of_one_subject_have_neither_band_nor_bars():
    ax = plot_scores(scores(subjects=1))
    assert not [c for c in ax.collections if isinstance(c, FillBetweenPolyCollection)]
    ax.figure.canvas.draw()


def pairs_of(found: pd.DataFrame, **columns: object) -> pd.DataFrame:
    """Comparisons in which conv2 surpasses both others in each ROI, and nothing else is significant."""
    rows = [("conv1", "conv2", -0.1, 0.01), ("conv2", "", 0.1, 0.01), ("conv1", "", 0.3, 0.2)]
    frame = pd.DataFrame(rows, columns=["layer_a", "layer_b", "difference", "p_fdr"]).assign(**columns)
    return pd.concat([frame.assign(roi=roi) for roi in dict.fromkeys(found["roi"])], ignore_index=True)


def test_marks_of_scores_not_above_zero_are_open():
    found = scores().to_frame()
    means = found["subject"] == "mean"
    found.loc[means, "p"], found.loc[means, "p_fdr"] = [0.01, 0.05, 0.001], [0.2, 0.3, 0.01]
    for column, expected in (("p", [1]), ("p_fdr", [0, 1])):
        ax = plot_scores(found, p=column)
        (marks,) = (line for line in ax.lines if line.get_markerfacecolor() == "white")
        assert_array_equal(marks.get_xdata(), expected)
        assert_allclose(marks.get_ydata(), found.loc[means, "score"].iloc[expected])
    assert (
        "not significantly above zero\n(one-sided p ≥ 0.05,\nFDR-corrected over\n3 tests of the table)"
        in [t.get_text() for t in ax.get_legend().get_texts()]
    )
    found = found.drop(columns="p_holm")
    with pytest.raises(NeurordlError, match="the table of scores has no column 'p_holm'"):
        plot_scores(found, p="p_holm")


def test_pairs_stand_in_rows_above_the_data(all_inside):
    found = scores(("EVC", "IT")).to_frame()
    ax = plot_scores(found, differences=pairs_of(found))
    across = ax.get_xaxis_transform()
    rows = [line for line in ax.lines if line.get_transform() == across and line.get_marker() in ("o", "|")]
    shown = [(line.get_marker(), list(line.get_xdata())) for line in rows]
    assert shown == [("|", [0, 2]), ("o", [1])] * 2
    assert rows[0].get_color() != rows[2].get_color()
    heights = [line.get_ydata()[0] for line in rows]
    assert heights[0] == heights[1] > heights[2]
    low, high = ax.get_ylim()
    assert (found["score"].max() - low) / (high - low) < heights[2] < 1
    assert max(ax.get_yticks()) <= ax.spines["left"].get_bounds()[1] < high
    assert all_inside(ax)
    only = plot_scores(found, roi="IT", differences=pairs_of(found))
    assert sum(line.get_transform() == only.get_xaxis_transform() for line in only.lines) == 3


def test_pairs_undefined_or_not_significant_are_not_shown():
    found = scores().to_frame()
    plain, every = plot_scores(found), pairs_of(found)
    for pairs in (every.assign(p_fdr=np.nan), every.assign(difference=np.nan), every.iloc[:0]):
        assert len(plot_scores(found, differences=pairs).lines) == len(plain.lines)
    # an empty layer name comes back from a CSV as NaN
    read = every.assign(layer_b=every["layer_b"].replace("", np.nan))
    assert len(plot_scores(found, differences=read).lines) == len(plain.lines) + 3


def test_an_evaluation_holds_its_differences():
    found = scores(subjects=8)
    found.differences.loc[0, ["difference", "p_fdr"]] = [0.3, 0.001]
    plain = plot_scores(found)
    assert len(plot_scores(found, differences=True).lines) > len(plain.lines)
    with pytest.raises(NeurordlError, match="differences=True needs an Evaluation"):
        plot_scores(found.to_frame(), differences=True)


def test_the_mean_rdm_of_the_subjects_is_no_subject():
    found = scores().to_frame()
    group = found[found["subject"] == "mean"].assign(subject="group", score=0.99)
    both = plot_scores(pd.concat([found, group]))
    assert len(both.lines) == len(plot_scores(found).lines)


def test_pairs_that_do_not_belong_to_the_scores_are_refused():
    found = scores().to_frame()
    with pytest.raises(NeurordlError, match="layer 'conv9', which has no score"):
        plot_scores(found, differences=pairs_of(found, layer_a="conv9"))
    with pytest.raises(NeurordlError, match="the table of differences has no column 'p_holm'"):
        plot_scores(found, differences=pairs_of(found), p_differences="p_holm")
    twice = pairs_of(found)
    with pytest.raises(NeurordlError, match="'conv1' and 'conv2' twice for ROI 'IT'"):
        plot_scores(found, differences=pd.concat([twice, twice]))


def test_scores_of_two_methods_at_once_or_of_none_are_refused():
    found = scores().to_frame()
    with pytest.raises(NeurordlError, match="'conv1' has several means"):
        plot_scores(pd.concat([found, found.assign(comparison="corr")]))
    with pytest.raises(NeurordlError, match="is empty"):
        plot_scores(found.iloc[:0])


@pytest.mark.parametrize("many", [1, 4, 40])
def test_many_layers_long_names_and_undefined_scores(many, all_inside):
    found = scores(("EVC", "IT")).to_frame()
    one = found[found["layer"] == "conv1"]
    names = [f"encoder.layers.encoder_layer_{k}.mlp" for k in range(many)]
    frame = pd.concat([one.assign(layer=name, score=one["score"] - 0.5) for name in names])
    frame.loc[frame["layer"] == names[-1], ["score", "ci_low", "ci_high", "p"]] = np.nan
    for ax in (plot_scores(frame), plot_layer_roi(frame)):
        assert all_inside(ax)
    assert [text.get_text() for text in plot_scores(frame).texts] == [" undefined"] * 2


def test_layers_by_rois():
    found = scores(("EVC", "IT")).to_frame()
    means = found["subject"] == "mean"
    found.loc[means, "score"] = [0.1, -0.2, np.nan, 0.3, 0.4, 0.5]
    found.loc[means, "p_fdr"] = [0.01, 0.99, np.nan, 0.05, 0.04, 0.001]
    found.loc[means, "ceiling_lower"] = [0.2, 0.4, 0.4, 0.6, 0.0, np.nan]
    ax = plot_layer_roi(found)
    square = np.array([[0.1, 0.3], [-0.2, 0.4], [np.nan, 0.5]])
    assert_array_equal(ax.images[0].get_array().filled(np.nan), square)
    low, high = ax.images[0].get_clim()
    assert (low, high) == (-0.5, 0.5)  # zero is white
    assert [t.get_text() for t in ax.texts] == ["0.10", "(0.30)", "(−0.20)", "0.40", "–", "0.50"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["conv1", "conv2", "output"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["EVC", "IT"]
    share = plot_layer_roi(found, relative_to="ceiling_lower", roi=["IT", "EVC"])
    expected = [[0.5, 0.5], [np.nan, -0.5], [np.nan, np.nan]]
    assert_allclose(share.images[0].get_array().filled(np.nan), expected)
    with pytest.raises(NeurordlError, match="relative_to='upper'"):
        plot_layer_roi(found, relative_to="upper")
    with pytest.raises(NeurordlError, match="no column 'p_fdr'"):
        plot_layer_roi(found.drop(columns="p_fdr"), p="p_fdr")


def test_layers_by_rois_of_one_subject_have_no_test():
    ax = plot_layer_roi(scores(subjects=1))
    assert not any("(" in text.get_text() for text in ax.texts)
    assert ax.get_xlabel() == "ROI\n6 stimuli, 1 subject"
    assert ax.get_ylabel() == "model"
    table = scores(subjects=1).to_frame().assign(dissimilarity="correlation")
    assert plot_layer_roi(table).get_ylabel() == "layer"


def fitted(comparison: str = "corr") -> Run:
    history = pd.DataFrame({"epoch": [1, 2, 3], "step": [5, 10, 15], "loss": [3.0, 2.0, 1.0]})
    history = history.assign(**{"task": 2.0, "rdm:conv2": [0.9, 0.5, 0.4], "val_rdm:conv2": [0.8, 0.6, 0.7]})
    record = {"best": {"epoch": 2}, "objective": {"losses": {"rdm:conv2": {"comparison": comparison}}}}
    return Run(None, history.assign(lr=0.1, seconds=1.0), record)


def test_training_shows_terms_by_epoch_and_the_epoch_kept(all_inside):
    ax = plot_training(fitted())
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines) == ["total loss", "task", "rdm:conv2", "rdm:conv2, validation", "kept: epoch 2"]
    assert_allclose(lines["rdm:conv2"].get_xydata(), [[1, 0.9], [2, 0.5], [3, 0.4]])
    assert lines["rdm:conv2"].get_color() == lines["rdm:conv2, validation"].get_color()
    assert list(lines["kept: epoch 2"].get_xdata()) == [2, 2]
    of_table = plot_training(fitted().history, terms=["rdm:conv2"])
    assert [line.get_label() for line in of_table.lines] == ["rdm:conv2", "rdm:conv2, validation"]
    assert of_table.lines[0].get_color() == lines["rdm:conv2"].get_color()
    assert all_inside(plot_training(fitted().history.iloc[:1]))


def test_training_in_similarities():
    ax = plot_training(fitted(), similarity=True)
    assert [line.get_label() for line in ax.lines][:2] == ["rdm:conv2", "rdm:conv2, validation"]
    assert_allclose(ax.lines[0].get_ydata(), [0.1, 0.5, 0.6])
    assert ax.get_ylabel() == "RDM similarity"
    for without in (fitted("mse"), fitted().history):
        with pytest.raises(NeurordlError, match="no term shown is 1 - a similarity"):
            plot_training(without, similarity=True)
    with pytest.raises(NeurordlError, match="the history has no column 'rdm:conv9'"):
        plot_training(fitted(), terms=["rdm:conv9"])


def test_transfer_shows_each_condition_and_the_ceiling():
    ax = plot_transfer(conditions())
    assert len(ax.containers) == 3
    x, y = ax.containers[1].lines[0].get_xydata()[0]
    assert (x, y) == (pytest.approx(0.5, abs=0.01), pytest.approx(0.8))
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["noise ceiling", "labels", "rdl", "permuted"]
    bare = plot_transfer(conditions().assign(ceiling_lower=np.nan, ceiling_upper=np.nan))
    assert "noise ceiling" not in [text.get_text() for text in bare.get_legend().get_texts()]
    crossed = plot_transfer(conditions(), reference="labels")
    upright, level = (line for line in crossed.lines if line.get_linestyle() == ":")
    mean = conditions().query("condition == 'labels'")[["heldout_rdm_similarity", "test_accuracy"]].mean()
    assert_allclose([upright.get_xdata()[0], level.get_ydata()[0]], mean)
    with pytest.raises(NeurordlError, match="reference='none': expected one of 'labels'"):
        plot_transfer(conditions(), reference="none")
    with pytest.raises(NeurordlError, match="no column 'test_accuracy'"):
        plot_transfer(conditions().drop(columns="test_accuracy"))


def test_the_path_of_a_run():
    history = pd.DataFrame({"epoch": [1, 2, 3], "task": [2.0, 1.5, 1.0], "rdm": [0.9, 0.7, 0.6], "mse": 1.0})
    losses = {"rdm": {"comparison": "corr"}, "mse": {"comparison": "mse"}}
    run = Run(nn.Identity(), history, {"objective": {"losses": losses}})
    path, start = plot_transfer(run).lines
    assert_allclose(path.get_xydata(), [[0.1, 2.0], [0.3, 1.5], [0.4, 1.0]])
    assert_allclose(start.get_xydata(), [[0.1, 2.0]])
    assert path.get_label() == "rdm, fitted stimuli"
    run.history = history.assign(val_rdm=[0.8, np.nan, 0.5])  # of validation stimuli where there are some
    path, _ = plot_transfer(run).lines
    assert_allclose(path.get_xydata(), [[0.2, 2.0], [0.5, 1.0]])
    assert path.get_label() == "rdm, validation stimuli"
    with pytest.raises(NeurordlError, match="a run has no conditions"):
        plot_transfer(run, reference="labels")
    for lacking in (history[:1], history.drop(columns="task"), history.drop(columns="rdm")):
        run.history = lacking
        with pytest.raises(NeurordlError, match="no two epochs with a task loss"):
            plot_transfer(run)


def test_paired_differences_leave_out_what_seeds_share():
    frame = conditions().sample(frac=1, random_state=0)  # rows are paired by seed, not by position
    ax = plot_paired(frame, reference="labels")
    names = [t.get_text() for t in ax.get_yticklabels()]
    at = {name: c.lines[0].get_xdata()[0] for name, c in zip(names, ax.containers, strict=True)}
    assert at["rdl"] == pytest.approx(0.2, abs=0.005)
    assert at["permuted"] == pytest.approx(0.0, abs=0.005)
    bars = ax.containers[names.index("rdl")].lines[2][0].get_segments()[0]
    assert np.ptp(bars[:, 0]) < 0.01  # though over seeds the values spread by 0.4


def test_paired_refuses_what_is_not_paired():
    with pytest.raises(NeurordlError, match="reference='none': expected one of 'labels'"):
        plot_paired(conditions(), reference="none")
    twice = pd.concat([conditions().assign(fold=fold) for fold in (0, 1)])
    with pytest.raises(NeurordlError, match="pair="):
        plot_paired(twice)
    plot_paired(twice, pair=("seed", "fold"))
    apart = conditions()
    apart.loc[apart["condition"] == "rdl", "seed"] += 10
    with pytest.raises(NeurordlError, match="no pair in common"):
        plot_paired(apart)


def test_only_open_marks_are_explained():
    found = scores().to_frame()
    means = found["subject"] == "mean"
    tested = "all significantly above zero\n(one-sided p < 0.05"
    for p, text, face in ((0.001, tested, "0.3"), (0.2, "not signi", "white")):
        found.loc[means, ["p", "p_fdr"]] = p
        legend = plot_scores(found).get_legend()
        (k,) = (k for k, x in enumerate(legend.get_texts()) if x.get_text().startswith(text))
        assert legend.legend_handles[k].get_markerfacecolor() == face
        label = plot_layer_roi(found).get_xlabel()
        assert (("( ): not" in label), ("all significantly" in label)) == (face == "white", face != "white")


def test_tables_say_what_similarities_are():
    frame = conditions().assign(comparison="rho-a")
    assert plot_transfer(frame).get_xlabel() == "RDM similarity, held-out stimuli (rho-a)"
    assert plot_transfer(conditions()).get_ylabel() == "test accuracy (share of images)"
    label = plot_paired(frame, value="test_accuracy").get_xlabel().replace("\n", " ")
    assert label.startswith("test accuracy (share of images): difference from labels")
    label = plot_paired(frame).get_xlabel().replace("\n", " ")
    assert label.startswith("RDM similarity, held-out stimuli (rho-a): difference from labels")


def test_many_series_have_colors_of_their_own():
    assert style.palette(7) == list(style.COLOURS)
    for n in (8, 20, 40):
        assert len(set(style.palette(n))) == n


def test_axes_end_where_their_quantity_does():
    frame = conditions().assign(test_accuracy=1.0, heldout_rdm_similarity=np.resize([0.7, 0.99], 15))
    ax = plot_transfer(frame)
    assert ax.get_ylim()[1] == ax.get_xlim()[1] == 1
    assert not any(line.get_clip_on() for line in ax.lines if line.get_marker() in "os")
    percent = plot_transfer(frame.assign(test_accuracy=99.0))  # other units have other ends
    assert 99 < percent.get_ylim()[1] <= 100
    assert percent.get_ylabel() == "test accuracy (% of images)"
    table = scores(subjects=2).frame
    assert table["ci_high"].max() > 1
    assert plot_scores(table).get_ylim()[1] == 1
    assert plot_scores(table.assign(comparison="mine")).get_ylim()[1] > 1


def test_groups_of_stimuli_are_counted_in_the_legend():
    evaluation = scores()
    evaluation.settings["groups"] = list("aabbcc")
    texts = [text.get_text() for text in [plot_scores(evaluation).get_legend().get_title()]]
    assert texts[0].startswith("6 stimuli in 3 groups, 4 subjects (dots)")


def test_shares_are_drawn_as_bars_or_circles() -> None:
    rng = np.random.default_rng(0)
    ids = [f"s{k}" for k in range(20)]
    points = [rng.normal(size=(20, 4)) for _ in range(4)]
    parts = np.stack([pdist(x, "sqeuclidean") for x in points])
    names = list("ABCD")
    models = RDMs(parts + parts[0], rdm_descriptors={"name": names}, pattern_descriptors={"stimulus": ids})
    data = parts.sum(axis=0) + 3 * rng.normal(size=(6, parts.shape[1]))
    descriptors = {"subject": [f"p{k}" for k in range(6)] * 2, "roi": ["V1"] * 6 + ["IT"] * 6}
    people = RDMs(
        np.concatenate([data, data]), rdm_descriptors=descriptors, pattern_descriptors={"stimulus": ids}
    )
    for n in (2, 3):
        shares = nrl.partition_variance(models.subset("name", names[:n]), people)
        table = shares.frame.query("subject == 'mean' and roi == 'IT'")
        bars = nrl.plot_partition(shares, roi="IT")
        assert [round(bar.get_height(), 9) for bar in bars.patches] == table["score"].round(9).tolist()
        assert len(bars.get_xticklabels()) == 2**n
        circles = nrl.plot_partition(shares, roi="IT", circles=True)
        assert [text.get_text() for text in circles.get_legend().get_texts()] == names[:n]
        radii = [patch.get_radius() for patch in circles.patches[::2]]
        of_first = table[table["layer"].str.contains("A")]["score"].clip(lower=0).sum()
        assert np.pi * radii[0] ** 2 == pytest.approx(of_first)
        assert circles.texts[-1].get_text().split("\n")[-1].startswith("total 0.")
    with pytest.raises(NeurordlError, match="choose roi= among V1, IT"):
        nrl.plot_partition(shares)
    with pytest.raises(NeurordlError, match="four models have no picture of circles; take circles=False"):
        nrl.plot_partition(nrl.partition_variance(models, people, roi="IT"), circles=True)
    with pytest.raises(NeurordlError, match="are no shares of variance"):
        nrl.plot_partition(nrl.evaluate(models, people, roi="IT"))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_circles_overlap_by_their_area(share: float) -> None:
    first, second = 1.0, 0.7
    wanted = share * np.pi * second**2
    distance = _distance(first, second, wanted)
    grid = np.linspace(-1.8, 1.8, 2001)
    x, y = np.meshgrid(grid, grid)
    both = (x**2 + y**2 < first**2) & ((x - distance) ** 2 + y**2 < second**2)
    assert both.mean() * 3.6**2 == pytest.approx(wanted, abs=2e-3)
