"""Figures of scores over time: what is drawn where, and bad input."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from neurordl import (
    NeurordlError,
    evaluate,
    partition_variance,
    plot_scores,
    plot_time_course,
    regress_rdms,
)
from neurordl.plots import plot_layer_time, plot_model_time
from tests.helpers import random_rdms

IDS = [f"s{k}" for k in range(6)]
TIMES = [-0.1, 0.0, 0.1, 0.2]


@pytest.fixture(scope="module")
def scores() -> Any:
    models = random_rdms(IDS, seed=3, name=["first", "second"])
    names = [(person, time, roi) for person in "abc" for time in TIMES for roi in ("IT", "EVC")]
    columns = {
        name: list(x) for name, x in zip(("subject", "time", "roi"), zip(*names, strict=True), strict=True)
    }
    return evaluate(models, random_rdms(IDS, seed=1, **columns), comparison="corr")


def clusters(*rows: tuple[str, str, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["layer", "roi", "start", "stop", "p_holm"])


@pytest.fixture(autouse=True)
def close() -> Any:
    yield
    plt.close("all")


def lines(ax: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def test_lines_are_the_means_and_the_band_is_the_ceiling(scores: Any) -> None:
    ax = plot_time_course(scores, roi="IT")
    frame = scores.frame[(scores.frame["subject"] == "mean") & (scores.frame["roi"] == "IT")]
    assert list(lines(ax)) == ["first", "second"]
    for layer, line in lines(ax).items():
        part = frame[frame["layer"] == layer]
        np.testing.assert_array_equal(line.get_xdata(), TIMES)
        np.testing.assert_allclose(line.get_ydata(), part["score"])
    band = next(x for x in ax.collections if x.get_label() == "noise ceiling").get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(frame["ceiling_upper"].max())
    assert ax.get_xlabel() == "time (s)"
    assert ax.get_ylabel() == "RDM similarity (corr)"
    assert "3 subjects" in ax.get_legend().get_title().get_text()


def test_several_rois_have_lines_of_their_own_and_no_ceiling(scores: Any) -> None:
    ax = plot_time_course(scores.frame, layers=["first"])
    assert list(lines(ax)) == ["first, IT", "first, EVC"]
    assert not [x for x in ax.collections if x.get_label() == "noise ceiling"]


def test_bars_of_significant_clusters_and_triangles_of_onsets(scores: Any) -> None:
    table = clusters(("second", "IT", 0.0, 0.2, 0.01), ("first", "IT", 0.0, 0.1, 0.3))
    onsets = pd.DataFrame(
        {"layer": ["first"], "roi": ["IT"], "onset": [0.1], "onset_low": [0.0], "onset_high": [0.2]}
    )
    ax = plot_time_course(scores, roi="IT", clusters=table, onsets=onsets)
    color = lines(ax)["second"].get_color()
    bars = [line for line in ax.lines if list(line.get_xdata()) == [0.0, 0.2] and line.get_color() == color]
    assert len(bars) == 1
    assert not [line for line in ax.lines if list(line.get_xdata()) == [0.0, 0.1]]
    (mark,) = (line for line in ax.lines if line.get_marker() == "^")
    assert mark.get_color() == lines(ax)["first"].get_color()
    assert "clusters, p < 0.05" in ax.get_legend().get_title().get_text()
    # bars are below all data
    low = min(line.get_ydata().min() for line in lines(ax).values())
    assert ax.transAxes.transform((0, bars[0].get_ydata()[0]))[1] < ax.transData.transform((0, low))[1]


def test_clusters_of_a_difference_are_black_bars_and_foreign_ones_are_refused(scores: Any) -> None:
    difference = clusters(("first − second", "IT", 0.0, 0.1, 0.01), ("first − second", "IT", 0.2, 0.2, 0.5))
    ax = plot_time_course(scores, roi="IT", clusters=difference)
    bar = lines(ax)["first − second"]
    assert (list(bar.get_xdata()), bar.get_color()) == ([0.0, 0.1], "black")
    assert "clusters, p < 0.05" in ax.get_legend().get_title().get_text()
    assert "first − second" in [text.get_text() for text in ax.get_legend().get_texts()]
    alone = plot_time_course(scores, roi="IT", layers=["first"], clusters=difference)
    assert list(lines(alone)) == ["first"]  # the other layer is not shown
    with pytest.raises(NeurordlError, match="differences are drawn by plot_time_course"):
        plot_layer_time(scores, roi="IT", clusters=difference)
    for name in ("third", "first − third"):
        with pytest.raises(NeurordlError, match=f"clusters= are of {name}, and the scores of first, second"):
            plot_time_course(scores, clusters=clusters((name, "IT", 0.0, 0.1, 0.01)))


def test_the_picture_of_layers_and_times(scores: Any) -> None:
    ax = plot_layer_time(scores, roi="EVC", clusters=clusters(("first", "EVC", 0.0, 0.1, 0.01)))
    picture, veil = ax.collections
    frame = scores.frame[(scores.frame["subject"] == "mean") & (scores.frame["roi"] == "EVC")]
    expected = frame.pivot(index="layer", columns="time", values="score")
    np.testing.assert_allclose(picture.get_array(), expected)
    covered = veil.get_array()[..., 3]
    np.testing.assert_array_equal(covered == 0, [[False, True, True, False], [False] * 4])
    with pytest.raises(NeurordlError, match="one ROI"):
        plot_layer_time(scores)


def test_the_plane_of_model_times_and_times(scores: Any) -> None:
    steps = random_rdms(IDS, seed=5, time=[0.0, 0.1, 0.3])
    names = [(person, time) for person in "abc" for time in TIMES]
    columns = {"subject": [person for person, _ in names], "time": [time for _, time in names]}
    both = evaluate({"net": steps}, random_rdms(IDS, seed=1, **columns), comparison="corr")
    inside = np.zeros((3, 4), dtype=bool)
    inside[1, 1:3] = True
    table = clusters(("net", "", 0.0, 0.1, 0.01), ("net", "", 0.0, 0.1, 0.3)).assign(inside=[inside] * 2)
    ax = plot_model_time(both, clusters=table)
    picture, outline = ax.collections
    frame = both.frame[both.frame["subject"] == "mean"]
    expected = frame.pivot(index="model_time", columns="time", values="score")
    np.testing.assert_allclose(picture.get_array(), expected)
    # around two cells: three sides of each
    sides = {tuple(map(tuple, np.round(segment, 9))) for segment in outline.get_segments()}
    corners = [(-0.05, 0.05), (0.05, 0.05), (0.15, 0.05), (-0.05, 0.2), (0.05, 0.2), (0.15, 0.2)]
    a, b, c, d, e, f = corners
    assert sides == {(a, b), (b, c), (d, e), (e, f), (a, d), (c, f)}
    assert ax.get_xlabel() == "time (s); outlined: clusters, p < 0.05"
    assert ax.get_ylabel() == "time of net (s)"
    two = evaluate({"net": steps, "b": steps}, random_rdms(IDS, seed=1, **columns), comparison="corr")
    with pytest.raises(NeurordlError, match="one layer; choose layer= among net, b"):
        plot_model_time(two)
    assert plot_model_time(two, layer="b").get_ylabel() == "time of b (s)"
    with pytest.raises(NeurordlError, match="no column 'model_time'"):
        plot_model_time(scores)
    with pytest.raises(NeurordlError, match="no column 'inside'"):
        plot_model_time(both, clusters=clusters())
    with pytest.raises(NeurordlError, match="3 model times and 1 time; a picture needs two"):
        plot_model_time(both.frame[both.frame["time"] == 0.0])


def test_bad_input(scores: Any) -> None:
    flat = evaluate(random_rdms(IDS, name=["first"]), random_rdms(IDS, subject=["a", "b"]))
    with pytest.raises(NeurordlError, match="no column 'time'"):
        plot_time_course(flat)
    with pytest.raises(NeurordlError, match="layers='third'"):
        plot_time_course(scores, layers=["third"])
    with pytest.raises(NeurordlError, match="roi='V1'"):
        plot_time_course(scores, roi="V1")
    with pytest.raises(NeurordlError, match="clusters= has no column"):
        plot_time_course(scores, clusters=pd.DataFrame({"layer": []}))
    with pytest.raises(NeurordlError, match="plot_time_course"):
        plot_scores(scores)
    with pytest.raises(NeurordlError, match="a course needs two"):
        plot_time_course(scores.frame[scores.frame["time"] == 0.1])


@pytest.mark.parametrize(("upper", "cut"), [(0.6, True), (0.12, False)])
def test_a_noise_ceiling_far_above_the_courses_is_cut_off(upper: float, cut: bool) -> None:
    """The courses fill the axis, and the legend says how high it is; a near ceiling is drawn whole."""
    frame = pd.DataFrame({"time": TIMES, "score": [0.0, 0.02, 0.06, 0.04]})
    frame = frame.assign(layer="a", roi="", subject="mean", comparison="corr", ceiling_lower=0.05)
    frame = frame.assign(ci_low=frame["score"] - 0.01, ci_high=frame["score"] + 0.01, ceiling_upper=upper)
    ax = plot_time_course(frame)
    low, high = ax.get_ylim()
    assert low < -0.01
    assert high > 0.07
    assert (high < 0.12) == cut
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert ("noise ceiling,\ncut off: up to 0.6" in texts) == cut
    assert ("noise ceiling" in texts) != cut


def test_shares_of_variance_are_named_and_their_ceiling_is_a_line() -> None:
    models = random_rdms(IDS, seed=3, name=["first", "second"])
    names = [(person, time) for person in "abc" for time in TIMES]
    columns = {name: list(x) for name, x in zip(("subject", "time"), zip(*names, strict=True), strict=True)}
    rdms = random_rdms(IDS, seed=1, **columns)
    ax = plot_time_course(partition_variance(models, rdms))
    assert ax.get_ylabel() == "share of variance (corr)"
    ceiling = next(x for x in ax.collections if "noise ceiling" in x.get_label())
    assert ceiling.get_linewidth()[0] > 1  # its bounds are equal
    picture = plot_layer_time(regress_rdms(models, rdms))
    assert picture.child_axes[-1].get_ylabel() == "weight (ols, corr)"
