"""Pictures that explain are drawn from the library's rules, and their words meet neither lines nor each other."""

import io
import itertools
import math

import numpy as np
import pytest
from matplotlib import image
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch, StepPatch
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from superposition import figures
from superposition.figures.colours import BLUE, GREEN, VERMILION
from superposition.linear import overlap, rules
from superposition.linear.memory import LinearMemory

RNG = np.random.default_rng(11)
C = np.array([[3.0, -1.0], [-1.0, 1.0]])
P = overlap.superposition_matrix(RNG.normal(size=(12, 8)), np.eye(12))
SAMPLES = {"round": RNG.normal(0, 0.03, 20_000), "with tails": 0.05 + 0.1 * RNG.standard_t(5, 20_000)}
PICTURES = {
    "block": figures.block_with_memory,
    "projection": figures.edit_as_projection,
    "undoing": figures.edits_that_undo,
    "triangles": lambda: figures.two_triangles(P),
    "gram_schmidt": figures.gram_schmidt,
    "tails": lambda: figures.tails_of_p(SAMPLES),
}


def words(figure):
    """Every text that is to be seen, with its box in pixels."""
    figure.draw_without_rendering()
    texts = [*figure.texts]
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes._left_title]
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            texts += [axis.label, *(tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)]
    return [(text, Text.get_window_extent(text)) for text in texts if text.get_visible() and text.get_text().strip()]


def strokes(axis):
    """Lines, arrows and outlines of an axes as paths in pixels, those of the frame and the ticks left out."""
    drawn = [line for line in axis.lines if line.get_linestyle() != "None"]
    drawn += [patch for patch in axis.patches if patch.get_edgecolor()[3] and patch.get_linewidth()]
    held = [(artist, artist.get_path()) for artist in drawn]
    held += [(collection, path) for collection in axis.collections for path in collection.get_paths()]
    for artist, path in held:
        for corners in artist.get_transform().transform_path(path).to_polygons(closed_only=False):
            yield Path(corners)


def collisions(figure, slack=1.0):
    """What is in the way of a text: another, a stroke, or the edge of the figure."""
    found, shown = [], words(figure)
    for text, box in shown:
        if not (figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1):
            found.append((text.get_text(), "left or right edge"))
        if not (figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1):
            found.append((text.get_text(), "upper or lower edge"))
    for (one, a), (other, b) in itertools.combinations(shown, 2):
        if Bbox.intersection(a.padded(-slack), b.padded(-slack)) is not None:
            found.append((one.get_text(), other.get_text()))
    for axis in figure.axes:
        inside = [(text, Bbox.intersection(box.padded(-slack), axis.bbox)) for text, box in shown]
        for path, (text, box) in itertools.product(strokes(axis), inside):
            if box is not None and path.intersects_bbox(box, filled=False):
                found.append((text.get_text(), "a stroke"))
    return found


def rendered(figure):
    held = io.BytesIO()
    figure.savefig(held, format="png")
    held.seek(0)
    return image.imread(held)


def arrows(axis, colour):
    """Start and end of the arrows of a colour, (n, 2, 2), in the order in which they were drawn."""
    drawn = [patch for patch in axis.patches if isinstance(patch, FancyArrowPatch)]
    return np.array([patch._posA_posB for patch in drawn if to_hex(patch.get_edgecolor()) == to_hex(colour)])


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_drawn_and_nothing_is_in_the_way_of_its_words(name, drawn):
    figure = drawn(PICTURES[name]())
    assert collisions(figure) == []
    assert min(text.get_fontsize() for text, _ in words(figure)) >= 9
    assert not figure.findobj(lambda artist: hasattr(artist, "get_array") and hasattr(artist, "get_extent"))
    assert len(figure.findobj()) < 600
    pixels = rendered(figure)[..., :3]
    assert min(edge.min() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])) > 0.8, "cut off"


def test_what_is_in_the_way_is_named():
    figure = figures.gram_schmidt()
    axis = figure.axes[0]
    axis.text(0.5, 0, "on a line")
    axis.text(1.5, 2, "so long a line that it goes on past the edge of the panel and of the figure").set_in_layout(
        False
    )
    named = {pair[0][:8] for pair in collisions(figure)}
    assert {"on a lin", "so long "} <= named


def test_shadows_are_p_and_so_are_the_shares_that_the_edited_memory_shows(drawn):
    k_e, others = np.array([1.0, 0.5]), RNG.normal(size=(2, 3))
    axis = drawn(figures.edit_as_projection(C, k_e, others)).axes[0]
    p = [overlap.superposition_matrix(np.column_stack([k_e, k]), C)[0, 1] for k in others.T]
    lengths = np.sqrt(np.einsum("in,in->n", others, np.linalg.solve(C, others)) / (k_e @ np.linalg.solve(C, k_e)))
    tips = arrows(axis, VERMILION)[:, 1]
    assert np.allclose(tips[:, 0], p)
    assert np.allclose(np.hypot(*tips.T), lengths)
    assert np.allclose(arrows(axis, BLUE), [[[0, 0], [1, 0]]])
    bars = [line.get_xdata() for line in axis.lines if line.get_linewidth() == 5]
    assert np.allclose(bars, [[0, 1], *([0, share] for share in p)])


def test_the_second_edit_takes_p_times_its_residual_from_the_first_fact(drawn):
    K, values, W = np.array([[1.0, 0.8], [0.3, -0.4]]), np.array([2.0, -1.0]), np.array([[0.2, 0.5]])
    apart, both = drawn(figures.edits_that_undo(K, values, C, W)).axes
    memory = LinearMemory(W, C)
    before = memory.recall(K)[0]
    memory.edit(K[:, 0], values[:1])
    between = memory.recall(K)[0]
    first, second = arrows(both, BLUE)[0], arrows(both, VERMILION)[0]
    assert np.allclose(first, [before, between]) and np.isclose(first[1, 0], values[0])
    p_21 = overlap.superposition_matrix(K, C)[1, 0]
    assert np.allclose(second[0], between) and np.isclose(second[1, 1], values[1])
    assert np.isclose(second[1, 0] - values[0], p_21 * (values[1] - between[1])) and abs(p_21) > 0.1
    assert np.allclose(arrows(apart, VERMILION)[0, 1], values)
    assert f"{p_21:.2g}" in both.get_title()


def test_the_lower_triangle_of_p_is_the_damage(drawn):
    axis = drawn(figures.two_triangles(P, column=3)).axes[0]
    found = {BLUE: np.zeros((8, 8)), VERMILION: np.zeros((8, 8))}
    for held in axis.collections:
        edge = to_hex(held.get_edgecolor()[0])
        for colour in found:
            if isinstance(held, PatchCollection) and edge == to_hex(colour):
                sign = 1 if to_hex(held.get_facecolor()[0]) == edge else -1
                for path in held.get_paths():
                    (left, top), (right, bottom) = path.get_extents().get_points()
                    found[colour][int((top + bottom) / 2), int((left + right) / 2)] = sign * (right - left) ** 2
    scale = 0.86**2 / np.abs(P - np.eye(8)).max()
    assert np.allclose(found[BLUE], scale * np.triu(P, 1))
    assert np.allclose(found[VERMILION], scale * np.tril(P, -1))

    K, memory = RNG.normal(size=(12, 8)), LinearMemory(np.zeros((1, 12)), np.eye(12))
    memory.edit_batch(K, RNG.normal(size=(1, 8)), "rome")
    below = np.tril(overlap.superposition_matrix(K, np.eye(12)), -1)
    assert np.allclose(memory.residuals @ below, memory.measured_interference_on_edits())
    assert np.allclose((memory.residuals @ below)[:, 2], memory.edit_error()[:, 2])


def test_a_framed_column_is_cut_at_the_diagonal():
    axis = figures.two_triangles(P, column=5).axes[0]
    thick = [patch.get_bbox().bounds for patch in axis.patches if patch.get_linewidth() > 2]
    assert thick == [(4, 0, 1, 4), (4, 5, 1, 3)]


def test_the_hard_recursion_steps_along_what_is_new_by_one_over_its_length(drawn):
    X = np.array([[0.6, 0.0, 0.7], [0.8, 1.0, 0.71]])
    figure = drawn(figures.gram_schmidt(X))
    for axis, x in zip(figure.axes, X[:, 1:].T, strict=True):
        new = x - X[:, 0] * (X[:, 0] @ x) / (X[:, 0] @ X[:, 0])
        start, end = arrows(axis, GREEN)[0]
        assert np.allclose(np.abs(end - start), [0, np.linalg.norm(new)])
        step = arrows(axis, BLUE)[0, 1]
        assert np.isclose(step[0], 0, atol=1e-9) and np.isclose(abs(step[1]), 1 / np.linalg.norm(new))
        change = rules.emmet(np.zeros((1, 2)), x[:, None], np.ones((1, 1)), np.eye(2), X[:, :1])
        assert np.isclose(np.linalg.norm(change), abs(step[1]))


def test_histograms_are_densities_and_their_tails_are_counted(drawn):
    figure = drawn(figures.tails_of_p(SAMPLES, beyond=3.0))
    for axis, values in zip(figure.axes, SAMPLES.values(), strict=True):
        steps = [patch.get_data() for patch in axis.patches if isinstance(patch, StepPatch)]
        area = sum(np.nansum(step.values * np.diff(step.edges)) for step in steps)
        assert area == pytest.approx(1, abs=1e-9)
        bulk, tails = (np.nansum(step.values * np.diff(step.edges)) for step in steps)
        far = np.abs(values - values.mean()) > 3 * values.std()
        assert tails == pytest.approx(far.mean(), abs=1e-9) and bulk > tails
        said = " ".join(text.get_text() for text in axis.texts)
        assert f"{far.sum():,} of 20,000" in said
        assert f"would have {20_000 * math.erfc(3 / 2**0.5):.0f}" in said
        x, y = axis.lines[0].get_data()
        assert np.sum(y) * (x[1] - x[0]) == pytest.approx(1, abs=1e-3)
        assert np.isclose(x[np.argmax(y)], values.mean())
