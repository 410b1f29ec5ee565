"""What the house looks like, in numbers: `python tests/layout.py [ROOT]`. Reads sources; imports nothing of them."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PRODUCT = ("training", "search", "analysis", "run_search.py")
DEPENDENCIES = ("ray", "optuna", "torch")


def sources(root: Path, *parts: str) -> dict[Path, str]:
    """The Python files of a checkout below these parts, by their path in it."""
    listing = subprocess.run(["git", "ls-files", "-z", *parts], cwd=root, capture_output=True, text=True, check=True)
    return {Path(name): (root / name).read_text() for name in listing.stdout.split("\0") if name.endswith(".py")}


def lines(files: dict[Path, str]) -> int:
    return sum(text.count("\n") for text in files.values())


def code_lines(files: dict[Path, str]) -> int:
    """Lines without imports, docstrings, comments and blank ones, which grow with the number of files."""
    count = 0
    for text in files.values():
        left_out = set()
        for node in ast.walk(ast.parse(text)):
            match node:
                case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant(value=str())):
                    left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        kept = (line.strip() for number, line in enumerate(text.splitlines(), start=1) if number not in left_out)
        count += sum(bool(line) and not line.startswith("#") for line in kept)
    return count


def function_lengths(files: dict[Path, str]) -> list[int]:
    """Lines of every function and method, its decorators and docstring included."""
    nodes = [node for text in files.values() for node in ast.walk(ast.parse(text))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(files: dict[Path, str]) -> set[str]:
    """Names that these files define: functions, classes, variables, arguments, attributes that are set on self."""
    names = set()
    for text in files.values():
        for node in ast.walk(ast.parse(text)):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                    names.add(name)
                case ast.Name(id=name, ctx=ast.Store()):
                    names.add(name)
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    names.add(name)
    return names


def private_names(files: dict[Path, str]) -> Iterator[tuple[str, str]]:
    """(file, private name of Ray, Optuna or torch) as often as files use them."""
    own = own_names(files)
    for path, text in files.items():
        tree = ast.parse(text)
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        modules = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
        others = {name.partition(".")[0] for name in modules} - set(DEPENDENCIES)
        for node in imports:
            module = node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
            if module.partition(".")[0] in DEPENDENCIES:
                yield from ((str(path), part) for part in module.split(".") if is_private(part))
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(value=ast.Name(id=root)) if root in others:
                    continue  # of the standard library
                case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=name) if is_private(name):
                    yield str(path), name
                case ast.Attribute(attr=name) if is_private(name) and name not in own:
                    yield str(path), name


def main(root: Path) -> None:
    product, tests = sources(root, *PRODUCT), sources(root, "tests")
    rooms: dict[str, list[int]] = {}
    for path, text in product.items():
        rooms.setdefault(str(path.parent), []).append(text.count("\n"))
    print(f"{'room':24} files  lines")
    for room, lengths in sorted(rooms.items()):
        print(f"{room:24} {len(lengths):5} {sum(lengths):6}")
    longest = sorted(product, key=lambda path: -product[path].count("\n"))[:3]
    print("longest files:", ", ".join(f"{path} {product[path].count(chr(10))}" for path in longest))
    lengths = function_lengths(product)
    p90 = statistics.quantiles(lengths, n=10)[-1]
    print(f"functions: {len(lengths)}, median {statistics.median(lengths):g} lines, p90 {p90:g}")
    found = set(private_names(product))
    print(f"private names of {', '.join(DEPENDENCIES)}: {len({name for _, name in found})}, in files:")
    for file in sorted({file for file, _ in found}):
        print(f"  {file}: {', '.join(sorted(name for where, name in found if where == file))}")
    print(f"lines: product {lines(product):,}, tests {lines(tests):,}")
    print(
        f"of these code, without imports and docstrings: product {code_lines(product):,}, tests {code_lines(tests):,}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]))
