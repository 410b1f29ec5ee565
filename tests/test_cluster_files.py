"""The files of configs/cluster, and a job submitted to a cluster, as far as they go without a cloud and without SLURM.

`ray up` talks to a server that answers as AWS does, and to programs in the place of ssh and rsync that do on this
machine what it asks of another (`programs/cloud`). The SLURM script gets an srun that starts its tasks here
(`programs/slurm`); its Ray cluster and its search are real.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bucket import bucket
from local_cluster import COUNT_NODES, RAY, free_port, local_cluster
from optuna.trial import TrialState
from searches import PROGRAMS, PROJECT, check_record, environment, trials_of, wait_until

AWS, SLURM = PROJECT / "configs" / "cluster" / "aws.yaml", PROJECT / "configs" / "cluster" / "slurm.sh"
AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
UNGUARDED = {name: value for name, value in os.environ.items() if name not in AUTH}
HERE = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where this environment's programs are found
LONG = ["--config=configs/quick.yaml", "--set=data.image_size=36", "--set=search.max_multiply_adds=null"]


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def words_of(process: Path, file: str) -> list[str]:
    """Its command line or environment; none where it has ended."""
    try:
        return (process / file).read_text(errors="replace").split("\0")
    except OSError:
        return []


def processes_at(home: Path) -> dict[Path, list[str]]:
    """The command lines of all processes that were started with a HOME."""
    processes = Path("/proc").glob("[0-9]*")
    return {each: words_of(each, "cmdline") for each in processes if f"HOME={home}" in words_of(each, "environ")}


def documented_commands(file: Path) -> list[list[str]]:
    """The words of every ray, sbatch and python command in a page, or in the comments of another file."""
    text = file.read_text()
    if file.suffix != ".md":
        text = "\n".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("# "))
    text = re.sub(r"\\\n *", "", text)
    found = [line.strip() for line in text.splitlines() if re.match(r" *(ray|sbatch|python) ", line)]
    found += re.findall(r"(?:`|; )((?:ray|sbatch|python) [^`)]+)[`)]", text)
    return [[word for word in shlex.split(each, comments=True) if word not in ("&", "...")] for each in found]


@pytest.mark.parametrize("file", [AWS, SLURM, AWS.with_name("README.md")], ids=lambda file: file.name)
def test_documented_commands_are_understood(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the parsers of Ray and of this project; what they name need not be there."""
    import click
    from ray.scripts.scripts import cli

    from search.command_line import parse

    monkeypatch.chdir(PROJECT)
    commands = documented_commands(file)
    assert commands
    searches = 0
    for words in commands:
        if words[0] == "ray":
            command: click.Command = cli
            words = words[1:]
            while isinstance(command, click.Group):
                command = command.commands[words.pop(0)]
            command.make_context(str(command.name), list(words))
        if {"run_search.py", "configs/cluster/slurm.sh"} & set(words):
            start = next(number for number, word in enumerate(words) if word.endswith(("run_search.py", "slurm.sh")))
            parse(words[start + 1 :])
            searches += 1
    assert searches >= 2


# ray up


def aws_config() -> dict[str, Any]:
    return yaml.safe_load(AWS.read_text())


def test_the_ray_up_file_satisfies_rays_own_schema() -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(aws_config())
    validate_config(config)
    assert config["available_node_types"]["head"]["max_workers"] == 0
    with pytest.raises(ValidationError):  # the schema does look at the keys
        validate_config(config | {"idle_timeout": 10})


def test_the_ray_up_file_brings_all_that_the_project_needs() -> None:
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    setuptools = project["tool"]["setuptools"]
    packages = {pattern.removesuffix("*") for pattern in setuptools["packages"]["find"]["include"]}
    needed = {*packages, *(f"{module}.py" for module in setuptools["py-modules"])}
    needed |= {"pyproject.toml", project["project"]["readme"], "configs"}
    mounts = aws_config()["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    assert mounts == {f"~/convsearch/{name}": name for name in needed}
    assert "cluster" in project["project"]["optional-dependencies"]


def aws(service: str, server: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-west-2"}
    return boto3.client(service, endpoint_url=server, **keys)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a user's machine with an AWS account that has the two instance profiles, and a token."""
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    with bucket() as server:
        endpoint = f"http://127.0.0.1:{server.door.port}"
        for name in ("convsearch-head", "convsearch-worker"):
            aws("iam", endpoint).create_instance_profile(InstanceProfileName=name)
        yield {
            **UNGUARDED,
            **server.environment,
            "AWS_ENDPOINT_URL": endpoint,
            "HOME": str(tmp_path),
            "MACHINES": str(tmp_path / "machines"),
            "PATH": f"{PROGRAMS / 'cloud'}:{HERE}",
            "PYTHON": sys.executable,
            "TMPDIR": str(tmp_path),  # where ray up keeps what it has looked up
            "RAY_USAGE_STATS_ENABLED": "0",
        }


@pytest.mark.slow
def test_ray_up_launches_a_guarded_cluster(cloud: dict[str, str]) -> None:
    def ray(*arguments: str) -> str:
        done = subprocess.run([*RAY, *arguments], cwd=PROJECT, env=cloud, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    output = ray("up", "--yes", "configs/cluster/aws.yaml")
    ec2 = aws("ec2", cloud["AWS_ENDPOINT_URL"])

    def instances() -> list[Any]:
        return [each for group in ec2.describe_instances()["Reservations"] for each in group["Instances"]]

    (head,) = instances()
    assert head["IamInstanceProfile"]["Arn"].endswith("/convsearch-head") and head["InstanceType"] == "m7i.large"
    names = [each["GroupId"] for each in head["SecurityGroups"]]
    (group,) = ec2.describe_security_groups(GroupIds=names)["SecurityGroups"]
    to_all = [each for each in group["IpPermissions"] if each["IpRanges"] or each["Ipv6Ranges"]]
    assert [(each["FromPort"], each["ToPort"]) for each in to_all] == [(22, 22)]

    machine = Path(cloud["MACHINES"]) / head["PublicIpAddress"]
    token = (Path(cloud["HOME"]) / ".ray" / "auth_token").read_text()
    assert (machine / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    stop, start = (machine / "ray.log").read_text().splitlines()
    assert stop.endswith(" stop") and start.startswith("token start --head ") and "--dashboard-host=127.0.0.1" in start
    assert (machine / "token.found").read_text() == token  # Ray itself finds it there
    written = [(machine / name).read_text() for name in ("commands", "ray_bootstrap_config.yaml")]
    shown = [AWS.read_text(), output, *written]
    assert not any(token in text for text in shown)
    assert f"{machine}/convsearch install --quiet -e .[cluster]" in (machine / "installed").read_text()
    program_there = [sys.executable, str(machine / "convsearch" / "run_search.py"), "--help"]
    assert b"--storage-path" in subprocess.run(program_there, cwd=machine, capture_output=True, check=True).stdout

    # What the head does with a worker, by the configuration that it was given.
    config = json.loads((machine / "ray_bootstrap_config.yaml").read_text())
    worker = Path(cloud["MACHINES"]) / "10.0.0.9"
    (worker / ".ray").mkdir(parents=True)
    (worker / "convsearch").mkdir()
    shutil.copy(machine / ".ray" / "auth_token", worker / ".ray")
    for command in [*config["worker_setup_commands"], *config["worker_start_ray_commands"]]:
        there = shlex.quote(f"source ~/.bashrc; export RAY_HEAD_IP=10.0.0.1; ({command})")
        subprocess.run(["ssh", "ubuntu@10.0.0.9", "bash --login -c -i", there], env=cloud, check=True)
    stop, start = (worker / "ray.log").read_text().splitlines()
    assert start == "token start --address=10.0.0.1:6379" and (worker / "token.found").read_text() == token

    ray("exec", "configs/cluster/aws.yaml", "cd convsearch && ray status")  # as a user does, on the head
    assert (machine / "ray.log").read_text().splitlines()[-1] == "token status"
    ray("down", "--yes", "configs/cluster/aws.yaml")
    assert {each["State"]["Name"] for each in instances()} == {"terminated"}


# SLURM


class Job:
    """A SLURM job of two nodes, both of them this machine, with an empty HOME."""

    def __init__(self, directory: Path) -> None:
        self.logs, self.home, self.work, self.bin = (directory / name for name in ("logs", "home", "work", "bin"))
        for place in (self.logs, self.home, self.work, self.bin):
            place.mkdir()
        for name in ("run_search.py", "search", "training", "configs"):
            (self.work / name).symlink_to(PROJECT / name)
        self.port = free_port() // 2 % 5000 * 2 + 20000
        self.id = str(5_000_000 + (self.port - 20000) // 2)
        self.name = f"demo-{self.id}"

    def start(self, *arguments: str, alone: bool = False, **more: str) -> subprocess.Popen[str]:
        """`alone`: without Ray and without a search."""
        stand_ins = [self.bin, *[PROGRAMS / "slurm" / "alone"] * alone, PROGRAMS / "slurm"]
        settings = {
            "HOME": str(self.home),
            "LOGS": str(self.logs),
            "PATH": ":".join([*map(str, stand_ins), HERE]),
            "PYTHONPATH": str(PROJECT),
            "RAY_worker_niceness": "0",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_JOB_ID": self.id,
            "SLURM_JOB_NAME": "demo",
            "SLURM_JOB_NODELIST": "localhost,127.0.0.1",
            "SLURM_SUBMIT_DIR": str(self.work),
        }
        return subprocess.Popen(
            ["bash", str(SLURM), *arguments],
            env=settings | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    for process in processes_at(job.home):  # only where the test has failed
        os.kill(int(process.name), signal.SIGKILL)


def test_the_slurm_script_is_bash_and_its_options_are_read_by_sbatch() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    lines = SLURM.read_text().splitlines()
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert options and max(options) < first_command  # sbatch reads no further
    assert any("--signal=B:TERM@" in lines[number] for number in options)


@pytest.mark.parametrize(
    ("arguments", "restarts", "begun", "expected"),
    [
        (["--num-samples", "3"], "0", "", "--name NAME --num-samples 3"),
        (["--num-samples", "3"], "1", "", "--name NAME --num-samples 3"),
        (["--num-samples", "3"], "1", "runs/NAME", "--resume runs/NAME"),
        (["--name", "mine", "--runs-dir=all"], "0", "", "--name mine --name mine --runs-dir=all"),
        (["--name", "mine", "--runs-dir=all/"], "2", "all/mine", "--resume all/mine"),
        (["--storage-path", "s3://b/searches", "--name=mine"], "1", "", "--resume s3://b/searches/mine"),
        (["--set", "model.depth=3", "--seed", "1"], "1", "runs/NAME", "--resume runs/NAME"),
        (["--resume", "runs/old", "--num-samples", "9"], "1", "runs/NAME", "--resume runs/old --num-samples 9"),
        (["--audit=runs/old"], "0", "", "--audit=runs/old"),
    ],
)
def test_a_slurm_job_that_is_put_back_goes_on_with_its_search(
    arguments: list[str], restarts: str, begun: str, expected: str, job: Job
) -> None:
    if begun:
        run = job.work / begun.replace("NAME", job.name)
        run.mkdir(parents=True)
        (run / "search.yaml").touch()
    script = job.start(*arguments, alone=True, SLURM_RESTART_COUNT=restarts, NODES="2")
    output, _ = script.communicate(timeout=60)
    assert script.returncode == 7 and not output, output  # that of the search
    words = (job.logs / "search").read_text().replace(job.name, "NAME").splitlines()
    assert words[:3] == ["run_search.py", "--address", f"127.0.0.1:{job.port}"]
    assert " ".join(words[3:]) == expected
    assert not processes_at(job.home)


@pytest.mark.parametrize("hosts", ["localhost", "localhost node2 node3 127.0.0.1"])
def test_each_node_of_a_slurm_job_gets_one_ray(hosts: str, job: Job) -> None:
    count = len(hosts.split())
    job.start("--num-samples", "3", alone=True, HOSTS=hosts, NODES=str(count)).communicate(timeout=60)
    nodes = (job.logs / "ray").read_text().splitlines()
    heads = [node for node in nodes if node.startswith("start --head ")]
    assert len(nodes) == count and len(heads) == 1 and "--include-dashboard=false" in heads[0]
    assert all("--num-cpus=1 " in node and node.endswith(" --block") for node in nodes)


def test_a_head_that_does_not_start_ends_a_slurm_job_and_is_quoted(job: Job) -> None:
    program(job.bin / "ray", "echo 'this port is taken'; exit 1")
    script = job.start("--num-samples", "3")
    output, _ = script.communicate(timeout=240)
    assert script.returncode == 1 and "this port is taken" in output and "The Ray head has ended." in output
    assert not (job.work / "runs").exists() and not processes_at(job.home)


@pytest.mark.parametrize("command", ["getent", "python"])  # the head's address is asked for; nodes are waited for
def test_a_slurm_job_that_is_stopped_before_its_nodes_are_there_ends(command: str, job: Job) -> None:
    program(job.bin / "python", "exec sleep 600")
    program(job.bin / "getent", "echo 127.0.0.1 STREAM localhost")
    there = job.bin / command
    there.write_text(there.read_text().replace("\n", '\ntouch "$LOGS/asked"; sleep 1\n', 1))
    script = job.start("--num-samples", "3", alone=True)
    wait_until((job.logs / "asked").exists, command)
    script.terminate()
    script.terminate()
    script.communicate(timeout=60)
    assert script.returncode == 143
    wait_until(lambda: not processes_at(job.home), "the end of the stand-in's last second", seconds=10)


def answer_to_client(address: str, **environment: str) -> str:
    """What a cluster says to it. One that is refused would try again for 20 s: it is ended at once."""
    command, streams = [*COUNT_NODES, address], {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=UNGUARDED | environment, text=True, **streams) as client:
        said = (re.search("nodes: 2|InvalidAuthToken|AuthenticationError", line) for line in client.stdout or ())
        answer = next(filter(None, said), None)
        client.kill()
    return answer[0] if answer else "none"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_slurm_job_searches_on_a_guarded_cluster_and_stops_resumably(job: Job, tmp_path: Path) -> None:
    run = job.work / "runs" / job.name
    script = job.start(*LONG, "--num-samples=6")

    def has_driver() -> bool:
        return script.poll() is not None or any("run_search.py" in words for words in processes_at(job.home).values())

    wait_until(has_driver, "the search's start")  # by which time both nodes have joined
    running = processes_at(job.home)
    assert script.poll() is None, script.communicate()[0]

    # The cluster is there for those who have its token, which is in the environment of the job's processes alone.
    settings = dict(word.partition("=")[::2] for process in running for word in words_of(process, "environ"))
    token, address, home = settings["RAY_AUTH_TOKEN"], f"127.0.0.1:{job.port}", str(tmp_path / "another home")
    assert answer_to_client(address, HOME=home) == "InvalidAuthToken"
    assert answer_to_client(address, HOME=home, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) == "nodes: 2"
    wait_until(lambda: script.poll() is not None or list(run.glob("trial_*/*/meta.json")), "a first epoch")
    running |= processes_at(job.home)
    assert not any(token in word for words in running.values() for word in words)
    options = (word.partition("=")[::2] for words in running.values() for word in words)
    places = {Path(value).parent for option, value in options if option == "--temp-dir"}
    assert len(places) == 2 and all(place.stat().st_mode & 0o777 == 0o700 for place in places)
    for file in (file for place in (*places, tmp_path) for file in place.rglob("*") if file.is_file()):
        assert token.encode() not in file.read_bytes(), file

    # Two minutes before its time is over.
    script.terminate()
    output, _ = script.communicate(timeout=240)
    assert script.returncode == 130, output
    assert "Ray nodes: 2 of 2" in output and "Traceback" not in output
    assert f"python run_search.py --resume runs/{job.name}" in output
    assert f"sbatch configs/cluster/slurm.sh --resume runs/{job.name}\n" in output
    assert not processes_at(job.home) and not any(place.exists() for place in places)
    saved = {file: file.read_text() for file in run.glob("trial_*/*/meta.json")}
    assert any(trial.state == TrialState.RUNNING for trial in trials_of(run))

    # The job is put back into the queue, and starts again with the same command.
    script = job.start(*LONG, "--num-samples=6", SLURM_RESTART_COUNT="1")
    output, _ = script.communicate(timeout=300)
    assert script.returncode == 0 and f"Going on with {run}" in output, output
    check_record(run, num_samples=6, epochs=3)
    assert all(file.read_text() == text for file, text in saved.items() if file.exists())
    assert not processes_at(job.home)


# ray job submit


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_submitted_job_searches_and_its_run_directory_is_complete(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "submitted"
    with local_cluster(tmp_path / "cluster") as cluster:
        port = free_port()
        cluster.environment["PATH"] = HERE
        dashboard = ["--dashboard-host=127.0.0.1", f"--dashboard-port={port}"]
        others = [f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
        cluster.start_head(num_cpus=2, flags=[*dashboard, *others])

        def submit(job: str, **more: str) -> tuple[int, str]:
            done = subprocess.run(
                [*RAY, "job", "submit", f"--address=http://127.0.0.1:{port}", "--working-dir=.", "--", *job.split()],
                cwd=PROJECT,
                env=environment(**cluster.environment | more),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
            )
            return done.returncode, done.stdout

        code, output = submit("true", RAY_AUTH_TOKEN="0" * 64)
        assert code != 0 and "Forbidden" in output
        wait_until(lambda: submit("true")[0] == 0, "a head that takes jobs")
        search = "python run_search.py --address auto"
        quick = f"--config configs/quick.yaml --num-samples 3 --storage-path {run.parent} --name {run.name}"
        for arguments, num_samples in ((quick, 3), (f"--resume {run} --num-samples 4", 4)):  # gone on with by a new job
            code, output = submit(f"{search} {arguments}")
            assert code == 0 and "succeeded" in output, output
            check_record(run, num_samples, epochs=3)
