"""A run directory -> numbers and pictures. Never imports Ray."""

from training.names import looked_up, still_importable

__getattr__ = looked_up(
    __name__,
    {"reading.results": ("AnalysisError", "BestTrial", "SearchResults", "load_search", "newest_run")},
)
still_importable(
    {
        "analysis.metrics": "analysis.evaluating.metrics",
        "analysis.network_figures": "analysis.figures",
        "analysis.prediction_figures": "analysis.figures",
        "analysis.search_figures": "analysis.figures",
        "analysis.space_figures": "analysis.figures",
        "analysis.style": "analysis.figures.style",
    }
)
