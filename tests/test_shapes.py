"""That the tests check the library's annotations, shapes included: the hook in ``conftest.py``."""

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

import superposition
from superposition.linear import overlap
from superposition.linear.edit import Edit
from superposition.linear.metric import Metric
from superposition.lm import sums

MODULES = [module.name for module in pkgutil.walk_packages(superposition.__path__, "superposition.")]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: overlap.cosines(np.ones(3)), "products"),  # a vector where a matrix is due
        (lambda: overlap.cosines(np.ones((3, 2))), "products"),  # not square
        (lambda: overlap.cosines(np.ones((3, 3), dtype=complex)), "products"),  # not real
        (lambda: overlap.whitened_products(np.ones((3, 2)), np.ones((3, 2))), "C"),  # in a union
        (lambda: Metric(np.eye(3)).products(np.ones(3)), "K"),  # a method
        (lambda: Edit(np.ones((3, 2)), np.ones((4, 1))), "M"),  # a dataclass
        (lambda: sums.outer_sum(torch.ones(3)), "keys"),
    ],
)
def test_a_wrong_shape_is_caught(call, name):
    with pytest.raises(jaxtyping.TypeCheckError, match=f"parameter '{name}'"):
        call()


def test_a_wrong_result_is_caught(monkeypatch):
    monkeypatch.setattr(Metric, "whiten", lambda self, K: K[0])
    with pytest.raises(jaxtyping.TypeCheckError, match=r"return value of .*Metric\.products"):
        Metric(np.eye(3)).products(np.ones((3, 2)))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_shapes_can_be_read(name):
    """An annotation that jaxtyping cannot resolve where it stands is taken for Any, and never checked."""
    module = importlib.import_module(name)
    for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if annotation is not None and re.search(r"\b(Float|Int|Bool)\[", text := ast.unparse(annotation)):
                eval(text, vars(module))
