"""What all metrics share: names, loading, refusal of bad input, imports, speed."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from covering import covering

from fastvlm_bench import metrics
from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics import METRICS, MetricScore, load, names

ALONE = [name for name, kind in METRICS.items() if not kind.needs_references]
"""Metrics of a text by itself, whatever its references are."""

OTHERS = ("pope", "multiple_choice", "visdial_ranking", *metrics.java_metrics(), *ALONE)
FREE_TEXT = [name for name in names() if name not in OTHERS]
"""Metrics that take any references; the others need labels, options or ranks."""


def test_names_and_labels() -> None:
    assert names() == sorted(names())
    labels = {name: kind.label for name, kind in METRICS.items()}
    assert [labels[name] for name in ("bleu4", "cider_d", "exact_match")] == ["BLEU-4", "CIDEr-D", "EM"]
    files = {path.stem for path in Path(metrics.__file__).parent.glob("*.py")} - {
        "__init__",
        "ptb_tokenizer",
        "ptb_characters",
        "java_scorers",
    }
    assert files == set(names()) and len(set(labels.values())) == len(labels)


def test_an_unknown_name_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError, match="unknown metric 'cider'; did you mean 'cider_d'.*anls, bleu4, cider_d"):
        load("cider")
    with pytest.raises(UsageError):
        load("ptb_tokenizer")  # a module here, but no metric


@pytest.mark.parametrize("name", FREE_TEXT)
def test_a_perfect_and_a_wrong_prediction(name: str) -> None:
    score = load(name).score(["red dog runs fast", "green sky"], [["red dog runs fast"], ["blue cat sleeps now"]])
    assert isinstance(score, MetricScore) and len(score.per_sample) == 2
    assert score.per_sample[0] > 0.9 and score.per_sample[1] < 0.01
    assert 0.0 < score.value < score.per_sample[0]


@pytest.mark.parametrize("name", ALONE)
def test_texts_alone_need_no_references(name: str) -> None:
    score = load(name).score(["a b c d a b c d", "red dog runs fast"], [])
    assert len(score.per_sample) == 2 and score.per_sample[0] > score.per_sample[1] == 0
    with pytest.raises(UsageError, match="no samples"):
        load(name).score([], [])


@pytest.mark.parametrize("name", [name for name in names() if name not in ALONE])
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a"], [["a"], ["b"]], "1 predictions but 2 lists"),
        (["a", "b"], [["a"]], "2 predictions but 1 lists"),
        ([], [], "no samples"),
        (["a", "b"], [["a"], []], "sample 1 has no references"),
        (["a", "b"], ["a", "b"], "sample 0 are one string"),
    ],
)
def test_bad_input_is_refused(name: str, predictions: list[str], references: list[list[str]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(name).score(predictions, references)


def test_metrics_import_neither_torch_nor_tables() -> None:
    code = (
        "import sys; from fastvlm_bench import metrics; [metrics.load(n) for n in metrics.names()];"
        "print([m for m in ('torch', 'transformers', 'pandas', 'rich', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", covering(FREE_TEXT, ["cider_d", "rouge_l", "exact_match"]))
def test_a_thousand_images_take_a_moment(name: str) -> None:
    dice = random.Random(11)
    words = ["man", "woman", "dog", "cat", "train", "red", "riding", "sitting", "under", "street's,", "(old)"]
    texts = [" ".join(dice.choice(words) for _ in range(10)) + "." for _ in range(6000)]
    started = time.process_time()
    load(name).score(texts[:1000], [texts[1000 + i * 5 : 1005 + i * 5] for i in range(1000)])
    assert time.process_time() - started < 10.0  # measured: under 1 s; a quadratic slip takes minutes
