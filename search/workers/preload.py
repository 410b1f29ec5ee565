"""What Ray's workers import before a trial comes; without garbage collection, which would be a fifth of the time."""

import gc

gc.disable()

import search.workers.trainable  # noqa: E402, F401

gc.enable()
gc.freeze()
