"""Every plot of the book, by part: functions of records and arrays that return a Matplotlib figure."""

# The public list, a part after the other.
# ruff: noqa: F401, I001
from superposition.figures.derivation import recall_against_load, touching_ellipse, shares_of_others
from superposition.figures.derivation import staircase, story_of_edits
from superposition.figures.derivation import whitened_plane, damage_around, capacity, edit_over_text, keys_that_fit
from superposition.figures.derivation import one_question, miss_and_damage, transfers, lifetimes
from superposition.figures.toys import forgetting_curves, growth, kinds_of_keys, feature_planes
from superposition.figures.toys import (
    solids,
    gain_of_sharing,
    dimensionality_steps,
    features_by_sparsity,
)
from superposition.figures.toys import crowding, feedback
from superposition.figures.toy_transformer import facts_kept_and_edits_held, forecasts_and_falls, reach_of_an_edit
from superposition.figures.toy_transformer import tails_by_width, tails_by_history
from superposition.figures.moments import errors_of_draws, error_by_tokens, statistics_by_tokens, choices, shrinkage
from superposition.figures.measuring import needed_and_found, heatmaps, densities, by_depth, under_texts, angles
from superposition.figures.measuring import exponents
from superposition.figures.nulls import tails_without_meaning, nulls_beside_facts, confounds_by_depth, words_or_relation
from superposition.figures.nulls import lists_by_size, kinship_by_depth, nulls_by_depth
from superposition.figures.scaling import law_of_one_pair, models_by_depth, models_by_width, before_training
from superposition.figures.pairs import shares_by_depth, effects, strongest_by_depth, relation_by_wording, by_overlap
from superposition.figures.editing import sweep_of_layers, traced, before_and_after, edit_sequences, growth_on_a_layer
from superposition.figures.editing import suffering_by_age, loss_to_failure, loss_by_kind, residuals_along
from superposition.figures.forecasting import skill_and_cost, loss_by_fifths, forecast_and_loss, what_is_left
from superposition.figures.forecasting import dose_and_damage, cures_on_the_curve, cures_on_the_way
from superposition.figures.law import loss_by_drift, loss_by_method, loss_by_rivals, loss_by_way, lifetimes_forecast
from superposition.figures.law import leads_of_drift
from superposition.figures.explaining import block_with_memory, edit_as_projection, edits_that_undo, two_triangles
from superposition.figures.explaining import edits_that_cancel, family_and_stranger, gram_schmidt, tails_of_p
from superposition.figures.claims import trials
