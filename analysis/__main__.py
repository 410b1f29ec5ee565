"""python -m analysis [RUN]: evaluate the best model of a search and write its report, or put the model to use.

Only what is quickly answered: the arguments, and whether there is a run to analyse.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.reading.place import AnalysisError, check_directory
from search.flags import parse_flags
from search.record.storage import is_url
from training.messages import printable

DESCRIPTION = """\
Reload the best network of a search and trial 0, the defaults, check their val accuracy,
evaluate them on the test split, and write RUN/report/: index.html, its figures, trials.csv,
epochs.csv and test_metrics.json.

With --predict or --export the best network is put to use instead: no report is written,
and the test split is not opened. One that was trained with flips sees each image and its
mirror image with --mirror, as the report does beside its plain numbers."""
EXAMPLES = """\
examples:
  python -m analysis                                      the report of the newest run
  python -m analysis runs/NAME                            the report of this run
  python -m analysis s3://BUCKET/searches/NAME            the report of a run in a bucket, written there
  python -m analysis runs/NAME --predict cat.jpg dog.png  what the best network sees in these images
  python -m analysis runs/NAME --export best.pt2          the best network as a file that needs torch alone"""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 for input that cannot be analysed."""
    known = parser()
    arguments = parse_flags(known, argv)
    if arguments.mirror and not arguments.predict and arguments.export is None:
        known.error("--mirror belongs to --predict or --export; the report shows both answers without it")
    try:
        if arguments.run and not is_url(arguments.run):  # a URL is asked later
            check_directory(Path(arguments.run))
        from analysis.printing import carry_out  # with torch, pandas and Matplotlib, for seconds

        return carry_out(arguments)
    except AnalysisError as error:
        for line in str(error).splitlines():
            print(f"python -m analysis: {printable(line)}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="run directory, also a URL (default: the newest in --runs-dir)"
    )
    parser.add_argument("--runs-dir", default="runs", metavar="DIR", help="where runs are, also a URL (default: runs)")
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="where the images are now, if they were moved: data.data_dir, or for folder:PATH the PATH. Only there, or "
        "in ./data, are CIFAR downloaded and decoded folders kept",
    )
    parser.add_argument("--device", metavar="DEV", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument(
        "--predict",
        nargs="+",
        default=[],
        type=Path,
        metavar="IMAGE",
        help="print the label and the most probable classes of image files of any format, mode and size",
    )
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE.pt2",
        help="write the best network as a program of torch.export, with its normalisation and class names",
    )
    parser.add_argument(
        "--mirror",
        action="store_true",
        help="with --predict or --export: average the logits of each image and its mirror image; needs a network that "
        "was trained with data.flip",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
