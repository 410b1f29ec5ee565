"""The answers of exported files, where torch alone can be imported: `exported_answers.py CASES ANSWERS`."""

import sys

for name in ("training", "analysis", "search", "run_search", "convsearch", "torchvision", "ray", "optuna"):
    sys.modules[name] = None  # type: ignore[assignment]  # importing it is an ImportError
import torch  # noqa: E402

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
