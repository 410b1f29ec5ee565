"""One file a figure: data (pure), plot, sentence, and `picture`, which is what the report shows, or None.

Listed here once, in the report's order, each with its public names, which can be had from this package.
"""

from collections.abc import Iterable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from training.names import looked_up

if TYPE_CHECKING:
    from analysis.figures.style import Picture

SEARCH = {  # how it went: of SearchResults
    "incumbent": ("incumbent_data", "plot_incumbent", "incumbent_sentence"),
    "rungs": ("judged_data", "rungs_data", "plot_rungs", "rungs_sentence"),
    "cores": ("slots_data", "busy_share", "plot_slots", "slots_sentence"),
    "learning_curves": ("learning_curves_data", "plot_learning_curves", "curves_sentence", "failures_sentence"),
    "infeasible": ("reasons_data", "plot_reasons", "reasons_sentence"),
}
SPACE = {  # what mattered: of SearchResults
    "hyperparameters": ("axis_plots_data", "plot_axes", "axes_sentence"),
    "importance": ("importance_data", "by_importance", "plot_importance", "importance_sentence"),
    "parallel_coordinates": ("parallel_coordinates_data", "plot_parallel_coordinates", "parallel_sentence"),
    "cost": ("pareto_front", "cost_data", "plot_cost", "cost_sentence"),
    "optimizers": ("optimizers_data", "plot_optimizers", "optimizers_sentence"),
}
NETWORK = {  # the winner's: of an Evaluation
    "feature_maps": ("layer_table", "feature_maps_data", "plot_feature_maps", "network_sentence"),
    "activations": ("activations_data", "plot_activations"),
    "training_batch": ("batch_data", "plot_batch", "augmentation_text"),
}
TEST = {  # what the winner does on the test split: of an EvaluatedTrial
    "confusion": ("confusion_data", "plot_confusion", "confusion_sentence"),
    "per_class": ("per_class_data", "plot_per_class", "per_class_sentence", "left_out_sentence"),
    "calibration": ("calibration_data", "plot_calibration", "calibration_sentence"),
    "samples": ("Sample", "samples_data", "plot_samples", "samples_sentence"),
    "mistakes": ("plot_mistakes", "mistakes_sentence"),
}
CONFIRMATION = {"confirmation": ("plot_confirmation", "confirmation_sentence")}  # of a Confirmation and SearchResults
AUDIT = {"audit_curves": ("plot_audit_curves",), "rank_correlation": ("plot_rank_correlation",)}  # of an Audit
SHARED = {  # what several figures need
    "comparison": ("at_equal_epochs", "compared_text"),
    "param_axis": ("ParamAxis",),
}

__getattr__ = looked_up(__name__, SEARCH | SPACE | NETWORK | TEST | CONFIRMATION | AUDIT | SHARED)


def pictures(figures: Iterable[str], *subject: Any) -> "list[Picture]":
    """The pictures of some figures, in their order, of those that have something to show."""
    drawn = (import_module(f"{__name__}.{figure}").picture(*subject) for figure in figures)
    return [picture for picture in drawn if picture is not None]


search_pictures = partial(pictures, SEARCH)
space_pictures = partial(pictures, SPACE)
network_pictures = partial(pictures, NETWORK)
prediction_pictures = partial(pictures, TEST)
confirmation_pictures = partial(pictures, CONFIRMATION)
audit_pictures = partial(pictures, AUDIT)
