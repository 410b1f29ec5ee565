"""Networks put to the test: the test split, metrics, statistics, predictions, export."""
