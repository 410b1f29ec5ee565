"""The exported file, in a process that knows torch alone."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from analysis import AnalysisError, load_search
from analysis.__main__ import main
from analysis.evaluating import export
from analysis.evaluating.export import export_model
from analysis.evaluating.predict import classify, load_best

TORCH_ALONE = Path(__file__).parents[2] / "programs" / "exported_answers.py"
pytestmark = pytest.mark.usefixtures("shut_test_split")
# Layouts, heads and layers that differ in what they record when they are exported.
ARCHITECTURES = {
    "deep, mixed": {"depth": 5, "width": 4, "pooling": ["max", "none", "avg", "none", "none"], "activation": "silu"},
    "no batch norm": {"depth": 2, "width": 4, "batch_norm": False, "pooling": "avg", "head": "flatten", "dropout": 0.5},
    "one channel": {
        **{"depth": 2, "width": 1, "width_growth": 1.0, "kernel_size": 1},  # whose memory is of both layouts
        **{"pooling": "none", "head": "flatten", "batch_norm": False, "activation": "gelu"},
    },
    "one position": {
        **{"depth": 2, "width": 4, "kernel_size": [5, 2], "stride": [5, 1]},
        **{"padding": "valid", "pooling": "none"},
    },
}


def test_exported_files_answer_as_the_networks_with_torch_alone(tmp_path, random_model):
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
    command = [sys.executable, "-I", str(TORCH_ALONE), str(tmp_path / "cases.pt"), str(tmp_path / "answers.pt")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = torch.load(tmp_path / "answers.pt")
    for name in ARCHITECTURES:
        for answer, logits in zip(answers[name], expected[name], strict=True):
            torch.testing.assert_close(answer, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11, of its own reading
def test_the_printed_lines_load_the_file_and_label_images(search_run, tmp_path, monkeypatch, capsys, picture):
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


def test_a_mirrored_export_answers_as_a_mirrored_prediction(search_run, tmp_path, capsys, picture):
    command = [str(search_run.path), "--mirror", "--export", str(tmp_path / "best.pt2")]
    assert main(command) == 2
    assert "data.flip is false" in capsys.readouterr().err and list(tmp_path.glob("*.pt2")) == []
    results = load_search(search_run.with_flips().path)
    assert main(command) == 0
    assert "averaged over each image and its mirror image" in capsys.readouterr().out
    images = torch.from_numpy(picture((6, 3, 8, 8)))
    torch.save({"mirrored": (str(tmp_path / "best.pt2"), [images])}, tmp_path / "cases.pt")
    program = [sys.executable, "-I", str(TORCH_ALONE), str(tmp_path / "cases.pt"), str(tmp_path / "answers.pt")]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [answers] = torch.load(tmp_path / "answers.pt")["mirrored"]
    best, mirrored = load_best(results), load_best(results, mirror=True)
    with torch.inference_mode():
        assert not torch.allclose(answers, best.model(images), atol=1e-2)
    for index, (image, answer) in enumerate(zip(images, answers, strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{index}.png")
        expected = dict(classify(mirrored, tmp_path / f"{index}.png"))
        assert [expected[name] for name in best.class_names] == pytest.approx(answer.softmax(0).tolist(), abs=1e-5)


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
    monkeypatch.setattr(export.os, "access", lambda path, mode: False)  # root may write anywhere
    assert main([str(search_run.path), "--export", str(tmp_path / "best.pt2")]) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_a_full_disk_leaves_the_older_file(search_run, tmp_path, monkeypatch, capsys, picture):
    def full(path):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "best.pt2").write_text("older")
    Image.fromarray(picture((8, 8, 3))).save(tmp_path / "x.png")
    monkeypatch.setattr(export, "new_file", full)
    arguments = ["--predict", str(tmp_path / "x.png"), str(tmp_path / "y.png"), "--export", str(tmp_path / "best.pt2")]
    assert main([str(search_run.path), "--device", "cpu", *arguments]) == 2
    out, err = capsys.readouterr()
    assert "x.png: " in out and "Exported" not in out
    assert [("y.png" in line, "No space left" in line) for line in err.splitlines()] == [(True, False), (False, True)]
    assert (tmp_path / "best.pt2").read_text() == "older"
    assert not [path for path in tmp_path.iterdir() if "unfinished" in path.name]


def test_a_file_that_answers_otherwise_is_not_kept(tmp_path, monkeypatch, random_model):
    best, other = random_model({"width": 4, "depth": 1}), random_model({"width": 4, "depth": 1})
    with torch.no_grad():
        other.model.classifier.bias[2] += 0.01
    program = export.exported(other.model)
    monkeypatch.setattr(export, "exported", lambda model: program)
    with pytest.raises(AnalysisError, match="answers otherwise"):
        export_model(best, tmp_path / "best.pt2")
    assert list(tmp_path.iterdir()) == []
