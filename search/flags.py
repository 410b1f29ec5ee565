"""Command lines, with what argparse gets wrong mended."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable


def parse_flags(parser: ArgumentParser, arguments: Iterable[str] | None) -> Namespace:
    """What parser.parse_args gives, but for `--flag=--`, which argparse takes for an empty list: an error."""
    for word in sys.argv[1:] if arguments is None else arguments:
        if word.startswith("--") and word.endswith("=--"):
            parser.error(f"argument {word.removesuffix('=--')}: expected a value, got '--'")
    return parser.parse_args(None if arguments is None else list(arguments))
