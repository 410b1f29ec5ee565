"""What a crash, a full disk or a stranger makes of a checkpoint: the one list of it, for all who read checkpoints."""

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_runs import edited_meta

from training.checkpoint import TENSOR_FILES, _sha256

FILES = (*TENSOR_FILES, "meta.json")


def of_file(name: str, change: Callable[[Path], Any], checkpoint: Path) -> None:
    change(checkpoint / name)


def of_meta(path: str, value: Any, checkpoint: Path) -> None:
    """Replace what stands at a path of meta.json."""
    *parents, last = path.split(".")
    with edited_meta(checkpoint) as place:
        for name in parents:
            place = place[int(name)] if isinstance(place, list) else place[name]
        place[last] = value


FILE_DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda file: os.truncate(file, 0),
    "half": lambda file: os.truncate(file, file.stat().st_size // 2),
    "missing": Path.unlink,
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "a device": lambda file: (file.unlink(), file.symlink_to("/dev/zero")),
    "endless": lambda file: os.truncate(file, 2**42),  # 4 TiB of nothing, which no disk has to hold
    "noise": lambda file: file.write_bytes(np.random.default_rng(0).bytes(file.stat().st_size)),
}
FOREIGN_JSON = ["[]", '{"format": 1}', "\ud800", "1" * 10**4, "[" * 10**5]
OF_ANOTHER_NETWORK: list[tuple[str, Any]] = [  # which these weights do not fit
    ("config", {}),
    ("config.model.width", 10**9),
]
STRANGE_META: list[tuple[str, Any]] = [
    ("format", 99),
    ("config", []),
    ("image_shape", 3),
    ("image_shape", [3, 10**9, 10**9]),
    ("image_shape", ["3", "8", "8"]),
    ("class_names", None),
    ("class_names", [[]] * 10),
    ("results", {"0": {}}),
    ("results.0.epoch", 10**12),
    ("results.1.val_accuracy", [0.9]),
    ("results.1.val_accuracy", 1.5),
    ("results.1.epoch_seconds", float("inf")),
    ("results.1.finished_at", "<script>\x1b[2J"),
    ("results.1.finished_at", "2030-01-01T00:00:00"),  # in no time zone
    ("results.1.diverged", 7),
    ("sha256", dict.fromkeys(TENSOR_FILES, 5)),
]
# By the file that is damaged, and how: what does it to a checkpoint. Every reader notices each of them.
DAMAGES: dict[str, Callable[[Path], Any]] = {
    "meta.json: gone with its directory": shutil.rmtree,
    **{f"{name}: {how}": partial(of_file, name, do) for name in FILES for how, do in FILE_DAMAGES.items()},
    **{
        f"meta.json: {text[:20]!a}": partial(
            of_file, "meta.json", lambda file, text=text: file.write_bytes(text.encode(errors="surrogatepass"))
        )
        for text in FOREIGN_JSON
    },
    **{f"meta.json: {path} {value!a:.30}": partial(of_meta, path, value) for path, value in STRANGE_META},
    **{f"weights.pt: not of {path} {value!a:.30}": partial(of_meta, path, value) for path, value in OF_ANOTHER_NETWORK},
}


# Contents of tensor files by one who knows the format, and has made their SHA-256 right


class Canary:
    """Unpickled, it makes a directory."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def program(file: Path) -> dict[str, Any]:
    """What makes `canary` beside a file that it is unpickled from; large enough to be weights."""
    return {"weight": torch.zeros(10**4), "optimizer": Canary(file.with_name("canary"))}


def compressed(file: Path) -> None:
    """Torch would inflate it a thousandfold."""
    torch.save({"x": torch.zeros(2**22)}, file)
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as small:
        for name, part in content.items():
            small.writestr(name, part)


PROGRAMS: dict[str, Callable[[Path], Any]] = {
    "a program": lambda file: torch.save(program(file), file),
    "a program as torch 1.5 wrote it": lambda file: torch.save(
        program(file), file, _use_new_zipfile_serialization=False
    ),
    "a plain pickle": lambda file: file.write_bytes(pickle.dumps(program(file), protocol=0)),
}
CONTENTS: dict[str, Callable[[Path], Any]] = {
    **PROGRAMS,
    "TorchScript": lambda file: torch.jit.script(torch.nn.Linear(90, 90)).save(file),
    "compressed": compressed,
    "a list": lambda file: torch.save([1, torch.zeros(10**4)], file),
    "no keys": lambda file: torch.save({"x": torch.zeros(10**4)}, file),
    "keys of nothing": lambda file: torch.save({"optimizer": 1, "schedule": 1, "x": torch.zeros(10**4)}, file),
}


def replace_content(file: Path, write: Callable[[Path], Any]) -> None:
    """Write a tensor file anew, and into meta.json the SHA-256 that it has now."""
    write(file)
    with edited_meta(file.parent) as meta:
        meta["sha256"][file.name] = _sha256(file)
