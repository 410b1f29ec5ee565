"""What is said when a config or its images cannot be used. Without torch, so that a command line can catch it."""

from training.messages import shortened

LONGEST_ERROR = 1000  # characters


class DataError(Exception):
    """Images that cannot be used: names the file, class or size, and the remedy."""


class ConfigError(ValueError):
    """Everything wrong with a config, at once: `errors` holds a line for each key."""

    def __init__(self, errors: list[str]) -> None:
        self.errors = [shortened(error, LONGEST_ERROR) for error in errors]
        super().__init__("\n".join(self.errors))
