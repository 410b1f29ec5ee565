"""Random config files, command lines and run directories: a valid config, or exit 2 with a message; never a traceback.

Both programs run in this process, with what trains, draws or reaches for a network replaced. Every example has an empty
directory of its own and may write nowhere else.
"""

import contextlib
import copy
import io
import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock, patch

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from made_runs import MadeRun, small_config, trained_checkpoints
from optuna.trial import TrialState

import analysis.__main__
import run_search
import search.command_line
import search.workers.measuring
import search.workers.tuner  # noqa: F401, here and not by the first example
from analysis.figures.style import Picture
from search.config import SearchConfig, parse_config
from search.strict_yaml import dump_yaml, parse_yaml
from training import load_data, load_test
from training.config import DataConfig, TrialConfig, config_paths
from training.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of an example that fails
CONFIGS = {file.stem: file.read_text() for file in (Path(__file__).parents[1] / "configs").glob("*.yaml")}
WIDTHS_OF_SIX = CONFIGS["cifar10-gpu"].replace("  width: 64\n", "  width: [64, 64, 128, 128, 256, 256]\n")
REPORT_FILES = ("test_openings.json", "test_metrics.json", "predictions-0.npz")  # that are read again
LONGEST_LINE = 2000  # characters of a message
MEMORY = 4 * 2**30  # bytes that an example may take
PICTURES = tuple(f"{kind}_pictures" for kind in ["search", "space", "network", "prediction", "confirmation", "audit"])
READING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_NONBLOCK

# What happens while an example runs


class Watch:
    """Writes outside of the example's directory, and attempts to reach a network or start a program."""

    place: Path | None = None
    offences: ClassVar[list[str]] = []


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    if Watch.place is None:
        return
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "pickle.find_class"):
        Watch.offences.append(f"{event}: {arguments!r:.200}")
        raise OSError("not in this test")
    paths: Sequence[Any] = ()
    if event == "open":
        paths = arguments[:1] if arguments[2] & ~READING else ()
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.symlink", "os.link", "os.rename"):
        paths = arguments[: 2 if event == "os.rename" else 1]
    for path in paths:
        if isinstance(path, str | bytes | os.PathLike):
            where = os.path.realpath(os.fsdecode(path))
            inside = where.startswith(f"{Watch.place}{os.sep}")
            if not inside and where != os.devnull and "__pycache__" not in where:
                Watch.offences.append(f"{event}: {where:.200}")


sys.addaudithook(audit)


@contextlib.contextmanager
def watched(place: Path) -> Iterator[None]:
    """Work in a directory, with a limit to memory; nothing may happen elsewhere."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, hard))
    Watch.place, Watch.offences = place, []
    try:
        with contextlib.chdir(place), patch("tempfile.tempdir", str(place)):  # where working copies of a bucket go
            yield
    finally:
        Watch.place = None
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert not Watch.offences


class ReachedTrainingError(Exception):
    """Raised in place of training, with the config that would be trained."""


def reached_training(config: SearchConfig, *_: Any, **__: Any) -> None:
    raise ReachedTrainingError(config)


@dataclass(frozen=True)
class Ending:
    code: int
    stdout: str
    stderr: str
    config: SearchConfig | None = None


def end(main: Callable[[list[str]], int], arguments: list[str], place: Path) -> Ending:
    """How a program ends. stdout is strict, as a terminal's is, and stderr is not, as Python's is."""
    config = None
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    with watched(place), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as stop:  # argparse
            code = int(str(stop.code))
        except ReachedTrainingError as reached:
            code, config = 0, reached.args[0]
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return Ending(code, *texts, config)


def check_message(ending: Ending) -> None:
    """Exit 2 with a message."""
    assert ending.code == 2
    lines = ending.stderr.splitlines()
    assert any(line.strip() for line in lines)
    assert "Traceback" not in ending.stderr
    assert all(len(line) <= LONGEST_LINE for line in lines if not line.startswith("run_search.py: "))  # argparse's


@pytest.fixture(scope="module", autouse=True)
def nothing_is_trained_and_every_url_leads_nowhere() -> Iterator[None]:
    with contextlib.ExitStack() as replaced:
        no_bucket = Mock(from_uri=Mock(side_effect=OSError("no network in this test")))
        replaced.enter_context(patch("search.record.storage.FileSystem", no_bucket))
        replaced.enter_context(patch("training.data.cifar_is_available", lambda _: False))
        for training in ("workers.tuner.run_search", "workers.tuner.run_retraining", "workers.measuring.dry_run"):
            replaced.enter_context(patch(f"search.{training}", reached_training))
        yield


@contextlib.contextmanager
def directory(files: dict[str, bytes]) -> Iterator[Path]:
    """A new directory with these files."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name).resolve() / "place"  # beside which nothing lies that `..` could lead to
        place.mkdir()
        for path, content in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(content)
        yield place


def check_search(arguments: list[str], files: dict[str, bytes]) -> Ending:
    """run_search.py reaches training with a config that can be read back, or ends with 2 and a message."""
    with directory(files) as place:
        ending = end(run_search.main, arguments, place)
    if ending.config is not None:
        assert parse_config(parse_yaml(ending.config.to_yaml().encode()), {}) == ending.config
    elif ending.code != 0 or not {"--help", "-h"} & set(arguments):
        check_message(ending)
    return ending


def check_config_file(content: bytes) -> Ending:
    return check_search(["--config", "config.yaml"], {"config.yaml": content})


# Random values

HUGE = "0x" + "f" * 5000
HOSTILE = [  # YAML fragments
    "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!python/tuple [1, 2]", "!!binary x",
    "!!int ''", "!!float x", "!!bool x", "!!timestamp x", "!!set {1, 2}", "!!omap [a: 1]", "!!map [1]", "!x 1",
    "2001-02-03", "2001-99-99", "0001-01-01 00:00:00 +23:59", HUGE, "9" * 400, "1.0e+400", ".nan", "-.inf", "~", "off",
    "=", "<<", "{<<: {a: 1}}", "{<<: [{a: 1}, 3]}",
    "{? [a]: b}", "{? {a: b}: c}", "{1: 2, null: 3, 1.5: 5}", "{a: 1, a: 2}", "&a [*a]", "&a {a: *a}", "*unknown",
    "[" * 900 + "]" * 900, "[" * 20000, "{a: " * 900 + "1" + "}" * 900, '"\\ud800"', '"\\0"', '"\\e[31m"',
    '"\\u2028"', "'" + "x" * 100_000 + "'", "[" + "1, " * 3000 + "1]", "", "|\n  text", "- 1\n- 2",
    "%YAML 1.2\n---\n1", "---\n1\n---\n2", "\t1", "@x", "{", "]", "a: b: c",
]  # fmt: skip
BOUNDARIES: list[Any] = [
    0, 1, 2, -1, 51, 255, 513, 2**32, 2**63 - 1, 2**63, 10**9, 10**400, -0.0, 0.1, 0.5, 1.5, 1e-320, 1e308, 1e-12,
    float("inf"), float("nan"), True, None, "", " ", "none", "same", "valid", "max", "sgd", "digits", "cifar10",
    "folder:x", "folder:~nobody", "30m", "0s", "1e9h", "x" * 5000, "\u0663", "²", "\x7f", "é" * 50, [], [[]], [1],
    [3, 5], [3, 3, 3, 3], [0.1, 0.5], [1, 10**12], [5, 1], {}, {"a": 1}, {"int": [1, 3]},
    {"choice": [3, 5], "per_layer": True}, "asha", "infeasible", "diverged", "\ud800", "2001-01-01T00:00:00",
    "9" * 5000,
]  # fmt: skip
PATHS = [*config_paths(SearchConfig), "space"]
TRIAL_PATHS = list(config_paths(TrialConfig))

characters = st.characters(exclude_categories=())  # surrogates, as arguments that are not UTF-8 hold, and NUL too
words = st.text(characters, max_size=12) | st.sampled_from(["model", "space", "0", "a.b", ".", "..", "x" * 300])
paths = st.one_of(
    st.sampled_from(PATHS),
    st.sampled_from(TRIAL_PATHS).map("space.{}".format),
    st.sampled_from(["model.kernel_size.0", "model.width." + "9" * 5000, "space.", ".", "model.", "", "x" * 9000]),
    words,
)


def nested(scalars: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def holding(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4)

    return st.recursive(scalars, holding, max_leaves=8)


few_letters = st.text(max_size=6)
keys = few_letters | st.integers(0, 9) | st.floats() | st.none() | st.dates()
scalars = st.sampled_from(BOUNDARIES) | few_letters | st.integers(0, 9) | st.floats() | st.floats(0, 1)
json_values = nested(scalars, few_letters)
values = nested(scalars | keys | st.datetimes() | st.binary(max_size=8), keys)
numbers = st.integers(-2, 12) | st.sampled_from([0.1, 0.5, 1e-5, 1e9, 2**40, 0.0, 1e-320, 1e300]) | st.floats(0, 1)
choices = st.sampled_from(
    [1, 2, 3, 5, 64, 0.0, 0.5, True, False, "sgd", "muon", "max", "none", "same", "valid", "relu", "average", "mse"]
)
conditions = st.dictionaries(st.sampled_from(TRIAL_PATHS), choices | st.lists(choices, max_size=2), max_size=2)
entries = st.builds(
    dict.__or__,
    st.one_of(
        st.lists(st.integers(-1, 70), min_size=2, max_size=2).map(lambda pair: {"int": sorted(pair)}),
        st.lists(numbers, min_size=2, max_size=2).map(lambda pair: {"float": sorted(pair)}),
        st.lists(choices, min_size=1, max_size=4).map(lambda values: {"choice": values}),
    ),
    st.fixed_dictionaries(
        {},
        optional={"step": numbers, "log": st.booleans(), "per_layer": st.booleans(), "when": conditions, "x": values},
    ),
)


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def places_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*path, key)
        yield from places_in(part, (*path, key))


def changed(draw: st.DrawFn, document: Any, new: st.SearchStrategy[Any], names: st.SearchStrategy[str]) -> Any:
    """A document with something in it replaced, taken out or put in."""
    new = new.map(copy.deepcopy)  # as a value may be one of a constant list, and is changed in its turn
    found = list(places_in(document))
    if not found:
        return draw(new)
    *path, last = draw(st.sampled_from(found))
    holder = document
    for key in path:
        holder = holder[key]
    kind = draw(st.sampled_from(["replace", "replace", "replace", "out", "in"]))
    if kind == "replace":
        holder[last] = draw(new)
    elif kind == "out":
        del holder[last]
    elif isinstance(holder, dict):
        holder[draw(names)] = draw(new)
    else:
        holder.append(draw(new))
    return document


def edited(draw: st.DrawFn, text: str, new: st.SearchStrategy[str], change: Callable[[str], str]) -> str:
    """A text with lines changed, taken out, repeated and put in, or cut off within one."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(0, len(lines) - 1)))
        line = lines[place] if lines else ""
        kind = draw(st.sampled_from([*["change"] * 4, "out", "twice", "cut", "in"]))
        if kind == "change":
            lines[place : place + 1] = [change(line)]
        elif kind == "out":
            del lines[place : place + 1]
        elif kind == "cut":
            lines[place:] = [line[: draw(st.integers(0, len(line)))]]
        else:
            lines.insert(place, line if kind == "twice" else draw(new))
    return "\n".join(lines)


@st.composite
def changed_configs(draw: st.DrawFn) -> str:
    """A config of configs/ with some values, keys, entries and conditions replaced."""
    document = parse_yaml(draw(st.sampled_from(sorted(CONFIGS.values()))))
    new = choices | numbers | st.integers(1, 9) | entries | values | st.lists(choices, max_size=5)
    names = st.sampled_from([*TRIAL_PATHS, *(path.partition(".")[2] for path in PATHS)]) | words
    for _ in range(draw(st.integers(0, 3))):
        document = changed(draw, document, new, names)
    return dump_yaml(document)


@st.composite
def edited_configs(draw: st.DrawFn) -> str:
    """The text of a config of configs/ with hostile lines in it."""

    def change(line: str) -> str:
        indented = " " * draw(st.integers(0, 4)) + line
        return draw(st.sampled_from([indented, f"{line.partition(':')[0]}: {draw(st.sampled_from(HOSTILE))}"]))

    text = draw(st.sampled_from(sorted(CONFIGS.values())))
    return edited(draw, text, st.text(max_size=10) | st.sampled_from(HOSTILE), change)


config_files = st.one_of(
    changed_configs().map(encode),
    changed_configs().map(encode),
    edited_configs().map(encode),
    st.dictionaries(st.sampled_from([*SearchConfig.model_fields, "x"]), values).map(dump_yaml).map(encode),
    values.map(dump_yaml).map(encode),
    st.sampled_from(HOSTILE).map(encode),
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-16")),
)

# Random command lines

PLACES = [
    "runs/good", "runs/random", "runs/nojournal", "runs", "directory", "file", "missing", "", ".", "..", "/",
    "~", "~nobody", "a\0b", "\udcff", "x" * 300, "/dev/null", "/proc/self/mem", "file/x", "s3://", "s3://bucket/x",
    "s3:/bucket/x", "http://x/y", "gs:///", "ftp://u:p@h/x", "-", "--", "é\u2028", "runs/good/search.yaml",
    "runs//good/",
]  # fmt: skip
PLAUSIBLE = [
    "0", "1", "3", "-1", "0.5", "1e3", "nan", "-inf", "9" * 400, "9" * 5000, "30m", "0s", "1e9s", "auto", "none",
    "asha", "tpe", "gp", "digits", "cifar10", "127.0.0.1:6379", "ray://x:1", "local", "name", "\u0663",
]  # fmt: skip
DEVICES = ["cpu", "cuda:99", "meta", "mps", "xla", "cpu:7", "", "x", "\0", "privateuseone", "hpu", "-1", "9" * 30, "é"]
EXPORTS = ["x.pt2", "missing/x.pt2", "directory", "x", ".pt2", "a\0.pt2", "x" * 300 + ".pt2", "\udcff.pt2"]
place_flags = ["--resume", "--warm-start", "--confirm", "--audit", "--runs-dir", "--storage-path", "--data-dir"]
value_flags = [
    "--num-samples", "--time-budget", "--dataset", "--seed", "--sampler", "--scheduler", "--name", "--cpus-per-trial",
    "--gpus-per-trial", "--max-concurrent", "--address", "--top", "--seeds", "--trials",
]  # fmt: skip
plausible = st.one_of(
    st.sampled_from(PLAUSIBLE), st.sampled_from(PLACES), st.integers().map(str), st.floats().map(str), words
)
assignments = st.one_of(
    st.builds("{}={}".format, paths, st.sampled_from(HOSTILE) | values.map(dump_yaml) | plausible),
    st.builds("space.{}={}".format, st.sampled_from(TRIAL_PATHS), entries.map(dump_yaml)),
    words,
)
flags = st.sampled_from([*place_flags, *value_flags, "--config"])
options = st.one_of(
    st.tuples(st.sampled_from([*place_flags, "--config"]), st.sampled_from([*PLACES, "runs/random", "config.yaml"])),
    st.tuples(st.sampled_from(value_flags), plausible),
    st.tuples(st.just("--set"), assignments),
    st.sampled_from([("--dry-run",), ("--dataset", "digits"), ("--help",), ("--config", "config.yaml")]),
    st.builds("{}={}".format, flags, plausible).map(lambda word: (word,)),
    st.tuples(words | flags),
)
BEGINNINGS = [
    "", "", "--dataset digits", "--config config.yaml", "--dry-run", "--resume runs/random", "--resume runs/good",
    "--confirm runs/random", "--confirm runs/good", "--audit runs/random", "--audit runs/good",
    "--warm-start runs/random runs/good --dataset digits", "--resume runs/random --config config.yaml",
]  # fmt: skip
analysis_options = st.one_of(
    st.sampled_from([("runs/random",), ("--runs-dir", "runs"), ("--device", "cpu"), ("--mirror",)]),
    st.tuples(st.sampled_from(["--runs-dir", "--data-dir", "--predict"]), st.sampled_from(PLACES)),
    st.tuples(st.just("--device"), st.sampled_from(DEVICES)),
    st.tuples(st.just("--export"), st.sampled_from(EXPORTS)),
    st.tuples(words | st.sampled_from(PLACES)),
)


def command_lines(beginnings: list[str], options: st.SearchStrategy[tuple[str, ...]]) -> st.SearchStrategy[list[str]]:
    first, others = st.sampled_from(beginnings).map(str.split), st.just([]) | st.lists(options, max_size=4)
    return st.builds(lambda words, parts: [*words, *(word for part in parts for word in part)], first, others)


search_lines = command_lines(BEGINNINGS, options)
analysis_lines = command_lines(["runs/random", "runs/random", ""], analysis_options)

# Random run directories


@cache
def good_run() -> dict[str, bytes]:
    """The files of a run directory with a COMPLETE, a pruned, an infeasible, a failed and a running trial."""
    space = {
        "model.depth": {"int": [1, 2]},
        "model.kernel_size": {"choice": [1, 3], "per_layer": True},
        "optimizer.learning_rate": {"float": [0.001, 0.5], "log": True},
    }
    config = small_config(search={"num_samples": 6}, space=space)
    shallow = config.search_space.default_params()
    deep = {**shallow, "model.depth": 2, "model.kernel_size.1": 1}
    with directory({}) as place, directory({}) as elsewhere:
        run = MadeRun(place, config)
        first, second = (
            trained_checkpoints(config.base.override(params), elsewhere / str(index))
            for index, params in enumerate((shallow, deep))
        )
        run.trained(first, num_params=100)
        run.trained(first[:1], TrialState.PRUNED, stopped_by="asha")
        reason = "multiply_adds 3,000 > search.max_multiply_adds 2,000"
        run.trial([], TrialState.PRUNED, deep, constraint=1.0, stopped_by="infeasible", reason=reason)
        run.trained(second, params=deep, num_params=103)
        run.trial([0.5, 0.6], TrialState.FAIL)
        run.trained(second, None, params=deep)
        return {str(file.relative_to(place)): file.read_bytes() for file in sorted(place.rglob("*")) if file.is_file()}


good_data, good_test = cache(load_data), cache(load_test)


def only_digits(load: Callable[[DataConfig], Any]) -> Callable[[DataConfig], Any]:
    """A loader that never downloads."""

    def loaded(config: DataConfig, *_: Any) -> Any:
        if config.dataset != "digits" or config.image_size > 16:
            raise DataError("Only small digits are here.")
        return load(config)

    return loaded


json_names = st.text(max_size=5) | st.sampled_from(["source", "source_number", "stopped_by", "reason"])
other_files = st.binary(max_size=40) | json_values.map(json.dumps).map(encode)


@st.composite
def journals(draw: st.DrawFn) -> bytes:
    """A study's journal with lines changed, taken out, repeated, cut and put in, or random bytes."""

    def change(line: str) -> str:
        try:
            return json.dumps(changed(draw, json.loads(line), json_values, json_names))
        except ValueError:  # one that was cut or put in
            return line

    if draw(st.integers(0, 9)) == 0:
        return draw(other_files)
    new = st.text(max_size=10).filter(lambda text: "\n" not in text) | json_values.map(json.dumps)
    text = edited(draw, good_run()["study.journal"].decode(), new, change)
    return encode(text + draw(st.sampled_from(["\n", "\n", "\n", ""])))


@st.composite
def changed_files(draw: st.DrawFn, name: str, write: Callable[[Any], str]) -> bytes:
    """A YAML or JSON file of the good run with something replaced."""
    return encode(write(changed(draw, parse_yaml(good_run()[name]), json_values, json_names)))


@st.composite
def run_files(draw: st.DrawFn) -> dict[str, bytes]:
    """A run directory with any of its files replaced by random ones, or gone."""
    files = good_run().copy()
    settings_files = changed_files("search.yaml", dump_yaml) | config_files
    replaced: dict[str, tuple[st.SearchStrategy[bytes], int]] = {  # by what, and one time in how many
        **dict.fromkeys(files, (other_files, 16)),
        **{f"report/{name}": (other_files, 10) for name in REPORT_FILES},
        **{f"{kind}search.yaml": (settings_files, 4 if kind else 2) for kind in ("", "confirm/", "audit/")},
        **{f"{kind}study.journal": (journals(), 4 if kind else 2) for kind in ("", "confirm/", "audit/")},
        "environment.json": (changed_files("environment.json", json.dumps), 3),
    }
    for name, (strategy, rate) in replaced.items():
        if draw(st.integers(1, rate)) == 1:
            files[name] = draw(strategy)
        elif draw(st.integers(1, 16)) == 1:
            files.pop(name, None)
    return files


@st.composite
def lines_and_files(draw: st.DrawFn, lines: st.SearchStrategy[list[str]]) -> tuple[list[str], dict[str, bytes]]:
    """A command line, and the run directories, the config, the file and the directory that it names."""
    arguments = draw(lines)
    named = " ".join(arguments)
    files = {"directory/file": b"", "file": b"", "runs/nojournal/search.yaml": good_run()["search.yaml"]}
    if "runs" in named:
        files |= {f"runs/random/{name}": content for name, content in draw(run_files()).items()}
    if "good" in named:
        files |= {f"runs/good/{name}": content for name, content in good_run().items()}
    if "config.yaml" in named:
        files["config.yaml"] = draw(config_files)
    return arguments, files


drawn_runs = st.tuples(
    st.just(["run"]),
    run_files().map(lambda files: {f"run/{name}": content for name, content in files.items()}),
    st.just(True),
)


def check_analysis(arguments: list[str], files: dict[str, bytes], draws: bool = False) -> Ending:
    """python -m analysis ends with 0, or with 2 and a message. `draws`: with all figures, which take seconds."""

    def undrawn(pictures: Iterable[Picture], report: Path) -> list[Any]:
        for picture in pictures:
            picture.figure.draw_without_rendering()
        return []

    with contextlib.ExitStack() as replaced:
        replaced.enter_context(patch("analysis.evaluating.evaluation.load_data", only_digits(good_data)))
        replaced.enter_context(patch("analysis.evaluating.test_split.load_test", only_digits(good_test)))
        replaced.enter_context(patch("analysis.printing.export_model", lambda best, file: 1000))
        replaced.enter_context(patch("analysis.report.drawn", undrawn))
        for name in (*PICTURES, "write_evaluation") if not draws else ():
            replaced.enter_context(patch(f"analysis.report.{name}", lambda *_: []))
        ending = end(analysis.__main__.main, arguments, replaced.enter_context(directory(files)))
    if ending.code != 0:
        check_message(ending)
    return ending


# The tests

RANDOM = (  # what it is, examples of it, what holds, and of how many: by default, and among the slow tests
    ("config files", st.tuples(config_files), check_config_file, 350, 9000),
    ("command lines", lines_and_files(search_lines), check_search, 100, 900),
    ("run directories", lines_and_files(analysis_lines), check_analysis, 50, 90),
    ("run directories whose figures are drawn", drawn_runs, check_analysis, 0, 10),
)
SLOW = (pytest.mark.slow, pytest.mark.timeout(1200))


@pytest.mark.parametrize(
    ("examples", "check", "count"),
    [
        pytest.param(examples, check, count, id=f"{count} {what}", marks=SLOW if count == many else ())
        for what, examples, check, few, many in RANDOM
        for count in (few, many)
        if count
    ],
)
def test_random_input_is_answered(examples: st.SearchStrategy[Any], check: Callable[..., Ending], count: int) -> None:
    @settings(
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        max_examples=count,
    )
    @given(examples)
    def holds(example: tuple[Any, ...]) -> None:
        check(*example)

    holds()


def bomb(first: str, of_nine: str) -> str:
    """Nine anchors, each nine times the one before."""
    steps = zip("abcdefgh", "bcdefghi", strict=True)
    return f"a: &a {first}\n" + "".join(f"{to}: &{to} {of_nine % ', '.join([f'*{of}'] * 9)}\n" for of, to in steps)


BOMB, MERGE_BOMB = bomb("[x, x, x, x, x, x, x, x, x]", "[%s]"), bomb("{x: 1, y: 2}", "{<<: [%s]}")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (f"search: {{seed: {HUGE}}}", "an integer beyond 64 bits"),
        ("search: !!int ''", "a value does not fit its tag"),
        ("search: !!timestamp x", "cannot be read as YAML"),
        ("model: {depth: 2, depth: 3}", "'depth' is given twice"),
        ("1: 2", "must be a mapping of sections such as `model:`, got 1"),
        (BOMB + "space: {model.width: {choice: *i}}", "space.model.width.choice.0"),
        (MERGE_BOMB, "i: unknown key"),
        (f"model: {{width: {10**10}, activation: {'x' * 100_000}}}", "should be 'relu', 'gelu' or 'silu', got 'xxx"),
        (f"search: {{first: [{{? model.kernel_size.{'9' * 5000} : 3}}]}}", "search.first.0: model.kernel_size.999"),
        ("space: {model.dropout: {float: [0.0, 0.5], step: 1.0e-320}}", "at most 1,000,000,000 steps must lie between"),
        ("space: {model.dropout: {float: [0.0, 0.5], step: 0.2}}", "the nearest below is 0.4"),
        ("space: {model.dropout: {float: [0.0, 0.5], when: {optimizer.learning_rate: .nan}}}", "finite number"),
    ],
)  # fmt: skip
def test_config_files_that_once_did_harm(config: str, message: str) -> None:
    ending = check_config_file(config.encode())
    assert ending.code == 2 and message in ending.stderr


def good_run_with(changes: dict[str, bytes]) -> dict[str, bytes]:
    """The good run directory, as `run`, with files replaced or added."""
    return {f"run/{name}": content for name, content in {**good_run(), **changes}.items()}


@pytest.mark.parametrize(
    ("check", "arguments", "message"),
    [
        (check_search, ["--config", "/dev/zero"], "must have at most 1,000,000 bytes"),
        (check_search, ["--dataset", "digits", "--data-dir", "\udcff"], "is not a usable path"),
        (check_search, ["--confirm", "run", "--seeds", str(10**9)], "--seeds: must be at most 100,000"),
        (check_search, ["--confirm", "run", "--top=--"], "argument --top: expected a value, got '--'"),
        (check_search, ["--dataset", "digits", "--seed", "9" * 400], "should be less than 4294967296, got 999"),
        (check_analysis, ["x" * 300], "is not a usable path"),
        (check_analysis, ["--runs-dir", "x" * 300], "--runs-dir"),
        (check_analysis, ["run", "--device", "meta"], "--device meta cannot be used"),
    ],
)
def test_command_lines_that_once_did_harm(check: Callable[..., Ending], arguments: list[str], message: str) -> None:
    ending = check(arguments, good_run_with({}))
    assert ending.code == 2 and message in ending.stderr


def journal_with(operation: int, **fields: Any) -> dict[str, bytes]:
    """The good run's journal with the fields of one kind of line changed."""
    lines = [json.loads(line) for line in good_run()["study.journal"].splitlines()]
    changed = [{**line, **fields} if line["op_code"] == operation else line for line in lines]
    return {"study.journal": "".join(f"{json.dumps(line)}\n" for line in changed).encode()}


ENDED: dict[str, Any] = {"state": 1, "datetime_complete": "2030-01-01T00:00:00"}
READERS = ("--confirm run", "--dataset digits --warm-start run")


@pytest.mark.parametrize(
    ("searches", "changes", "message"),
    [
        (READERS, lambda: journal_with(6, **ENDED, values=None), "with 0 values"),
        (READERS, lambda: journal_with(6, **ENDED, values=[0.5, 0.5]), "with 2 values"),
        (READERS, lambda: journal_with(6, **ENDED, values=["x"]), "has 'x' where a number must be"),
        ((), lambda: journal_with(7, intermediate_value="x"), "where a number must be"),
        ((), lambda: journal_with(8, user_attr={"num_params": []}), "as its num_params"),
        ((), lambda: journal_with(8, user_attr={"reason": {}}), "as its reason"),
        ((), lambda: {"search.yaml": b"search: 3"}, "search: must be a mapping, got 3"),
        ((), lambda: {"search.yaml": WIDTHS_OF_SIX.encode()}, "search.yaml: model: width must have one value"),
    ],
)
def test_run_directories_that_once_did_harm(
    searches: tuple[str, ...], changes: Callable[[], dict[str, bytes]], message: str
) -> None:
    run = good_run_with(changes())
    for ending in (check_analysis(["run"], run), *(check_search(line.split(), run) for line in searches)):
        assert ending.code == 2 and message in ending.stderr


def test_an_audit_passes_over_trainings_that_name_no_trial_and_refuses_strange_names() -> None:
    audit = {f"audit/{name}": good_run()[name] for name in ("search.yaml", "study.journal")}
    assert check_search(["--audit", "run"], good_run_with(audit)).config is not None
    audit["audit/study.journal"] = journal_with(8, user_attr={"source_number": "x"})["study.journal"]
    ending = check_search(["--audit", "run"], good_run_with(audit))
    assert ending.code == 2 and "has 'x' as its source_number" in ending.stderr


def test_the_examples_begin_with_what_works() -> None:
    """Else a test of what fails would show nothing."""
    assert all(check_config_file(text.encode()).config is not None for text in CONFIGS.values())
    files = {**good_run_with({}), "config.yaml": CONFIGS["quick"].encode()}
    lines = ["", "--config config.yaml", "--resume run", "--confirm run", "--audit run", "--dry-run --dataset digits",
             "--warm-start run --dataset digits"]  # fmt: skip
    for line in lines:
        assert check_search(line.split(), files).config is not None
    ending = check_analysis(["run"], files)
    assert ending.code == 0 and "exactly the recorded val accuracy" in ending.stdout
