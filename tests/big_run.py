"""A run folder of many samples, to see what commands cost at the size of a data set.

`python tests/big_run.py FOLDER [QUESTIONS [KIND]]` writes one: by default of 214,354 questions x 5 methods; KIND
is vqa or caption.
`python tests/big_run.py --time COMMAND FOLDER …` prints CPU seconds and peak memory of a command of fastvlm-bench.
`python tests/big_run.py --open FOLDER` prints them of opening it as `run --resume` does.
"""

import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastvlm_bench.config import RunConfig
from fastvlm_bench.measuring.ending import end_run
from fastvlm_bench.records.record import RunWriter, read_meta

QUESTIONS, METHODS, TOKEN_S = 214_354, 5, 0.01
WORDS = ("yes", "no", "red", "two", "a dog", "on the table", "3", "tennis racket", "blue and white", "left")


def meta(questions: int, methods: int = METHODS, kind: str = "vqa") -> dict[str, Any]:
    """The run.json of such a run."""
    caption = kind == "caption"
    samples = [
        {"sample_id": f"{i}", "image_id": f"{i if caption else i // 5}", "prompt": f"What is {i}?\nAnswer briefly.",
         "references": [f"{WORDS[(i + j) % 10]} and {WORDS[(i * 7 + j) % 10]} in a picture" for j in range(5)]
         if caption else [WORDS[(i + j // 7) % 10] for j in range(10)],
         "rendered": f"USER: <image>\nWhat is {i}?\nAnswer briefly. ASSISTANT:",
         "group": "" if caption else ("number", "other", "yes/no")[i % 3], "question": f"What is {i}?"}
        for i in range(questions)
    ]  # fmt: skip
    suite = {"name": "coco-caption" if caption else "vqav2", "version": "1", "kind": kind, "split": "val2014",
             "source": "~/data", "sha256": "a" * 64, "images_sha256": "b" * 64, "prompt": "{question}",
             "max_new_tokens": 16, "metrics": ["bleu4", "rouge_l", "cider_d"] if caption else ["vqa_accuracy"],
             "licence": "CC BY 4.0", "citation": "", "document_images": questions, "samples": samples}  # fmt: skip
    labels = ["standard", *(f"fastvlm:gamma={2 * i + 2}" for i in range(methods - 1))]
    entries = [
        {"label": label, "name": label.partition(":")[0], "spec": label, "lossless": True, "extra_bytes": 1300 * i,
         "options": {"gamma": 2 * i, "exit_layer": 2, "head": "attention", "stop_below": 0.5} if i else {},
         "draft": {"exit_layer": 2, "head": "attention", "sha256": "c" * 64} if i else None}
        for i, label in enumerate(labels)
    ]  # fmt: skip
    config = RunConfig(suites=(str(suite["name"]),), methods=tuple(labels), threads=1)
    return {
        "run_id": f"{kind}-{questions}", "status": "started", "command": [], "config": config.to_dict(),
        "config_sha256": config.sha256(), "suites": [suite], "methods": entries, "reference": "standard",
        "order": "williams", "model": {"id": "big", "dtype": "float32", "device": "cpu", "weights_sha256": "d" * 64,
                                       "attention": "sdpa", "layers": 24, "parameters": 7_000_000_000,
                                       "weights_bytes": 28_000_000_000},
        "environment": {"cpu": "Example CPU", "gpu": None, "threads": 1, "dirty": False, "commit": "0" * 40},
        "started_at": "2026-11-24T10:15:00Z", "completed_at": None, "totals": {}, "warnings": [], "verdict": None,
        "error": None,
    }  # fmt: skip


def lines(run: dict[str, Any], seed: int = 0) -> Iterator[dict[str, Any]]:
    """Its lines: short answers, drafted in rounds of which most stand."""
    source = random.Random(seed)
    (suite,) = run["suites"]
    methods = run["methods"]
    for number, sample in enumerate(suite["samples"]):
        long = suite["kind"] == "caption"
        length = source.randint(8, 14) if long else source.choice((2, 2, 3, 4))
        ids = [source.randint(300, 32000) for _ in range(length - 1)] + [2]
        text = " ".join(source.choice(WORDS) for _ in range(3)) if long else WORDS[(number + source.randint(0, 1)) % 10]
        for order in range(len(methods)):
            one = methods[(order + number) % len(methods)]
            gamma, left, rounds = one["options"].get("gamma", 0), length - 1, []
            while left:
                drafted = min(gamma, max(left - 1, 1)) if gamma else 0
                accepted = sum(source.random() < 0.8 for _ in range(min(drafted, left - 1)))
                emitted = min(accepted + 1, left)
                draft_s, verify_s = (source.gauss(1, 0.05) * s for s in (0.0015 * drafted, TOKEN_S))
                rounds.append([drafted, min(drafted, accepted + 1), accepted, emitted, draft_s, verify_s])
                left -= emitted
            vision_s, prefill_s = 0.03 * source.gauss(1, 0.02), 0.02 * source.gauss(1, 0.02)
            near = (
                "another" if one is not methods[0] and source.random() < 0.01 else None
            )  # in half precision a few answers differ
            yield {
                "suite": suite["name"], "sample_id": sample["sample_id"], "method": one["label"], "repeat": 0,
                "order": order, "token_ids": [*ids[:-2], 299, 2] if near else ids, "text": near or text, "stop": "eos",
                "ttft_s": vision_s + prefill_s,
                "vision_s": vision_s, "prefill_s": prefill_s, "decode_s": 1.05 * sum(r[4] + r[5] for r in rounds),
                "rounds": rounds, "token_chars": [len(text), *[0] * (length - 1)],
                "memory": {"peak_rss_bytes": 512_000_000 + number, "peak_allocated_bytes": None,
                           "peak_reserved_bytes": None, "device_used_bytes": None, "rss_method": "kernel"},
                "scores": {}, "error": None, "image_s": 0.004 * source.gauss(1, 0.1), "processor_s": 0.01, "flags": [],
                "losslessness": None if one is methods[0] else {"outcome": "near-tie" if near else "identical"},
                "invocation": 0,
            }  # fmt: skip


def write(folder: Path, questions: int, methods: int = METHODS, kind: str = "vqa", judged: bool = True) -> None:
    """Write such a run. judged: end it as `run` does, with a verdict; otherwise it ends without."""
    run = meta(questions, methods, kind)
    with RunWriter.create(folder, run) as writer:
        writer.append_all(lines(run))
        if judged:
            end_run(writer, "success", None, {})
        else:
            writer.finish("interrupted")


def spent(began_s: float) -> str:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (f"{usage.ru_utime + usage.ru_stime:.1f} CPU s, {time.monotonic() - began_s:.1f} s, "
            f"{usage.ru_maxrss / 1e6:.2f} GB")  # fmt: skip


if __name__ == "__main__":
    started_s = time.monotonic()
    if sys.argv[1] == "--time":
        from fastvlm_bench.cli.app import app

        try:
            app(sys.argv[2:])
        finally:
            print(f"{' '.join(sys.argv[2:])}: {spent(started_s)}", file=sys.stderr)
    elif sys.argv[1] == "--open":
        run_folder = Path(sys.argv[2])
        RunWriter.resume(run_folder, read_meta(run_folder)["config_sha256"]).close()
        print(f"opened: {spent(started_s)}", file=sys.stderr)
    else:
        folder, questions, kind = [*sys.argv[1:], *(str(QUESTIONS), "vqa")[len(sys.argv) - 2 :]]
        write(Path(folder), int(questions), kind=kind, judged=False)
        print(f"written: {spent(started_s)}", file=sys.stderr)
