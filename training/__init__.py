"""One configuration -> a trained network. Knows torch and the data; knows neither ray, optuna nor matplotlib."""

from training.names import looked_up, still_importable

__getattr__ = looked_up(
    __name__,
    {
        "checkpoint": ("load_model", "load_state", "save_checkpoint"),
        "config": ("TrialConfig",),
        "data": ("load_data", "load_test"),
        "loop": ("new_state", "train"),
    },
)
still_importable(
    {
        "training.costs": "training.layers",
        "training.data.split": "training.data.sets",
        "training.storage": "search.record.storage",
    }
)
