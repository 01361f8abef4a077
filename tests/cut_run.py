"""Makes of a finished run one that was killed midway, so that it can be resumed."""

from pathlib import Path

from fastvlm_bench.records.record import RUN_FILE, SAMPLES_FILE, read_meta
from fastvlm_bench.records.sealing import Digest, sealed
from fastvlm_bench.records.storage import encode_document


def cut_run(folder: Path, lines: int, torn: bytes = b"") -> None:
    """Leave so many lines of samples.jsonl, and then half a line, `torn`; with the seal that the writer would leave."""
    path = folder / SAMPLES_FILE
    kept = b"".join(path.read_bytes().splitlines(keepends=True)[:lines])
    path.write_bytes(kept)
    meta = {**read_meta(folder), "status": "started", "completed_at": None, "totals": {}, "verdict": None}
    (folder / RUN_FILE).write_bytes(encode_document(sealed(meta, folder, Digest.of(path, len(kept)))))
    with open(path, "ab") as file:
        file.write(torn)
