"""What all tests share: one thread, and property tests that do not fail because a machine is busy."""

import torch
from hypothesis import settings

torch.set_num_threads(1)

settings.register_profile("default", deadline=None, max_examples=60)
settings.load_profile("default")
