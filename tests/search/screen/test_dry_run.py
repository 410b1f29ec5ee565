"""What a dry run says of the cost of a search."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from search.config import SearchConfig, load_config, parse_config
from search.estimate import Measurement
from search.screen.dry_run import cost_table, network_table, space_table

DIGITS = load_config(Path(__file__).parents[3] / "configs" / "digits.yaml")
MEASURED = Measurement({"CPU": 1.0}, 2, start_up_seconds=10.0, defaults_seconds=4.0, sampled_seconds=(1.0, 3.0))


NOTHING_STOPS = {"train": {"epochs": 9}, "scheduler": {"name": "none"}, "search": {"num_samples": 7}}
NINE_SECONDS = {"search": {"num_samples": None, "time_budget": "9s"}}


def test_a_space_and_its_network_are_shown_layer_by_layer() -> None:
    values = {
        "model": {"depth": 4, "layers_per_stage": 2, "residual": True, "head": "max"},
        "optimizer": {"name": "muon"},
        "space": {
            "model.pooling": {"choice": ["none", "max"], "per_layer": True},
            "model.kernel_size": {"choice": [3, 5], "per_layer": True},
            "optimizer.name": {"choice": ["muon", "adam"]},
            "optimizer.momentum": {"float": [0.5, 0.99], "when": {"optimizer.name": "adam"}},
        },
    }
    config = parse_config(values, {})
    assert list(space_table(config).columns[2].cells) == [
        *map(Text, ("max, none, max, none", "3", "muon", "inactive")),
    ]
    layers = " ".join(map(str, network_table(config.base, 10, "").columns[0].cells))
    assert layers == "conv0 pool0 conv1 add0 conv2 pool2 conv3 add1 max classifier total"


def test_what_a_search_costs_is_said_in_80_columns() -> None:
    def said(config: SearchConfig, **changes: Any) -> str:
        console = Console(width=160, file=io.StringIO())
        console.print(cost_table(config, replace(MEASURED, **changes), 10))
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert all(len(line) <= 80 for line in text.splitlines())
        return " ".join(re.sub("[│┃]", " ", text).split())

    usual = said(DIGITS, resources={"CPU": 2.0, "GPU": 0.25})
    assert "2 at a time, 2 CPU and 0.25 GPU each" in usual
    assert "2 s in the median of 2 random networks, 1 s to 3 s; 4 s for trial 0" in usual
    assert "for 50 trials: " in usual and "450 if no trial was stopped" in usual
    assert "63 for 7 trials, as none is stopped" in said(parse_config(NOTHING_STOPS, {}))
    assert "1 of the networks tried: [no] memory" in said(DIGITS, failures=("[no] memory",))
    short = said(parse_config(NINE_SECONDS, {}))
    assert "about 0 in the time budget of 9s" in short and "10 s of start-up alone" in short and "disk" not in short
