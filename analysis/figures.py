"""Every figure's pure *_data function and its plot_* function in one place, for notebooks and tests."""

from analysis.metrics import calibration_data as calibration_data
from analysis.network_figures import activations_data as activations_data
from analysis.network_figures import feature_maps_data as feature_maps_data
from analysis.network_figures import layer_table as layer_table
from analysis.network_figures import plot_activations as plot_activations
from analysis.network_figures import plot_feature_maps as plot_feature_maps
from analysis.prediction_figures import Sample as Sample
from analysis.prediction_figures import batch_data as batch_data
from analysis.prediction_figures import confusion_data as confusion_data
from analysis.prediction_figures import per_class_data as per_class_data
from analysis.prediction_figures import plot_batch as plot_batch
from analysis.prediction_figures import plot_calibration as plot_calibration
from analysis.prediction_figures import plot_confusion as plot_confusion
from analysis.prediction_figures import plot_mistakes as plot_mistakes
from analysis.prediction_figures import plot_per_class as plot_per_class
from analysis.prediction_figures import plot_samples as plot_samples
from analysis.prediction_figures import samples_data as samples_data
from analysis.search_figures import incumbent_data as incumbent_data
from analysis.search_figures import learning_curves_data as learning_curves_data
from analysis.search_figures import plot_incumbent as plot_incumbent
from analysis.search_figures import plot_learning_curves as plot_learning_curves
