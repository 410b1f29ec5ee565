"""Searchers on studies of a small space, to be driven as Ray drives them."""

from pathlib import Path
from typing import Any

from search.config import SearchConfig, parse_config
from search.propose.sampler import build_sampler
from search.record.journal import open_study
from search.record.run_directory import locked
from search.workers.bridge import StudySearcher

SPACE = {"model.depth": {"int": [1, 9]}, "optimizer.learning_rate": {"float": [0.001, 0.1], "log": True}}


def make_config(num_samples: int = 6, **sections: dict[str, Any]) -> SearchConfig:
    # From depth 6 on pooling has nothing left to pool: about half of the proposals are infeasible.
    base = {"search": {"num_samples": num_samples}, "sampler": {"name": "random"}, "train": {"epochs": 9}}
    return parse_config({**base, "space": SPACE, **sections}, {})


def make_searcher(directory: Path, config: SearchConfig) -> StudySearcher:
    with locked(directory):
        study = open_study(directory, config)
    study.sampler = build_sampler(config, 10, len(study.trials))
    searcher = StudySearcher(study, config, num_classes=10)
    searcher.slots = 100
    return searcher


def result(epoch: int, value: float, diverged: bool = False) -> dict[str, Any]:
    return {"epoch": epoch, "val_accuracy": value, "diverged": diverged}
