"""Long and unlucky runs with a fake model: killed twenty times, and ten thousand samples long."""

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_run import CONFIG, execute
from forked import Child

from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.records.record import RunWriter, read_run


def facts(folder: Path) -> list[dict[str, Any]]:
    """What must not depend on interruptions: everything but the line's number, times and memory."""
    lines = sorted(read_run(folder).lines, key=lambda line: (line["sample_id"], line["method"]))
    timed = ("seq", "crc32", "ttft_s", "vision_s", "prefill_s", "decode_s", "memory", "flags")
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


@pytest.mark.slow
def test_twenty_random_kills_give_the_same_records(tmp_path: Path) -> None:
    samples, source, folder = 200, random.Random(7), tmp_path / "run"
    execute(tmp_path / "whole", samples)
    record = folder / "samples.jsonl"
    for kills in range(1, 21):
        size = record.stat().st_size if record.exists() else 0
        with Child(lambda: execute(folder, samples, 0.01), tmp_path / "said") as child:
            while not record.exists() or record.stat().st_size == size:  # it has begun to measure
                assert child.goes_on()
                time.sleep(0.002)
            time.sleep(source.uniform(0, 0.15))
            child.signal(signal.SIGKILL)
            assert child.wait()[0] == -signal.SIGKILL, "the run ended before it was killed: more samples are needed"
        if kills % 4 == 0:  # a line torn by a power cut, which a kill alone seldom leaves
            with open(record, "ab") as file:
                file.write(b'{"v":1,"seq":')
    execute(folder, samples)
    assert facts(tmp_path / "run") == facts(tmp_path / "whole")
    assert read_run(tmp_path / "run").meta["status"] == "success"
    assert not list((tmp_path / "run").glob(".*")), "no lock and no temporary file is left"


@pytest.mark.slow
def test_ten_thousand_samples_in_flat_memory_with_a_quick_resume(tmp_path: Path) -> None:
    process, seen = psutil.Process(), {}

    def watch(done: int) -> None:
        if done in (2_000, 10_000):
            seen[done] = (process.memory_info().rss, process.num_fds(), process.num_threads())

    execute(tmp_path / "run", 10_000, watch=watch)
    (before, *handles), (after, *handles_later) = seen[2_000], seen[10_000]
    assert after - before < 16 << 20, f"{(after - before) / 8000:.0f} bytes a sample stay in memory"
    assert handles == handles_later
    started = time.process_time()
    with open(tmp_path / "run" / "samples.jsonl", "rb") as lines:
        assert sum("seq" in json.loads(line) for line in lines) == 20_000
    parsed = time.process_time()
    writer = RunWriter.resume(tmp_path / "run", CONFIG)
    resumed = time.process_time()
    writer.close()
    assert len(writer.completed) == 10_000
    # Machines differ by more than the code does: the measure is what the lines cost to parse and no more.
    ratio = (resumed - parsed) / (parsed - started)
    assert ratio < 8, f"to resume took {ratio:.1f} times what parsing the records takes"
    rows = summarise(read_run(tmp_path / "run"))
    assert [row.counts.samples_ok for row in rows] == [10_000, 10_000] and rows[1].sameness.identical == 10_000
