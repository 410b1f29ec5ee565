"""The best model of a search as one file that needs torch alone."""

import contextlib
import errno
import io
import json
import os
import warnings
from pathlib import Path

import torch
from torch.export import ExportedProgram

from analysis.evaluating.predict import BestModel
from analysis.reading.results import AnalysisError
from training.evaluate import Mirrored
from training.files import new_file
from training.model import ConvNet

CLASSES = "classes.json"  # in the exported file: the class names, a JSON list in the order of the logits
CHECKED_BATCHES = (1, 5)  # images


def check_export_file(file: Path) -> None:
    """Raises AnalysisError if no model can be exported to, before anything is computed."""
    if file.suffix != ".pt2":
        raise AnalysisError(f"--export {file}: the name must end in .pt2, as torch.export.load wants it.")
    try:
        if file.is_dir():
            raise AnalysisError(f"--export {file} is a directory. Name a file in it: --export {file / 'best.pt2'}")
        if not file.parent.is_dir():
            raise AnalysisError(f"--export {file}: there is no directory {file.parent}. Make it, or name another.")
        if not os.access(file.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise not_written(file, error) from None


def export_model(best: BestModel, file: Path) -> int:
    """Write the network, on the CPU, as FILE.pt2 with its class names; its size in bytes.

    The file is reloaded and compared with the network before it takes the place of FILE. Raises AnalysisError.
    """
    check_export_file(file)
    archive = io.BytesIO()
    with warnings.catch_warnings():
        # Of weights in channels_last memory, which is twice as fast on a CPU; it is about weights on other devices.
        warnings.filterwarnings("ignore", message="No complete tensor found")
        torch.export.save(exported(best.model), archive, extra_files={CLASSES: json.dumps(best.class_names)})
    unfinished = file.with_name(f".unfinished-{os.getpid()}.pt2")
    try:
        with new_file(unfinished) as stream:
            stream.write(archive.getbuffer())
        if not answers_alike(unfinished, best):
            raise AnalysisError(
                f"the exported network answers otherwise than that of trial {best.number}; {file} was not written. "
                f"This is an error of torch {torch.__version__} or of this project: please report it."
            )
        unfinished.replace(file)
    except OSError as error:
        raise not_written(file, error) from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return archive.getbuffer().nbytes


def exported(model: ConvNet | Mirrored) -> ExportedProgram:
    """The network as a graph: uint8 (N, C, H, W), any N and any device -> logits (N, num_classes)."""
    images = torch.zeros((2, *model.input_shape), dtype=torch.uint8)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("N")},))
    for node in program.graph.nodes:
        if not node.users:  # a check of the images, which would hold for this device only
            node.kwargs = {name: value for name, value in node.kwargs.items() if name != "device"}
    program.graph_module.recompile()
    return program


def answers_alike(file: Path, best: BestModel) -> bool:
    """Whether an exported file has the class names and, on random images, the logits of the network."""
    extra = {CLASSES: ""}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")  # torch 2.11, of its own reading
        reloaded = torch.export.load(file, extra_files=extra).module()
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for count in CHECKED_BATCHES:
            images = torch.randint(0, 256, (count, *best.image_shape), dtype=torch.uint8, generator=generator)
            if not torch.allclose(reloaded(images), best.model(images), rtol=1e-4, atol=1e-4):
                return False
    return tuple(json.loads(extra[CLASSES])) == best.class_names


def loading_code(file: Path) -> str:
    """Four lines of Python that load an exported file and label images."""
    return f"""import json, torch
extra = {{"{CLASSES}": ""}}
model = torch.export.load({str(file)!r}, extra_files=extra).module()
labels = [json.loads(extra["{CLASSES}"])[index] for index in model(images).argmax(1)]"""


def not_written(file: Path, error: OSError) -> AnalysisError:
    return AnalysisError(f"--export {file} cannot be written ({error.strerror}). Name another place.")
