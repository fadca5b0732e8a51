"""The exercises' checks accept a right answer and say of a wrong one what is wrong."""

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

from superposition.book import exercises
from superposition.linear import rules
from superposition.stats import shape
from superposition.studies import confounds


def solve(C, k):
    return np.linalg.solve(C, k)


def observe(W, C, k, v):
    C = C + np.outer(k, k)
    return W + np.outer(v - W @ k, solve(C, k)), C


def observe_as_an_edit(W, C, k, v):
    return W + rules.rome(W, k, v, C), C + np.outer(k, k)


def edit(W, C, k_e, v_e):
    return W + rules.rome(W, k_e, v_e, C)


def batch(W, C, K_e, V_e):
    return W + rules.emmet(W, K_e, V_e, C)


def edit_along_the_key(W, C, k_e, v_e):
    return W + np.outer(v_e - W @ k_e, k_e) / (k_e @ k_e)


def edit_that_forgets_W(W, C, k_e, v_e):
    return W + np.outer(v_e, solve(C, k_e)) / (k_e @ solve(C, k_e))


def edit_in_place(W, C, k_e, v_e):
    W += rules.rome(W, k_e, v_e, C)
    return W


def edits_added_up(W, C, K_e, V_e):
    return W + sum(rules.rome(W, k, v, C) for k, v in zip(K_e.T, V_e.T, strict=True))


def memit(W, C, K_e, V_e):
    return W + rules.memit(W, K_e, V_e, C)


def final_memory(W, C, K_e, V_e):
    for k, v in zip(K_e.T, V_e.T, strict=True):
        W = W + rules.rome(W, k, v, C)
    return W


def forecast(P, epsilon):
    return np.linalg.solve(np.triu(P).T, epsilon.T).T @ np.tril(P, -1)


def forecast_with_triangles_swapped(P, epsilon):
    return np.linalg.solve(np.tril(P).T, epsilon.T).T @ np.triu(P, 1)


def forecast_without_history(P, epsilon):
    return epsilon @ np.tril(P, -1)


def white(C):
    return np.linalg.inv(np.linalg.cholesky(C))


def undo(W, k_1, v_1, k_2, k_j, C, sign=1):
    delta, after = v_1 - W @ k_1, W + rules.rome(W, k_1, v_1, C)
    p_1, p_2 = (solve(C, k) @ k_j / (solve(C, k) @ k) for k in (k_1, k_2))
    return after @ k_2 - sign * delta * p_1 / p_2


def leverages(K):
    return np.einsum("de,de->e", K, np.linalg.solve(K @ K.T, K))


def simplex(d_m):
    centred = np.eye(d_m + 1) - 1 / (d_m + 1)
    values, vectors = np.linalg.eigh(centred)
    U = vectors[:, values > 0.5].T
    return U / np.linalg.norm(U, axis=0)


def family(A_inverse, U, R, weight):
    return R @ np.linalg.inv(U.T @ A_inverse @ U + np.eye(U.shape[1]) / weight) @ U.T @ A_inverse


def directions(K, C):
    S, M = np.linalg.inv(C), []
    for k in K.T:
        M.append(S @ k / (k @ S @ k))
        S = S - np.outer(S @ k, S @ k) / (k @ S @ k)
    return np.array(M).T


def written_along_the_keys(K, C):
    Q, R = np.linalg.qr(K)
    return Q / np.diag(R)


def tail_factor(norms):
    r = np.divide.outer(norms, norms)[~np.eye(len(norms), dtype=bool)]
    return (r**4).mean() / (r**2).mean() ** 2


def l_kurtosis(x):
    return shape.l_kurtosis(x) + shape.L_NORMAL


def token(offsets, start, stop):
    return max(place for place, (first, last) in enumerate(offsets) if first <= stop - 1 < last)


def tokens(d_m, sd, share, factor):
    return d_m + int(np.ceil(factor / (share * sd) ** 2))


def clamp(delta, recalled, c):
    return delta * min(1, c * np.linalg.norm(recalled) / np.linalg.norm(delta))


def suffered(delta, M, K_e):
    return np.linalg.norm(delta @ np.tril(M.T @ K_e, -1), axis=0)


def aligned(c, answers, P):
    lengths = np.zeros(len(c))
    for n in range(len(c)):
        lengths[n] = c[n] * abs(answers[n] + P[:n, n] @ lengths[:n])
    return lengths


def needed(moved, half, tokens, d_m, wanted):
    return d_m + int(np.ceil(moved**2 / (1 / (half - d_m) - 1 / (tokens - d_m)) / wanted**2))


def strongest_clean(P, keep):
    allowed = np.where(keep & ~np.eye(len(P), dtype=bool), P, -np.inf)
    i, j = np.unravel_index(allowed.argmax(), P.shape)
    return (i, j) if np.isfinite(allowed[i, j]) else None


def lost(X, y, columns):
    def unexplained(Z):
        Z = np.column_stack([np.ones(len(y)), Z])
        return ((y - Z @ np.linalg.lstsq(Z, y)[0]) ** 2).sum()

    return (unexplained(np.delete(X, columns, axis=1)) - unexplained(X)) / ((y - y.mean()) ** 2).sum()


def meat(scores, first, second, m, once=True):
    S = np.zeros((m, scores.shape[1]))
    np.add.at(S, first, scores)
    np.add.at(S, second, scores)
    return S.T @ S - once * scores.T @ scores


def drift_of_one_prompt(W, C, K_e, delta, found):
    directions = solve(C, K_e)
    return found @ (directions / (K_e * directions).sum(0)) @ delta.T


def blame_of_positions(slope, part, delta):
    return -np.einsum("td,nt,dn->n", slope, part, delta)


def spare(C, k_e, K_w, weight):
    u = solve(C + weight * K_w @ K_w.T / K_w.shape[1], k_e)
    return u / (u @ k_e)


def blame(delta, p):
    return p * (delta.T @ delta @ p) / ((delta @ p) ** 2).sum(0)


def drop(delta, p):
    G = (delta.T @ delta) * (p @ p.T)
    return (2 * G.sum(1) - np.diag(G)).argmax()


def strongest_of_all(P, keep):
    i, j = np.unravel_index(np.where(keep, P, -np.inf).argmax(), P.shape)
    return (i, j) if keep.any() else None


RIGHT = {
    "01_memory": rules.least_squares,
    "01_observe": observe,
    "02_edit": edit,
    "02_batch": batch,
    "03_lifelong": final_memory,
    "03_forecast": forecast,
    "04_whitening": white,
    "04_undo": undo,
    "05_leverages": leverages,
    "05_simplex": simplex,
    "06_family": family,
    "06_gram_schmidt": directions,
    "10_token": token,
    "10_tokens": tokens,
    "12_tail_factor": tail_factor,
    "12_l_kurtosis": l_kurtosis,
    "13_twins": confounds.kurtosis_with_twins,
    "14_lost": lost,
    "14_meat": meat,
    "15_clamp": clamp,
    "16_suffered": suffered,
    "17_aligned": aligned,
    "18_drift": drift_of_one_prompt,
    "20_blame": blame_of_positions,
    "21_protect": spare,
    "capstone_tokens": needed,
    "capstone_strongest": strongest_clean,
    "capstone_blame": blame,
    "capstone_drop": drop,
}

WRONG = [
    ("01_memory", lambda K, V: V @ K.T, "times the least possible"),
    ("01_memory", lambda K, V: solve(K @ K.T, K @ V.T), "shape"),
    ("01_observe", lambda W, C, k, v: W, "Return a pair"),
    ("01_observe", lambda W, C, k, v: (observe(W, C, k, v)[0], C), "not the second moment"),
    ("01_observe", lambda W, C, k, v: (W, C + np.outer(k, k)), "unchanged"),
    ("01_observe", observe_as_an_edit, "not the best memory"),
    ("02_edit", lambda W, C, k, v: None, "returned None"),
    ("02_edit", lambda W, C, k, v: rules.rome(W, k, v, C).T, "shape"),
    ("02_edit", lambda W, C, k, v: W * np.nan, "NaN"),
    ("02_edit", lambda W, C, k, v: W.copy(), "Nothing was written"),
    ("02_edit", lambda W, C, k, v: rules.rome(W, k, v, C), "misses v_e"),
    ("02_edit", edit_that_forgets_W, "misses v_e"),
    ("02_edit", edit_in_place, "changed its argument W"),
    ("02_edit", edit_along_the_key, r"damage is \d+\.\d\d times the least"),
    ("02_batch", edits_added_up, "misses V_e"),
    ("02_batch", memit, "misses V_e"),
    ("02_batch", lambda W, C, K, V: W + (V - W @ K) @ np.linalg.pinv(K), "times the least"),
    ("03_lifelong", lambda W, C, K, V: final_memory(W, C, K[:, ::-1], V[:, ::-1]), "The last of"),
    ("03_lifelong", batch, "does each residual take account"),
    ("03_lifelong", edits_added_up, "The last of"),
    ("03_forecast", forecast_with_triangles_swapped, "Nothing can spoil"),
    ("03_forecast", forecast_without_history, "which triangle"),
    ("03_forecast", lambda P, e: 0 * e, "it suffers by"),
    ("04_whitening", lambda C: None, "returned None"),
    ("04_whitening", np.linalg.cholesky, "differs from the identity"),
    ("04_whitening", np.linalg.inv, "differs from the identity"),
    ("04_undo", lambda *given: undo(*given, sign=-1), "it should be back"),
    ("04_undo", lambda W, k_1, v_1, k_2, k_j, C: W @ k_2, "it should be back"),
    ("05_leverages", lambda K: np.full(K.shape[1], K.shape[0] / K.shape[1]), r"Key \d+ gets"),
    ("05_leverages", lambda K: (K**2).sum(0), "sum must be d_m"),
    ("05_leverages", lambda K: leverages(K)[:-1], "shape"),
    ("05_simplex", lambda d: simplex(d) * 2, "length 1"),
    ("05_simplex", lambda d: np.eye(d, d + 1) + np.eye(d)[:, [0] * (d + 1)] * (np.arange(d + 1) == d), "Welch"),
    ("06_family", lambda A, U, R, w: R @ U.T @ A, "D is off"),
    ("06_family", lambda A, U, R, w: family(A, U, R, min(w, 1e4)), "D is off"),
    ("06_family", lambda A, U, R, w: family(A, U, R, w * 2), "D is off"),
    ("06_gram_schmidt", lambda K, C: solve(C, K) / (K * solve(C, K)).sum(0), "touches an earlier one"),
    ("06_gram_schmidt", lambda K, C: solve(C, K), "does not write"),
    ("06_gram_schmidt", written_along_the_keys, "costs more than it must"),
    ("10_token", lambda offsets, start, stop: token(offsets, start, start + 1), "the last token with"),
    (
        "10_token",
        lambda offsets, start, stop: min(i for i, (a, b) in enumerate(offsets) if a <= stop - 1 < b),
        "the last token with",
    ),
    ("10_tokens", lambda d_m, *a: tokens(d_m, *a) - d_m, "above d_m|too few"),
    ("10_tokens", lambda d_m, sd, share, k: tokens(d_m, sd, share, np.sqrt(k)), "too few"),
    ("10_tokens", lambda *a: 2 * tokens(*a), "fewer than"),
    ("12_tail_factor", lambda n: np.mean(np.divide.outer(n, n) ** 4), "mean over ordered pairs"),
    ("12_tail_factor", lambda n: np.mean(n**4) / np.mean(n**2) ** 2, "mean over ordered pairs"),
    ("12_tail_factor", lambda n: tail_factor(np.divide(n, 2, out=n)), "changed its argument"),
    ("12_l_kurtosis", shape.l_kurtosis, "The L-kurtosis is"),
    ("12_l_kurtosis", lambda x: np.mean((x - x.mean()) ** 4) / np.var(x) ** 2, "The L-kurtosis is"),
    ("13_twins", lambda m, d_m: 0.0, "it is"),
    ("13_twins", lambda m, d_m: confounds.kurtosis_with_twins(m, d_m, 2), "it is"),
    ("14_lost", lambda X, y, columns: lost(X, y, columns) * (y**2).sum() / (y**2).mean(), "lost"),
    ("14_lost", lambda X, y, columns: 1 - lost(X, y, columns), "lost"),
    ("14_meat", lambda *given: meat(*given, once=False), "counts once"),
    ("14_meat", lambda scores, *rest: scores.sum(), "shape"),
    ("15_clamp", lambda delta, recalled, c: delta, "the ball radius"),
    ("15_clamp", lambda delta, recalled, c: clamp(delta, recalled, c / 2), "keep the direction"),
    ("15_clamp", lambda delta, recalled, c: 0.99 * clamp(delta, recalled, c), "keep the direction|left alone"),
    (
        "15_clamp",
        lambda delta, recalled, c: np.clip(
            delta, *(np.array([-1, 1]) * c * np.linalg.norm(recalled) / len(delta) ** 0.5)
        ),
        "keep the direction",
    ),
    ("16_suffered", lambda delta, M, K: np.linalg.norm(delta @ M.T @ K, axis=0), "only later edits"),
    ("16_suffered", lambda delta, M, K: suffered(delta, M, K)[:1], "One norm for each"),
    ("16_suffered", lambda delta, M, K: np.linalg.norm(delta @ np.triu(M.T @ K, 1), axis=0), "only later edits"),
    ("17_aligned", lambda c, answers, P: aligned(c, answers, P.T), "every earlier residual counts"),
    ("17_aligned", lambda c, answers, P: aligned(c, answers, abs(P)), "its sign"),
    ("17_aligned", lambda c, answers, P: c * answers, "every earlier residual counts"),
    ("18_drift", lambda W, C, K_e, delta, found: found @ solve(C, K_e) @ delta.T, "every position t gets"),
    ("20_blame", lambda *given: -blame_of_positions(*given), "minus the change"),
    ("20_blame", lambda s, p, d: blame_of_positions(s[:1], p[:, :1], d), "every position counts"),
    ("21_protect", lambda C, k, K, w: spare(C, k, K, w * K.shape[1] + 1), "spares more"),
    ("21_protect", lambda C, k, K, w: 2 * spare(C, k, K, w), "does not write"),
    ("capstone_tokens", lambda moved, half, N, d_m, w: d_m + (N - d_m) * (moved / w) ** 2, "dimensions moved"),
    ("capstone_tokens", lambda moved, half, N, d_m, w: needed(moved, half, N, d_m, w) - d_m, "singular|moved"),
    ("capstone_strongest", strongest_of_all, "strongest kept pair|No pair"),
    ("capstone_strongest", lambda P, keep: strongest_clean(P, keep | True), "strongest kept pair|No pair"),
    ("capstone_strongest", lambda P, keep: None, "the answer is None"),
    ("capstone_strongest", lambda P, keep: (strongest_clean(P, keep) or (0, 0))[::-1], "kept pair|No pair"),
    ("capstone_blame", lambda delta, p: blame(delta, p) * 1.1, "add up to"),
    (
        "capstone_blame",
        lambda delta, p: (
            (p * np.linalg.norm(delta, axis=0)[:, None]) ** 2
            / ((p * np.linalg.norm(delta, axis=0)[:, None]) ** 2).sum(0)
        ),
        "not those of the inner products",
    ),
    ("capstone_blame", lambda delta, p: blame(delta, p).T, "shape"),
    ("capstone_drop", lambda delta, p: ((delta**2).sum(0) * (p**2).sum(1)).argmax(), "Without edit"),
    ("capstone_drop", lambda delta, p: None, "is wanted"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_is_accepted_again_and_again(name):
    check = getattr(exercises, f"check_{name}")
    sentence = check(RIGHT[name])
    assert sentence.startswith("Right") and sentence == check(RIGHT[name])


@pytest.mark.parametrize("name, answer, complaint", WRONG)
def test_a_wrong_answer_hears_what_is_wrong(name, answer, complaint):
    with pytest.raises(AssertionError) as heard:
        getattr(exercises, f"check_{name}")(answer)
    assert re.search(complaint, str(heard.value)), heard.value


@pytest.mark.parametrize(
    "name", sorted(RIGHT.keys() - {"05_simplex", "10_token", "10_tokens", "13_twins", "capstone_tokens"})
)
def test_a_right_answer_that_spoils_its_arguments_is_refused(name):
    def spoiling(*given):
        answer = RIGHT[name](*given)
        next(a for a in given if isinstance(a, np.ndarray)).fill(0)
        return answer

    with pytest.raises(AssertionError, match=r"changed its argument \w+ in place"):
        getattr(exercises, f"check_{name}")(spoiling)


def test_every_check_can_draw_more_problems_from_another_seed():
    checks = {name: check for name, check in vars(exercises).items() if name.startswith("check_")}
    assert len(checks) == 37
    for name, check in checks.items():
        options = set(inspect.signature(check).parameters)
        assert options == ({"function", "most"} if "simplex" in name else {"function", "problems", "seed"}), name
        assert re.match(r"(Check )?``function\(", check.__doc__), name
    assert exercises.check_02_edit(edit, problems=7, seed=1).startswith("Right: 7 ")


def test_the_checks_work_without_assertions():
    """A bare assert is gone under ``python -O``."""
    for path in Path(exercises.__file__).parent.glob("*.py"):
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))))
