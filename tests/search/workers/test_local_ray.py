"""Ray on this machine alone: its start, what keeps it from starting, and the token that guards it."""

import os
import time
from pathlib import Path

import pytest

from search.record.run_directory import SearchError
from search.workers import local_ray


@pytest.mark.parametrize(
    ("address", "variable", "expected"),
    [
        (None, None, True),
        ("local", None, True),
        ("local", "10.0.0.1:6379", True),
        (None, "local", True),
        (None, "", True),
        (None, "10.0.0.1:6379", False),
        ("auto", None, False),
        ("auto", "local", False),
    ],
)
def test_an_address_comes_before_the_variable(
    monkeypatch: pytest.MonkeyPatch, address: str | None, variable: str | None, expected: bool
) -> None:
    if variable is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert local_ray.is_local(address) is expected


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory; the environment has no token."""
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
    return tmp_path


def test_the_token_is_made_private_and_an_existing_one_is_mended_and_kept(home: Path) -> None:
    file = home / ".ray" / "auth_token"
    local_ray.make_token()
    token = file.read_text()
    assert len(token) == 64 and file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    local_ray.make_token()
    assert file.read_text() == token and file.stat().st_mode & 0o777 == 0o600
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_without_a_home_that_can_be_written_a_program_has_a_token_of_its_own(home: Path) -> None:
    (home / ".ray").write_text("a file where the directory should be")
    local_ray.make_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize(
    ("errors", "tries", "words"),
    [
        ([], 1, None),
        ([Exception("The node timed out.\nMore.")], 2, None),
        (
            [Exception("The node timed out.\nMore.")] * 2,
            2,
            "The node timed out. If the machine is busy",
        ),
        ([OSError("AF_UNIX path length cannot exceed 107 bytes")], 1, "107 bytes. .* set RAY_TMPDIR to a short one"),
    ],
)
def test_a_start_that_fails_is_tried_once_more_if_that_can_help_and_is_one_sentence(
    errors: list[Exception], tries: int, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, calls = list(errors), []

    def init() -> None:
        calls.append(1)
        if left:
            raise left.pop(0)

    monkeypatch.setattr(local_ray, "init", init)
    if words is None:
        local_ray.start()
    else:
        with pytest.raises(SearchError, match=words):
            local_ray.start()
    assert len(calls) == tries


@pytest.mark.parametrize("ends_in", [None, 0.0])
def test_a_start_that_hangs_is_given_up(ends_in: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_ray, "init", lambda: time.sleep(3))
    monkeypatch.setattr(local_ray, "SECONDS_A_TRY", 0.2)
    with pytest.raises(SearchError, match="it has not done so in"):
        local_ray.start(None if ends_in is None else time.monotonic() + ends_in)
