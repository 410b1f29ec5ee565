"""Runs in a bucket, on a real S3 server: read as the same run in a directory, by requests for what is needed alone."""

import contextlib
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import bucket as bucket_module
import pandas as pd
import pytest
from bucket import BUCKET, Bucket, bucket
from markupsafe import escape
from PIL import Image

from analysis import AnalysisError, load_search, newest_run
from analysis.__main__ import main
from analysis.findings.audit import load_audit
from analysis.findings.confirmation import load_confirmation
from analysis.report import analyse, write_report
from search.record.storage import Mirror
from training import load_model

ROOT = Path(__file__).parents[3]
RAYS_FILES = ("experiment_state-x.json", "trial_0002_a1b2c/events.out.tfevents.1", "trial_0002_a1b2c/result.json")


class Server:
    """A bucket, and every request that it got."""

    def __init__(self, bucket: Bucket, traffic: list[bytes]) -> None:
        self.bucket, self.traffic, self.door = bucket, traffic, bucket.door
        self.address = f"127.0.0.1:{self.door.port}"

    def requests(self, method: str) -> set[str]:
        """The paths of requests of a kind, below the bucket."""
        found = re.findall(rf"{method} /{BUCKET}/([^\s?]+)\S* HTTP/1".encode(), b"\n".join(self.traffic))
        return {path.decode() for path in found}

    def client(self, service: str = "s3") -> Any:
        return boto3.client(service, endpoint_url=f"http://{self.address}")

    def upload(self, run: Path, name: str = "run") -> str:
        url = self.bucket.url(f"runs/{name}")
        Mirror(url, run).push()
        self.traffic.clear()
        return url

    def files(self, name: str = "run") -> dict[str, bytes]:
        """The files of a run in the bucket."""
        client, prefix = self.client(), f"runs/{name}/"
        listed = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        keys = [item["Key"] for item in listed if not item["Key"].endswith("/")]
        return {
            key.removeprefix(prefix): client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in sorted(keys)
        }

    def ask_for_credentials(self, wanted: bool) -> None:
        """Whether requests are refused that the access key does not allow."""
        address, body = f"http://{self.address}/moto-api/reset-auth", b"0" if wanted else b"inf"
        urllib.request.urlopen(urllib.request.Request(address, body, {"Content-Type": "text/plain"})).close()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    traffic: list[bytes] = []
    pass_on = bucket_module._pass_on

    def recorded(source: Any, target: Any) -> None:
        class Ear:
            @staticmethod
            def recv(size: int) -> bytes:
                content = source.recv(size)
                traffic.append(content)
                return content

            shutdown = staticmethod(source.shutdown)

        pass_on(Ear, target)

    with pytest.MonkeyPatch.context() as patch, bucket() as b:
        patch.setattr(bucket_module, "_pass_on", recorded)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in b.environment.items():
            patch.setenv(name, value)
        yield Server(b, traffic)


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """The server with an empty bucket."""
    yield running
    running.door.open()
    running.ask_for_credentials(False)
    client = running.client()
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])


@pytest.fixture
def whole_run(search_run, trained):
    """search_run with an earlier checkpoint of trial 2 and files of Ray; confirm/ and audit/ with a training each."""
    search_run.checkpoint(2, trained["deeper"][0], 0)
    for name in RAYS_FILES:
        (search_run.path / name).write_text("of Ray")
    for name in ("confirm", "audit"):
        run = type(search_run)(search_run.path / name)
        source, key = (2, "deeper") if name == "confirm" else (3, "defaults")
        params = run.DEEPER if name == "confirm" else run.DEFAULTS
        number = run.trial(run.recorded(trained[key][-1]), params=params, source_number=source)
        run.checkpoint(number, trained[key][-1], 1)
    return search_run


def tensor_files(*checkpoints: str) -> set[str]:
    return {f"runs/run/{place}/{name}" for place in checkpoints for name in ("weights.pt", "state.pt")}


def with_tensors(names: set[str]) -> set[str]:
    return {name for name in names if name.endswith(".pt")}


def test_a_run_is_read_as_in_a_directory_and_only_what_is_asked_for_is_fetched(server, whole_run):
    local, url = load_search(whole_run.path), server.upload(whole_run.path)
    results = load_search(url)
    assert results.place == url and results.name == "run"
    for name in ("trials", "epochs"):
        pd.testing.assert_frame_equal(getattr(results, name), getattr(local, name))
    for name in ("best_trial", "params", "settings", "environment", "config", "warnings"):
        assert getattr(results, name) == getattr(local, name)
    at_first = tensor_files("trial_0000_a1b2c/checkpoint_000001", "trial_0002_a1b2c/checkpoint_000001")
    assert with_tensors(server.requests("GET")) == at_first
    assert not any(name.endswith(rays) for name in server.requests("GET") for rays in RAYS_FILES)
    checkpoint = results.checkpoint_of(3)
    assert checkpoint.is_relative_to(results.run) and load_model(checkpoint)
    assert with_tensors(server.requests("GET")) == at_first | tensor_files("trial_0003_a1b2c/checkpoint_000000")
    server.traffic.clear()
    assert results.checkpoint_of(2).name == "checkpoint_000001" and server.traffic == []
    assert not server.requests("PUT") and not server.requests("DELETE")


def test_confirm_and_audit_come_with_their_run(server, whole_run):
    url = server.upload(whole_run.path)
    local, results = load_search(whole_run.path), load_search(url)
    confirmation, audit = load_confirmation(results), load_audit(results)
    assert confirmation.run == audit.run == url and not confirmation.problems and not audit.problems
    pd.testing.assert_frame_equal(confirmation.trainings, load_confirmation(local).trainings)
    pd.testing.assert_frame_equal(audit.curves, load_audit(local).curves)
    assert load_model(confirmation.results.checkpoint_of(0))
    confirmed = load_search(server.bucket.url("runs/run/confirm"))
    pd.testing.assert_frame_equal(confirmed.trials, load_search(whole_run.path / "confirm").trials)


def test_damaged_checkpoints_are_passed_over_and_named_by_their_url(server, search_run, trained):
    best = search_run.checkpoint(2, trained["deeper"][0], 0).parent
    (best / "checkpoint_000001" / "state.pt").write_bytes(b"torn")
    (best / "checkpoint_000002").mkdir()
    (best / "checkpoint_000002" / "weights.pt").write_bytes(b"meta.json never came")
    local, results = load_search(search_run.path), load_search(server.upload(search_run.path))
    assert results.checkpoint_of(2).name == "checkpoint_000000"
    place = server.bucket.url("runs/run").partition("?")[0]
    assert results.warnings == [warning.replace(str(search_run.path), place) for warning in local.warnings]
    assert sum("checkpoint_00000" in warning for warning in results.warnings) == 2


def test_a_checkpoint_deleted_since_it_was_listed_is_left_out(server, search_run, monkeypatch):
    """As Ray does with older ones while a search runs."""
    url, names = server.upload(search_run.path), Mirror.names

    def names_then_delete(mirror: Mirror) -> list[str]:
        found = names(mirror)
        for name in ("meta.json", "weights.pt", "state.pt"):
            key = f"runs/run/trial_0003_a1b2c/checkpoint_000000/{name}"
            server.client().delete_object(Bucket=BUCKET, Key=key)
        return found

    monkeypatch.setattr(Mirror, "names", names_then_delete)
    results = load_search(url)
    assert results.checkpoint_of(3) is None and results.checkpoint_of(0) is not None
    assert "checkpoint_000000/meta.json is not" in "\n".join(results.warnings)


def test_nothing_is_written_outside_of_the_working_copy(server, search_run, tmp_path, monkeypatch):
    url = server.upload(search_run.path)
    for key in (
        "report/../../../outside",
        "../report/outside",
        "report//outside",
        "trial_0001_/../../outside/meta.json",
    ):
        server.client().put_object(Bucket=BUCKET, Key=f"runs/run/{key}", Body=b"evil")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a" / "temporary"))
    Path(tempfile.gettempdir()).mkdir(parents=True)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    results = load_search(url)
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert new and all(path.is_relative_to(results.run) for path in new)
    assert not any(path.name == "outside" and "report" not in path.parts for path in new)


def test_names_that_lead_out_of_a_directory_are_not_fetched(tmp_path):
    (tmp_path / "bucket" / "run").mkdir(parents=True)
    for name in ("outside", "run/inside"):
        (tmp_path / "bucket" / name).write_text("evil")
    mirror = Mirror(f"file://{tmp_path}/bucket/run", tmp_path / "copy" / "run")
    mirror.fetch(["../outside", "inside"])
    assert [path.name for path in (tmp_path / "copy").rglob("*") if path.is_file()] == ["inside"]


def test_the_newest_run_of_a_bucket(server, make_run):
    url = server.bucket.url
    for name in ("c", "b"):
        server.upload(make_run(name).path, name)
    time.sleep(1.1)  # a bucket's clock has whole seconds
    server.upload(make_run("a run").path, "a%20run")
    time.sleep(1.1)
    server.client().put_object(Bucket=BUCKET, Key="runs/no run/study.journal", Body=b"it has no search.yaml")
    server.client().put_object(Bucket=BUCKET, Key="runs/b/search.yaml", Body=b"the journal counts")
    assert newest_run(url("runs")) == newest_run(url("runs/")) == url("runs/a%20run")
    assert load_search(newest_run(url("runs"))).trials.empty


@pytest.fixture
def predicted(tmp_path: Path) -> str:
    Image.new("RGB", (20, 20), "white").save(tmp_path / "white.png")
    return str(tmp_path / "white.png")


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11, of its own reading
def test_predict_and_export_send_nothing(server, search_run, tmp_path, predicted, capsys):
    url, export = server.upload(search_run.path), tmp_path / "best.pt2"
    assert main([url, "--device", "cpu", "--predict", predicted, "--export", str(export)]) == 0
    assert export.stat().st_size > 0 and f"of {url}, the best" in capsys.readouterr().out
    assert not server.requests("PUT") and not server.requests("DELETE")


def test_a_bucket_or_a_run_that_is_not_there(server, make_run, capsys):
    server.upload(make_run().path)
    url = server.bucket.url
    for arguments, expected in (
        ([url("runs/nothing")], "there is no run directory s3://searches/runs/nothing?"),
        ([url("runs")], "there is no run directory"),
        ([url("").replace(BUCKET, "other-bucket")], "there is no bucket other-bucket"),
        ([url("runs/run").replace(BUCKET, "other-bucket")], "there is no bucket other-bucket"),
        (["--runs-dir", url("nowhere")], "there is no run in s3://searches/nowhere"),
        (["--runs-dir", url("x").replace(BUCKET, "other-bucket")], "there is no bucket other-bucket"),
        (["s3://"], "names no bucket"),
        (["nonsense://x/y"], "is not a usable URL"),
        ([url("runs/..")], "must not hold '..'"),
        ([url("runs/run").replace("s3://", "s3://key:hidden@")], "must not hold a password"),
    ):
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert expected in captured.err and captured.out == "" and len(captured.err.splitlines()) == 1
        assert "Traceback" not in captured.err and "hidden" not in captured.err
    assert load_search(url("runs/run")).trials.empty


def test_a_key_that_the_bucket_does_not_know(server, search_run, monkeypatch, capsys):
    url = server.upload(search_run.path)
    server.ask_for_credentials(True)
    assert main([url]) == 2
    captured = capsys.readouterr()
    assert f"access to {url} is refused" in captured.err and "AWS_ACCESS_KEY_ID" in captured.err
    assert len(captured.err.splitlines()) == 1


def test_a_full_disk_of_this_machine_is_not_taken_for_the_bucket(server, search_run):
    url = server.upload(search_run.path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
    try:
        with pytest.raises(AnalysisError, match=r"cannot be kept in .*TMPDIR"):
            load_search(url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def report_files(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files in report/; the name of TensorBoard's without the time in it."""
    return {re.sub(r"tfevents.*", "tfevents", name): files[name] for name in files if name.startswith("report/")}


def without(page: str, *words: str) -> str:
    """A page without moments and these words."""
    for word in (*map(str, map(escape, words)), *words):
        page = page.replace(word, "RUN")
    return re.sub(r"20\d\d-\d\d-\d\d.\d\d:\d\d(:\d\d)?(\+00:00)?", "MOMENT", page)


@pytest.mark.slow
def test_the_report_is_that_of_the_directory_and_a_second_one_opens_nothing(server, whole_run, tmp_path, capsys):
    url, run = server.upload(whole_run.path), str(whole_run.path)
    uploaded, page = server.files(), url.replace("?", "/report/index.html?")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    assert main([run, "--device", "cpu"]) == 0
    local = capsys.readouterr().out
    command = [sys.executable, "-m", "analysis", url, "--device", "cpu"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(temporary.iterdir()) == [], "the working copy is gone"
    assert f"Report: {page}\n" in done.stdout
    assert (
        done.stdout.replace(page, url + "/report/index.html").replace(shlex.quote(url), url).replace(url, run) == local
    )

    files = server.files()
    assert {name: files[name] for name in uploaded} == uploaded
    sent = server.requests("PUT") | server.requests("DELETE")
    assert sent and all(name.startswith("runs/run/report/") for name in sent)
    ours = report_files(files)
    theirs = report_files(
        {str(path.relative_to(run)): path.read_bytes() for path in whole_run.path.rglob("*") if path.is_file()}
    )
    assert ours.keys() == theirs.keys() and "report/tensorboard/events.out.tfevents" in ours
    for name in ours:
        if name.endswith((".csv", ".png")):
            assert ours[name] == theirs[name]
    metrics, expected = (without(each["report/test_metrics.json"].decode()) for each in (ours, theirs))
    assert metrics == expected and json.loads(metrics)["openings_of_test_split"] == 1
    tools = r"TensorBoard and Optuna's dashboard read.*?disk\.|Learning curves: .*?study\.journal</code>\."
    shown, expected = (
        re.sub(tools, "", without(each["report/index.html"].decode(), shlex.quote(url), url, run))
        for each in (ours, theirs)
    )
    assert shown == expected and str(temporary) not in shown

    assert main(["--runs-dir", server.bucket.url("runs"), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == done.stdout
    again = server.files()
    assert report_files(again).keys() == ours.keys() and len(again) == len(files)
    assert again["report/test_openings.json"] == files["report/test_openings.json"]


@pytest.mark.slow
def test_a_bucket_that_goes_away(server, search_run, tmp_path, monkeypatch, capsys):
    url = server.upload(search_run.path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    results = load_search(url)
    analysis = analyse(results, device="cpu")
    server.door.shut()
    with pytest.raises(AnalysisError, match="cannot be reached"):  # not taken for a damaged checkpoint
        results.checkpoint_of(3)
    with pytest.raises(AnalysisError, match=r"cannot be reached.*could not be sent and is kept in") as error:
        write_report(analysis)
    kept = Path(str(error.value).rpartition("kept in ")[2])
    assert (kept / "index.html").is_file() and kept.is_relative_to(tmp_path) and not kept.is_relative_to(results.run)
    assert main([url]) == 2
    captured = capsys.readouterr()
    assert "cannot be reached" in captured.err and len(captured.err.splitlines()) == 1
    server.door.open()
    assert results.checkpoint_of(3) is not None
    assert json.loads(server.files()["report/test_openings.json"])[0]["first_for"]
    results.send_report()
    assert server.files()["report/index.html"] == (kept / "index.html").read_bytes()


@contextlib.contextmanager
def allowed(server: Server, monkeypatch: pytest.MonkeyPatch, *actions: str) -> Iterator[None]:
    """Within, this process has an access key that allows these actions alone."""
    iam = server.client("iam")
    iam.create_user(UserName="reader")
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": list(actions), "Resource": "*"}]}
    iam.put_user_policy(UserName="reader", PolicyName="reads", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        server.ask_for_credentials(True)
        try:
            yield
        finally:
            server.ask_for_credentials(False)


@pytest.mark.slow
def test_a_bucket_that_may_only_be_read_predicts_and_says_why_there_is_no_report(
    server, search_run, predicted, monkeypatch, capsys
):
    url = server.upload(search_run.path)
    with allowed(server, monkeypatch, "s3:Get*", "s3:List*", "s3:Head*"):
        assert main([url, "--device", "cpu", "--predict", predicted]) == 0
        assert main([url, "--device", "cpu"]) == 2
    assert f"access to {url} is refused" in capsys.readouterr().err
    assert not report_files(server.files())
