"""All that touches Ray: nothing outside of this package imports it, so what stands here comes first."""

import contextlib
import os
import sys
from pathlib import Path

# Read by Ray when it is imported or started, here and in workers. Its own loggers write again what meta.json holds.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")  # for a stopped trial to make room on a busy machine
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # search.interruption answers signals
os.environ["RAY_DISABLE_FAILURE_SIGNAL_HANDLER"] = "1"  # which would take SIGTERM away, below Python
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new output engine prints its tables, and would drop our callback

TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def use_token() -> None:
    """Show a cluster the token that this machine has: with an address given, Ray does not do so by itself."""
    known = any(os.environ.get(name) for name in TOKEN_VARIABLES)
    with contextlib.suppress(OSError, RuntimeError):  # there is no home directory, or it is closed
        known = known or (Path.home() / ".ray" / "auth_token").is_file()
    if known:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


if "ray" not in sys.modules:  # it reads the mode but once, and would contradict itself
    use_token()
