"""Take and give back Optuna's lock of a journal, but die right after a call: `python die_locking.py JOURNAL CALL`."""

import os
import signal
import sys
from typing import Any

from optuna.storages.journal import JournalFileSymlinkLock

journal, call = sys.argv[1:]  # of os: symlink or rename
real = getattr(os, call)


def be_killed(*arguments: Any) -> None:
    real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)


setattr(os, call, be_killed)
lock = JournalFileSymlinkLock(journal)
lock.acquire()
lock.release()
