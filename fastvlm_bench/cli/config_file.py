"""`--config FILE`: what a file says of a command's options, checked before anything else is.

The keys are the options' long names, with - or _, or their plural where an option is repeatable. `run.json` of an
earlier run, or the run's folder, stands for the configuration that it recorded.
"""

import json
import os
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from fastvlm_bench.errors import UsageError, did_you_mean

RUN_FILE = "run.json"
KINDS = (".toml", ".yaml", ".yml", ".json")
PLURALS = {"suites": "suite", "methods": "method", "variants": "variant", "metrics": "metric", "heads": "head",
           "exit_layers": "exit_layer", "recipes": "recipe"}  # fmt: skip
NUMBER_LISTS = ("batch_size", "exit_layer", "raw_exit")
"""Options that are text such as 1,2,4: in a file a number or a list of numbers will do."""
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path, as a text"}


def read_config(path: Path, command: Any) -> dict[str, Any]:
    """Parameter -> value, as the parser's map of defaults. UsageError names the file, the key and what is allowed.

    A null leaves its option alone.
    """
    where = f"--config {path}"
    types = _types(command)
    names = _names(command, types)
    found: dict[str, Any] = {}
    for key, value in _read(path, where).items():
        name = names.get(str(key).replace("-", "_"))
        if name is None:
            raise UsageError(f"{where}: unknown key '{key}'; it must be an option of {command.name}: "
                             f"{', '.join(types)}{did_you_mean(str(key).replace('-', '_'), names)}")  # fmt: skip
        if name in found:
            raise UsageError(f"{where}: '{key}' says again what another key has said ({name}); give it once")
        if value is not None:
            found[name] = _value(where, str(key), name, value, types[name])
    return found


def _types(command: Any) -> dict[str, Any]:
    """Parameter -> the type that its function asks for, `| None` left out; without --config itself."""
    hints = typing.get_type_hints(command.callback)
    own = [param.name for param in command.params if param.name != "config"]
    return {name: _without_none(hints[name]) for name in own}


def _without_none(hint: Any) -> Any:
    kinds = [kind for kind in typing.get_args(hint) if kind is not NoneType]
    return kinds[0] if NoneType in typing.get_args(hint) else hint


def _names(command: Any, types: Mapping[str, Any]) -> dict[str, str]:
    """What a key may be, with _ -> parameter: its own name, its long options, its plural."""
    found = {name: name for name in types}
    for param in command.params:
        for option in param.opts:
            if option.startswith("--") and param.name in types:
                found[option[2:].replace("-", "_")] = param.name
    return found | {plural: name for plural, name in PLURALS.items() if name in types}


def _value(where: str, key: str, name: str, value: Any, kind: Any) -> Any:
    """The value as the parser takes it; UsageError unless it is of the option's kind."""
    if typing.get_origin(kind) is list:
        (kind,) = typing.get_args(kind)
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) for item in items):
            raise UsageError(f"{where}: '{key}' is {_shown(value)}; it must be a text or a list of texts")
        return [_home(item) for item in items]
    if name in NUMBER_LISTS and kind is str:
        items = value if isinstance(value, list) else [value]
        if not items or not all(isinstance(item, int | str) and not isinstance(item, bool) for item in items):
            raise UsageError(
                f"{where}: '{key}' is {_shown(value)}; it must be a whole number, a list of them, or a text"
            )
        return ",".join(map(str, items))
    if not _fits(value, kind):
        raise UsageError(f"{where}: '{key}' is {_shown(value)}; it must be {WORDS[kind]}")
    return _home(value) if isinstance(value, str) else value


def _fits(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) or _is_number(value)
    return isinstance(value, str if kind is Path else kind)


def _is_number(value: Any) -> bool:
    """YAML reads 1e-2, which has no point, as a text."""
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False


def _home(text: str) -> str:
    """~ as a shell would have it, which does not read the file."""
    return os.path.expanduser(text) if text.startswith("~/") else text


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read(path: Path, where: str) -> dict[str, Any]:
    """The file's keys and values; the recorded configuration of a run. CorruptRecord if that is not as it was sealed."""
    if path.is_dir():
        path = path / RUN_FILE
        if not path.is_file():
            raise UsageError(f"{where}: the folder has no {RUN_FILE}; name a run's folder, or a file ({_kinds()})")
    if path.suffix.lower() not in KINDS:
        raise UsageError(f"{where}: a configuration must be a file that ends in {_kinds()}, or a run's folder")
    try:
        found = _parse(path.read_text(encoding="utf-8-sig"), path.suffix.lower())
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(
            f"{where} is not valid {path.suffix[1:].upper()}: {' '.join(str(error).split())[:200]}"
        ) from None
    if not isinstance(found, dict):
        raise UsageError(f"{where} is {_shown(found)}; it must be keys with values, as in limit: 20")
    recorded = found.get("config")
    if not isinstance(recorded, dict) or "run_id" not in found:
        return found
    from fastvlm_bench.records.sealing import check_fields

    check_fields(path, found)
    return recorded


def _parse(text: str, kind: str) -> Any:
    """ValueError for what is not valid TOML, YAML or JSON; an empty file says nothing."""
    if kind == ".toml":
        return tomllib.loads(text)
    if not text.strip():
        return {}
    if kind == ".json":
        return json.loads(text)
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    return {} if found is None else found


def _kinds() -> str:
    return ", ".join(KINDS[:-1]) + f" or {KINDS[-1]}"
