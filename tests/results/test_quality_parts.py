"""Parts, groups, variants, margins and document frequencies: in rows and exports, on the terminal, after reading."""

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from fastvlm_bench import metrics
from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.analysis.verdict import judge
from fastvlm_bench.errors import CorruptRecord, UsageError
from fastvlm_bench.metrics import cider_d
from fastvlm_bench.records import document_frequencies
from fastvlm_bench.records.document_frequencies import cider_df
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.report.columns import row_dict
from fastvlm_bench.report.export import run_json
from fastvlm_bench.report.terminal import print_report


def printed(run: Run, width: int = 100) -> str:
    stream = io.StringIO()
    print_report(run, Console(width=width, file=stream, _environ={}))
    return stream.getvalue()


def pope_suite(fake: SimpleNamespace, n: int = 40) -> dict[str, Any]:
    suite: dict[str, Any] = fake.suite("pope", n=n, metrics=["pope"])
    for index, sample in enumerate(suite["samples"]):
        sample["references"] = [("yes", "no")[index % 2]]
        sample["group"] = ("coco_pope_random", "coco_pope_popular")[index % 4 > 1]
    return suite


def always_yes(line: dict[str, Any]) -> dict[str, Any]:
    right = ("yes", "no")[int(line["sample_id"]) % 2]
    return {**line, "text": "yes" if line["method"] == "early-exit" else right}


def test_parts_and_groups_reach_rows_exports_and_terminal(fake: SimpleNamespace) -> None:
    run = fake.run(suites=[pope_suite(fake)], labels=("standard", "fastvlm", "early-exit"), change=always_yes)
    row = row_dict(summarise(run)[2])
    assert (row["quality_pope"], row["quality_pope_recall"], row["quality_pope_precision"]) == (0.5, 1.0, 0.5)
    assert row["quality_pope_yes_ratio"] == 1.0 and row["quality_pope_f1"] == pytest.approx(2 / 3)
    assert row["quality_pope_groups"] == ["coco_pope_random=0.5", "coco_pope_popular=0.5"]
    for width in (80, 120):
        text = printed(run, width)
        for word in ("precision", "F1", "said yes", "66.7", "coco_pope_popular"):
            assert word in text
        assert "fastvlm: identical outputs 40/40\n" in text
        assert "early-exit, against standard: POPE acc. -50.0" in text
        assert max(map(len, text.splitlines())) <= width
    table = text[text.index("said yes") :]
    assert "\nearly-exit" in table and "\nfastvlm " not in table  # its outputs are the reference's: no row of its own


def test_prompts_of_blip2_say_that_theirs_were_beams(fake: SimpleNamespace) -> None:
    run = fake.run(suites=[{**pope_suite(fake), "prompt_set": "blip2"}])
    assert "whose published BLIP-2 numbers are decoded with 5 beams; these are greedy" in printed(run, 120)


def test_one_group_is_no_group(fake: SimpleNamespace) -> None:
    suite = pope_suite(fake)
    for sample in suite["samples"]:
        sample["group"] = "coco_pope_random"
    assert summarise(fake.run(suites=[suite], change=always_yes))[0].quality[0].groups == {}


@pytest.mark.parametrize(("variant", "value"), [("normalised", 1.0), ("official", 0.0), (None, 1.0)])
def test_a_recorded_variant_is_used(fake: SimpleNamespace, variant: str | None, value: float) -> None:
    """ "Yes" against ten times "yes" is right, but not officially. A record without variants means the default."""
    suite = fake.suite("vqav2", n=10)
    for sample in suite["samples"]:
        sample["references"] = ["yes"] * 10
    if variant:
        suite["variants"] = {"vqa_accuracy": variant}
    run = fake.run(suites=[suite], change=lambda line: {**line, "text": "Yes"})
    assert summarise(run)[0].quality[0].value == value
    assert ("VQA acc.: variant official" in printed(run)) == (variant == "official")


def slightly_worse(line: dict[str, Any]) -> dict[str, Any]:
    right = ("yes", "no")[int(line["sample_id"]) % 2]
    wrong = line["method"] == "early-exit" and int(line["sample_id"]) % 50 == 0
    return {**line, "text": "yes" if not wrong and right == "yes" else "no"}


@pytest.mark.parametrize(("margin", "verdict"), [(None, "undecided"), (10, "equivalent"), (0.5, "undecided")])
def test_the_margin_decides_what_is_equivalent(fake: SimpleNamespace, margin: float | None, verdict: str) -> None:
    """Four of two hundred answers on a hundred images fell, each on its own image.

    A fair coin that falls on the same side four times shows nothing (p 0.125), so that "worse" would be too much; and
    the bound lies within 10 points but not within half a point.
    """
    run = fake.run(suites=[pope_suite(fake, 200)], labels=("standard", "early-exit"), change=slightly_worse)
    assert summarise(run, margin)[1].quality[0].verdict == verdict
    if margin is not None:
        run.meta["config"]["margin"] = margin
        assert summarise(run)[1].quality[0].verdict == verdict


@pytest.mark.parametrize("margin", [0, -1, 101])
def test_a_margin_without_sense_is_refused(fake: SimpleNamespace, margin: float) -> None:
    with pytest.raises(UsageError, match="--margin is .*points of the 0-100 scale"):
        summarise(fake.run(suites=[fake.suite(n=5)]), margin)


# ------------------------------------------------------------------------------------------ document frequencies

WORDS = ("red", "blue", "green", "dog", "cat", "runs", "sits", "under", "near", "tree", "house", "tiny")


def captions(n: int) -> list[tuple[str, tuple[str, ...]]]:
    return [("ab"[i % 2], tuple(f"a {WORDS[i % 12]} {WORDS[(i * k + 5) % 12]} {WORDS[(i + k) % 12]}" for k in (1, 2)))
            for i in range(n)]  # fmt: skip


@pytest.fixture
def limited(fake: SimpleNamespace) -> Run:
    """Six of thirty images measured; the frequencies of all thirty lie beside the run."""
    documents = captions(30)
    suite = fake.suite(n=6, metrics=["cider_d"], document_images=30)
    for sample, (group, references) in zip(suite["samples"], documents, strict=False):
        sample["group"], sample["references"] = group, list(references)
    texts = [f"a {WORDS[i]} dog runs near one tree" for i in range(6)]
    run: Run = fake.write(suites=[suite], meta={"config": {"limit": 6}},
                          change=lambda line: {**line, "text": texts[int(line["sample_id"])]})  # fmt: skip
    own = [*texts, *(text for sample in suite["samples"] for text in sample["references"])]
    document_frequencies.write(run.folder, {suite["name"]: documents}, {suite["name"]: own})
    return run


def test_a_limited_run_scores_as_if_among_all_images(limited: Run) -> None:
    run, documents = read_run(limited.folder), captions(30)
    quality = summarise(run)[0].quality[0]
    references = [sample["references"] for sample in run.meta["suites"][0]["samples"]]
    texts = [line["text"] for line in sorted(run.lines, key=lambda x: x["sample_id"]) if line["method"] == "standard"]
    full = cider_d.score(texts, references, document_frequency_references=[refs for _, refs in documents])
    assert quality.value == pytest.approx(full.value, abs=1e-12)
    alone = summarise(limited)[0].quality[0].value  # as it was read before the file was there
    assert alone != pytest.approx(full.value, abs=1e-3)
    half = [refs for group, refs in documents if group == "a"]
    in_a = cider_d.score(texts[::2], references[::2], document_frequency_references=half)
    assert quality.groups["a"] == pytest.approx(in_a.value, abs=1e-12)
    assert "document frequencies of all 30 images" in printed(run)


def test_the_record_says_of_what_the_frequencies_are(limited: Run) -> None:
    run = read_run(limited.folder)
    assert json.loads(run_json(run))["suites"][0]["cider_df"] == "full"
    assert "SubsetCider" not in {notice.name for notice in judge(run).warnings}
    (limited.folder / document_frequencies.FILE).unlink()  # a run that was killed has none
    run = read_run(limited.folder)
    assert json.loads(run_json(run))["suites"][0]["cider_df"] == "subset"
    assert "SubsetCider" in {notice.name for notice in judge(run).warnings}
    suite = run.meta["suites"][0]
    assert cider_df({**suite, "document_images": 6}, {"limit": 6}) == "full"  # --limit 6 of a suite of six


@pytest.mark.parametrize("content", ["{", '{"coco-caption": {"": {"images": 30}}}', '{"coco-caption": 3}'])
def test_damaged_frequencies_are_named(limited: Run, content: str) -> None:
    path = limited.folder / document_frequencies.FILE
    path.write_text(content)
    with pytest.raises(CorruptRecord, match="document_frequencies.json is damaged"):
        read_run(limited.folder)


def test_one_image_alone_is_refused_with_the_reason(fake: SimpleNamespace) -> None:
    run = fake.run(suites=[fake.suite(n=1, metrics=["cider_d"])])
    quality = summarise(run)[0].quality[0]
    assert quality.value is None and "with one image every caption scores exactly 0" in quality.reason
    assert "CIDEr-D: not computed" in printed(run)


@pytest.mark.parametrize("name", metrics.names())
def test_titles_exist_for_all_parts_that_a_metric_yields(name: str) -> None:
    texts, references = ["a dog", "a red cat"], [["a dog"], ["a cat"]]
    if name in metrics.java_metrics():
        assert not metrics.kind_of(name).parts
        return
    if name == "pope":
        references = [["yes"], ["no"]]
    if name == "visdial_ranking":
        texts, references = ["1 2", "2 1"], [["0", "0 1"], ["0", "0 0"]]
    assert set(metrics.load(name).score(texts, references).parts) <= set(metrics.kind_of(name).parts)
