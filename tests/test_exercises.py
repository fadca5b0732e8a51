"""The exercises' checks accept a right answer and say of a wrong one what is wrong."""

import re

import numpy as np
import pytest

from superposition.book import exercises
from superposition.linear import rules
from superposition.stats import shape
from superposition.studies import confounds


def solve(C, k):
    return np.linalg.solve(C, k)


# --- 01 the memory ------------------------------------------------------------------------------------------


def observe(W, C, k, v):
    C = C + np.outer(k, k)
    return W + np.outer(v - W @ k, solve(C, k)), C


def observe_as_an_edit(W, C, k, v):
    return W + rules.rome(W, k, v, C), C + np.outer(k, k)


# --- 02 the single edit -------------------------------------------------------------------------------------


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


# --- 03 a lifetime of edits ---------------------------------------------------------------------------------


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


RIGHT = [
    (exercises.check_03_lifelong, final_memory),
    (exercises.check_03_forecast, forecast),
    (exercises.check_01_memory, rules.least_squares),
    (exercises.check_01_observe, observe),
    (exercises.check_02_edit, edit),
    (exercises.check_02_batch, batch),
]

WRONG = [
    (exercises.check_03_lifelong, lambda W, C, K, V: final_memory(W, C, K[:, ::-1], V[:, ::-1]), "The last of"),
    (exercises.check_03_lifelong, batch, "does each residual take account"),
    (exercises.check_03_lifelong, edits_added_up, "The last of"),
    (exercises.check_03_forecast, forecast_with_triangles_swapped, "Nothing can spoil"),
    (exercises.check_03_forecast, forecast_without_history, "which triangle"),
    (exercises.check_03_forecast, lambda P, e: 0 * e, "it suffers by"),
    (exercises.check_01_memory, lambda K, V: V @ K.T, "times the least possible"),
    (exercises.check_01_memory, lambda K, V: solve(K @ K.T, K @ V.T), "shape"),
    (exercises.check_01_observe, lambda W, C, k, v: W, "Return a pair"),
    (exercises.check_01_observe, lambda W, C, k, v: (observe(W, C, k, v)[0], C), "not the second moment"),
    (exercises.check_01_observe, lambda W, C, k, v: (W, C + np.outer(k, k)), "unchanged"),
    (exercises.check_01_observe, observe_as_an_edit, "not the best memory"),
    (exercises.check_02_edit, lambda W, C, k, v: None, "returned None"),
    (exercises.check_02_edit, lambda W, C, k, v: rules.rome(W, k, v, C).T, "shape"),
    (exercises.check_02_edit, lambda W, C, k, v: W * np.nan, "NaN"),
    (exercises.check_02_edit, lambda W, C, k, v: W.copy(), "Nothing was written"),
    (exercises.check_02_edit, lambda W, C, k, v: rules.rome(W, k, v, C), "misses v_e"),
    (exercises.check_02_edit, edit_that_forgets_W, "misses v_e"),
    (exercises.check_02_edit, edit_in_place, "changed its argument W"),
    (exercises.check_02_edit, edit_along_the_key, r"damage is \d+\.\d\d times the least"),
    (exercises.check_02_batch, edits_added_up, "misses V_e"),
    (exercises.check_02_batch, memit, "misses V_e"),
    (exercises.check_02_batch, lambda W, C, K, V: W + (V - W @ K) @ np.linalg.pinv(K), "times the least"),
]


# --- 04 superposition, 05 capacity, 06 editors --------------------------------------------------------------


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


RIGHT += [
    (exercises.check_04_whitening, white),
    (exercises.check_04_undo, undo),
    (exercises.check_05_leverages, leverages),
    (exercises.check_05_simplex, simplex),
    (exercises.check_06_family, family),
    (exercises.check_06_gram_schmidt, directions),
]
WRONG += [
    (exercises.check_04_whitening, lambda C: None, "returned None"),
    (exercises.check_04_whitening, np.linalg.cholesky, "differs from the identity"),
    (exercises.check_04_whitening, np.linalg.inv, "differs from the identity"),
    (exercises.check_04_undo, lambda *given: undo(*given, sign=-1), "it should be back"),
    (exercises.check_04_undo, lambda W, k_1, v_1, k_2, k_j, C: W @ k_2, "it should be back"),
    (exercises.check_05_leverages, lambda K: np.full(K.shape[1], K.shape[0] / K.shape[1]), r"Key \d+ gets"),
    (exercises.check_05_leverages, lambda K: (K**2).sum(0), "sum must be d_m"),
    (exercises.check_05_leverages, lambda K: leverages(K)[:-1], "shape"),
    (exercises.check_05_simplex, lambda d: simplex(d) * 2, "length 1"),
    (
        exercises.check_05_simplex,
        lambda d: np.eye(d, d + 1) + np.eye(d)[:, [0] * (d + 1)] * (np.arange(d + 1) == d),
        "Welch",
    ),
    (exercises.check_06_family, lambda A, U, R, w: R @ U.T @ A, "D is off"),
    (exercises.check_06_family, lambda A, U, R, w: family(A, U, R, min(w, 1e4)), "D is off"),
    (exercises.check_06_family, lambda A, U, R, w: family(A, U, R, w * 2), "D is off"),
    (exercises.check_06_gram_schmidt, lambda K, C: solve(C, K) / (K * solve(C, K)).sum(0), "touches an earlier one"),
    (exercises.check_06_gram_schmidt, lambda K, C: solve(C, K), "does not write"),
    (exercises.check_06_gram_schmidt, written_along_the_keys, "costs more than it must"),
]


# --- 12 nulls and confounds, 13 scaling ---------------------------------------------------------------------


def tail_factor(norms):
    r = np.divide.outer(norms, norms)[~np.eye(len(norms), dtype=bool)]
    return (r**4).mean() / (r**2).mean() ** 2


def l_kurtosis(x):
    return shape.l_kurtosis(x) + shape.L_NORMAL


RIGHT += [
    (exercises.check_12_tail_factor, tail_factor),
    (exercises.check_12_l_kurtosis, l_kurtosis),
    (exercises.check_13_twins, confounds.kurtosis_with_twins),
]
WRONG += [
    (exercises.check_12_tail_factor, lambda n: np.mean(np.divide.outer(n, n) ** 4), "mean over ordered pairs"),
    (exercises.check_12_tail_factor, lambda n: np.mean(n**4) / np.mean(n**2) ** 2, "mean over ordered pairs"),
    (exercises.check_12_tail_factor, lambda n: tail_factor(np.divide(n, 2, out=n)), "changed its argument"),
    (exercises.check_12_l_kurtosis, shape.l_kurtosis, "The L-kurtosis is"),
    (exercises.check_12_l_kurtosis, lambda x: np.mean((x - x.mean()) ** 4) / np.var(x) ** 2, "The L-kurtosis is"),
    (exercises.check_13_twins, lambda m, d_m: 0.0, "it is"),
    (exercises.check_13_twins, lambda m, d_m: confounds.kurtosis_with_twins(m, d_m, 2), "it is"),
]


# --- 10 keys and moments ------------------------------------------------------------------------------------


def token(offsets, start, stop):
    return max(place for place, (first, last) in enumerate(offsets) if first <= stop - 1 < last)


def tokens(d_m, sd, share, factor):
    return d_m + int(np.ceil(factor / (share * sd) ** 2))


RIGHT += [(exercises.check_10_token, token), (exercises.check_10_tokens, tokens)]
WRONG += [
    (exercises.check_10_token, lambda offsets, start, stop: token(offsets, start, start + 1), "the last token with"),
    (
        exercises.check_10_token,
        lambda offsets, start, stop: min(i for i, (a, b) in enumerate(offsets) if a <= stop - 1 < b),
        "the last token with",
    ),
    (exercises.check_10_tokens, lambda d_m, *a: tokens(d_m, *a) - d_m, "above d_m|too few"),
    (exercises.check_10_tokens, lambda d_m, sd, share, k: tokens(d_m, sd, share, np.sqrt(k)), "too few"),
    (exercises.check_10_tokens, lambda *a: 2 * tokens(*a), "fewer than"),
]


# --- 15, 16 edits of a real model ---------------------------------------------------------------------------


def clamp(delta, recalled, c):
    return delta * min(1, c * np.linalg.norm(recalled) / np.linalg.norm(delta))


def suffered(delta, M, K_e):
    return np.linalg.norm(delta @ np.tril(M.T @ K_e, -1), axis=0)


RIGHT += [(exercises.check_15_clamp, clamp), (exercises.check_16_suffered, suffered)]
WRONG += [
    (exercises.check_15_clamp, lambda delta, recalled, c: delta, "the ball radius"),
    (exercises.check_15_clamp, lambda delta, recalled, c: clamp(delta, recalled, c / 2), "keep the direction"),
    (
        exercises.check_15_clamp,
        lambda delta, recalled, c: 0.99 * clamp(delta, recalled, c),
        "keep the direction|left alone",
    ),
    (
        exercises.check_15_clamp,
        lambda delta, recalled, c: np.clip(
            delta, *(np.array([-1, 1]) * c * np.linalg.norm(recalled) / len(delta) ** 0.5)
        ),
        "keep the direction",
    ),
    (exercises.check_16_suffered, lambda delta, M, K: np.linalg.norm(delta @ M.T @ K, axis=0), "only later edits"),
    (exercises.check_16_suffered, lambda delta, M, K: suffered(delta, M, K)[:1], "One norm for each"),
    (
        exercises.check_16_suffered,
        lambda delta, M, K: np.linalg.norm(delta @ np.triu(M.T @ K, 1), axis=0),
        "only later edits",
    ),
]


# --- capstone -----------------------------------------------------------------------------------------------


def needed(moved, half, tokens, d_m, wanted):
    return d_m + int(np.ceil(moved**2 / (1 / (half - d_m) - 1 / (tokens - d_m)) / wanted**2))


def strongest_clean(P, keep):
    allowed = np.where(keep & ~np.eye(len(P), dtype=bool), P, -np.inf)
    i, j = np.unravel_index(allowed.argmax(), P.shape)
    return (i, j) if np.isfinite(allowed[i, j]) else None


def blame(delta, p):
    return p * (delta.T @ delta @ p) / ((delta @ p) ** 2).sum(0)


def drop(delta, p):
    G = (delta.T @ delta) * (p @ p.T)
    return (2 * G.sum(1) - np.diag(G)).argmax()


def strongest_of_all(P, keep):
    i, j = np.unravel_index(np.where(keep, P, -np.inf).argmax(), P.shape)
    return (i, j) if keep.any() else None


RIGHT += [
    (exercises.check_capstone_tokens, needed),
    (exercises.check_capstone_strongest, strongest_clean),
    (exercises.check_capstone_blame, blame),
    (exercises.check_capstone_drop, drop),
]
WRONG += [
    (
        exercises.check_capstone_tokens,
        lambda moved, half, N, d_m, w: d_m + (N - d_m) * (moved / w) ** 2,
        "dimensions moved",
    ),
    (
        exercises.check_capstone_tokens,
        lambda moved, half, N, d_m, w: needed(moved, half, N, d_m, w) - d_m,
        "singular|moved",
    ),
    (exercises.check_capstone_strongest, strongest_of_all, "strongest kept pair|No pair"),
    (
        exercises.check_capstone_strongest,
        lambda P, keep: strongest_clean(P, keep | True),
        "strongest kept pair|No pair",
    ),
    (exercises.check_capstone_strongest, lambda P, keep: None, "the answer is None"),
    (
        exercises.check_capstone_strongest,
        lambda P, keep: (strongest_clean(P, keep) or (0, 0))[::-1],
        "kept pair|No pair",
    ),
    (exercises.check_capstone_blame, lambda delta, p: blame(delta, p) * 1.1, "add up to"),
    (
        exercises.check_capstone_blame,
        lambda delta, p: (
            (p * np.linalg.norm(delta, axis=0)[:, None]) ** 2
            / ((p * np.linalg.norm(delta, axis=0)[:, None]) ** 2).sum(0)
        ),
        "not those of the inner products",
    ),
    (exercises.check_capstone_blame, lambda delta, p: blame(delta, p).T, "shape"),
    (
        exercises.check_capstone_drop,
        lambda delta, p: ((delta**2).sum(0) * (p**2).sum(1)).argmax(),
        "Without edit",
    ),
    (exercises.check_capstone_drop, lambda delta, p: None, "is wanted"),
]


@pytest.mark.parametrize("check, answer", RIGHT, ids=lambda x: getattr(x, "__name__", ""))
def test_a_right_answer_is_accepted_again_and_again(check, answer):
    said = check(answer)
    assert said.startswith("Right") and said == check(answer)


@pytest.mark.parametrize("check, answer, complaint", WRONG, ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_wrong_answer_hears_what_is_wrong(check, answer, complaint):
    with pytest.raises(AssertionError) as heard:
        check(answer)
    assert re.search(complaint, str(heard.value)), heard.value
