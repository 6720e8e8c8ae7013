"""YAML and JSON files, read within limits: each damage is one clear error."""

import json
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import yaml

from .budget import MAX_RECORD, MAX_SETTINGS

__all__ = ["parse_yaml", "read_mapping"]


def read_mapping(path: str | Path, kind: Literal["YAML", "JSON"] = "YAML") -> dict:
    """The `key: value` pairs of a file in UTF-8, with or without a byte order mark; none of an empty YAML file.

    Raises:
        ValueError: if the file is too large, cannot be parsed or holds something else.
        OSError: if it cannot be read.
    """
    most = MAX_SETTINGS if kind == "YAML" else MAX_RECORD
    if (size := Path(path).stat().st_size) > most:
        raise ValueError(f"{path} has {size} bytes; at most {most} bytes of {kind} are read.")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        content = parse_yaml(text) if kind == "YAML" else json.loads(text)
    except (ValueError, OverflowError, yaml.YAMLError) as error:  # ValueError: no UTF-8, a date in month 13
        raise ValueError(f"{path} is not {kind}: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is not {kind}: it is nested too deep.") from error
    if content is None and kind == "YAML":
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected `key: value` pairs, got a {type(content).__name__}.")
    return content


def parse_yaml(text: str) -> Any:
    """What the text stands for; aliases, which can repeat a part of it without end, count as if they were written out.

    Raises:
        yaml.YAMLError: if it is not YAML.
        ValueError: if it is too long with its aliases written out.
    """
    loader, lengths = yaml.SafeLoader(text), {}

    def length(node: yaml.Node) -> int:
        if id(node) not in lengths:
            lengths[id(node)] = MAX_SETTINGS  # of an alias within what it stands for
            children = node.value if isinstance(node, yaml.CollectionNode) else []
            pairs = chain(*children) if isinstance(node, yaml.MappingNode) else children
            lengths[id(node)] = 1 + sum(map(length, pairs))
        return lengths[id(node)]

    try:
        node = loader.get_single_node()
        if node is not None and length(node) > MAX_SETTINGS:
            raise ValueError(f"it stands for more than {MAX_SETTINGS} values")
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()
