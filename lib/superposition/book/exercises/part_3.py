"""Part III, chapters 10 to 14."""

from __future__ import annotations

import itertools

import numpy as np

from superposition.book.exercises.problems import check, moment, require


@check("Right on all {} prompts.", problems=60, seed=10)
def check_10_token(ask, rng, number):
    """Check ``function(offsets, start, stop)``: the index of the token that holds the subject's last character.

    ``offsets`` is a list of (first character, one past the last) by token, with (0, 0) for a token of no text, as
    tokenizers give them; the subject is the characters [start, stop). Oracle: character by character.
    """
    lengths = rng.integers(1, 6, size=rng.integers(2, 12))
    ends = [int(end) for end in np.cumsum(lengths)]
    offsets = list(zip([0, *ends[:-1]], ends, strict=True))
    if number % 2:
        offsets = [(0, 0), *offsets]
    if number % 3 == 0:  # one character of several bytes, a token each
        token = int(rng.integers(len(offsets)))
        offsets.insert(token, offsets[token])
    start = int(rng.integers(0, ends[-1]))
    stop = int(rng.integers(start + 1, ends[-1] + 1))
    right = [token for token, (first, last) in enumerate(offsets) if stop - 1 in range(first, last)][-1]
    answer = ask(offsets=offsets, start=start, stop=stop)
    require(
        answer == right,
        f"Problem {number}: offsets {offsets}, subject [{start}, {stop}): the last token with character {stop - 1} "
        f"is number {right}, and the answer is {answer}.",
    )


@check("Right on all {} widths.", problems=40, seed=10)
def check_10_tokens(ask, rng, number):
    """Check ``function(d_m, sd, share, factor)``: the tokens that C needs.

    Wanted: the least whole N for which the error of p, ``√(factor / (N − d_m))``, is at most ``share · sd``. Oracle:
    the answer is enough and one token fewer is not.
    """
    d_m = int(rng.integers(10, 20_000))
    sd, share, factor = rng.uniform(0.01, 0.3), rng.uniform(0.02, 1), rng.uniform(1, 60)
    answer = ask(d_m=d_m, sd=sd, share=share, factor=factor)
    given = f"d_m = {d_m}, sd = {sd:.4f}, share = {share:.4f}, factor = {factor:.4f}"
    whole = answer == int(answer) and answer > d_m
    require(whole, f"Problem {number}: a whole number above d_m, not {answer}.")

    def enough(tokens: float) -> bool:
        return bool(tokens > d_m and np.sqrt(factor / (tokens - d_m)) <= share * sd * (1 + 1e-12))

    require(enough(answer), f"Problem {number} ({given}): {answer} tokens are too few.")
    require(not enough(answer - 1 - 1e-9 * answer), f"Problem {number} ({given}): fewer than {answer} would do.")


@check("Right on all {} problems: the numerator is shared, the lengths are not.", problems=20, seed=11)
def check_11_back(ask, rng, number):
    """Check ``function(p, length_i, length_j)``: p(k_j, k_i) from p(k_i, k_j) and the keys' whitened lengths."""
    d_m = int(rng.integers(2, 9))
    C = moment(rng, d_m)
    k_i, k_j = rng.normal(size=(2, d_m)) * np.exp(rng.uniform(-2, 2, size=(2, 1)))
    m_i, m_j = np.linalg.solve(C, k_i), np.linalg.solve(C, k_j)
    lengths = {"length_i": np.sqrt(m_i @ k_i), "length_j": np.sqrt(m_j @ k_j)}
    answer = ask(float, p=m_i @ k_j / (m_i @ k_i), **lengths)
    right = m_j @ k_i / (m_j @ k_j)
    require(
        abs(answer - right) < 1e-8 * (1 + abs(right)),
        f"Problem {number} (d_m = {d_m}): p(k_j, k_i) is {right:.4f}, and the answer is {answer:.4f}.",
    )


@check("Right on all {} problems: lengths alone can make tails.", problems=20, seed=12)
def check_12_tail_factor(ask, rng, number):
    """Check ``function(norms)``: by how much unequal lengths multiply the kurtosis of p. Oracle: all ordered pairs."""
    norms = np.exp(rng.uniform(0.1, 0.8) * rng.normal(size=int(rng.integers(2, 12))))
    answer = ask(float, norms=norms)
    r = np.array([b / a for a, b in itertools.permutations(norms, 2)])
    right = (r**4).mean() / (r**2).mean() ** 2
    problem = f"problem {number}, {len(norms)} keys"
    require(not abs(answer - (r**2).mean()) < 1e-9, f"That is the mean of r², not the factor ({problem}).")
    require(
        abs(answer - right) < 1e-8 * right,
        f"The factor is {right:.4f}, and the answer is {answer:.4f} ({problem}): mean over ordered pairs i ≠ j.",
    )


@check("Right on all {} samples, with no fourth power anywhere.", problems=20, seed=112)
def check_12_l_kurtosis(ask, rng, number):
    """Check ``function(x)``: the L-kurtosis λ₄/λ₂ of a sample. Oracle: contrasts over all subsets of two and four."""
    x = rng.standard_t(2, size=int(rng.integers(4, 11)))
    answer = ask(float, x=x)
    two, four = (np.sort(np.array(list(itertools.combinations(x, r))), axis=1) for r in (2, 4))
    right = ((four @ [-1, 3, -3, 1]).mean() / 4) / ((two @ [-1, 1]).mean() / 2)
    require(
        abs(answer - right) < 1e-8,
        f"The L-kurtosis is {right:.4f}, and the answer is {answer:.4f} (problem {number}, {len(x)} values): "
        "sort each subset before its contrast.",
    )


@check("Right for {} widths and lists.", problems=20, seed=13)
def check_13_twins(ask, rng, number):
    """Check ``function(m, d_m)``: expected excess kurtosis of m random unit keys, two of them equal.

    Oracle: moments of a random cosine by integrating its density, and of the mixture about its mean.
    """
    from scipy import integrate

    m, d_m = int(rng.integers(4, 400)), int(rng.integers(3, 60))
    answer, share = ask(float, m=m, d_m=d_m), 2 / (m * (m - 1))

    def density(c: float) -> float:
        return (1 - c**2) ** ((d_m - 3) / 2)

    def central(power: int) -> float:
        whole, part = (integrate.quad(f, -1, 1)[0] for f in (density, lambda c: (c - share) ** power * density(c)))
        return (1 - share) * part / whole + share * (1 - share) ** power

    right = central(4) / central(2) ** 2 - 3
    require(
        abs(answer - right) < 0.01 * (1 + abs(right)),
        f"For m = {m} and d_m = {d_m} it is {right:.3f}, and the answer is {answer:.3f} (problem {number}).",
    )


@check("Right on all {} regressions.", problems=30, seed=14)
def check_14_lost(ask, rng, number):
    """Check ``function(X, y, columns)``: the share of y's variance that is lost when columns of X are left out.

    Oracle: the added variables' own part, taken out of everything else first (Frisch, Waugh and Lovell).
    """
    n, f = int(rng.integers(20, 60)), int(rng.integers(2, 6))
    X = rng.standard_normal((n, f)) @ rng.standard_normal((f, f)) + rng.standard_normal(f)
    y = X @ rng.standard_normal(f) + 3 * rng.standard_normal(n) + 5
    columns = sorted(rng.choice(f, size=int(rng.integers(1, f)), replace=False).tolist())
    rest = np.column_stack([np.ones(n), np.delete(X, columns, axis=1)])
    project = rest @ np.linalg.pinv(rest)
    own, left = X[:, columns] - project @ X[:, columns], y - project @ y
    right = float(((own @ np.linalg.pinv(own) @ left) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    answer = ask(float, X=X, y=y, columns=columns)
    require(
        abs(answer - right) < 1e-8,
        f"Problem {number}: without the columns {columns} of {f}, {right:.6f} of the variance is lost, and the "
        f"answer is {answer:.6f}. Both regressions have an intercept.",
    )


@check("Right on all {} tables of pairs.", problems=30, seed=14)
def check_14_meat(ask, rng, number):
    """Check ``function(scores, first, second, m)``: the sum of ``s_a s_bᵀ`` over all a, b that share a fact.

    ``scores`` is (n, f), a row for each pair ``first[r] < second[r]`` of m facts. Oracle: every pair of pairs.
    """
    m, f = int(rng.integers(3, 9)), int(rng.integers(1, 4))
    first, second = np.triu_indices(m, 1)
    scores = rng.standard_normal((len(first), f))
    ends = [{int(i), int(j)} for i, j in zip(first, second, strict=True)]
    pairs = itertools.product(range(len(ends)), repeat=2)
    right = sum(np.outer(scores[a], scores[b]) for a, b in pairs if ends[a] & ends[b])
    answer = ask(np.asarray, scores=scores, first=first, second=second, m=m)
    require(answer.shape == (f, f), f"A matrix ({f}, {f}) is wanted, and the shape is {answer.shape}.")
    require(
        np.allclose(answer, right, atol=1e-9),
        f"Problem {number}: {m} facts; off by {np.abs(answer - right).max():.2g}. A pair shares both facts with "
        "itself, and counts once.",
    )
