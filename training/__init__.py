"""One configuration -> a trained network. Knows torch and the data; knows neither ray, optuna nor matplotlib."""

from training.checkpoint import load_model as load_model
from training.checkpoint import load_state as load_state
from training.checkpoint import save_checkpoint as save_checkpoint
from training.config import TrialConfig as TrialConfig
from training.data import load_data as load_data
from training.data import load_test as load_test
from training.loop import new_state as new_state
from training.loop import train as train
