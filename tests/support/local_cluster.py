"""Real Ray clusters for tests: a head and further nodes, each its own `ray start --block`, ended by process id.

Never `ray stop`, which would end every Ray on the machine.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from searches import PROGRAMS, environment, wait_until

COUNT_NODES = [sys.executable, str(PROGRAMS / "count_nodes.py")]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class LocalCluster:
    """A head on 127.0.0.1 and nodes beside it; `environment` is what a client needs to join it."""

    directory: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    temp: str | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start_head(self, num_cpus: int = 1, flags: Sequence[str] = ("--include-dashboard=false",)) -> None:
        # Without its own temp directory a head would tell every other Ray on the machine of itself. A short one: it
        # holds sockets, whose paths have at most 107 bytes.
        self.temp = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        self._start(["--head", f"--port={self.port}", f"--temp-dir={self.temp}", *flags], num_cpus)
        self._wait_for(1)

    def start_node(self, num_cpus: int = 1, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """`prefix`: a command that runs the node in other circumstances, such as `unshare`."""
        node = self._start([f"--address={self.address}"], num_cpus, prefix)
        self._wait_for(len(self.nodes))
        return node

    def _start(self, flags: Sequence[str], num_cpus: int, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        agent = [] if any("agent-listen-port" in flag for flag in flags) else ["--dashboard-agent-listen-port=0"]
        flags = [*flags, *agent, f"--num-cpus={num_cpus}", "--node-ip-address=127.0.0.1", "--block"]
        command = [*prefix, *RAY, "start", *flags]
        log = (self.directory / f"node{len(self.nodes)}.log").open("wb")
        joined = {**os.environ, **self.environment}
        node = subprocess.Popen(command, env=joined, stdout=log, stderr=log, start_new_session=True)
        self.nodes.append(node)
        return node

    def _wait_for(self, count: int) -> None:
        """Until the cluster counts so many living nodes."""

        def are_there() -> bool:
            logs = sorted(self.directory.glob("node*.log"))
            assert self.nodes[-1].poll() is None, "\n".join(log.read_text(errors="replace")[-2000:] for log in logs)
            command = [*COUNT_NODES, self.address]
            done = subprocess.run(command, env=environment(**self.environment), stdout=subprocess.PIPE, timeout=120)
            return f"nodes: {count}".encode() in done.stdout

        wait_until(are_there, f"{count} Ray nodes", seconds=120)

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """End a node and all its processes at once, as a power cut does."""
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def end(self) -> None:
        for node in reversed(self.nodes):
            if node.poll() is None:
                node.terminate()
        for node in self.nodes:
            try:
                node.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill(node)
        if self.temp is not None:
            shutil.rmtree(self.temp, ignore_errors=True)


@contextmanager
def local_cluster(directory: Path, guarded: bool = True) -> Iterator[LocalCluster]:
    """A cluster without nodes yet, with token authentication and an empty HOME, or open."""
    home = directory / "home"
    home.mkdir(parents=True)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    cluster = LocalCluster(directory, {"HOME": str(home), **(token if guarded else {"RAY_AUTH_MODE": "disabled"})})
    try:
        yield cluster
    finally:
        cluster.end()
