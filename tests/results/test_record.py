"""Run folders: what is written is read back; what was damaged is refused; what was torn is set aside."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.errors import BenchError, CorruptRecord, UsageError
from fastvlm_bench.records.record import RunWriter, list_runs, read_meta, read_run
from fastvlm_bench.records.storage import differences, parse, seal, unseal


@pytest.fixture
def folder(fake: SimpleNamespace) -> Path:
    """A finished run of 4 samples x 2 methods."""
    return fake.write("run", suites=[fake.suite(n=4)]).folder


def start(fake: SimpleNamespace, folder: Path, lines: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run folder left behind by a killed process after so many lines; also run.json and all lines."""
    meta, made = fake.made(suites=[fake.suite(n=4)])
    with RunWriter.create(folder, meta) as writer:
        for line in made[:lines]:
            writer.append(line)
    return meta, made


def test_what_is_written_is_read_back(fake: SimpleNamespace, tmp_path: Path) -> None:
    meta, made = fake.made(suites=[fake.suite(n=4)])
    odd = 'None, "quoted", \u2028 é 日本 \x00 \r\n \ud800 😀'
    made[0]["text"] = odd
    with RunWriter.create(tmp_path / "deep" / "run", meta) as writer:
        for line in made:
            writer.append(line)
        writer.finish("success", totals={"samples": 4})
    run = read_run(tmp_path / "deep" / "run")
    stripped = [{k: v for k, v in line.items() if k not in ("v", "seq", "crc32")} for line in run.lines]
    assert stripped == made
    assert [line["seq"] for line in run.lines] == list(range(8))
    assert run.meta["status"] == "success" and run.meta["totals"] == {"samples": 4} and run.meta["completed_at"]
    assert not run.torn
    assert sorted(p.name for p in run.folder.iterdir()) == ["run.json", "samples.jsonl"]
    assert (run.folder / "samples.jsonl").read_bytes().count(b"\n") == 8


def test_nan_and_infinity_become_null(fake: SimpleNamespace, tmp_path: Path) -> None:
    meta, made = fake.made(suites=[fake.suite(n=1)])
    with RunWriter.create(tmp_path / "run", {**meta, "totals": {"x": math.inf}}) as writer:
        writer.append({**made[0], "ttft_s": math.nan})
    assert read_run(tmp_path / "run").lines[0]["ttft_s"] is None
    assert read_meta(tmp_path / "run")["totals"] == {"x": None}


def test_every_flipped_bit_of_a_line_is_seen() -> None:
    raw = seal({"v": 1, "text": "two", "n": 1.5}).removesuffix(b"\n")
    assert unseal(raw)["text"] == "two"
    for position in range(len(raw)):
        for bit in range(8):
            damaged = bytearray(raw)
            damaged[position] ^= 1 << bit
            with pytest.raises(ValueError):
                unseal(bytes(damaged))


READ = [f'{{"a":{text}}}' for text in (
    "18446744073709551615", "18446744073709551616", "-9223372036854775809", "9" * 40, f"[1,{'8' * 20}]", "1e400",
    "0.1", "-0.0", "5e-324", "12345678901234567890.5", "1E22", "NaN", "-Infinity", '"\\ud800"', '"\\ud83d\\ude00"',
    '"é"', "1,\"a\":2", "[[]]", "{}", "null", "",
)] + ["", "[", "{} {}", "\ufeff{}", " [1 ,\n 12345678901234567890123 ] "]  # fmt: skip


@pytest.mark.parametrize("text", READ)
def test_what_is_read_is_what_json_reads(text: str) -> None:
    raw = text.encode()
    try:
        expected = json.loads(raw)
    except ValueError as error:
        with pytest.raises(ValueError) as found:
            parse(raw)
        assert str(found.value) == str(error)
    else:
        assert repr(parse(raw)) == repr(expected), "types included"


@pytest.mark.parametrize("number", [1, 5, 8])
def test_a_flipped_byte_names_file_and_line(folder: Path, number: int) -> None:
    path = folder / "samples.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = lines[number - 1].replace(b'"ttft_s":0', b'"ttft_s":1')
    path.write_bytes(b"".join(lines))
    with pytest.raises(CorruptRecord, match=rf"samples\.jsonl, line {number} is corrupt: its crc32"):
        read_run(folder)


@pytest.mark.parametrize("order", [[0, 2, 3], [0, 1, 1, 2], [1, 0, 2]])
def test_removed_repeated_and_moved_lines_are_seen(folder: Path, order: list[int]) -> None:
    path = folder / "samples.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[i] for i in order))
    with pytest.raises(CorruptRecord, match="has seq"):
        read_run(folder)


def test_a_line_that_run_json_does_not_know(fake: SimpleNamespace, tmp_path: Path) -> None:
    meta, made = fake.made(suites=[fake.suite(n=1)])
    with RunWriter.create(tmp_path / "run", meta) as writer:
        writer.append({**made[0], "sample_id": "999"})
    with pytest.raises(CorruptRecord, match=r"line 1 is of \('coco-caption', '999', 'standard'\)"):
        read_run(tmp_path / "run")


def test_folders_that_are_no_runs(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere is not a run folder: it has no run\.json"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty is not a run folder"):
        read_run(tmp_path / "empty")
    (tmp_path / "empty" / "samples.jsonl").touch()
    with pytest.raises(UsageError, match="empty was killed before it recorded anything; remove it and start anew"):
        read_run(tmp_path / "empty")
    (folder / "samples.jsonl").unlink()
    with pytest.raises(CorruptRecord, match=r"samples\.jsonl is gone, and run\.json sealed 8 lines"):
        read_run(folder)


@pytest.mark.parametrize("version", [2, None, "1"])
def test_unknown_schema_is_refused(folder: Path, version: Any) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    with pytest.raises(UsageError, match=rf"schema_version {version!r}; this version reads 1"):
        read_run(folder)


def test_damaged_run_json(folder: Path) -> None:
    path = folder / "run.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(CorruptRecord, match=r"run\.json is not JSON"):
        read_meta(folder)
    path.write_text(json.dumps({name: value for name, value in json.loads(whole).items() if name != "suites"}))
    with pytest.raises(CorruptRecord, match="lacks suites"):
        read_meta(folder)


def test_torn_last_line_is_left_out_then_set_aside_and_measured_again(fake: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    meta, made = start(fake, folder, 4)
    path = folder / "samples.jsonl"
    whole = path.read_bytes()
    half = seal({"v": 1, "seq": 4, **made[4]})[:60]
    path.write_bytes(whole + half)
    run = read_run(folder)
    assert run.torn and len(run.lines) == 4
    with RunWriter.resume(folder, meta["config_sha256"]) as writer:
        assert (folder / "samples.jsonl.torn").read_bytes() == half
        assert path.read_bytes() == whole
        for line in made[4:]:
            writer.append(line)
        writer.finish("success")
    resumed = read_run(folder)
    assert not resumed.torn and len(resumed.lines) == 8
    fresh = fake.write("fresh", suites=[fake.suite(n=4)])
    assert (folder / "samples.jsonl").read_bytes() == (fresh.folder / "samples.jsonl").read_bytes()


def test_a_complete_line_without_its_line_feed_is_torn_too(fake: SimpleNamespace, tmp_path: Path) -> None:
    start(fake, tmp_path / "run", 3)
    path = tmp_path / "run" / "samples.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert len(read_run(tmp_path / "run").lines) == 2


@pytest.mark.parametrize("kept", range(9))
def test_resume_knows_what_is_complete(fake: SimpleNamespace, tmp_path: Path, kept: int) -> None:
    meta, _ = start(fake, tmp_path / "run", kept)
    with RunWriter.resume(tmp_path / "run", meta["config_sha256"]) as writer:
        assert writer.completed == {("coco-caption", f"{i:03d}", 0) for i in range(kept // 2)}
        assert read_meta(tmp_path / "run")["status"] == "started"


def test_a_half_group_that_is_run_again_counts_once_with_its_last_line(fake: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    meta, made = start(fake, folder, 3)
    with RunWriter.resume(folder, meta["config_sha256"]) as writer:
        for line in made[2:]:
            writer.append({**line, "ttft_s": 9.0})
        writer.finish("success")
    run = read_run(folder)
    assert len(run.lines) == 8
    assert [line["ttft_s"] == 9.0 for line in run.lines] == [False] * 2 + [True] * 6


def test_resume_refuses_another_configuration(fake: SimpleNamespace, tmp_path: Path) -> None:
    meta, _ = start(fake, tmp_path / "run", 2)
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    new = {**meta["config"], "repeats": 3, "seed": 7}
    with pytest.raises(UsageError, match=r"\(repeats: 1 -> 3; seed: \(absent\) -> 7\)"):
        RunWriter.resume(tmp_path / "run", "0" * 64, new)
    with pytest.raises(UsageError, match="config_sha256"):
        RunWriter.resume(tmp_path / "run", "0" * 64)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_resume_of_a_damaged_record_is_refused_and_lets_go_of_the_lock(folder: Path) -> None:
    path = folder / "samples.jsonl"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"repeat":0', b'"repeat":1', 1))
    sha = read_meta(folder)["config_sha256"]
    with pytest.raises(CorruptRecord):
        RunWriter.resume(folder, sha)
    path.write_bytes(data)
    RunWriter.resume(folder, sha).close()


def test_resume_of_a_run_killed_before_its_first_line(fake: SimpleNamespace, tmp_path: Path) -> None:
    meta, made = start(fake, tmp_path / "run", 0)
    (tmp_path / "run" / "samples.jsonl").unlink()
    with RunWriter.resume(tmp_path / "run", meta["config_sha256"]) as writer:
        assert writer.completed == set()
        writer.append(made[0])
    assert len(read_run(tmp_path / "run").lines) == 1


def test_differences_name_nested_fields_and_take_a_tuple_for_a_list() -> None:
    assert differences({"a": {"b": [1, 2]}, "c": 1}, {"a": {"b": (1, 3)}, "d": None}) == [
        "a.b.1: 2 -> 3", "c: 1 -> (absent)", "d: (absent) -> None",
    ]  # fmt: skip
    assert differences({"a": (1, {"x": math.inf})}, {"a": [1, {"x": None}]}) == []


def test_update_before_the_first_line_and_not_to_another_machine_after_it(
    fake: SimpleNamespace, tmp_path: Path
) -> None:
    meta, made = fake.made(suites=[fake.suite(n=2)])
    early = {
        **meta,
        "model": {"id": "tiny"},
        "environment": {},
        "methods": [{"label": "standard"}, {"label": "fastvlm"}],
    }
    with RunWriter.create(tmp_path / "run", early) as writer:
        writer.update(model=meta["model"], environment=meta["environment"], methods=meta["methods"])
        assert read_meta(tmp_path / "run")["model"] == meta["model"]
        writer.append(made[0])
    with RunWriter.resume(tmp_path / "run", meta["config_sha256"]) as writer:
        writer.update(environment={**meta["environment"], "load_average": [9.0]})
        with pytest.raises(
            UsageError, match=r"elsewhere \(model\.dtype: float32 -> bfloat16; environment\.threads: 2 -> 1"
        ):
            writer.update(
                model={**meta["model"], "dtype": "bfloat16"}, environment={**meta["environment"], "threads": 1}
            )
    assert read_meta(tmp_path / "run")["environment"]["load_average"] == [9.0]
    assert read_meta(tmp_path / "run")["model"]["dtype"] == "float32"


def test_create_does_not_overwrite(folder: Path, fake: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="already holds a run"):
        RunWriter.create(folder, fake.meta([fake.suite(n=1)], [fake.method("standard")]))
    assert len(read_run(folder).lines) == 8


def test_create_where_a_file_stands(tmp_path: Path, fake: SimpleNamespace) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to"):
        RunWriter.create(tmp_path / "file", fake.meta([fake.suite(n=1)], [fake.method("standard")]))


def test_two_writers_the_second_is_told_the_first(fake: SimpleNamespace, tmp_path: Path) -> None:
    meta, made = fake.made(suites=[fake.suite(n=1)])
    with RunWriter.create(tmp_path / "run", meta) as writer:
        code = ("import sys; from pathlib import Path; from fastvlm_bench.records.record import RunWriter\n"
                "RunWriter.resume(Path(sys.argv[1]), sys.argv[2])")  # fmt: skip
        root = Path(__file__).parents[2]
        second = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run"), meta["config_sha256"]],
                                capture_output=True, text=True, cwd=root)  # fmt: skip
        assert second.returncode != 0
        assert f"is being written by process {os.getpid()}; wait for it or stop it" in second.stderr
        writer.append(made[0])
    assert len(read_run(tmp_path / "run").lines) == 1


def test_a_writer_killed_between_and_within_lines_leaves_a_run_that_can_be_resumed(
    fake: SimpleNamespace, tmp_path: Path
) -> None:
    meta, made = fake.made(suites=[fake.suite(n=2)])
    (tmp_path / "made.json").write_text(json.dumps([meta, made]))
    code = """
import json, os, sys
from pathlib import Path
from fastvlm_bench.records.record import RunWriter
meta, made = json.loads(Path(sys.argv[1]).read_text())
writer = RunWriter.create(Path(sys.argv[2]), meta)
writer.append(made[0])
writer.append(made[1])
real = os.write
os.write = lambda fd, data: (real(fd, bytes(data)[:40]), os.kill(os.getpid(), 9))[0]
writer.append(made[2])
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "made.json"), str(tmp_path / "run")],
                            cwd=Path(__file__).parents[2])  # fmt: skip
    assert killed.returncode == -9
    assert len(read_run(tmp_path / "run").lines) == 2
    with RunWriter.resume(tmp_path / "run", meta["config_sha256"]) as writer:  # the dead writer's lock is free
        assert len(writer.completed) == 1
        assert len((tmp_path / "run" / "samples.jsonl.torn").read_bytes()) == 40


def test_a_writer_killed_while_replacing_run_json_leaves_no_litter(fake: SimpleNamespace, tmp_path: Path) -> None:
    meta, made = start(fake, tmp_path / "run", lines=2)
    code = """
import os, sys
from pathlib import Path
from fastvlm_bench.records.record import RunWriter
os.replace = lambda *_: os.kill(os.getpid(), 9)
RunWriter.resume(Path(sys.argv[1]), sys.argv[2])
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run"), meta["config_sha256"]],
                            cwd=Path(__file__).parents[2])  # fmt: skip
    assert killed.returncode == -9 and list((tmp_path / "run").glob(".run.json.*"))
    (tmp_path / "run" / ".mine.tmp").touch()
    with RunWriter.resume(tmp_path / "run", meta["config_sha256"]) as writer:
        for line in made[2:]:
            writer.append(line)
        writer.finish("success")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".mine.tmp", "run.json", "samples.jsonl"]


def test_short_writes_are_completed(fake: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta, made = fake.made(suites=[fake.suite(n=1)])
    real = os.write
    with RunWriter.create(tmp_path / "run", meta) as writer:
        monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:7]))
        writer.append(made[0])
        monkeypatch.undo()
    assert read_run(tmp_path / "run").lines[0]["text"] == made[0]["text"]


def test_a_full_disk_undoes_the_line_and_says_how_to_go_on(
    fake: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta, made = fake.made(suites=[fake.suite(n=1)])
    real, calls = os.write, []

    def full(fd: int, data: bytes) -> int:
        calls.append(fd)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(fd, bytes(data)[:30])

    with RunWriter.create(tmp_path / "run", meta) as writer:
        writer.append(made[0])
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(BenchError, match="No space left on device; 1 lines are kept, free space and go on"):
            writer.append(made[1])
        monkeypatch.undo()
        writer.append(made[1])
    assert len(read_run(tmp_path / "run").lines) == 2


def test_a_failed_replacement_keeps_the_old_run_json(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "run.json").read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(BenchError, match=r"cannot write .*run\.json: No space left"):
        RunWriter.resume(folder, read_meta(folder)["config_sha256"])
    assert (folder / "run.json").read_bytes() == before
    assert not list(folder.glob(".run.json*"))


def test_list_runs_newest_first_and_damaged_ones_last(fake: SimpleNamespace, tmp_path: Path) -> None:
    for name, started in (("b", "2026-01-01T00:00:00Z"), ("a", "2026-03-01T00:00:00Z"), ("c", "2026-02-01T00:00:00Z")):
        fake.write(f"results/{name}", suites=[fake.suite(n=1)], meta={"started_at": started})
    (tmp_path / "results" / "damaged").mkdir()
    (tmp_path / "results" / "damaged" / "run.json").write_text("{")
    (tmp_path / "results" / "no-run").mkdir()
    assert [path.name for path in list_runs(tmp_path / "results")] == ["a", "c", "b", "damaged"]
    assert list_runs(tmp_path / "nowhere") == []


def test_golden_run_of_schema_1_stays_readable() -> None:
    run = read_run(Path(__file__).parent / "golden-v1")
    assert (run.run_id, len(run.lines), run.meta["status"]) == ("20261124-101500-tiny-coco-caption-ab12", 12, "success")
    assert run.method("fastvlm")["options"]["gamma"] == 6


def test_discard_removes_only_a_run_without_lines(fake: SimpleNamespace, tmp_path: Path) -> None:
    meta, made = fake.made(suites=[fake.suite(n=4)])
    assert RunWriter.create(tmp_path / "empty", meta).discard()
    assert not (tmp_path / "empty").exists()
    with RunWriter.create(tmp_path / "kept", meta) as writer:
        writer.append(made[0])
        assert not writer.discard()
    assert len(read_run(tmp_path / "kept").lines) == 1


def test_killed_at_each_step_of_the_final_writing_run_json_is_old_or_new(fake: SimpleNamespace, tmp_path: Path) -> None:
    """One process after another is killed, each one system call later within the last replacement of the file."""
    steps = ("open", "write", "fsync", "replace", "close", "unlink")
    ended = []
    for last in range(30):
        folder = tmp_path / str(last)
        fake.write(str(last), status="started")
        child = os.fork()
        if child == 0:
            left = [last]

            def counted(real: Any, left: list[int] = left) -> Any:
                def call(*arguments: Any, **options: Any) -> Any:
                    if left[0] == 0:
                        os._exit(9)
                    left[0] -= 1
                    return real(*arguments, **options)

                return call

            meta = read_meta(folder)
            writer = RunWriter.resume(folder, meta["config_sha256"])
            for name in steps:
                setattr(os, name, counted(getattr(os, name)))
            writer.finish("success")
            os._exit(0)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        assert read_meta(folder)["status"] in ("started", "success")
        assert len(read_run(folder).lines) == 80
        with RunWriter.resume(folder, read_meta(folder)["config_sha256"]) as again:
            assert len(again.completed) == 40
        if ended[-1] == 0:
            break
    assert ended[-1] == 0 and ended.count(9) >= 4
