"""A configuration from a YAML file and ``key.path=value`` overrides, checked as a whole."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from fusionperc.config.records import Config


class ConfigError(ValueError):
    """A configuration that cannot be run; its one-line message names the key, the value and the remedy."""


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise ValueError(f"line {key_node.start_mark.line + 1}: key '{key}' is given twice; keep one")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Reads `path` (the defaults if None), applies ``key.path=value`` overrides and checks all of it.

    Raises:
        ConfigError: the file is missing or no YAML mapping, a key is unknown, a value does not fit.
    """
    values: Any = {}
    source = "defaults" if path is None else str(path)
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
            raise ConfigError(f"{path}: cannot read the configuration ({reason}); see configs/") from None
        values = _parse(text, str(path))
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: holds a {type(values).__name__}, expected 'key: value' lines")
    return build_config(values, overrides, source=source)


def build_config(values: dict[str, Any], overrides: Sequence[str] = (), *, source: str = "config") -> Config:
    """Checks a nested dictionary after applying overrides. Raises `ConfigError`."""
    values = copy.deepcopy(values)
    for override in overrides:
        _apply(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        # A value that may be one of several types is told once per type; the tags of these types are no keys.
        key = ".".join(str(part) for part in first["loc"] if str(part).isidentifier() or isinstance(part, int))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{source}: unknown key '{key}'{_nearest(first['loc'])}{more}") from None
        message = first["msg"].removeprefix("Value error, ")
        shown = f" = {first['input']!r}" if not isinstance(first["input"], dict) else ""
        raise ConfigError(f"{source}: {key or 'config'}{shown}: {message}{more}") from None


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override '{override}' is no key=value, e.g. data.root=/data/nuscenes")
    *parents, leaf = key.split(".")
    node = values
    for parent in parents:
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"override '{override}': '{parent}' is a value, it has no keys below it")
        node = child
    if not text:
        raise ConfigError(f"override '{override}' has no value; write null for none")
    node[leaf] = _parse(text, f"override '{override}'")


def _parse(text: str, source: str) -> Any:
    """YAML, its mistakes as a `ConfigError` that names the source."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"{source}: no valid YAML: {' '.join(str(error).split())}") from None


def _nearest(location: Sequence[int | str]) -> str:
    """'; did you mean ...' from the keys that exist at that place."""
    import difflib

    record: Any = Config
    for part in location[:-1]:
        # The number of a record in a list of them is no key.
        if isinstance(part, str):
            record = _record_in(record.model_fields[part].annotation)
    close = difflib.get_close_matches(str(location[-1]), list(record.model_fields), n=1)
    known = ", ".join(record.model_fields)
    return f"; did you mean '{close[0]}'?" if close else f"; known here: {known}"


def _record_in(annotation: Any) -> Any:
    """The record of a field that holds one, perhaps none, or several."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((record for part in get_args(annotation) if (record := _record_in(part)) is not None), None)
