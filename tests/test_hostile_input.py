"""Input from a stranger: names, images, checkpoints, whole run directories. Refused or harmless: nothing in them is
executed, and nothing outside of them is written.
"""

import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import optuna
import pytest
import yaml
from damages import CONTENTS, Canary, of_meta, replace_content
from made_runs import MadeRun, edited_meta, small_config, trained_checkpoints
from optuna.trial import TrialState
from PIL import Image

import run_search
from analysis import load_search
from analysis.__main__ import main as analyse
from analysis.report import analyse as analyse_results
from search.command_line import parse
from search.plan import plan_search, resume_command
from search.propose.warm_start import warm_start
from search.record.run_directory import SearchError, write_atomically
from search.workers.bridge import trial_seed
from training import load_data
from training.config import DataConfig

PROJECT = Path(__file__).parents[1]
HTML, ESCAPES = "<script>alert(1)</script><img src=x onerror=alert(1)>", "\x1b[2J\x1b]0;title\x07\x9b31m"
SPACE = {"model.width": {"int": [2, 8]}, "optimizer.name": {"choice": ["adam", "adamw"]}}


# What a stranger sends


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Checkpoints of trial 0 after its first and its last epoch."""
    return trained_checkpoints(small_config(space=SPACE).base, tmp_path_factory.mktemp("trained"))


class Stranger(MadeRun):
    """A run directory that came from elsewhere with a trial, and beside it files that belong to its user."""

    def __init__(self, place: Path, trained: list[Path], **sections: dict[str, Any]) -> None:
        super().__init__(place / "runs" / "run", small_config(space=SPACE, search={"num_samples": 3}, **sections))
        self.place, self.canary, self.outside = place, place / "canary", place / "outside"
        self.journal = self.path / "study.journal"
        _, (_, self.newest) = self.trained(trained)
        Image.new("RGB", (9, 7)).save(place / "good.png")
        self.outside.mkdir()
        (self.outside / "precious.txt").write_text("not to be touched, and without a newline at its end")

    @contextmanager
    def settings(self) -> Iterator[dict[str, Any]]:
        """What search.yaml holds, to be changed."""
        settings = yaml.safe_load((self.path / "search.yaml").read_text())
        yield settings
        (self.path / "search.yaml").write_text(yaml.safe_dump(settings))

    def call(self, line: str) -> int:
        """A command line with RUN for the run directory; its exit code."""
        program, *arguments = line.replace("RUN", str(self.path)).split()
        return {"run_search": run_search.main, "analysis": analyse}[program](arguments)


RESUME = "run_search --resume RUN --num-samples 2"
ANALYSE = "analysis RUN --device cpu"
PREDICT = "analysis RUN --device cpu --predict good.png"


@pytest.fixture
def stranger(tmp_path: Path, trained: list[Path], monkeypatch: pytest.MonkeyPatch) -> Stranger:
    monkeypatch.chdir(tmp_path)
    return Stranger(tmp_path, trained)


def snapshot(root: Path, without: Path | None = None) -> dict[str, tuple[int, int, int, str]]:
    """Mode, size, time and target of every path below a directory, links not followed."""
    found = {}
    for folder, directories, files in os.walk(root):
        directories[:] = [name for name in directories if Path(folder) / name != without]
        for name in (*directories, *files):
            path = Path(folder) / name
            status = path.lstat()
            target = os.readlink(path) if path.is_symlink() else ""  # noqa: PTH115
            found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, target)
    return found


@contextmanager
def untouched(stranger: Stranger) -> Iterator[None]:
    """Nothing outside of the run directory changes, and no canary appears."""
    before = snapshot(stranger.place, stranger.path)
    yield
    assert snapshot(stranger.place, stranger.path) == before
    assert not list(stranger.place.rglob("canary"))


# Names


NAMES = ["../escape", "/tmp/escape", "..", "a/b", "a\0b", "a\n", "\x1b[31mred", "--resume", "$(touch x)", "x" * 101, ""]
NAMES += ["\u202egnp"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_more_than_a_name_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_search.main(["--config", str(PROJECT / "configs" / "quick.yaml"), f"--name={name}"]) == 2
    output = "".join(capsys.readouterr())
    assert f"--name: must be letters, digits, '.', '_' and '-' (at most 100), got {name!r}" in output
    assert output.replace("\n", "").isprintable()
    assert not list(tmp_path.iterdir()) and not (tmp_path.parent / "escape").exists()


# Images


def png(side: int) -> bytes:
    """A header by hand, so that nothing has to hold the pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"IDAT\0", b"IEND")
    packed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def gif(screen: int, side: int, frames: int) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + frame * frames + b";"


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\n%%EOF\n"
BOMBS = {  # and why they are refused
    "pixels.png": (png(60_000), "3600000000 pixels"),
    "frame.gif": (gif(8, 60_000, frames=1), "3600000000 pixels"),
    "drawing.png": (POSTSCRIPT, "PostScript"),
}


def test_no_image_takes_memory_or_runs_a_program(
    stranger: Stranger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data sets of folders decode with the same function."""
    for name, (content, _) in BOMBS.items():
        (stranger.place / name).write_bytes(content)
    (stranger.place / "film.gif").write_bytes(gif(1, 1, frames=200_000))
    (stranger.place / "gs").write_text(f"#!/bin/sh\nmkdir '{stranger.canary}'\n")  # Ghostscript says that it was run
    (stranger.place / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{stranger.place}:{os.environ['PATH']}")
    with untouched(stranger):
        assert stranger.call(f"{PREDICT} film.gif {' '.join(BOMBS)}") == 2
    printed, said = capsys.readouterr()
    assert "good.png: " in printed and "film.gif: " in printed
    for line, (name, (_, why)) in zip(said.splitlines(), BOMBS.items(), strict=True):
        assert f"{name} cannot be read as an image" in line and why in line


# Checkpoints


def test_a_pickle_in_a_checkpoint_is_not_unpickled(stranger: Stranger, capsys: pytest.CaptureFixture[str]) -> None:
    file = stranger.newest / "weights.pt"
    replace_content(file, CONTENTS["a program"])
    with untouched(stranger):
        assert stranger.call(PREDICT) == 2
        assert f"{file} cannot be read" in capsys.readouterr().err
        assert "weights.pt cannot be read" in evaluated(stranger)


def test_a_strange_checkpoint_is_passed_over_and_what_came_before_it_used(
    stranger: Stranger, capsys: pytest.CaptureFixture[str]
) -> None:
    of_meta("results.1.finished_at", ESCAPES, stranger.newest)
    with untouched(stranger):
        assert stranger.call(PREDICT) == 0
    printed = "".join(capsys.readouterr())
    assert "\x1b[2J" not in printed and "checkpoint_000001" in printed and "passed over" in printed
    assert "the best: 1 epoch," in printed, "the checkpoint before it is sound"


@pytest.mark.parametrize("content", [b"[" * 100_000, b"1" * 10_000, b"\xed\xa0\x80"])
def test_an_environment_that_is_none_of_ours_is_passed_over(content: bytes, stranger: Stranger) -> None:
    (stranger.path / "environment.json").write_bytes(content)
    assert stranger.call(PREDICT) == 0


# Links out of a run directory


def link(path: Path, target: Path) -> None:
    """Put a link to a target, there or not, where a run directory has something."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("line", "name", "target"),
    [
        (RESUME, "study.journal", "precious.txt"),
        (RESUME, "search.yaml", "search.yaml"),
        (RESUME, "tuner.pkl", "not there"),
        ("run_search --confirm RUN", "confirm", "."),
        ("run_search --audit RUN", "audit", "not there"),
        (ANALYSE, "report", "."),
        (ANALYSE, "report/index.html", "not there"),
        (ANALYSE, "report/trials.csv", "precious.txt"),
    ],
)
def test_nothing_is_written_through_a_link(
    line: str, name: str, target: str, stranger: Stranger, trained: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stranger.trained(trained[:1], TrialState.PRUNED, stopped_by="asha")
    shutil.copy(stranger.path / "search.yaml", stranger.outside)
    path = stranger.path / name
    path.parent.mkdir(exist_ok=True)
    link(path, stranger.outside / target)
    with untouched(stranger):
        assert stranger.call(line) == 2
    said = capsys.readouterr().err
    assert f"{path} is a link" in said and "cp -rL" in said


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("not there")])
def test_what_is_no_file_is_no_journal_and_keeps_nobody_waiting(
    make: Callable[[Path], Any], stranger: Stranger, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger.journal.unlink()
    make(stranger.journal)
    with untouched(stranger):
        assert stranger.call(RESUME) == 2
        assert f"{stranger.journal} is a link, or no file" in capsys.readouterr().err
        assert stranger.call(ANALYSE) == stranger.call("analysis --runs-dir runs") == 2


@pytest.mark.slow
def test_what_an_analysis_only_reads_may_be_a_link(stranger: Stranger) -> None:
    shutil.copytree(stranger.path, stranger.outside / "confirm")
    for name in ("study.journal", "search.yaml", "environment.json", "trial_0000_a1b2c"):
        shutil.move(stranger.path / name, stranger.outside / name)
    for name in ("study.journal", "search.yaml", "environment.json", "trial_0000_a1b2c", "confirm"):
        link(stranger.path / name, stranger.outside / name)
    with untouched(stranger):
        assert stranger.call(ANALYSE) == 0
    assert (stranger.path / "report" / "index.html").is_file()


def test_unfinished_files_are_not_written_through_a_link_that_lay_in_wait(stranger: Stranger) -> None:
    """Their names can be guessed: they hold a process id."""
    precious = stranger.outside / "precious.txt"
    (stranger.path / f".search.yaml.{os.getpid()}").symlink_to(precious)
    (stranger.path / f".unfinished-{os.getpid()}.pt2").symlink_to(precious)
    with untouched(stranger):
        write_atomically(stranger.path / "search.yaml", "x: 1")
        (stranger.path / "search.yaml").write_text(stranger.config.to_yaml())
        assert stranger.call(f"{ANALYSE} --export RUN/x.pt2") == 0
    assert (stranger.path / "x.pt2").is_file() and not (stranger.path / "x.pt2").is_symlink()


# Data that a run names


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder data set whose images are those of digits, so that the checkpoints of `trained` fit it."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in "0123456789":
            (tmp_path / "photos" / split / label).mkdir(parents=True)
            for index in range(8):
                pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / label / f"{index}.png")
    return tmp_path / "photos"


def on(dataset: str, data_dir: Path, stranger: Stranger) -> None:
    """Let a run say that it was trained on other data."""
    data = {"dataset": dataset, "data_dir": str(data_dir)}
    with stranger.settings() as settings:
        settings["data"] |= data
    for checkpoint in stranger.path.glob("trial_*/checkpoint_*"):
        with edited_meta(checkpoint) as meta:
            meta["config"]["data"] |= data


def evaluated(stranger: Stranger, data_dir: str | None = None) -> str:
    """What an analysis says of its data, after all but the drawing, and with no kept predictions."""
    shutil.rmtree(stranger.path / "report", ignore_errors=True)
    return "\n".join(analyse_results(load_search(stranger.path), data_dir, "cpu").evaluation.problems)


def test_an_analysis_keeps_decoded_images_only_where_its_user_says(stranger: Stranger, photos: Path) -> None:
    on(f"folder:{photos}", stranger.outside, stranger)
    with untouched(stranger):
        assert evaluated(stranger) == "", "the images are read all the same"
    (stranger.place / "mine").mkdir()
    assert evaluated(stranger, "mine") == ""
    assert list((stranger.place / "mine" / ".cache").glob("*.npy")) and not (stranger.outside / ".cache").exists()
    on(f"folder:{photos}", stranger.place / "data", stranger)  # the default
    assert evaluated(stranger) == ""
    assert list((stranger.place / "data" / ".cache").glob("*.npy"))


def test_an_analysis_downloads_only_to_where_its_user_says(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR's own files are pickles: only those with the published MD5 sums are read."""
    asked: list[str] = []

    def download(url: str, root: str, *_: Any, **__: Any) -> None:
        asked.append(str(root))
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", download)
    (stranger.path / "cifar-10-batches-py").mkdir()
    for name in (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch", "batches.meta"):
        (stranger.path / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Canary(stranger.canary)))
    for place in (stranger.outside, stranger.place / "nowhere", stranger.path):
        on("cifar10", place, stranger)
        with untouched(stranger):
            said = evaluated(stranger)
        assert f"cifar10 is not in {place}, which is only read here" in said and "--data-dir DIR" in said
    assert asked == []
    assert "could not be downloaded" in evaluated(stranger, "mine")
    assert set(asked) == {"mine"}
    on("cifar10", stranger.place / "data", stranger)
    assert "could not be downloaded" in evaluated(stranger)
    assert set(asked) == {"mine", str(stranger.place / "data")}


HUGE_ARRAY = {"descr": "|u1", "fortran_order": False, "shape": (80, 10**6, 10**6, 3)}
PLANTED_CACHES: dict[str, Callable[[BinaryIO, Canary], None]] = {
    "pickle": lambda file, canary: pickle.dump(canary, file),
    "objects": lambda file, canary: np.save(file, np.array([canary] * 80), allow_pickle=True),
    "huge": lambda file, _: np.lib.format.write_array_header_1_0(file, HUGE_ARRAY),
    "other size": lambda file, _: np.save(file, np.zeros((80, 9, 9), np.uint8)),
}


@pytest.mark.parametrize("kind", PLANTED_CACHES)
def test_a_planted_cache_of_decoded_images_is_not_believed(kind: str, photos: Path, tmp_path: Path) -> None:
    config = DataConfig(dataset=f"folder:{photos}", data_dir=str(tmp_path / "cache"), image_size=8, crop_padding=0)
    expected = load_data(config).train.images
    files = list((tmp_path / "cache" / ".cache").glob("*.npy"))
    assert files
    for file in files:
        with file.open("wb") as stream:
            PLANTED_CACHES[kind](stream, Canary(tmp_path / "canary"))
    assert np.array_equal(load_data(config).train.images, expected)
    assert not (tmp_path / "canary").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_folder_with_undecodable_names_is_read(photos: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (photos / split / "0" / "0.png").rename(os.fsdecode(os.fsencode(photos / split / "0") + b"/\xff\x1b[2J.png"))
    config = DataConfig(dataset=f"folder:{photos}", data_dir=str(tmp_path / "cache"), image_size=8, crop_padding=0)
    assert load_data(config).num_bytes == load_data(config).num_bytes == 80 * 8 * 8 * 3


# search.yaml


def test_a_python_tag_in_search_yaml_is_refused(stranger: Stranger, capsys: pytest.CaptureFixture[str]) -> None:
    (stranger.path / "search.yaml").write_text("x: !!python/object/apply:os.mkdir [canary]")
    for rest in ("--resume RUN", "--audit RUN", "--config RUN/search.yaml", "--warm-start RUN --dataset digits"):
        with untouched(stranger):
            assert stranger.call(f"run_search {rest}") == stranger.call(PREDICT) == 2
        assert capsys.readouterr().err.count("cannot be read as YAML") == 2


# Journals, and everything at once


PICKLES = ["tuner.pkl", "trainable.pkl", "searcher-state-2030-01-01_00-00-00.pkl", "search_gen_state-1.json"]
PICKLES += ["experiment_state-2030-01-01_00-00-00.json", ".tune_metadata", "study.journal.snapshot"]
PICKLES += ["trial_0000_a1b2c/params.pkl", "trial_0000_a1b2c/checkpoint_000001/dict_checkpoint.pkl"]
PROGRAMS = ["sitecustomize.py", "usercustomize.py", "torch.py", "search.py", "conftest.py", "matplotlibrc"]


def output_of(place: Path, *command: str) -> str:
    """What a program says that ends well, without escapes."""
    both: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run((sys.executable, *command), cwd=place, env=environment, check=False, **both)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout and done.stdout.replace("\n", "").isprintable(), done.stdout
    return done.stdout


@pytest.mark.slow
def test_a_search_and_an_analysis_go_on_with_a_strangers_run_and_nothing_in_it_acts(
    tmp_path: Path, trained: list[Path]
) -> None:
    """The unfinished trial's newest checkpoint holds a pickle; it is named, and the trial trained without it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        stranger = Stranger(tmp_path, trained, resources={"address": address})
        evil = pickle.dumps(Canary(stranger.canary))
        for name in PICKLES:
            (stranger.path / name).write_bytes(evil)
        for name in PROGRAMS:
            for folder in (stranger.path, stranger.path / "trial_0000_a1b2c"):
                (folder / name).write_text(f"import os\nos.makedirs({str(stranger.canary)!r}, exist_ok=True)\n")
        unfinished = stranger.trial(stranger.recorded(trained[0]), None, warm=HTML)
        stranger.trial([], TrialState.FAIL, reason=f"{HTML}{ESCAPES}", stopped_by=f"{HTML}{ESCAPES}")
        place = stranger.outside / "elsewhere"  # its directory is a link, which is only read
        for index in range(2):
            checkpoint = shutil.copytree(trained[0], place / f"checkpoint_{index:06d}")
            of_meta("config.train.seed", trial_seed(0, unfinished), checkpoint)
        replace_content(checkpoint / "state.pt", CONTENTS["a program"])
        link(stranger.path / f"trial_{unfinished:04d}_d4e5f", place)
        with stranger.settings() as settings:
            settings["data"]["data_dir"] = str(stranger.outside)
            settings["search"] |= {"notice": f"{HTML}{ESCAPES}", "warm_start": [str(stranger.outside), "/dev"]}
        stranger.study.set_user_attr("warm_start", [])  # it was done, and is not done again
        with untouched(stranger):
            resume = ["--resume", str(stranger.path), "--num-samples", "4"]
            output = output_of(tmp_path, str(PROJECT / "run_search.py"), *resume)
            assert "4/4 trials" in output and "1 trial(s) failed" in output and "state.pt cannot be read" in output
            assert yaml.safe_load((stranger.path / "search.yaml").read_text())["resources"]["address"] is None
            (stranger.path / "environment.json").write_text(json.dumps([{HTML: ESCAPES, "command": {ESCAPES: [HTML]}}]))
            output = output_of(tmp_path, "-m", "analysis", str(stranger.path), "--device", "cpu")
            page = (stranger.path / "report" / "index.html").read_text()
            assert "alert(1)" in output and "alert(1)" in page
            assert "<script>alert" not in page and "<img src=x" not in page
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()
    assert pickle.loads(evil) is None and stranger.canary.exists(), "they were ones that act"
    trials = load_search(stranger.path).trials
    assert sorted(trials["state"]) == ["COMPLETE"] * 3 + ["FAIL"]
    assert list(stranger.path.glob(f"trial_{unfinished:04d}_*/checkpoint_*/meta.json"))


def test_a_resumed_search_joins_only_a_cluster_that_its_user_names(stranger: Stranger, trained: list[Path]) -> None:
    with stranger.settings() as settings:
        settings["resources"]["address"] = "ray://stranger:10001"
    stranger.trained(trained[:1], TrialState.PRUNED, stopped_by="asha")
    mine = stranger.place / "mine.yaml"
    mine.write_text(stranger.config.to_yaml().replace("address: null", "address: from-file:6379"))
    for given, expected in (
        ([], None),
        (["--address", "auto"], "auto"),
        (["--set", "resources.address=mine:6379"], "mine:6379"),
        (["--config", str(mine)], "from-file:6379"),
    ):
        plan = plan_search(parse(["--resume", str(stranger.path), *given]))
        assert plan.config.resources.address == expected
        command = f"python run_search.py --resume runs/run{f' --address {expected}' if expected else ''}"
        assert resume_command(plan).splitlines()[-1].strip() == command
    for kind in ("confirm", "audit"):
        (stranger.path / kind).mkdir()
        shutil.copy(stranger.path / "search.yaml", stranger.path / kind)  # as if it had begun
        for given, expected in (([], None), (["--address", "auto"], "auto")):
            plan = plan_search(parse([f"--{kind}", str(stranger.path), *given]))
            assert plan.config.resources.address == expected
            assert resume_command(plan).endswith(" --address auto") == (expected is not None)


def test_a_resumed_search_reads_no_url_that_only_its_run_names() -> None:
    config = small_config(search={"warm_start": ["s3://stranger/run?endpoint_override=127.0.0.1:1&scheme=http"]})
    study = optuna.create_study(direction="maximize")
    with pytest.raises(SearchError, match=r"was cut off\. Start a new search: --warm-start s3://stranger/run"):
        warm_start(study, config, num_classes=10, resume=True)
    study.set_user_attr("warm_start", [])
    assert warm_start(study, config, num_classes=10, resume=True) == []


@pytest.mark.parametrize("where", ["key", "value", "entry"])
def test_words_of_a_search_yaml_are_no_commands(
    where: str, stranger: Stranger, capsys: pytest.CaptureFixture[str]
) -> None:
    with stranger.settings() as settings:
        if where == "key":
            settings["search"][ESCAPES] = 1
        elif where == "value":
            settings["data"]["dataset"] = ESCAPES
        else:
            settings["space"][f"model.{ESCAPES}"] = {ESCAPES: [1, 2]}
    assert stranger.call(RESUME) == 2
    assert stranger.call(PREDICT) == (0 if where != "value" else 2)
    assert "".join(capsys.readouterr()).replace("\n", "").isprintable()
