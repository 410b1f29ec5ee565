"""`python -m analysis`, its figures made but not drawn; exit code 1 if it has imported Ray."""

import sys

import numpy as np

import analysis.report
import analysis.tensorboard
from analysis.__main__ import main

analysis.report.drawn = lambda pictures, report: []
analysis.tensorboard.pixels = lambda picture: np.zeros((1, 1, 3), np.uint8)
sys.exit(main() or "ray" in sys.modules)
