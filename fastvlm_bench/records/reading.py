"""Reads run folders and trusts nothing in them: lines that do not fit their CRC or the seal, counts that do not agree.

Failures are UsageError (a folder that cannot be used) or CorruptRecord (a file that was changed after it was written).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm_bench.errors import BenchError, CorruptRecord, UsageError
from fastvlm_bench.records.compact import Compactor, uncollected
from fastvlm_bench.records.document_frequencies import attach
from fastvlm_bench.records.sealing import SAMPLES_FILE, check_fields, check_files, is_sealed, sealed_lines
from fastvlm_bench.records.storage import parse, unseal
from fastvlm_bench.visible import waited

SCHEMA_VERSION = 1
RUN_FILE = "run.json"


@dataclass(frozen=True)
class Run:
    """A run folder in memory.

    meta: `run.json`. lines: the last line of each (suite, sample, method, repeat), in file order. torn: whether the
    samples file ends in half a line.
    """

    folder: Path
    meta: dict[str, Any]
    lines: list[dict[str, Any]]
    torn: bool = False

    @property
    def run_id(self) -> str:
        return str(self.meta["run_id"])

    @property
    def sealed(self) -> bool:
        """Whether its files were checked against a seal; records of older versions have none."""
        return is_sealed(self.meta)

    def method(self, label: str) -> dict[str, Any]:
        """The entry of `methods` with this label."""
        return next(method for method in self.meta["methods"] if method["label"] == label)


def read_meta(folder: Path) -> dict[str, Any]:
    """`run.json` of a run folder.

    UsageError if it is missing, unreadable or of an unknown schema. CorruptRecord if it is not JSON, lacks a key or
    does not fit its seal.
    """
    path = Path(folder) / RUN_FILE
    try:
        with uncollected():
            meta = parse(path.read_bytes())
    except FileNotFoundError:
        begun = Path(folder) / SAMPLES_FILE
        if begun.is_file() and not begun.stat().st_size:  # the samples file is made before run.json
            raise UsageError(f"{folder} was killed before it recorded anything; remove it and start anew") from None
        raise UsageError(f"{folder} is not a run folder: it has no {RUN_FILE}; give a folder under results/") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise CorruptRecord(f"{path} is not JSON ({error}); restore it from a copy") from None
    version = meta.get("schema_version") if isinstance(meta, dict) else None
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema_version {version!r}; this version reads {SCHEMA_VERSION}; "
            "open it with the fastvlm-bench that wrote it, or upgrade"
        )
    missing = [key for key in ("run_id", "status", "config", "suites", "model", "methods", "reference")
               if key not in meta]  # fmt: skip
    if missing:
        raise CorruptRecord(f"{path} lacks {', '.join(missing)}; restore it from a copy")
    check_fields(path, meta)
    compactor = Compactor()
    for suite in meta["suites"] if isinstance(meta["suites"], list) else ():
        if isinstance(suite, dict) and isinstance(samples := suite.get("samples"), list):
            samples[:] = [compactor.sample(sample) if isinstance(sample, dict) else sample for sample in samples]
    return dict(meta)


def read_lines(path: Path, lost: int = 0) -> tuple[list[dict[str, Any]], int]:
    """All whole lines of a samples file, and how many bytes they take. Any bytes after them are a torn last line.

    lost: how many lines are lost if there is no such file.
    """
    lines: list[dict[str, Any]] = []
    whole, compactor = 0, Compactor()
    try:
        with uncollected(), open(path, "rb") as file:
            for number, raw in enumerate(waited(file, path.stat().st_size, f"reading {path}", len), start=1):
                if not raw.endswith(b"\n"):
                    break  # a line is one write, so one without a line feed is half written
                lines.append(compactor.line(_line(path, number, raw)))
                whole += len(raw)
    except FileNotFoundError:
        if lost:
            raise CorruptRecord(f"{path} is gone, and {RUN_FILE} sealed {lost} lines of it; "
                                "restore it from a copy") from None  # fmt: skip
        raise UsageError(f"{path.parent} has no {SAMPLES_FILE}: nothing was measured; run it again") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    return lines, whole


def _line(path: Path, number: int, raw: bytes) -> dict[str, Any]:
    """A whole line, the one with this number from 1, checked on its own. UsageError, CorruptRecord."""
    try:
        line = unseal(raw.removesuffix(b"\n"))
    except ValueError as error:
        raise CorruptRecord(f"{path}, line {number} is corrupt: {error}; restore it from a copy") from None
    if line.get("v") != SCHEMA_VERSION:
        raise UsageError(f"{path}, line {number} has v {line.get('v')!r}; this version reads {SCHEMA_VERSION}")
    if line.get("seq") != number - 1:
        raise CorruptRecord(
            f"{path}, line {number} has seq {line.get('seq')!r} instead of {number - 1}: lines were removed, "
            "added or moved; restore it from a copy"
        )
    return line


def read_run(folder: Path, meta: dict[str, Any] | None = None) -> Run:
    """Read and check a run folder. A torn last line is left out; where a key has several lines, the last one counts.

    meta: its `run.json`, if that was read already.
    UsageError: not a run folder, no samples file, unknown schema. CorruptRecord: a damaged file, one that does not fit
    the seal, a line of a sample or method that `run.json` does not list, or other counts than `totals` has.
    """
    folder = Path(folder)
    meta, path = read_meta(folder) if meta is None else meta, folder / SAMPLES_FILE
    lines, whole = read_lines(path, sealed_lines(meta))
    known = {(suite["name"], sample["sample_id"]) for suite in meta["suites"] for sample in suite["samples"]}
    labels = {method["label"] for method in meta["methods"]}
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    with uncollected():
        for number, line in enumerate(lines, start=1):
            key = (line.get("suite"), line.get("sample_id"), line.get("method"), line.get("repeat"))
            if key[:2] not in known or key[2] not in labels:
                raise CorruptRecord(f"{path}, line {number} is of {key[:3]}, which {RUN_FILE} does not know")
            latest[key] = line
        kept = lines if len(latest) == len(lines) else sorted(latest.values(), key=lambda line: line["seq"])
        del latest
    check_files(folder, meta, whole)
    _check_totals(path, meta, kept)
    attach(folder, meta["suites"])
    return Run(folder, meta, kept, torn=whole < path.stat().st_size)


def _check_totals(path: Path, meta: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
    """CorruptRecord where `totals` counts other lines: the only check of a record without a seal that was cut."""
    counted = (meta.get("totals") or {}).get("lines")
    if meta["status"] in ("success", "interrupted") and counted is not None and counted != len(lines):
        raise CorruptRecord(f"{path} has {len(lines)} lines that count, and totals in {RUN_FILE} has {counted}: lines "
                            "were removed or added; restore it from a copy")  # fmt: skip


def list_runs(results_dir: Path) -> list[Path]:
    """The run folders in a results folder, newest first; those whose `run.json` cannot be read come last."""
    if not Path(results_dir).is_dir():
        return []

    def started(folder: Path) -> tuple[str, str]:
        try:
            return str(read_meta(folder).get("started_at") or ""), folder.name
        except BenchError:
            return "", folder.name

    # A sweep over batch sizes is a folder of runs, so its runs lie one level deeper.
    folders = [path.parent for depth in ("*", "*/*") for path in Path(results_dir).glob(f"{depth}/{RUN_FILE}")]
    return sorted(folders, key=started, reverse=True)
