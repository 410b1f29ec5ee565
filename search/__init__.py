"""Many configurations -> a study. Knows training, ray and optuna."""
