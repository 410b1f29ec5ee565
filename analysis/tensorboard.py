"""The final evaluation in TensorBoard, beside the search's learning curves: figures as images, metrics as scalars."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from analysis.figures.style import Picture, save_png

DIRECTORY = Path("report") / "tensorboard"  # its name among TensorBoard's runs


def write_evaluation(pictures: Iterable[Picture], metrics: Mapping[str, float], run: Path) -> None:
    """Write RUN/report/tensorboard/, in place of what an earlier analysis wrote there. Raises OSError."""
    directory = run / DIRECTORY
    earlier = list(directory.glob("events.out.tfevents.*"))
    with SummaryWriter(str(directory)) as writer:
        for name, value in metrics.items():
            writer.add_scalar(name, value)
        for picture in pictures:
            writer.add_image(picture.name, pixels(picture), dataformats="HWC")
        writer.flush()  # says so where the disk is full; closing does not
    for file in earlier:
        file.unlink()


def pixels(picture: Picture) -> np.ndarray:
    """uint8 [H, W, 3], as in the report's PNG file."""
    with TemporaryDirectory() as place:
        file = Path(place) / "picture.png"
        save_png(picture.figure, file)
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
