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
import torch
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from PIL import Image

import run_search
from analysis import load_search
from analysis.__main__ import main as analyse
from analysis.report import analyse as analyse_results
from search.config import SearchConfig, parse_config
from search.propose.warm_start import warm_start
from search.record.run_directory import SearchError
from search.workers.bridge import trial_seed
from training import load_data, new_state, save_checkpoint, train
from training.checkpoint import TENSOR_FILES, _sha256, read_meta
from training.config import DataConfig

PROJECT = Path(__file__).parents[1]
SECTIONS: dict[str, Any] = {
    "search": {"num_samples": 3},
    "data": {"dataset": "digits", "image_size": 8, "crop_padding": 0, "flip": False},
    "model": {"depth": 1, "width": 4, "pooling": "none"},
    "optimizer": {"name": "adamw", "learning_rate": 0.01},
    "train": {"epochs": 2, "batch_size": 64},
    "sampler": {"name": "random"},
    "scheduler": {"name": "none"},
    "space": {"model.width": {"int": [2, 8]}, "optimizer.name": {"choice": ["adam", "adamw"]}},
}
PIXELS = 60_000  # a side
MEMORY_MARGIN = 150 * 2**20  # bytes; such an image takes 3.6 GB


# What a stranger sends


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def config_of(**sections: dict[str, Any]) -> SearchConfig:
    names = {**SECTIONS, **sections}
    return parse_config({name: {**SECTIONS.get(name, {}), **sections.get(name, {})} for name in names}, {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Checkpoints of trial 0 after its first and its last epoch."""
    config, places = config_of().base, []
    data = load_data(config.data)
    state = new_state(config, data)
    for result in train(state, data):
        places.append(tmp_path_factory.mktemp("trained") / f"epoch_{result.epoch}")
        save_checkpoint(state, places[-1], 0)
    return places


class Stranger:
    """A place with a run directory that came from elsewhere, and files that belong to its user."""

    def __init__(self, place: Path, trained: list[Path], **sections: dict[str, Any]) -> None:
        self.place, self.run, self.canary = place, place / "runs" / "run", place / "canary"
        self.journal, self.checkpoint = self.run / "study.journal", self.run / "trial_0000_a1b2c" / "checkpoint_000001"
        self.trained, self.config = trained, config_of(**sections)
        self.run.mkdir(parents=True)
        (self.run / "search.yaml").write_text(self.config.to_yaml())
        start = {"started_at": "2030-01-01T00:00:00+00:00", "command": "run_search.py"}
        (self.run / "environment.json").write_text(json.dumps([start]))
        storage = JournalStorage(JournalFileBackend(str(self.journal)))
        self.study = optuna.create_study(storage=storage, study_name="run", direction="maximize")
        self.trial()
        for epoch, checkpoint in enumerate(trained):
            shutil.copytree(checkpoint, self.checkpoint.with_name(f"checkpoint_{epoch:06d}"))
        Image.new("RGB", (9, 7)).save(place / "good.png")
        self.outside = place / "outside"
        self.outside.mkdir()
        (self.outside / "precious.txt").write_text("not to be touched, and without a newline at its end")

    def trial(self, state: TrialState | None = TrialState.COMPLETE, epochs: int = 2, **user_attrs: Any) -> optuna.Trial:
        """A trial with the params of trial 0 and its curve; state None leaves it RUNNING."""
        self.study.enqueue_trial(self.config.search_space.default_params())
        trial = self.study.ask(self.config.search_space.distributions())
        results = read_meta(self.trained[-1])["results"][:epochs]
        for result in results:
            trial.report(result.val_accuracy, result.epoch)
        for key, value in user_attrs.items():
            trial.set_user_attr(key, value)
        if state == TrialState.COMPLETE:
            self.study.tell(trial, results[-1].val_accuracy)
        elif state is not None:
            self.study.tell(trial, state=state)
        return trial

    @contextmanager
    def settings(self) -> Iterator[dict[str, Any]]:
        """What search.yaml holds, to be changed."""
        settings = yaml.safe_load((self.run / "search.yaml").read_text())
        yield settings
        (self.run / "search.yaml").write_text(yaml.safe_dump(settings))

    def predict(self) -> int:
        """python -m analysis, without a report; its exit code."""
        return analyse([str(self.run), "--device", "cpu", "--predict", str(self.place / "good.png")])

    def resume(self, *arguments: str) -> int:
        return run_search.main(["--resume", str(self.run), *arguments])


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
    before = snapshot(stranger.place, stranger.run)
    yield
    after = snapshot(stranger.place, stranger.run)
    assert after == before
    assert not stranger.canary.exists()


@contextmanager
def meta_of(checkpoint: Path) -> Iterator[dict[str, Any]]:
    """meta.json, to be changed; it then agrees with the files beside it, as anyone can make it."""
    meta = json.loads((checkpoint / "meta.json").read_text())
    yield meta
    meta["sha256"] = {name: _sha256(checkpoint / name) for name in TENSOR_FILES}
    (checkpoint / "meta.json").write_text(json.dumps(meta))


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


# Images: headers by hand, so that nothing has to hold the pixels


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(side: int, *chunks: bytes, bits: int = 8, kind: int = 2, pixels: bytes = b"\0") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def gif(screen: int, side: int, frames: int = 1) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + frame * frames + b";"


def ico(side: int) -> bytes:
    """It says 16 x 16; the PNG inside says otherwise."""
    inside = png(side)
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inside), 22) + inside


def packed(num_bytes: int) -> bytes:
    """Zeros, compressed two hundredfold, a megabyte at a time."""
    compressor, block = zlib.compressobj(1), bytes(10**6)
    return b"".join([*(compressor.compress(block) for _ in range(num_bytes // 10**6)), compressor.flush()])


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\n%%EOF\n"
BOMBS: dict[str, Callable[[], bytes]] = {
    "pixels.png": lambda: png(PIXELS, bits=1, kind=0, pixels=packed(PIXELS * PIXELS // 8)),  # all of them
    "text.png": lambda: png(8, chunk(b"zTXt", b"x\0\0" + packed(200_000_000))),
    "frame.gif": lambda: gif(8, PIXELS),
    "inside.ico": lambda: ico(PIXELS),
    "drawing.eps": lambda: POSTSCRIPT,
    "drawing.png": lambda: POSTSCRIPT,
}


def measured(*command: str, cwd: Path, **environment: str) -> tuple[int, str, int]:
    """(exit code, output, peak memory in bytes) of a program."""
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert "Traceback" not in output, output
    return process.returncode, output, usage.ru_maxrss * 1024


@pytest.mark.slow
def test_no_image_takes_memory_or_runs_a_program(stranger: Stranger) -> None:
    """Data sets of folders decode with the same function."""
    (stranger.place / "film.gif").write_bytes(gif(1, 1, frames=200_000))
    for name, content in BOMBS.items():
        (stranger.place / name).write_bytes(content())
    (stranger.place / "gs").write_text(f"#!/bin/sh\nmkdir '{stranger.canary}'\n")  # Ghostscript says that it was run
    (stranger.place / "gs").chmod(0o755)
    path = f"{stranger.place}:{os.environ['PATH']}"
    arguments = ["-m", "analysis", str(stranger.run), "--device", "cpu", "--predict", "good.png"]
    with untouched(stranger):
        code, output, usual = measured(*arguments, cwd=stranger.place, PATH=path)
        assert code == 0, output
        code, output, memory = measured(*arguments, "film.gif", *BOMBS, cwd=stranger.place, PATH=path)
    assert code == 2 and "good.png: " in output and "film.gif: " in output
    assert all(f"{name} cannot be read as an image" in output for name in BOMBS) and "PostScript" in output
    assert memory < usual + MEMORY_MARGIN
    assert not (stranger.run / "report").exists()


# Checkpoints


def test_a_pickle_in_a_checkpoint_is_not_unpickled(stranger: Stranger, capsys: pytest.CaptureFixture[str]) -> None:
    file = stranger.checkpoint / "weights.pt"
    torch.save([bytes(5000), Canary(stranger.canary)], file)  # large enough to be weights
    with meta_of(stranger.checkpoint):
        pass
    with untouched(stranger):
        assert stranger.predict() == 2
        assert f"{file} cannot be read" in capsys.readouterr().err
        assert "weights.pt cannot be read" in evaluated(stranger)
    torch.load(file, weights_only=False)
    assert stranger.canary.exists(), "it was one that acts"


def test_a_strange_checkpoint_is_passed_over_and_what_came_before_it_used(
    stranger: Stranger, capsys: pytest.CaptureFixture[str]
) -> None:
    with meta_of(stranger.checkpoint) as meta:
        meta["results"][1]["finished_at"] = "<script>\x1b[2J"
    with untouched(stranger):
        assert stranger.predict() == 0
    printed = "".join(capsys.readouterr())
    assert "\x1b[2J" not in printed and "checkpoint_000001" in printed and "passed over" in printed
    assert "the best: 1 epoch," in printed, "the checkpoint before it is sound"


@pytest.mark.parametrize("content", [b"[" * 100_000, b"1" * 10_000, b"\0", b"\xed\xa0\x80"])
def test_an_environment_that_is_none_of_ours_is_passed_over(content: bytes, stranger: Stranger) -> None:
    (stranger.run / "environment.json").write_bytes(content)
    with untouched(stranger):
        assert stranger.predict() == 0


# Links out of a run directory


def link(path: Path, target: Path) -> None:
    """Put a link to a target, there or not, where a run directory has something."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("name", "target"),
    [("study.journal", "precious.txt"), ("search.yaml", "search.yaml"), ("tuner.pkl", "not there")],
)
def test_a_search_does_not_write_through_a_link(
    name: str, target: str, stranger: Stranger, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(stranger.run / "search.yaml", stranger.outside)
    link(stranger.run / name, stranger.outside / target)
    with untouched(stranger):
        assert stranger.resume("--num-samples", "2") == 2
    said = capsys.readouterr().err
    assert f"{stranger.run / name} is a link" in said and f"cp -rL {stranger.run} COPY" in said


def test_a_pipe_as_a_journal_keeps_nobody_waiting(stranger: Stranger, capsys: pytest.CaptureFixture[str]) -> None:
    stranger.journal.unlink()
    os.mkfifo(stranger.journal)
    assert stranger.resume("--num-samples", "2") == 2
    assert f"{stranger.journal} is a link, or no file" in capsys.readouterr().err
    assert analyse([str(stranger.run)]) == 2


@pytest.mark.parametrize(("kind", "target"), [("confirm", "there"), ("audit", "not there")])
def test_no_training_goes_to_a_linked_directory(
    kind: str, target: str, stranger: Stranger, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = stranger.trial(TrialState.PRUNED, epochs=1, stopped_by="asha")
    shutil.copytree(stranger.trained[0], stranger.run / f"trial_{stopped.number:04d}_a1b2c" / "checkpoint_000000")
    (stranger.outside / "there").mkdir()
    link(stranger.run / kind, stranger.outside / target)
    with untouched(stranger):
        assert run_search.main([f"--{kind}", str(stranger.run)]) == 2
    assert f"{stranger.run / kind} is a link" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("report", "."),
        ("report/index.html", "not there"),
        ("report/trials.csv", "precious.txt"),
        ("report/tensorboard", "."),
    ],
)
def test_a_report_is_not_written_through_a_link(
    name: str, target: str, stranger: Stranger, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stranger.run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    link(path, stranger.outside / target)
    (stranger.outside / "events.out.tfevents.1").write_text("of another program")
    with untouched(stranger):
        assert analyse([str(stranger.run), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert f"{path} is a link" in said and f"cp -rL {stranger.run} COPY" in said


@pytest.mark.slow
def test_what_an_analysis_only_reads_may_be_a_link(stranger: Stranger) -> None:
    shutil.copytree(stranger.run, stranger.outside / "confirm")
    for name in ("study.journal", "search.yaml", "environment.json", "trial_0000_a1b2c"):
        shutil.move(stranger.run / name, stranger.outside / name)
    for name in ("study.journal", "search.yaml", "environment.json", "trial_0000_a1b2c", "confirm"):
        link(stranger.run / name, stranger.outside / name)
    with untouched(stranger):
        assert analyse([str(stranger.run), "--device", "cpu"]) == 0
    assert (stranger.run / "report" / "index.html").is_file()


def test_a_dangling_journal_is_no_run(stranger: Stranger, capsys: pytest.CaptureFixture[str]) -> None:
    link(stranger.journal, stranger.outside / "not there")
    with untouched(stranger):
        assert analyse(["--runs-dir", str(stranger.run.parent)]) == 2
        assert analyse([str(stranger.run)]) == 2


def test_unfinished_files_are_not_written_through_a_link_that_lay_in_wait(stranger: Stranger) -> None:
    """Their names can be guessed: they hold a process id."""
    from search.record.run_directory import write_atomically

    precious = stranger.outside / "precious.txt"
    (stranger.run / f".search.yaml.{os.getpid()}").symlink_to(precious)
    (stranger.run / f".unfinished-{os.getpid()}.pt2").symlink_to(precious)
    with untouched(stranger):
        write_atomically(stranger.run / "search.yaml", "x: 1")
        (stranger.run / "search.yaml").write_text(stranger.config.to_yaml())
        assert analyse([str(stranger.run), "--device", "cpu", "--export", str(stranger.run / "x.pt2")]) == 0
    assert (stranger.run / "x.pt2").is_file() and not (stranger.run / "x.pt2").is_symlink()


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
    for checkpoint in stranger.run.glob("trial_*/checkpoint_*"):
        with meta_of(checkpoint) as meta:
            meta["config"]["data"] |= data


def evaluated(stranger: Stranger, data_dir: str | None = None) -> str:
    """What an analysis says of its data, after all but the drawing, and with no kept predictions."""
    shutil.rmtree(stranger.run / "report", ignore_errors=True)
    return "\n".join(analyse_results(load_search(stranger.run), data_dir, "cpu").evaluation.problems)


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
    (stranger.run / "cifar-10-batches-py").mkdir()
    for name in (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch", "batches.meta"):
        (stranger.run / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Canary(stranger.canary)))
    for place in (stranger.outside, stranger.place / "nowhere", stranger.run):
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


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir [canary]", "!!python/name:os.mkdir ''"])
def test_a_python_tag_in_search_yaml_is_refused(
    tag: str, stranger: Stranger, capsys: pytest.CaptureFixture[str]
) -> None:
    (stranger.run / "search.yaml").write_text(f"{stranger.config.to_yaml()}\nnotice: {tag}\n")
    before = snapshot(stranger.run)
    with untouched(stranger):
        assert stranger.resume("--num-samples", "2") == 2
        assert run_search.main(["--audit", str(stranger.run)]) == 2
        assert run_search.main(["--config", str(stranger.run / "search.yaml")]) == 2
        assert run_search.main(["--warm-start", str(stranger.run), "--dataset", "digits"]) == 2
        assert stranger.predict() == 2
    assert "cannot be read as YAML" in capsys.readouterr().err
    assert snapshot(stranger.run) == before


# Journals, and everything at once


HTML, ESCAPES = "<script>alert(1)</script><img src=x onerror=alert(1)>", "\x1b[2J\x1b]0;title\x07\x9b31m"


@pytest.mark.slow
def test_words_of_a_journal_are_neither_markup_nor_commands(
    stranger: Stranger, capsys: pytest.CaptureFixture[str]
) -> None:
    words = HTML + ESCAPES
    stranger.trial(TrialState.FAIL, 0, reason=words, stopped_by=words)
    stranger.trial(None, 1, reason=words)
    with stranger.settings() as settings:
        settings["search"]["notice"] = words
    (stranger.run / "environment.json").write_text(json.dumps([{words: words, "command": {words: [words]}}]))
    assert analyse([str(stranger.run), "--device", "cpu"]) == 0
    printed = "".join(capsys.readouterr())
    assert "alert(1)" in printed and printed.replace("\n", "").isprintable()
    page = (stranger.run / "report" / "index.html").read_text()
    assert "alert(1)" in page and "<script>alert" not in page and "<img src=x" not in page


PLANTED_PICKLES = ["tuner.pkl", "trainable.pkl", "searcher-state-2030-01-01_00-00-00.pkl", "search_gen_state-1.json"]
PLANTED_PICKLES += ["experiment_state-2030-01-01_00-00-00.json", ".tune_metadata", "study.journal.snapshot"]
PLANTED_PICKLES += ["trial_0000_a1b2c/params.pkl", "trial_0000_a1b2c/checkpoint_000001/dict_checkpoint.pkl"]
PLANTED_PROGRAMS = ["sitecustomize.py", "usercustomize.py", "torch.py", "search.py", "conftest.py", "matplotlibrc"]


@pytest.mark.slow
def test_a_search_and_an_analysis_go_on_with_a_strangers_run_and_nothing_in_it_acts(
    tmp_path: Path, trained: list[Path]
) -> None:
    """The unfinished trial's newest checkpoint holds a pickle; it is named, and the trial trained without it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        stranger = Stranger(tmp_path, trained, resources={"address": address})
        evil = pickle.dumps(Canary(stranger.canary))
        for name in PLANTED_PICKLES:
            (stranger.run / name).write_bytes(evil)
        for name in PLANTED_PROGRAMS:
            for folder in (stranger.run, stranger.run / "trial_0000_a1b2c"):
                (folder / name).write_text(f"import os\nos.makedirs({str(stranger.canary)!r}, exist_ok=True)\n")
        unfinished = stranger.trial(None, epochs=1, warm=HTML)
        stranger.trial(TrialState.FAIL, 0, reason=f"{HTML}{ESCAPES}")
        place = stranger.outside / "elsewhere"  # its directory is a link, which is only read
        shutil.copytree(trained[0], place / "checkpoint_000000")
        shutil.copytree(trained[0], place / "checkpoint_000001")
        torch.save([bytes(5000), Canary(stranger.canary)], place / "checkpoint_000001" / "state.pt")
        for checkpoint in place.iterdir():
            with meta_of(checkpoint) as meta:
                meta["config"]["train"]["seed"] = trial_seed(0, unfinished.number)
        link(stranger.run / f"trial_{unfinished.number:04d}_d4e5f", place)
        with stranger.settings() as settings:
            settings["data"]["data_dir"] = str(stranger.outside)
            settings["search"]["warm_start"] = [str(stranger.outside), "/dev"]
        stranger.study.set_user_attr("warm_start", [])  # it was done, and is not done again
        arguments = [str(PROJECT / "run_search.py"), "--resume", str(stranger.run), "--num-samples", "4"]
        with untouched(stranger):
            code, output, _ = measured(*arguments, cwd=tmp_path)
            assert code == 0 and "4/4 trials" in output, output
            assert "1 trial(s) failed" in output and output.replace("\n", "").isprintable()
            assert "state.pt cannot be read" in output, output
            assert yaml.safe_load((stranger.run / "search.yaml").read_text())["resources"]["address"] is None
            code, output, _ = measured("-m", "analysis", str(stranger.run), "--device", "cpu", cwd=tmp_path)
            assert code == 0, output
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()
    assert pickle.loads(evil) is None and stranger.canary.exists(), "they were ones that act"
    trials = load_search(stranger.run).trials
    assert sorted(trials["state"]) == ["COMPLETE"] * 3 + ["FAIL"]
    assert list(stranger.run.glob(f"trial_{unfinished.number:04d}_*/checkpoint_*/meta.json"))


def test_a_resumed_search_joins_only_a_cluster_that_its_user_names(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.command_line import parse
    from search.plan import plan_search, resume_command

    with stranger.settings() as settings:
        settings["resources"]["address"] = "ray://stranger:10001"
    stopped = stranger.trial(TrialState.PRUNED, epochs=1, stopped_by="asha")
    shutil.copytree(stranger.trained[0], stranger.run / f"trial_{stopped.number:04d}_a1b2c" / "checkpoint_000000")
    mine = stranger.place / "mine.yaml"
    mine.write_text(stranger.config.to_yaml().replace("address: null", "address: from-file:6379"))
    for given, expected in (
        ([], None),
        (["--address", "auto"], "auto"),
        (["--set", "resources.address=mine:6379"], "mine:6379"),
        (["--config", str(mine)], "from-file:6379"),
    ):
        plan = plan_search(parse(["--resume", str(stranger.run), *given]))
        assert plan.config.resources.address == expected
        command = f"python run_search.py --resume runs/run{f' --address {expected}' if expected else ''}"
        assert resume_command(plan).splitlines()[-1].strip() == command
    for kind in ("confirm", "audit"):
        (stranger.run / kind).mkdir()
        shutil.copy(stranger.run / "search.yaml", stranger.run / kind)  # as if it had begun
        for given, expected in (([], None), (["--address", "auto"], "auto")):
            plan = plan_search(parse([f"--{kind}", str(stranger.run), *given]))
            assert plan.config.resources.address == expected
            assert resume_command(plan).endswith(" --address auto") == (expected is not None)


def test_a_resumed_search_reads_no_url_that_only_its_run_names() -> None:
    config = config_of(search={"warm_start": ["s3://stranger/run?endpoint_override=127.0.0.1:1&scheme=http"]})
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
    assert stranger.resume() == 2
    assert stranger.predict() == (0 if where != "value" else 2)
    assert "".join(capsys.readouterr()).replace("\n", "").isprintable()
