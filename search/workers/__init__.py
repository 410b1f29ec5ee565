"""All that touches Ray: nothing outside of this package imports it, so what stands here comes first."""

import os

# Read by Ray when it is imported or started, here and in workers. Its own loggers write again what meta.json holds.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")  # for a stopped trial to make room on a busy machine
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # search.interruption answers signals
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new output engine prints its tables, and would drop our callback
