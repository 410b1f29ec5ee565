"""The best model's answers for image files."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna.trial import TrialState
from PIL import Image

from analysis import load_search
from analysis.__main__ import main
from analysis.evaluating.predict import classify, load_best
from analysis.text import printable
from training import load_model
from training.config import DataConfig
from training.data import load_official_train
from training.errors import DataError

pytestmark = pytest.mark.usefixtures("shut_test_split")


def hard_files(folder: Path, picture: Callable[..., np.ndarray]) -> list[Path]:
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


def test_files_are_prepared_as_training_prepares_image_folders(search_run, tmp_path, picture):
    best = load_best(load_search(search_run.path))
    files = hard_files(tmp_path / "images" / "train" / "first", picture)
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


def test_an_upright_and_a_turned_photograph_get_the_same_answer(search_run, tmp_path, picture):
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


def test_a_mirrored_answer_is_that_of_an_image_and_its_mirror_image(search_run, tmp_path, capsys, picture):
    image = picture((8, 8, 3))
    Image.fromarray(image).save(tmp_path / "x.png")
    command = [str(search_run.path), "--device", "cpu", "--predict", str(tmp_path / "x.png"), "--mirror"]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == "" and "data.flip is false" in err and "Leave --mirror out" in err and err.count("\n") == 1
    results = load_search(search_run.with_flips().path)
    views = torch.tensor(np.stack([image, image[:, ::-1]])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits = load_best(results).model(views).double().mean(0)
    ranking = classify(load_best(results, mirror=True), tmp_path / "x.png")
    assert [share for _, share in ranking] == pytest.approx(logits.softmax(0).sort(descending=True).values.tolist())
    assert dict(ranking) != pytest.approx(dict(classify(load_best(results), tmp_path / "x.png")), abs=1e-3)
    assert main(command) == 0
    out, _ = capsys.readouterr()
    assert "averaged over each image and its mirror image" in out and f"{100 * ranking[0][1]:.2f} %" in out


def test_mirror_without_a_use_is_refused(search_run, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(search_run.path), "--mirror"])
    assert "belongs to --predict or --export" in capsys.readouterr().err


def test_predictions_are_printed_and_hostile_names_stay_text(make_run, trained, tmp_path, monkeypatch, capsys, picture):
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


def test_wrong_files_are_all_named_after_the_good_ones(search_run, tmp_path, monkeypatch, capsys, picture):
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


def test_a_network_without_a_finite_answer_is_an_error_of_that_file(tmp_path, picture, random_model):
    best = random_model({"width": 4, "depth": 1})
    torch.nn.init.constant_(best.model.classifier.bias, torch.nan)
    Image.fromarray(picture((8, 8, 3))).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png.*finite"):
        classify(best, tmp_path / "x.png")


@pytest.mark.parametrize("flags", [["--predict", "good.png"], ["--export", "best.pt2"]])
def test_a_run_without_a_usable_model_is_exit_code_2(
    flags, make_run, search_run, tmp_path, monkeypatch, capsys, picture
):
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


def test_a_provisional_model_is_called_so(make_run, trained, tmp_path, monkeypatch, capsys, picture):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture((20, 20, 3))).save("good.png")
    run = make_run()
    run.checkpoint(run.trial([0.5], TrialState.PRUNED, stopped_by="time_budget"), trained["defaults"][0])
    assert main([str(run.path), "--device", "cpu", "--predict", "good.png"]) == 0
    out = capsys.readouterr().out
    assert "provisionally the best: 1 epoch," in out and "No trial is COMPLETE" in out
