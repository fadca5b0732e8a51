"""Figures show the record: what is drawn is compared with the numbers it is drawn from."""

import base64
import io
import json

import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_hex

import pictures
from superposition import figures, records
from superposition.figures import style
from superposition.stats import shape


@pytest.fixture(scope="module")
def record():
    return records.load("smollm2-128")


def test_heatmaps_show_P_in_the_order_given(record, drawn):
    order = np.argsort(record["relations"], kind="stable")
    figure = figures.heatmaps(record, [0, 15], order=order)
    shown = figure.axes[1].images[0]
    assert np.allclose(shown.get_array(), record.overlaps(15).P[np.ix_(order, order)])
    assert shown.norm.vmin == -shown.norm.vmax
    drawn(figure)


def test_by_depth_draws_the_records_statistics(record, drawn):
    inside = np.flatnonzero(np.array(record["token_positions"]) > 0)
    figure = figures.by_depth(record, {"other": [3.0, 2.0, 1.0]}, inside=inside)
    mean, spread, kurtosis, robust = figure.axes
    rows = record["statistics"]
    assert np.allclose(mean.lines[0].get_ydata(), [row["P"]["mean"] for row in rows])
    assert np.allclose(spread.lines[0].get_ydata(), [row["P"]["sd"] * np.sqrt(row["d_m"]) for row in rows])
    assert np.allclose(robust.lines[0].get_ydata(), [row["P"]["quantile_kurtosis"] for row in rows])
    subset = [shape.summary(record.overlaps(n).P[np.ix_(inside, inside)], resamples=0) for n in record["layers"]]
    assert np.allclose(kurtosis.lines[1].get_ydata(), [row["excess_kurtosis"] for row in subset])
    assert any(np.array_equal(line.get_ydata(), [3.0, 2.0, 1.0]) for line in kurtosis.lines)
    drawn(figure)


def test_densities_integrate_to_one(record, drawn):
    figure = figures.densities(record, [0, 29])
    for line in figure.axes[0].lines:
        x, y = line.get_data()
        assert np.nansum(y) * (x[1] - x[0]) == pytest.approx(1, abs=0.01)
    drawn(figure)


def test_angles_are_those_of_the_cosines(record, drawn):
    figure = figures.angles(record, [15])
    tallest = max(patch.get_xy()[:, 1].max() for patch in figure.axes[0].patches)
    degrees = np.degrees(np.arccos(np.clip(shape.off_diagonal(record.overlaps(15).cosine_whitened), -1, 1)))
    assert tallest == pytest.approx(np.histogram(degrees, np.linspace(0, 180, 73), density=True)[0].max(), rel=1e-6)
    drawn(figure)


def test_feedback_draws_root_mean_squares_and_the_law_it_is_given(drawn):
    n, rng = np.array([1, 4, 16]), np.random.default_rng(0)
    runs = {arm: np.exp(rng.normal(size=(6, 3)) / 9) * n for arm in ("moving", "no overlap")}
    figure = figures.feedback(n, runs, {"moving": 2.0 * np.arange(1, 17)})
    marks = [line for line in figure.axes[0].lines if line.get_marker() in "os"]
    for line, values in zip(marks, runs.values(), strict=True):
        assert np.allclose(line.get_ydata(), np.sqrt((values**2).mean(0)))
    assert any(np.array_equal(2.0 * line.get_xdata(), line.get_ydata()) for line in figure.axes[0].lines)
    drawn(figure)


def test_the_front_pages_pictures_are_drawn_from_the_records(tmp_path):
    drawn = pictures.draw(tmp_path)
    assert [path.name for path in drawn] == ["answer.png", "law.png"]
    for fresh in drawn:
        shipped = records.paths.records_dir().parent / "images" / fresh.name
        one, other = image.imread(fresh), image.imread(shipped)
        assert one.shape == other.shape
        assert np.abs(one - other).mean() < 0.01


def test_no_picture_in_the_book_is_cut_off_at_an_edge():
    """Titles, labels and legends end before the picture does: its outermost pixels are blank."""
    cut = []
    for path in sorted(records.paths.records_dir().parent.glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                if "image/png" not in output.get("data", {}):
                    continue
                picture = image.imread(io.BytesIO(base64.b64decode("".join(output["data"]["image/png"]))))[..., :3]
                rim = [picture[0], picture[-1], picture[:, 0], picture[:, -1]]
                if min(edge.min() for edge in rim) < 0.8:
                    cut.append((path.stem, "".join(cell["source"])[:60]))
    assert cut == []


def test_line_colours_differ_and_stand_out_from_white():
    assert len(set(map(to_hex, style.CYCLE))) == len(style.CYCLE)

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in style.mpl.colors.to_rgb(colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in style.CYCLE[:3]:
        assert 1.05 / (luminance(colour) + 0.05) > 3, colour


def test_residuals_along_a_sequence_are_running_medians_and_the_last_arm_may_be_short(drawn):
    rng = np.random.default_rng(0)
    arms = {name: np.exp(rng.normal(size=30)) for name in ("as edited", "one away", "another away")}
    figure = figures.residuals_along({"a": arms | {"forecast": arms["as edited"][:8]}, "b": arms})
    first = figure.axes[0].lines
    x, y = first[0].get_data()
    assert list(x[:2]) == [3, 4] and y[0] == np.median(arms["as edited"][:5]) and len(x) == 26
    assert first[0].get_linewidth() > first[1].get_linewidth()
    assert first[3].get_linestyle() == "--" and len(first[3].get_xdata()) == 4
    drawn(figure)
