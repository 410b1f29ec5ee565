"""YAML as a config may be written: no key twice, no integer beyond 64 bits."""

from typing import Any

import yaml

from training.messages import shortened, shown

LONGEST_ERROR = 500  # characters


def parse_yaml(text: str | bytes) -> Any:
    """The value of a YAML text. Raises ValueError, whatever is wrong with it."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ValueError(shortened(" ".join(str(error).split()), LONGEST_ERROR)) from None
    except Exception as error:  # PyYAML raises half a dozen kinds, without a place
        raise ValueError(f"a value does not fit its tag, or it is nested too deeply: {shown(error)}") from None


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is eight times as fast


class _StrictLoader(_SafeLoader):
    """Plain YAML, in which no key comes twice and integers fit into 64 bits."""

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
        value: int = super().construct_yaml_int(node)
        if not -(2**63) <= value < 2**63:
            raise yaml.MarkedYAMLError(None, None, "an integer beyond 64 bits", node.start_mark)
        return value


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)
