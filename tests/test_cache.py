"""The cache gives back what was kept under the same recipe, and nothing that is damaged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from superposition.io import cache as kept
from superposition.io import console, paths

pytestmark = pytest.mark.usefixtures("cache")
CONTENT = {"P": np.arange(6.0).reshape(2, 3), "exact": np.array([True]), "rows": [{"é": 1.5, "n": None}], "n": 3}


def same(one, other):
    return set(one) == set(other) and all(
        np.array_equal(value, other[name]) and type(value) is type(other[name]) for name, value in one.items()
    )


def test_what_was_kept_comes_back():
    key = kept.key("things", 1, model="x", layer=3)
    assert kept.load(key) is None
    kept.save(key, CONTENT)
    assert same(kept.load(key), CONTENT) and kept.load(key)["P"].dtype == np.float64
    kept.save(key, {"n": 4})
    assert kept.load(key) == {"n": 4}


def test_the_key_is_that_of_the_recipe_in_any_order_and_of_nothing_else():
    key = kept.key("things", 1, a=1, b=["x", 2.5])
    assert key == kept.key("things", 1, b=["x", 2.5], a=1)
    others = [kept.key("things", 2, a=1, b=["x", 2.5]), kept.key("other", 1, a=1, b=["x", 2.5])]
    others += [kept.key("things", 1, a=2, b=["x", 2.5]), kept.key("things", 1, a=1, b=[2.5, "x"])]
    assert len({key, *others}) == 5


@given(st.data())
@hypothesis_settings(max_examples=60, deadline=None)
def test_a_file_that_is_cut_or_changed_is_never_taken_for_what_was_kept(data):
    key = kept.key("things", 1)
    kept.save(key, CONTENT)
    path = paths.cache_dir() / f"{key}.npz"
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(content[:at])
        assert kept.load(key) is None
    else:
        content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        assert (found := kept.load(key)) is None or same(found, CONTENT)  # a date, say, may be any


@pytest.mark.parametrize("damage", ["folder", "objects"])
def test_what_cannot_be_read_is_as_if_absent(damage):
    key = kept.key("things", 1)
    path = paths.cache_dir() / f"{key}.npz"
    path.parent.mkdir(parents=True)
    path.mkdir() if damage == "folder" else np.savez(path, a=np.array([{}], dtype=object))
    assert kept.load(key) is None
    if damage == "folder":
        with pytest.warns(console.SuperpositionWarning, match="not kept in the cache"):
            kept.save(key, CONTENT)
        assert kept.load(key) is None
