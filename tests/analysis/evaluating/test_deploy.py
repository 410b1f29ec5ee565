"""The best model at work: answers for image files, and the exported file in a process that knows torch alone."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna.trial import TrialState
from PIL import Image

from analysis import AnalysisError, load_search
from analysis.__main__ import main
from analysis.evaluating import deploy
from analysis.evaluating.deploy import BestModel, classify, export_model, load_best
from analysis.text import printable
from training import load_model
from training.config import DataConfig, ModelConfig
from training.data import load_official_train
from training.errors import DataError
from training.model import ConvNet

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
# One line for each way in which exporting might go wrong: layouts, heads and layers that differ in what they record.
ARCHITECTURES = {
    "defaults": {"width": 8},
    "one layer": {"depth": 1, "width": 4, "pooling": "none", "head": "flatten"},
    "deep, mixed": {"depth": 5, "width": 4, "pooling": ["max", "none", "avg", "none", "none"], "activation": "silu"},
    "no batch norm": {"depth": 2, "width": 4, "batch_norm": False, "pooling": "avg", "head": "flatten", "dropout": 0.5},
    "one channel": {
        **{"depth": 2, "width": 1, "width_growth": 1.0, "kernel_size": 1},  # whose memory is of both layouts
        **{"pooling": "none", "head": "flatten", "batch_norm": False, "activation": "gelu"},
    },
    "one position": {
        "depth": 2,
        "width": 4,
        "kernel_size": [5, 2],
        "stride": [5, 1],
        "padding": "valid",
        "pooling": "none",
    },
}
TORCH_ALONE = """
import sys
for name in ("training", "analysis", "search", "run_search", "convsearch", "torchvision", "ray", "optuna"):
    sys.modules[name] = None  # importing it is an ImportError
import torch
torch.set_num_threads(1)
answers = {}
for name, (file, batches) in torch.load(sys.argv[1]).items():
    program = torch.export.load(file)
    model = program.module()
    answers[name] = [model(images).detach() for images in batches]
    assert not [node for node in program.graph.nodes if node.kwargs.get("device")]  # it may be moved to another
    for wrong in (batches[0].float(), batches[0][:, :, :-1]):
        try:
            program.module()(wrong)
        except (AssertionError, RuntimeError, ValueError):
            continue
        raise SystemExit(f"{name} took {wrong.dtype} {tuple(wrong.shape)}")
torch.save(answers, sys.argv[2])
"""


@pytest.fixture(autouse=True)
def _test_split_stays_shut(monkeypatch):
    def opened(config):
        raise AssertionError("the test split was opened")

    monkeypatch.setattr("analysis.evaluating.test_split.load_test", opened)
    monkeypatch.setattr("training.data.load_test", opened)


def random_model(config: dict) -> BestModel:
    """A network with random weights and batch norm statistics that are not those of a new one."""
    torch.manual_seed(0)
    model = ConvNet(ModelConfig.model_validate(config), (3, 10, 10), 4, MEAN, STD).eval()
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return BestModel(0, False, 1, 0.5, ("a", "b", "c", "d"), model)


def picture(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def hard_files(folder: Path) -> list[Path]:
    """Files of the modes, formats and sizes that people have."""
    folder.mkdir(parents=True)
    rgb = Image.fromarray(picture((60, 90, 3)))
    rotated = Image.Exif()
    rotated[0x0112] = 6  # orientation: turn by 90 degrees to see it upright
    transparent = Image.fromarray(picture((20, 20, 4)))
    palette = rgb.quantize(16)
    rgb.save(folder / "a.png")
    rgb.save(folder / "b.jpg", exif=rotated)
    rgb.convert("L").save(folder / "c.png")
    transparent.save(folder / "d.png")
    palette.save(folder / "e.png", transparency=3)
    Image.fromarray(picture((9, 9)).astype(np.uint16) * 257).save(folder / "f.png")
    rgb.convert("CMYK").save(folder / "g.jpg")
    rgb.resize((1, 1)).save(folder / "h.bmp")
    rgb.resize((700, 3)).save(folder / "i.webp")
    return sorted(folder.iterdir())


def test_files_are_prepared_as_training_prepares_image_folders(search_run, tmp_path):
    best = load_best(load_search(search_run.path))
    files = hard_files(tmp_path / "images" / "train" / "first")
    for other in ("train/second", "test/first", "test/second"):
        place = tmp_path / "images" / other
        place.mkdir(parents=True)
        shutil.copy(files[0], place)
    config = DataConfig(dataset=f"folder:{tmp_path / 'images'}", data_dir=str(tmp_path / "data"), image_size=8)
    images = torch.tensor(load_official_train(config).images).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = best.model(images).softmax(1)
    assert len(files) == 9
    for file, probabilities in zip(files, expected, strict=False):  # first before second
        ranking = classify(best, file)
        assert sorted(name for name, _ in ranking) == sorted(best.class_names)
        assert dict(ranking) == pytest.approx(
            dict(zip(best.class_names, probabilities.tolist(), strict=True)), abs=1e-5
        )
        shares = [share for _, share in ranking]
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)


def test_an_upright_and_a_turned_photograph_get_the_same_answer(search_run, tmp_path):
    """EXIF orientation 6 is undone by turning clockwise: checked against numpy, not Pillow."""
    best = load_best(load_search(search_run.path))
    stored, exif = picture((8, 8, 3)), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    upright = torch.tensor(np.rot90(stored, -1).copy()).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logits = best.model(upright)[0].double()
    ranking = classify(best, tmp_path / "turned.png")
    assert [share for _, share in ranking] == pytest.approx(logits.softmax(0).sort(descending=True).values.tolist())
    assert ranking[0][0] == best.class_names[logits.argmax()]


def test_the_best_trial_answers_not_another(search_run, tmp_path):
    winner = search_run.study.best_trial.number
    best = load_best(load_search(search_run.path))
    assert (best.number, best.provisional, best.epochs) == (winner, False, 2)
    assert best.val_accuracy == search_run.study.best_trial.value
    own = load_model(load_search(search_run.path).checkpoint_of(winner))
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(best.model.parameters(), own.parameters(), strict=True)
    )


def test_predictions_are_printed_and_hostile_names_stay_text(make_run, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kinds = ("<script>{}</script>", "[bold]{}[/bold]", 'a"{}\nc', "\x1b[31m{}", "[/]{}")
    names = [kind.format(index) for index in (1, 2) for kind in kinds]
    run = make_run()
    run.edit_meta(
        run.checkpoint(run.trial([0.1, 0.2]), trained["defaults"][-1]), lambda meta: meta.update(class_names=names)
    )
    hostile = '[red]"p"\n<script>\x1b[2J.png'
    Image.fromarray(picture((8, 8, 3))).save(hostile)
    assert main([str(run.path), "--device", "cpu", "--predict", hostile]) == 0
    out, err = capsys.readouterr()
    ranking = classify(load_best(load_search(run.path)), Path(hostile))
    assert err == "" and "\x1b" not in out
    assert f'[red]"p"\\n<script>\\x1b[2J.png: {printable(ranking[0][0])}\n' in out
    rows = out[out.index(".png: ") :].splitlines()[1:]
    shown = [row for row in rows if row.endswith("% ")]
    assert len(shown) == 5
    for row, (name, share) in zip(shown, ranking, strict=False):
        assert row.split("━")[0].strip().startswith(printable(name)) and f"{100 * share:.2f} %" in row
    assert not (run.path / "report").exists()


def test_all_classes_are_shown_where_there_are_few(tmp_path, capsys, monkeypatch, search_run):
    best = random_model({"width": 4, "depth": 1})
    monkeypatch.setattr("analysis.printing.load_best", lambda results, device: best)
    Image.fromarray(picture((30, 20))).save(tmp_path / "x.png")
    assert main([str(search_run.path), "--predict", str(tmp_path / "x.png")]) == 0
    assert capsys.readouterr().out.count("% \n") == 4


def test_wrong_files_are_all_named_after_the_good_ones(search_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("good.png", "also good.jpg"):
        Image.fromarray(picture((20, 20, 3))).save(name)
    Path("text\nfile.png").write_text("no image")
    Path("cut.png").write_bytes(Path("good.png").read_bytes()[:300])
    Path("folder").mkdir()
    wrong = {"missing.png": "Check its name", "text\nfile.png": "PNG or JPEG", "cut.png": "PNG", "folder": "RUN stands"}
    wrong["x" * 300] = "Check its name"
    files = ["good.png", *wrong, "also good.jpg"]
    assert main([str(search_run.path), "--device", "cpu", "--predict", *files]) == 2
    out, err = capsys.readouterr()
    assert "good.png: " in out and "also good.jpg: " in out and "missing" not in out
    lines = err.splitlines()
    assert len(lines) == len(wrong)
    for line, (name, remedy) in zip(lines, wrong.items(), strict=True):
        assert printable(name) in line and remedy in line
    assert not (search_run.path / "report").exists()


def test_a_network_without_a_finite_answer_is_an_error_of_that_file(tmp_path):
    best = random_model({"width": 4, "depth": 1})
    torch.nn.init.constant_(best.model.classifier.bias, torch.nan)
    Image.fromarray(picture((8, 8, 3))).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png.*finite"):
        classify(best, tmp_path / "x.png")


@pytest.mark.parametrize("flags", [["--predict", "good.png"], ["--export", "best.pt2"]])
def test_a_run_without_a_usable_model_is_exit_code_2(flags, make_run, search_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture((20, 20, 3))).save("good.png")
    failed = make_run("failed")
    failed.trial([], TrialState.FAIL, reason="out of memory")
    assert main([str(failed.path), "--device", "cpu", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "no model to use" in err and "--resume" in err and "Traceback" not in err
    for place in search_run.path.glob("trial_*"):
        shutil.rmtree(place)
    assert main([str(search_run.path), "--device", "cpu", *flags]) == 2
    out, err = capsys.readouterr()
    number = search_run.study.best_trial.number
    assert out == "" and f"trial_{number:04d}_*" in err and "Traceback" not in err
    assert not Path("best.pt2").exists()


def test_a_provisional_model_is_called_so(make_run, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture((20, 20, 3))).save("good.png")
    run = make_run()
    run.checkpoint(run.trial([0.5], TrialState.PRUNED, stopped_by="time_budget"), trained["defaults"][0])
    assert main([str(run.path), "--device", "cpu", "--predict", "good.png"]) == 0
    out = capsys.readouterr().out
    assert "provisionally the best: 1 epoch," in out and "No trial is COMPLETE" in out


def test_an_impossible_device_is_exit_code_2(search_run, capsys):
    assert main([str(search_run.path), "--device", "nonsense", "--predict", "x.png"]) == 2
    assert "--device cpu" in capsys.readouterr().err


def test_exported_files_answer_as_the_networks_with_torch_alone(tmp_path):
    cases, expected = {}, {}
    generator = torch.Generator().manual_seed(1)
    for index, (name, config) in enumerate(ARCHITECTURES.items()):
        best = random_model(config)
        export_model(best, tmp_path / f"{index}.pt2")
        batches = [
            torch.randint(0, 256, (count, 3, 10, 10), dtype=torch.uint8, generator=generator) for count in (1, 2, 7)
        ]
        batches += [images.contiguous(memory_format=torch.channels_last) for images in batches]
        with torch.inference_mode():
            expected[name] = [best.model(images).clone() for images in batches]
        assert float(expected[name][2].std()) > 0  # or anything would do
        cases[name] = (str(tmp_path / f"{index}.pt2"), batches)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{index}.pt2" for index in range(len(ARCHITECTURES))]
    torch.save(cases, tmp_path / "cases.pt")
    command = [sys.executable, "-I", "-c", TORCH_ALONE, str(tmp_path / "cases.pt"), str(tmp_path / "answers.pt")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = torch.load(tmp_path / "answers.pt")
    for name in ARCHITECTURES:
        for answer, logits in zip(answers[name], expected[name], strict=True):
            torch.testing.assert_close(answer, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11, of its own reading
def test_the_printed_lines_load_the_file_and_label_images(search_run, tmp_path, monkeypatch, capsys):
    """`--predict` and `--export` together; the four lines are run as they were printed."""
    monkeypatch.chdir(tmp_path)
    name = 'best "model" [bold]\n.pt2'
    Image.fromarray(picture((8, 8, 3))).save("x.png")
    arguments = [str(search_run.path), "--device", "cpu", "--predict", "x.png", "--export", name]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("the best: ") == 1 and "x.png: " in out
    assert "uint8 images (N, 3, 8, 8)" in out and "float32 logits (N, 10)" in out
    code = [line.strip() for line in out.splitlines() if line.startswith("    ")]
    assert len(code) == 4
    names = {"images": torch.from_numpy(picture((6, 3, 8, 8)))}
    exec("\n".join(code), names)
    best = load_best(load_search(search_run.path))
    assert names["labels"] == [best.class_names[index] for index in best.model(names["images"]).argmax(1)]


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("best.pt", "end in .pt2"),
        ("nowhere/best.pt2", "Make it"),
        ("folder.pt2", "Name a file"),
        ("x" * 300 + ".pt2", ""),
    ],
)
def test_impossible_files_are_refused_before_anything_is_done(file, remedy, search_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("folder.pt2").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert main([str(search_run.path), "--predict", "missing.png", "--export", file]) == 2
    out, err = capsys.readouterr()
    assert out == "" and file in err and remedy in err and err.count("\n") == 1 and "missing.png" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_directory_without_permission_is_refused(search_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(deploy.os, "access", lambda path, mode: False)  # root may write anywhere
    assert main([str(search_run.path), "--export", str(tmp_path / "best.pt2")]) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_a_full_disk_leaves_the_older_file(search_run, tmp_path, monkeypatch, capsys):
    def full(path, data):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "best.pt2").write_text("older")
    Image.fromarray(picture((8, 8, 3))).save(tmp_path / "x.png")
    monkeypatch.setattr(Path, "write_bytes", full)
    arguments = ["--predict", str(tmp_path / "x.png"), str(tmp_path / "y.png"), "--export", str(tmp_path / "best.pt2")]
    assert main([str(search_run.path), "--device", "cpu", *arguments]) == 2
    out, err = capsys.readouterr()
    assert "x.png: " in out and "Exported" not in out
    assert [("y.png" in line, "No space left" in line) for line in err.splitlines()] == [(True, False), (False, True)]
    assert (tmp_path / "best.pt2").read_text() == "older"
    assert not [path for path in tmp_path.iterdir() if "unfinished" in path.name]


def test_a_file_that_answers_otherwise_is_not_kept(tmp_path, monkeypatch):
    best, other = random_model({"width": 4, "depth": 1}), random_model({"width": 4, "depth": 1})
    with torch.no_grad():
        other.model.classifier.bias[2] += 0.01
    program = deploy.exported(other.model)
    monkeypatch.setattr(deploy, "exported", lambda model: program)
    with pytest.raises(AnalysisError, match="answers otherwise"):
        export_model(best, tmp_path / "best.pt2")
    assert list(tmp_path.iterdir()) == []


def test_help_shows_how_it_is_used(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "--predict cat.jpg" in out and "--export best.pt2" in out and "\n  python -m analysis  " in out
