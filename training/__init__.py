"""One configuration -> a trained network. Knows torch and the data; knows neither ray, optuna nor matplotlib.

Its names are looked up when they are used: torch takes seconds to import, and reading a config needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.checkpoint import load_model as load_model
    from training.checkpoint import load_state as load_state
    from training.checkpoint import save_checkpoint as save_checkpoint
    from training.config import TrialConfig as TrialConfig
    from training.data import load_data as load_data
    from training.data import load_test as load_test
    from training.loop import new_state as new_state
    from training.loop import train as train

_HOMES = {
    "load_model": "checkpoint",
    "load_state": "checkpoint",
    "save_checkpoint": "checkpoint",
    "TrialConfig": "config",
    "load_data": "data",
    "load_test": "data",
    "new_state": "loop",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"training.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
