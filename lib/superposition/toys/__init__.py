"""Toy worlds in which every cause can be turned by hand: linear memories, autoencoders, a small transformer.

The transformer and its world are modules of their own, which need torch and transformers.
"""

# The public list, a chapter after the other.
# ruff: noqa: F401, I001
from superposition.toys.memory import ARMS, KINDS, LOOPS, change_along
from superposition.toys.memory import damage_along, draw_keys, feedback, feedback_law, forget, grow
from superposition.toys.memory import growth_law, mean_squared_answer, moments_of_overlap, spread_of_damage, suffer
from superposition.toys.autoencoders import SHAPES, Autoencoders, autoencode, bridge, draw_facts, feature_dimensionality
from superposition.toys.autoencoders import feature_groups, feature_moment, features_as_keys, find_shape
from superposition.toys.autoencoders import pair_loss, represented, sample_features, train_autoencoders
