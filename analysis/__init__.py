"""A run directory -> numbers and pictures. Knows training, optuna, pandas, matplotlib; not ray, not search."""

from analysis.results import AnalysisError as AnalysisError
from analysis.results import BestTrial as BestTrial
from analysis.results import SearchResults as SearchResults
from analysis.results import load_search as load_search
from analysis.results import newest_run as newest_run
