"""What is on disk: a run directory, its journal, checkpoints by number, buckets. Without Ray and torch."""
