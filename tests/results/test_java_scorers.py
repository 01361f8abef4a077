"""METEOR, SPICE, Java's tokenizer and `verify-metrics`: with a stand-in for `java`, and with the real ones if there.

The stand-in speaks the programs' protocols: METEOR of a caption is then the share of its words that a reference has.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics import java_scorers, meteor, spice
from fastvlm_bench.metrics.ptb_tokenizer import tokenize_all
from fastvlm_bench.scoring.verify_metrics import verify

VECTORS = json.loads((Path(__file__).parents[1] / "metrics" / "vectors.json").read_text(encoding="utf-8"))
ITEMS = VECTORS["captions"]["items"]
JAVA = """#!{python}
import json, os, sys
arguments = " ".join(sys.argv)
assert "-Duser.language=en" in arguments
if os.environ.get("FAKE_JAVA") == "broken":
    sys.exit("Exception in thread main java.lang.OutOfMemoryError")
if "PTBTokenizer" in arguments:
    for line in open(sys.argv[-1], encoding="utf-8", newline="\\n").read().split("\\n"):
        print(line.lower().replace(".", " ."))
elif "meteor" in arguments:
    for line in sys.stdin:
        kind, *texts = line.rstrip("\\n").split(" ||| ")
        if kind == "SCORE":
            words, known = texts[-1].split(), set(" ".join(texts[:-1]).split())
            print(sum(w in known for w in words), len(words), flush=True)
        else:
            pairs = [tuple(map(float, text.split())) for text in texts]
            for hits, all_ in [*pairs, tuple(map(sum, zip(*pairs)))]:
                print(hits / all_ if all_ else 0.0, flush=True)
else:
    scores = [{{"image_id": row["image_id"], "scores": {{"All": {{"f": 0.5 if row["test"] else None}}}}}}
              for row in json.load(open(sys.argv[sys.argv.index("-jar") + 2]))]
    json.dump(scores, open(sys.argv[sys.argv.index("-out") + 1], "w"))
"""


@pytest.fixture
def extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `java` on the PATH, and a pycocoevalcap with the programs' files."""
    folder = tmp_path / "site" / "pycocoevalcap"
    for name in ("tokenizer/stanford-corenlp-3.4.1.jar", "meteor/meteor-1.5.jar", "spice/spice-1.0.jar",
                 f"spice/lib/{java_scorers.CORENLP}"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (tmp_path / "bin").mkdir()
    java = tmp_path / "bin" / "java"
    java.write_text(JAVA.format(python=sys.executable))
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(java_scorers, "extra_folder", lambda: folder)
    return folder


def test_meteor_pools_its_statistics(extra: Path) -> None:
    found = meteor.score(["a red dog", "sky", ""], [["a dog"], ["the sky above"], ["x"]])
    assert found.per_sample == [pytest.approx(2 / 3), 1.0, 0.0] and found.value == pytest.approx(3 / 4)


def test_spice_is_a_mean_and_a_caption_without_tuples_has_none(extra: Path) -> None:
    assert spice.score(["a dog", "a cat"], [["a dog"], ["a cat"]]).value == 0.5
    with pytest.raises(UsageError, match="SPICE found nothing to compare in 1 of 2 samples"):
        spice.score(["a dog", ""], [["a dog"], ["a cat"]])


def test_nothing_is_written_beside_the_programs(extra: Path) -> None:
    """pycocoevalcap's own wrappers leave files in site-packages, and fail where it cannot be written."""
    before = sorted(extra.rglob("*"))
    java_scorers.tokenize(["a dog"])
    meteor.score(["a"], [["a"]])
    spice.score(["a"], [["a"]])
    assert sorted(extra.rglob("*")) == before


def test_spice_downloads_nothing_unasked(extra: Path) -> None:
    (extra / "spice" / "lib" / java_scorers.CORENLP).unlink()
    with pytest.raises(UsageError, match=r"needs Stanford CoreNLP 3.6.0 \(a download of 384 MB, not made unasked\)"):
        spice.score(["a"], [["b"]])


@pytest.mark.parametrize("mark", ["\r", "\u2028", "\v", "\f", "\x85", "\n"])
def test_no_caption_moves_to_another_image_in_java(extra: Path, mark: str) -> None:
    """pycocoevalcap's wrapper takes CR and U+2028 for a caption's end, and gives each later one to the next image."""
    assert java_scorers.tokenize([f"A{mark}cat.", "a dog", "\ud800", ""]) == ["a cat", "a dog", "?", ""][:2] + ["", ""]


@pytest.mark.parametrize("call", [
    lambda: java_scorers.tokenize(["a"]), lambda: meteor.score(["a"], [["a"]]), lambda: spice.score(["a"], [["a"]]),
])  # fmt: skip
def test_what_java_says_when_it_dies_is_the_reason(
    extra: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]
) -> None:
    monkeypatch.setenv("FAKE_JAVA", "broken")
    with pytest.raises(UsageError, match="failed in Java: Exception in thread main java.lang.OutOfMemoryError"):
        call()
    monkeypatch.setenv("PATH", str(extra))
    with pytest.raises(UsageError, match="there is no `java` on the PATH"):
        call()


def test_without_the_extra_the_reason_is_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for metric in (meteor, spice):
        with pytest.raises(UsageError, match=r"needs pycocoevalcap: pip install 'fastvlm-bench\[coco-java\]'"):
            metric.score(["a"], [["a"]])


# ------------------------------------------------------------------------------------------ verify-metrics


def official(name: str, values: Any) -> ModuleType:
    """A stand-in for a module of pycocoevalcap."""
    module = ModuleType(name)

    class Scorer:
        def compute_score(self, truths: Any, predictions: Any, **_: Any) -> tuple[Any, list[float]]:
            assert set(truths) == set(predictions) and all(len(text) == 1 for text in predictions.values())
            return values, []

    for kind in ("Bleu", "Rouge", "Cider"):
        setattr(module, kind, Scorer)
    return module


@pytest.fixture
def scorers(extra: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stand-ins for the official scorers, which return the vectors' values, ROUGE-L changed by a given difference."""
    corpus = VECTORS["captions"]["all_twelve"]["corpus"]
    real = importlib.import_module

    def install(difference: float) -> None:
        values = {"bleu": [corpus[f"Bleu_{n}"] for n in (1, 2, 3, 4)], "rouge": corpus["ROUGE_L"] + difference,
                  "cider": corpus["CIDEr"]}  # fmt: skip

        def load(name: str, package: str | None = None) -> ModuleType:
            kind = name.rpartition(".")[2]
            return official(name, values[kind]) if name.startswith("pycocoevalcap") else real(name, package)

        monkeypatch.setattr(importlib, "import_module", load)

    return install


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    annotations, predictions = tmp_path / "captions_val2014.json", tmp_path / "results.json"
    annotations.write_text(json.dumps({
        "images": [{"id": item["id"], "file_name": f"{item['id']}.jpg"} for item in ITEMS],
        "annotations": [{"image_id": item["id"], "caption": text} for item in ITEMS for text in item["references"]],
    }))  # fmt: skip
    predictions.write_text(json.dumps([{"image_id": i["id"], "caption": i["hypothesis"]} for i in ITEMS]))
    return ["--annotations", str(annotations), "--predictions", str(predictions)]


def test_verify_metrics_prints_both_and_the_exit_code_tells(scorers: Callable[[float], None], files: list[str]) -> None:
    scorers(0.0)
    good = CliRunner().invoke(app, ["verify-metrics", *files])
    assert good.exit_code == 0, good.output
    for line in ("BLEU-4       0.3359503714   0.3359503714", "CIDEr-D      1.1518142265   1.1518142265",
                 "needs --java", "agrees with the official scorer within 1e-06"):  # fmt: skip
        assert line in good.stdout
    scorers(0.01)
    bad = CliRunner().invoke(app, ["verify-metrics", *files])
    assert bad.exit_code == 5 and "DOES NOT AGREE" in bad.stdout and "-1.0e-02" in bad.stdout
    assert "fastvlm-bench: ROUGE-L differs from the official scorer's by -1.0e-02" in bad.stderr


def test_verify_metrics_with_java_names_the_captions_with_other_tokens(
    scorers: Callable[[float], None], files: list[str]
) -> None:
    scorers(0.0)
    result = CliRunner().invoke(app, ["verify-metrics", *files, "--java"])
    assert "other tokens than Java's in" in result.stdout and "METEOR  " in result.stdout  # a stand-in splits as it may
    assert "within 0.001" in result.stdout


def test_verify_metrics_without_predictions_or_extra(extra: Path, tmp_path: Path, files: list[str]) -> None:
    with pytest.raises(UsageError, match="suite 'vqav2' has no captions"):
        verify(Path(files[1]), None, suite="vqav2", java=False)
    one = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "a"}]}
    (tmp_path / "captions_val2014.json").write_text(json.dumps(one))
    with pytest.raises(UsageError, match="fewer than 2 images have 2 references; give --predictions"):
        verify(tmp_path / "captions_val2014.json", None, suite="coco-caption", java=False)


def test_verify_metrics_without_the_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, files: list[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["verify-metrics", *files])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "fastvlm-bench: needs pycocoevalcap: pip install 'fastvlm-bench[coco-java]'\n"


def test_the_official_scorer_confirms_the_vectors(files: list[str]) -> None:
    """With the extra installed: the real programs."""
    pytest.importorskip("pycocoevalcap")
    result = CliRunner().invoke(app, ["verify-metrics", *files, "--java"])
    assert result.exit_code == 0, result.output
    found = meteor.score([i["hypothesis"] for i in ITEMS], [i["references"] for i in ITEMS])
    assert found.value == pytest.approx(VECTORS["captions"]["all_twelve"]["corpus"]["METEOR"], abs=1e-9)
    texts = [vector["text"] for vector in VECTORS["ptb_tokenizer"]]
    assert java_scorers.tokenize(texts) == tokenize_all(texts)


@pytest.mark.parametrize("suite", ["coco-caption", "describe"])
def test_java_is_asked_for_before_anything_is_measured(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Java or its programs, `--java` would end in empty columns."""
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(app, ["run", "--suite", suite, "--java", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2 and "or leave --java out" in result.stderr
    assert not (tmp_path / "out").exists()


def test_java_without_captions_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(java_scorers, "check", lambda: "")
    result = CliRunner().invoke(app, ["run", "--suite", "vqav2", "--java", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2 and "--java has no effect" in result.stderr
