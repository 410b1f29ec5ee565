"""A real S3 server on this machine for tests, and a door to it that can be shut."""

import contextlib
import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from local_cluster import free_port
from searches import wait_until

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
BUCKET = "searches"


@dataclass
class Bucket:
    """A bucket behind a door; `environment` holds the credentials that a client needs."""

    door: "Door"

    @property
    def environment(self) -> dict[str, str]:
        return dict(CREDENTIALS)

    def url(self, path: str) -> str:
        return f"s3://{BUCKET}/{path}?endpoint_override=127.0.0.1:{self.door.port}&scheme=http"


class Door(socketserver.ThreadingTCPServer):
    """Passes connections on to a server; refuses new ones and cuts those that are open while it is shut."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), Passage)
        self.target, self.is_open = target, True
        self.passages: set[socket.socket] = set()
        self.port = int(self.server_address[1])

    def shut(self) -> None:
        self.is_open = False
        for passage in list(self.passages):
            with contextlib.suppress(OSError):
                passage.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        self.is_open = True


class Passage(socketserver.BaseRequestHandler):
    server: Door

    def handle(self) -> None:
        if not self.server.is_open:
            return
        with socket.create_connection(("127.0.0.1", self.server.target)) as inner:
            self.server.passages |= {self.request, inner}
            back = threading.Thread(target=_pass_on, args=(inner, self.request), daemon=True)
            back.start()
            _pass_on(self.request, inner)
            back.join()
            self.server.passages -= {self.request, inner}


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextlib.contextmanager
def bucket() -> Iterator[Bucket]:
    """An empty bucket, in a server of its own."""
    import boto3

    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={**os.environ, **CREDENTIALS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    door = Door(port)
    threading.Thread(target=door.serve_forever, daemon=True).start()
    try:
        wait_until(lambda: answers(port), "the S3 server", seconds=60)
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys).create_bucket(Bucket=BUCKET)
        yield Bucket(door)
    finally:
        door.shutdown()
        door.server_close()
        server.kill()
        server.wait()
