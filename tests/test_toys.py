"""Toy worlds: the landmarks of the literature from many seeds, gradients against autograd, laws against simulation."""

import numpy as np
import pytest
import torch

from superposition import toys
from superposition.book import exercises
from superposition.errors import UserError
from superposition.linear import overlap, rules
from superposition.linear.memory import LinearMemory
from superposition.stats import shape
from superposition.stats.intervals import over_seeds
from superposition.stats.regression import log_slope
from superposition.studies.toys import FRACTIONS, forecast_kurtosis, forgetting
from superposition.toys import autoencoders, memory

# --- keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", toys.KINDS)
@pytest.mark.parametrize(("d_m", "N"), [(8, 5), (8, 17), (2, 1), (5, 40)])
def test_keys_have_the_shape_asked_for_and_depend_on_the_seed_alone(kind, d_m, N):
    K = toys.draw_keys(kind, d_m, N, np.random.default_rng(3))
    assert K.shape == (d_m, N) and np.isfinite(K).all() and (np.linalg.norm(K, axis=0) > 0).all()
    assert np.array_equal(K, toys.draw_keys(kind, d_m, N, np.random.default_rng(3)))
    assert not np.array_equal(K, toys.draw_keys(kind, d_m, N, np.random.default_rng(4)))


def test_each_kind_is_what_it_says():
    d_m, N = 64, 512
    K = {kind: toys.draw_keys(kind, d_m, N, np.random.default_rng(0)) for kind in toys.KINDS}
    cosine = {kind: overlap.cosines(k.T @ k) for kind, k in K.items()}
    blocks = [cosine["orthogonal"][i : i + d_m, i : i + d_m] for i in range(0, N, d_m)]
    assert all(np.allclose(block, np.eye(d_m), atol=1e-10) for block in blocks)
    same = cosine["duplicated"][np.arange(0, N, 8), np.arange(1, N, 8)]
    assert np.allclose(same, 1) and (cosine["duplicated"] > 1 - 1e-9).sum() == N + 2 * len(same)
    within = np.kron(np.eye(N // 8, dtype=bool), np.ones((8, 8), dtype=bool)) & ~np.eye(N, dtype=bool)
    assert cosine["clustered"][within].mean() == pytest.approx(0.5, abs=0.05)
    assert abs(cosine["clustered"][~within & ~np.eye(N, dtype=bool)].mean()) < 0.02
    logs = np.log(np.linalg.norm(K["heavy-tailed"], axis=0))
    assert logs.std() == pytest.approx(1, abs=0.1) and np.log(np.linalg.norm(K["random"], axis=0)).std() < 0.15
    assert np.linalg.cond(K["stretched"] @ K["stretched"].T) > 100 * np.linalg.cond(K["random"] @ K["random"].T)


# --- edited memories ----------------------------------------------------------------------------------------


def test_damage_along_a_sequence_is_that_of_shorter_ones():
    rng = np.random.default_rng(0)
    K, V = rng.normal(size=(6, 20)), rng.normal(size=(3, 20))
    K_e, V_e, watch = rng.normal(size=(6, 5)), rng.normal(size=(3, 5)), rng.normal(size=(6, 4))
    whole = LinearMemory.from_pairs(K, V)
    whole.edit_batch(K_e, V_e, "rome")
    damage = toys.damage_along(whole, watch, [1, 3, 5, 6])
    assert np.isnan(damage[3]), "there are five edits"
    for at, n in enumerate((1, 3, 5)):
        short = LinearMemory.from_pairs(K, V)
        for k, v in zip(K_e.T[:n], V_e.T[:n], strict=True):
            short.edit(k, v)
        moved = (short.W - short.W_0) @ watch
        assert damage[at] == pytest.approx(np.mean([m @ m for m in moved.T]))


def test_the_forgetting_law_against_projections_in_whitened_space():
    """A naive simulation: directions uniform, targets fixed, no library code in the loop."""
    rng = np.random.default_rng(1)
    d, d_m, n, sequences = 4, 12, 40, 1500
    W = W_0 = rng.normal(size=(sequences, d, d_m)) * 0.7
    curve = []
    for _ in range(n):
        k = rng.normal(size=(sequences, d_m))
        missing = rng.normal(size=(sequences, d)) - np.einsum("ldm,lm->ld", W, k)
        W = W + np.einsum("ld,lm->ldm", missing, k) / (k * k).sum(1)[:, None, None]
        curve.append(((W - W_0) ** 2).sum((1, 2)))
    whole = 0.49 * d * d_m + d * d_m / (d_m - 2)
    mean, low, high = over_seeds(np.array(curve).T)
    law = whole * forgetting(np.arange(1, n + 1), d_m)
    assert (np.abs(mean - law) < 2 * (high - low)).all()
    assert forgetting(0, 9) == 0 and forgetting(1, 4) == pytest.approx(0.25)


def test_the_hard_price_against_random_constraints():
    rng = np.random.default_rng(2)
    d_m = 30
    for n in (1, 10, 20):
        U = rng.normal(size=(3000, d_m, n))
        costs = np.linalg.inv(U.swapaxes(1, 2) @ U).trace(axis1=1, axis2=2)  # least change, residuals of size one
        assert costs.mean() == pytest.approx(n / (d_m - n - 1), rel=0.03)


def test_damage_grows_linearly_only_where_everything_leans():
    n = np.array([96, 128, 192, 256, 384])
    runs = np.array([[toys.grow(arm, seed, n) for seed in range(5)] for arm in toys.ARMS])
    _, low, high = over_seeds(np.array([log_slope(n, arm) for arm in runs]).T)
    assert (high[:2] < 0.2).all(), "fixed targets level off"
    assert low[2] < 0.5 < high[2] + 0.05, "random residuals wander"
    assert high[3] < 0.9, "alignment alone is not linear"
    assert 0.85 < low[4] and high[4] < 1.1, "aligned and leaning is linear"


@pytest.mark.parametrize("arm", list(toys.ARMS)[3:])
def test_aligned_damage_is_what_the_overlaps_foretell(arm):
    n = np.array([4, 32, 256])
    runs = np.array([toys.grow(arm, seed, n) for seed in range(8)])
    mean, square = np.mean([toys.moments_of_overlap(arm, seed, n=256) for seed in range(8)], axis=0)
    foretold = toys.growth_law(n, mean, square)
    assert np.sqrt((runs**2).mean(0)) == pytest.approx(foretold, rel=0.2)
    assert abs(mean - toys.ARMS[arm][2] ** 2) < 0.0015  # the watched keys' own scatter adds lean (1 - lean) / d_m


def test_the_growth_law_is_the_mean_over_draws():
    rng = np.random.default_rng(5)
    p = rng.normal(0.3, 0.5, size=(40_000, 12))
    runs = np.sqrt((p.sum(1) ** 2).mean())
    assert runs == pytest.approx(toys.growth_law(12, 0.09, 0.09 + 0.25), rel=0.02)
    assert toys.growth_law(12, 0.09, 0.34, aligned=0.0) == pytest.approx(np.sqrt(12 * 0.34))


def test_a_memory_below_its_capacity_forgets_nothing_and_a_full_one_follows_the_law():
    stops = [1, 12, 48, 96]
    assert np.nanmax([toys.forget(0.5, seed, stops) for seed in range(5)]) < 1e-6
    assert np.isnan(toys.forget(0.5, 0, stops)[2:]).all()
    runs = np.array([toys.forget(16, seed, stops) for seed in range(8)])
    assert np.abs(runs.mean(0) - forgetting(stops, 48)).max() < 0.06


def test_kinds_share_the_budget_but_not_the_tails():
    found = {kind: [toys.spread_of_damage(kind, seed) for seed in range(5)] for kind in toys.KINDS}
    of = {kind: {name: np.mean([run[name] for run in runs]) for name in runs[0]} for kind, runs in found.items()}
    assert of["stretched"]["kurtosis"] == pytest.approx(of["random"]["kurtosis"], abs=1e-6)
    for kind in ("stretched", "orthogonal", "clustered", "duplicated"):
        assert of[kind]["damage"] == pytest.approx(of["random"]["damage"], rel=0.15)
    assert of["duplicated"]["kurtosis"] > of["clustered"]["kurtosis"] > of["random"]["kurtosis"] + 0.5
    assert of["heavy-tailed"]["damage"] > 4 * of["random"]["damage"]
    assert of["heavy-tailed"]["kurtosis"] > 20 > 1 > of["heavy-tailed"]["kurtosis_cosine"]


@pytest.mark.parametrize("arm", list(toys.ARMS)[1:3])
def test_answers_of_the_unedited_memory_have_the_mean_square_that_theory_gives(arm):
    of = memory._draw_arm
    drawn = [of(arm, seed, 1, 16, 48, 256) for seed in range(40)]
    squares = [((unedited.W_0 @ watched) ** 2).mean() for unedited, _, _, watched in drawn]
    mean, low, high = over_seeds(np.array(squares))
    assert low < toys.mean_squared_answer(arm) < high and high - low < 0.1 * mean


@pytest.mark.parametrize("arm", toys.LOOPS)
@pytest.mark.parametrize("r", [8, 32])
def test_feedback_follows_its_law(arm, r):
    """Intervals over seeds are of the squares, whose mean the law states; they scatter like a product of n factors."""
    n = np.array([1, 4, 8, 16])
    changes = np.array([toys.change_along(toys.feedback(arm, seed, 16, r=r), n) for seed in range(40)])
    mean, low, high = over_seeds(changes**2)
    assert (np.abs(mean - toys.feedback_law(arm, n, 2.0, 1 / r) ** 2) < high - low).all()
    assert (high - low < 0.4 * mean).all() or arm == "moving"


def test_the_arms_of_feedback_come_in_order():
    for seed in range(5):
        ends = {arm: toys.change_along(toys.feedback(arm, seed), [24, 48]) for arm in toys.LOOPS}
        steps = {arm: late / early for arm, (early, late) in ends.items()}
        assert steps["moving"] > 5 > 1.6 > steps["anchored"] > 1.2 > steps["beforehand"] > 0.9
        assert steps["no overlap"] == pytest.approx(np.sqrt(2), rel=0.1)
        assert ends["moving"][1] > 10 * ends["anchored"][1] and ends["anchored"][1] > 1.3 * ends["beforehand"][1]


@pytest.mark.parametrize("arm", toys.LOOPS)
def test_every_edit_of_feedback_is_exact_and_as_long_as_it_says(arm):
    memory, c = toys.feedback(arm, 3, 20, c=1.5, r=6), 1.5
    W, first = memory.W_0, memory.W_0 @ memory.keys
    for i, (k, v, residual) in enumerate(zip(memory.keys.T, memory.values.T, memory.residuals.T, strict=True)):
        now = W @ k
        start = first[:, i] if arm == "beforehand" else now
        measure = now if arm in ("moving", "no overlap") else first[:, i]
        assert np.linalg.norm(v - start) == pytest.approx(c * np.linalg.norm(measure))
        assert residual == pytest.approx(v - now)
        W = W + np.outer(v - now, k) / (k @ k)
        assert W @ k == pytest.approx(v)
        assert toys.change_along(memory, [i + 1])[0] == pytest.approx(np.linalg.norm(W - memory.W_0))
    overlaps = overlap.superposition_matrix(memory.keys, np.eye(64))
    assert np.allclose(overlaps, np.eye(20)) is (arm == "no overlap")


def test_targets_found_beforehand_never_add_up_to_more_than_a_random_walk():
    """``‖D_n‖² = ‖D_{n-1}‖² - ‖D_{n-1}k_n‖² + ‖ε_n‖²``, for any keys of length one."""
    memory = toys.feedback("beforehand", 1, 40, r=5)
    asked = ((memory.values - memory.W_0 @ memory.keys) ** 2).sum(0)
    undone = ((memory.residuals - memory.values + memory.W_0 @ memory.keys) ** 2).sum(0)
    squares = toys.change_along(memory, np.arange(1, 41)) ** 2
    assert squares == pytest.approx(np.cumsum(asked - undone))
    assert (squares <= np.cumsum(asked) + 1e-9).all()


def test_overlap_sets_the_rate_and_only_directions_that_spare_later_keys_stop_the_loop():
    n, edits = 40, np.arange(1, 41)
    keys = toys.feedback("moving", 0, n, r=64).keys
    M = rules.emmet_directions(keys, np.eye(64))
    spare = toys.feedback("moving", 0, n, r=64, rule=lambda K, C, before: M[:, [before.shape[1]]])
    assert np.allclose(spare.directions.T @ spare.keys, np.eye(n), atol=1e-8)
    lengths = np.linalg.norm(spare.residuals, axis=0)
    assert lengths == pytest.approx(2 * np.linalg.norm(spare.W_0 @ keys, axis=0)), "as if no edit had been before"
    logs = {}
    for rule in ("rome", "rls-hard"):
        runs = [toys.change_along(toys.feedback("moving", seed, n, r=64, rule=rule), edits) for seed in range(12)]
        logs[rule] = np.log(runs).mean(0)
    assert logs["rls-hard"][-1] > logs["rome"][-1] + np.log(1.5), "the hard recursion spares earlier keys only"


@pytest.mark.parametrize("arm", toys.LOOPS)
def test_the_law_of_feedback_solves_its_recurrence(arm):
    n, (c, q, a) = np.arange(1, 30), (1.9, 0.05, 0.7)
    squared = [0.0]
    for _ in n:
        added = {"moving": c**2 * (a + q * squared[-1]), "beforehand": c**2 * a - q * squared[-1]}
        squared.append(squared[-1] + added.get(arm, c**2 * a))
    assert toys.feedback_law(arm, n, c, q, a) ** 2 == pytest.approx(np.array(squared[1:]))
    assert toys.feedback_law("moving", n, 2.0, 0.0) == pytest.approx(2 * np.sqrt(n))


def test_later_edits_suffer_less_and_the_last_not_at_all():
    runs = np.array([toys.suffer(seed) for seed in range(5)])
    thirds = runs.reshape(5, 3, -1).mean((0, 2))
    assert thirds[0] > thirds[1] > thirds[2] and runs[:, -1].max() < 1e-20


# --- autoencoders -------------------------------------------------------------------------------------------


def test_gradients_are_those_of_autograd():
    torch.manual_seed(0)
    W, b = torch.randn(2, 3, 2, 5, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    x, weight = torch.rand(2, 3, 5, 7, dtype=torch.float64), torch.rand(3, 5, 1, dtype=torch.float64)
    W.requires_grad_(), b.requires_grad_()
    h = torch.einsum("srmn,srnc->srmc", W, x)
    x_hat = torch.relu(torch.einsum("srmn,srmc->srnc", W, h) + b[..., None])
    (weight * (x_hat - x) ** 2).sum().backward()
    with torch.no_grad():
        dW, db = autoencoders._gradients(W.detach(), b.detach(), x, weight)
        assert torch.allclose(dW, W.grad) and torch.allclose(db, b.grad)
        assert torch.allclose(toys.autoencode(W, b, x), x_hat)


def test_a_model_does_not_feel_the_others():
    options = {"steps": 30, "batch": 64}
    crowd = toys.train_autoencoders(4, 2, [1.0, 0.2], importance=[1, 0.5, 0.3, 0.2], seeds=[5, 9], **options)
    alone = toys.train_autoencoders(4, 2, [0.2], importance=[1, 0.5, 0.3, 0.2], seeds=[9], **options)
    assert np.allclose(crowd.W[1, 1], alone.W[0, 0], atol=1e-5)
    assert np.allclose(crowd.b[1, 1], alone.b[0, 0], atol=1e-5)
    assert crowd.loss[1, 1] == pytest.approx(alone.loss[0, 0], rel=1e-4)
    assert not np.allclose(crowd.W[0, 1], crowd.W[1, 1], atol=1e-2)


def test_the_loss_is_that_of_fresh_features():
    importance = np.array([1, 0.5, 0.3, 0.2])
    models = toys.train_autoencoders(4, 2, [0.8, 0.2], importance=importance, seeds=[0], steps=50)
    for c, q in enumerate((0.8, 0.2)):
        x = toys.sample_features(np.random.default_rng(0).random((4, 50_000)), q)
        missed = (toys.autoencode(models.W[0, c], models.b[0, c], x) - x) ** 2
        assert models.loss[0, c] == pytest.approx((importance @ missed).mean(), rel=0.1)


def test_features_are_there_with_their_probability_and_uniform():
    u = np.random.default_rng(0).random(200_000)
    for q in (1.0, 0.3, 0.05):
        x = toys.sample_features(u, q)
        there = x[x > 0]
        assert len(there) / len(x) == pytest.approx(q, abs=0.005)
        assert np.allclose(np.quantile(there, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.02)
    moment = toys.feature_moment(3, 0.3)
    x = toys.sample_features(np.random.default_rng(1).random((3, 400_000)), 0.3)
    assert np.allclose(x @ x.T / x.shape[1], moment, atol=2e-3)


AUTOENCODER = {"n": 3, "m": 2, "density": [0.5], "steps": 1}


@pytest.mark.parametrize(
    ("function", "wrong", "words"),
    [
        (toys.draw_keys, {"kind": "round", "d_m": 4, "N": 4, "rng": np.random.default_rng(0)}, "choose from random"),
        (toys.draw_keys, {"kind": "random", "d_m": 4, "N": 0, "rng": np.random.default_rng(0)}, "1 or more"),
        (toys.draw_facts, {"n": 10, "count": 5, "density": 1e-4, "rng": np.random.default_rng(0)}, "hardly ever"),
        (toys.feedback, {"arm": "still", "seed": 0}, "choose from moving, anchored"),
        (toys.feedback, {"arm": "moving", "seed": 0, "r": 65}, "r is 65"),
        (toys.feedback, {"arm": "no overlap", "seed": 0, "n": 65}, "65 keys cannot be orthogonal"),
        *((toys.train_autoencoders, AUTOENCODER | {"density": q}, "probabilities") for q in ([0.0], [1.5], [])),
        *((toys.train_autoencoders, AUTOENCODER | wrong, "1 or more") for wrong in ({"n": 0}, {"seeds": []})),
        *((toys.train_autoencoders, AUTOENCODER | {"importance": x}, "3 weights") for x in ([1.0], [-1.0, 1, 1])),
    ],
)
def test_what_makes_no_sense_is_refused(function, wrong, words):
    with pytest.raises(UserError, match=words):
        function(**wrong)


# Landmarks of Elhage et al. (2022), each from several seeds.


def test_dense_features_get_two_orthogonal_directions():
    W = toys.train_autoencoders(5, 2, [1.0], importance=0.9 ** np.arange(5), seeds=range(8), steps=1500, rate=2e-2).W
    for model in W[:, 0]:
        length = np.linalg.norm(model, axis=0)
        assert set(np.flatnonzero(length > 0.5)) == {0, 1}
        assert abs(model[:, 0] @ model[:, 1]) / (length[0] * length[1]) < 0.15


@pytest.mark.parametrize(
    ("n", "m", "q", "init", "shapes"),
    [
        (6, 3, 0.05, 0.1, ["antipodal pair"]),
        (5, 2, 0.05, 0.1, ["pentagon"]),
        (8, 3, 0.05, 0.1, ["square antiprism"]),
        (24, 16, 0.55, 1.0, ["antipodal pair", "triangle", "tetrahedron"]),
    ],
)
def test_dimensionality_sticks_where_features_make_a_shape(n, m, q, init, shapes):
    W = toys.train_autoencoders(n, m, [q], seeds=range(8), steps=1500, rate=2e-2, init=init).W[:, 0]
    for name in shapes:
        D = [[toys.feature_dimensionality(group) for group in toys.find_shape(model, name)] for model in W]
        assert sum(any(np.abs(d - FRACTIONS[name]).max() < 0.025 for d in found) for found in D) >= 5, name
    if len(shapes) == 1:  # all features are alike
        assert (np.abs(toys.feature_dimensionality(W) - FRACTIONS[name]).max(-1) < 0.025).sum() >= 5


def test_some_features_get_a_dimension_of_their_own():
    W = toys.train_autoencoders(12, 8, [0.5], seeds=range(8), steps=1500, rate=2e-2).W[:, 0]
    assert (np.abs(toys.feature_dimensionality(W) - 1) < 0.025).any(-1).sum() >= 5


def test_a_shape_with_arrows_reversed_is_not_that_shape():
    tetrahedron = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]]).T
    flipped = tetrahedron * [1, 1, 1, -1]
    assert np.allclose(toys.feature_dimensionality(flipped), 3 / 4)
    assert len(toys.find_shape(tetrahedron, "tetrahedron")) == 1 and toys.find_shape(flipped, "tetrahedron") == []
    assert toys.find_shape(tetrahedron, "pentagon") == []


def test_the_loss_of_a_pair_is_its_integral():
    """The two layouts of eq-toys-losses, and a trained model's own estimate."""
    q, importance = np.array([0.3, 0.3]), np.array([[1.0, 0.5], [1.0, 0.5]])
    W, b = np.array([[1.0, -1.0], [1.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 0.15]])
    pair, dropped = toys.pair_loss(W, b, q, importance)
    assert pair == pytest.approx(1.5 * 0.3**2 / 6, rel=1e-3)
    assert dropped == pytest.approx(0.5 * (0.3 / 3 - 0.3**2 / 4), rel=1e-3)
    trained = toys.train_autoencoders(2, 1, [0.3], seeds=range(6), steps=400, rate=2e-2)
    exact = [toys.pair_loss(trained.W[s, 0], trained.b[s], q[:1], np.ones((1, 2)))[0] for s in range(6)]
    assert trained.loss[:, 0] == pytest.approx(np.array(exact), rel=0.15)


def test_pairs_pay_below_the_predicted_density_and_not_above():
    """q* = 4/7 for two equal features in one dimension."""
    W = toys.train_autoencoders(2, 1, [0.3, 0.8], seeds=range(20), steps=1000, rate=2e-2).W[:, :, 0]
    both = (np.abs(W) > 0.8).all(-1) & (W.prod(-1) < 0)
    assert both[:, 0].sum() >= 5 and both[:, 1].sum() == 0


# Measures of features.


def test_dimensionality_of_known_shapes():
    turn = 2 * np.pi * np.arange(5) / 5
    shapes = {
        "dedicated": np.eye(3),
        "antipodal pair": np.array([[1.0, -1.0]]),
        "triangle": np.array([np.cos(turn[:3] * 5 / 3), np.sin(turn[:3] * 5 / 3)]),
        "pentagon": np.array([np.cos(turn), np.sin(turn)]),
        "tetrahedron": np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]]).T,
    }
    for name, W in shapes.items():
        assert np.allclose(toys.feature_dimensionality(2.5 * W), FRACTIONS[name])
    assert np.array_equal(toys.feature_dimensionality(np.array([[1.0, 0], [0, 0]])), [1, 0])


def test_groups_come_apart_as_they_were_put_together():
    rng = np.random.default_rng(0)
    triangle = np.array([np.cos(2 * np.pi * np.arange(3) / 3), np.sin(2 * np.pi * np.arange(3) / 3)])
    W = np.zeros((5, 7))
    W[:2, [0, 3, 5]], W[2, [1, 4]], W[3, 2], W[4, 6] = triangle, [1, -1], 1, 0.1
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    groups = toys.feature_groups(rotation @ W)
    assert [(who, shape.shape) for who, shape in groups] == [([0, 3, 5], (2, 3)), ([1, 4], (1, 2)), ([2], (1, 1))]
    shape = groups[0][1]
    assert np.allclose(shape.T @ shape, triangle.T @ triangle)


# The bridge to p.


def test_features_as_keys():
    turn = 2 * np.pi * np.arange(5) / 5
    W = np.array([np.cos(turn), np.sin(turn)])
    found = toys.features_as_keys(W, 0.1)
    assert found["count"] == 5 and found["max"] == pytest.approx(np.cos(turn[1]))
    assert found["min"] == pytest.approx(np.cos(turn[2])) and found["mean"] == pytest.approx(-1 / 4)
    assert found["squared"] == pytest.approx(2 * np.mean(np.cos(turn[1:]) ** 2))
    W = np.random.default_rng(0).normal(size=(3, 6)) * [[3], [1], [0.5]]
    h = W @ toys.sample_features(np.random.default_rng(1).random((6, 200_000)), 0.3)
    P = shape.off_diagonal(overlap.superposition_matrix(W, h @ h.T))
    found = toys.features_as_keys(W, 0.3)
    assert found["mean"] == pytest.approx(P.mean(), abs=0.01) and found["max"] == pytest.approx(P.max(), rel=0.03)
    assert toys.features_as_keys(np.eye(3)[:, :2], 0.1) is None
    assert toys.features_as_keys(np.eye(3), 1e-9) is None


def test_facts_have_features_and_relations():
    x = toys.draw_facts(50, 300, 0.02, np.random.default_rng(0))
    assert x.shape == (50, 300) and ((x > 0).sum(0) >= 2).all()
    y = toys.draw_facts(50, 300, 0.02, np.random.default_rng(0), relations=4)
    assert (y[np.arange(300) % 4, np.arange(300)] == 1).all()
    assert np.array_equal(y[4:], x[4:])


def test_the_forecast_of_the_kurtosis():
    """Against simulation, from crowded to roomy and from dense to sparse."""
    for m, q in ((32, 0.3), (128, 0.05), (256, 0.05), (128, 0.02)):
        runs = [toys.bridge(m, q, seed) for seed in range(5)]
        mean, low, high = over_seeds(np.array([run["kurtosis_cosine"] for run in runs]))
        forecast = forecast_kurtosis(q, 256, m)
        assert abs(mean - forecast) < max(2 * (high - low), 0.15 * forecast)


def test_sparsity_moves_damage_and_relations_lift_the_mean():
    runs = {q: [toys.bridge(256, q, seed) for seed in range(5)] for q in (0.02, 0.3)}
    mean = {q: {name: np.mean([run[name] for run in found]) for name in found[0]} for q, found in runs.items()}
    assert mean[0.02]["damage_equal"] == pytest.approx(mean[0.3]["damage_equal"], rel=0.2)
    assert mean[0.02]["worst_equal"] > 1.8 * mean[0.3]["worst_equal"]
    assert mean[0.02]["squared"] == pytest.approx(1, abs=0.08) and mean[0.3]["squared"] == pytest.approx(1, abs=0.05)
    related = [toys.bridge(128, 0.03, seed, relations=8) for seed in range(5)]
    plain = [toys.bridge(128, 0.03, seed) for seed in range(5)]
    assert min(run["mean"] for run in related) > 3 * max(run["mean"] for run in plain)


# --- the exercises (right answers are the chapters' own solutions) -------------------------------------------


def growth(P, deltas):
    square, length = np.mean(P**2), np.mean(np.sum(deltas**2, axis=0))
    both = np.mean(P) ** 2 * np.sum(deltas.mean(1) ** 2)
    return lambda n: n * square * length + n * (n - 1) * both


def answer(c, q, anchored):
    return lambda n: c**2 + (1 - c**2) * (1 - q) ** n if anchored else (1 + (c**2 - 1) * q) ** n


def one_sweep(W, K, V, C):
    for k, v in zip(K.T, V.T, strict=True):
        W = W + rules.rome(W, k, v, C)
    return W


def first_order(P, D, G):
    return ((D.T @ G) * P).sum(0)


def protect(W, C, k_e, v_e, k_j, hold=True, metric=True):
    U = np.stack([k_e, k_j], 1) if hold else k_e[:, None]
    X = np.linalg.solve(C if metric else np.eye(len(C)), U)
    R = np.zeros((len(W), U.shape[1]))
    R[:, 0] = v_e - W @ k_e
    return W + R @ np.linalg.solve(U.T @ X, X.T)


WRONG = [
    (exercises.check_07_growth, lambda P, deltas: lambda n: n * growth(P, deltas)(1), "overlaps and"),
    (exercises.check_17_anchor, lambda c, q, anchored: lambda n: (1 + c**2 * q) ** n, "anchored = False, f"),
    (exercises.check_17_anchor, lambda c, q, anchored: answer(c, q, False), "anchored = True, f"),
    (exercises.check_07_sweeps, one_sweep, "go on sweeping"),
    (exercises.check_07_sweeps, lambda W, K, V, C: W + (V - W @ K) @ np.linalg.pinv(K), "not where ROME ends"),
    (exercises.check_08_dimensionality, lambda W: (W**2).sum(0), "D of feature"),
    (exercises.check_08_dimensionality, lambda W: None, "returned None"),
    (exercises.check_08_threshold, lambda r: 4 * r / (2 + 5 * r), "the losses tie"),
    (exercises.check_09_first_order, lambda P, D, G: (P**2).sum(0), "feels every edit"),
    (exercises.check_09_first_order, lambda P, D, G: -first_order(P, D, G), "forecast is off"),
    (exercises.check_09_first_order, lambda P, D, G: np.linalg.norm(D @ P, axis=0), "own gradient"),
    (exercises.check_09_protect, lambda *a: protect(*a, hold=False), "not what W k_j was"),
    (exercises.check_09_protect, lambda *a: protect(*a, metric=False), "another W_hat damages less"),
    (exercises.check_09_protect, lambda W, *a: W, "misses v_e"),
]


@pytest.mark.parametrize(("check", "function", "words"), WRONG)
def test_a_wrong_answer_hears_what_is_wrong(check, function, words):
    with pytest.raises(AssertionError, match=words):
        check(function)
