"""JSON schemas of `run.json` and of a line of `samples.jsonl`, made of the types of their fields.

`python -m fastvlm_bench.records.schema docs/schema` writes both. Any validator of JSON Schema 2020-12 reads them.
"""

import json
import sys
import types
import typing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from fastvlm_bench.errors import BenchError, UsageError
from fastvlm_bench.records.identities import MEASURED
from fastvlm_bench.records.run_record import OPEN, RunRecord
from fastvlm_bench.records.sample_line import Limits, SampleLine
from fastvlm_bench.records.storage import write_atomically

Schema = dict[str, Any]
PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
LOADED = {
    "model": ("class", "weights_sha256", "dtype", "device", "layers", "parameters", "weights_bytes"),
    "methods": ("name", "spec", "lossless", "options", "draft", "extra_bytes"),
}
"""What is known of the target and of each method once a run has succeeded."""


def run_schema() -> Schema:
    """Of `run.json`. A run that ended well has all that only the loaded model could tell."""
    model, methods = ({"required": list(names)} for names in LOADED.values())
    loaded = {"model": model, "methods": {"items": methods, "minItems": 1}}
    return _document("run.json", RunRecord) | {
        "if": {"properties": {"status": {"const": "success"}}}, "then": {"properties": loaded},
    }  # fmt: skip


def sample_schema() -> Schema:
    """Of one line of `samples.jsonl`. A failed line carries nothing measured; every other line carries all of it."""
    measured = {name: {"not": {"type": "null"}} for name in MEASURED if name != "vision_s"}
    failed = {name: {"type": "null"} for name in MEASURED} | {"rounds": {"maxItems": 0}}
    return _document("a line of samples.jsonl", SampleLine) | {
        "if": {"properties": {"error": {"type": "null"}}}, "then": {"properties": measured},
        "else": {"properties": failed},
    }  # fmt: skip


FILES = {"run.schema.json": run_schema, "sample.schema.json": sample_schema}


def write_schemas(folder: Path) -> None:
    """Write both files. UsageError if there is no such folder."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give the one that holds {' and '.join(FILES)}, docs/schema")
    for name, make in FILES.items():
        write_atomically(folder / name, text_of(make()).encode("utf-8"))


def text_of(schema: Schema) -> str:
    """The file of a schema."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _document(title: str, kind: type) -> Schema:
    """A schema document: the fields of `kind`, and under $defs the types that they are made of."""
    known: dict[str, Schema] = {}
    own = _fields(kind, known)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **own, "$defs": known}


def _fields(kind: type, known: dict[str, Schema]) -> Schema:
    """The schema of a TypedDict: its docstring, its fields, and which of them must be there."""
    hints = get_type_hints(kind, include_extras=True)
    required = [name for name in hints if name in kind.__required_keys__]  # type: ignore[attr-defined]
    return {
        "description": " ".join((kind.__doc__ or "").split()), "type": "object",
        "properties": {name: _schema(hint, known) for name, hint in hints.items()}, "required": required,
        "additionalProperties": kind in OPEN,
    }  # fmt: skip


def _schema(hint: Any, known: dict[str, Schema]) -> Schema:
    """The schema of a type. known: gathers the schemas of the TypedDicts that are met, by name."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is NotRequired:
        return _schema(inner[0], known)
    if origin is Annotated:
        return _annotated(_schema(inner[0], known), inner[1:])
    if origin in (Union, types.UnionType):
        return _any_of([_schema(one, known) for one in inner])
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is list:
        return {"type": "array", "items": _schema(inner[0], known)}
    if origin is tuple:
        items = [_schema(one, known) for one in inner]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(inner[1], known)}
    if is_typeddict(hint):
        if hint.__name__ not in known:
            known[hint.__name__] = {}  # its place, before those of its own fields
            known[hint.__name__] = _fields(hint, known)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    return {} if hint is typing.Any else {"type": PLAIN[hint]}


def _annotated(schema: Schema, notes: tuple[Any, ...]) -> Schema:
    """A schema with its description (text) and its limits."""
    texts = [note for note in notes if isinstance(note, str)]
    limits = {key: value for note in notes if isinstance(note, Limits)
              for key, value in asdict(note).items() if value is not None}  # fmt: skip
    return ({"description": texts[-1]} if texts else {}) | schema | limits


def _any_of(schemas: list[Schema]) -> Schema:
    """One of several types; a list of types, or of values, where that says the same."""
    plain = all(isinstance(one.get("type"), str) and one["type"] in PLAIN.values() for one in schemas)
    if len(schemas) == 2 and set(schemas[0]) == {"enum"} and schemas[1] == {"type": "null"}:
        return {"enum": [*schemas[0]["enum"], None]}
    if plain and sum(len(one) > 1 for one in schemas) <= 1:
        limits = {key: value for one in schemas for key, value in one.items() if key != "type"}
        return {"type": [one["type"] for one in schemas], **limits}
    return {"anyOf": schemas}


def main() -> None:
    """The command: one argument, the folder."""
    try:
        if len(sys.argv) != 2:
            raise UsageError("give one folder, as python -m fastvlm_bench.records.schema docs/schema")
        write_schemas(Path(sys.argv[1]))
    except BenchError as error:
        print(f"fastvlm-bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
