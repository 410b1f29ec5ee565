"""YAML as a config may be written: the numbers of YAML 1.2, no key twice, no integer beyond 64 bits."""

import re
from typing import Any, ClassVar

import yaml

from training.messages import shortened, shown

LONGEST_ERROR = 500  # characters
# PyYAML reads numbers as YAML 1.1 has them: 1e-3 is text there, 010 is 8, and 1:30 is 90.
INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
NUMBERS = {
    INT: r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    FLOAT: r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


def parse_yaml(text: str | bytes) -> Any:
    """The value of a YAML text. Raises ValueError, whatever is wrong with it."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ValueError(shortened(" ".join(str(error).split()), LONGEST_ERROR)) from None
    except Exception as error:  # PyYAML raises half a dozen kinds, without a place
        raise ValueError(f"a value does not fit its tag, or it is nested too deeply: {shown(error)}") from None


def dump_yaml(value: Any) -> str:
    """A text that `parse_yaml` reads as this value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is eight times as fast


class _StrictLoader(_SafeLoader):
    """Plain YAML, in which no key comes twice and integers fit into 64 bits."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in NUMBERS]
        for first, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self._flat: set[yaml.MappingNode] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Called before a mapping is made; the first time its keys are still those of the text."""
        if node in self._flat:
            return
        self._flat.add(node)
        names: set[tuple[str, str]] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in names:
                raise yaml.MarkedYAMLError(None, None, f"{shown(key.value)} is given twice", key.start_mark)
            names.add((key.tag, key.value))
        super().flatten_mapping(node)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        value = int(text, 0 if text[:2] in ("0x", "0o") else 10)
        if not -(2**63) <= value < 2**63:
            raise yaml.MarkedYAMLError(None, None, "an integer beyond 64 bits", node.start_mark)
        return value


class _Dumper(yaml.SafeDumper):
    """Quotes text that would be read as a number, and escapes what YAML takes as the end of a line."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        style = '"' if re.search("[\x85\u2028\u2029]", text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_str)


_StrictLoader.add_constructor(INT, _StrictLoader.construct_yaml_int)
for _tag, _pattern in NUMBERS.items():
    for _kind in (_StrictLoader, _Dumper):
        _kind.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list("-+.0123456789"))
