"""`tune` on the embedded model, and `run`, which takes what the manifest of a draft advises."""

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fastvlm_bench.decoding.advice import advised
from fastvlm_bench.drafts.manifest import MANIFEST, read_manifest
from fastvlm_bench.errors import UsageError
from fastvlm_bench.method_spec import MethodSpec
from fastvlm_bench.models.names import TINY_DRAFTS, layer_count
from fastvlm_bench.records.record import read_run
from fastvlm_bench.suites.suite import load_suite, open_image
from fastvlm_bench.sweeping import tune as tuning
from fastvlm_bench.sweeping import tuning_samples
from fastvlm_bench.sweeping.advice_file import written
from fastvlm_bench.sweeping.tuning_samples import tuning_suite

Call = Callable[..., Any]
SHORT = ("--max-new-tokens", "6", "--threads", "1")


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    """A copy of a draft, whose manifest may be written."""
    return shutil.copytree(TINY_DRAFTS / "mlp-exit6", tmp_path / "drafts" / "mine")


def advise(draft: Path, **advice: float) -> None:
    path = draft / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "advice": advice}))


@pytest.mark.parametrize(
    ("text", "shared", "options"),
    [
        ("fastvlm", {}, {"gamma": 7, "stop_below": 0.3}),
        ("fastvlm:gamma=4", {}, {"stop_below": 0.3}),
        ("fastvlm:stop_below=0.5", {}, {"gamma": 7}),
        ("fastvlm:gamma=10,stop_below=0.5", {}, {}),
        ("fastvlm", {"gamma": 3}, {"stop_below": 0.3}),
        ("early-exit", {}, {}),
    ],
)
def test_what_is_typed_wins(draft: Path, text: str, shared: dict[str, int], options: dict[str, Any]) -> None:
    advise(draft, gamma=7, stop_below=0.3, speedup=1.2)
    assert advised(MethodSpec.parse(text, **shared), read_manifest(draft), draft) == options


def test_absurd_advice_is_refused(draft: Path) -> None:
    advise(draft, gamma=5000)
    with pytest.raises(UsageError, match=r"manifest.json: the advice of gamma is 5000; it must be .* at most 64"):
        advised(MethodSpec.parse("fastvlm"), read_manifest(draft), draft)


@pytest.mark.slow
def test_run_takes_the_advice_and_says_so(draft: Path, call: Call, tmp_path: Path) -> None:
    advise(draft, gamma=3, stop_below=0.25, speedup=1.2)
    ran = call("run", "--suite", "describe", "--limit", "1", "--warmup", "0", *SHORT, "--draft", draft, "-m", "fastvlm",
               "-m", "fastvlm:gamma=2", "--out", tmp_path / "out")  # fmt: skip
    assert ran.exit_code == 0, ran.output
    said = " ".join(ran.stderr.split())
    assert "fastvlm: γ 3, stop_below 0.25 by the advice of draft mine (predicted when it was trained)" in said
    folder = next((tmp_path / "out").glob("*/"))
    plain, typed = (read_run(folder).method(label) for label in ("fastvlm", "fastvlm:gamma=2"))
    assert (plain["options"]["gamma"], plain["options"]["stop_below"]) == (3, 0.25)
    assert plain["advised"] == {"gamma": 3, "stop_below": 0.25} and "gamma=3" in plain["spec"]
    assert typed["options"]["gamma"] == 2 and typed["advised"] == {"stop_below": 0.25}
    twice = call("run", "--suite", "describe", "--limit", "1", *SHORT, "--draft", draft, "-m", "fastvlm", "-m",
                 "fastvlm:gamma=3", "--out", tmp_path / "twice")  # fmt: skip
    assert twice.exit_code == 2 and "'fastvlm' and 'fastvlm:gamma=3' are the same by the advice" in twice.stderr
    # The run goes on as it began, whatever the manifest says by then.
    advise(draft, gamma=9, stop_below=0.9)
    config = json.loads((folder / "run.json").read_text())["config"]
    assert config["methods"] == ["standard", "fastvlm", "fastvlm:gamma=2"]
    again = call("run", "--config", folder, "--resume", folder)
    assert again.exit_code == 0, again.output
    assert read_run(folder).method("fastvlm")["options"]["gamma"] == 3
    assert read_run(folder).method("fastvlm")["advised"] == {"gamma": 3, "stop_below": 0.25}


def test_advice_goes_into_the_manifest_where_it_may(draft: Path, tmp_path: Path) -> None:
    place, why = written(draft.parent, "mine", {"gamma": 4, "stop_below": 0.0, "speedup": 1.5}, {"suite": "describe"})
    assert place == draft / MANIFEST and not why
    manifest = read_manifest(draft)
    assert manifest.advice == {"gamma": 4, "stop_below": 0.0, "speedup": 1.5} and manifest.tuned == {
        "suite": "describe"
    }
    before = (TINY_DRAFTS / "mlp-exit2" / MANIFEST).read_bytes()
    place, why = written(TINY_DRAFTS, "mlp-exit2", {"gamma": 4}, {})
    assert place is None and "comes with the package" in why
    assert (TINY_DRAFTS / "mlp-exit2" / MANIFEST).read_bytes() == before
    (draft / MANIFEST).rename(tmp_path / "blob")
    (draft / MANIFEST).symlink_to(tmp_path / "blob")
    assert "cache of the hub" in written(draft.parent, "mine", {}, {})[1] and written(None, None, {}, {})[0] is None


def test_embedded_suites_are_tuned_on_scenes_that_no_suite_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_samples, "COUNT", 9)
    suite = load_suite("describe")
    own, what = tuning_suite(suite, model="tiny", folder=tmp_path, asked={})
    assert "no suite shows" in what
    shown = {open_image(sample).tobytes() for sample in suite.samples}
    drawn = {open_image(sample).tobytes() for sample in own.samples}
    assert not drawn & shown and len(drawn) == 9 and len(shown) == 100


def test_other_suites_set_their_last_samples_aside(tmp_path: Path) -> None:
    suite = load_suite("describe")
    own, what = tuning_suite(suite, model="another", folder=tmp_path, asked={})
    assert own.samples == suite.samples[-25:] and "--limit 75" in what
    with pytest.raises(UsageError, match="has 10 samples; tuning sets a quarter aside, at least 8"):
        tuning_suite(load_suite("describe", limit=10), model="another", folder=tmp_path, asked={})


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decoding is real, no second is: γ 6 is the fastest, and each look at the clock is six seconds later."""
    seconds = count(step=6.0)
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(tuning_samples, "COUNT", 9)
    real = tuning.Runner.decode

    def decode(self: Any, built: Any, *rest: Any, **options: Any) -> Any:
        trace = real(self, built, *rest, **options)
        gamma = getattr(built.method, "gamma", 0)
        trace.rows[0].decode_s = trace.decode_s = 1.0 if not gamma else 0.5 + 0.01 * abs(gamma - 6)
        trace.rows[0].ttft_s = trace.ttft_s = 0.1
        return trace

    monkeypatch.setattr(tuning.Runner, "decode", decode)
    monkeypatch.setattr(tuning, "predicted_speedups", lambda runner, suite, own: {built.label: 2.0 for built, _ in own})
    yield


@pytest.mark.slow
def test_tuning_writes_what_run_takes(steady: None, draft: Path, call: Call, tmp_path: Path) -> None:
    result = call("tune", "--draft", draft.parent, "--gamma", "2,6", "--stop", "0", "--budget", "1", *SHORT, "--out",
                  tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "best: fastvlm:head=mlp,exit_layer=6,gamma=6,stop_below=0 decodes 2.00×" in result.stdout
    assert "Nothing is shown to beat" not in result.stdout and f"advice written to {draft / MANIFEST}" in result.stdout
    manifest = read_manifest(draft)
    assert (
        manifest.advice == {"gamma": 6, "stop_below": 0.0, "speedup": 2.0} and manifest.tuned["beats_standard"] is True
    )
    record = json.loads(next((tmp_path / "out").glob("*/tune.json")).read_text())
    assert record["winner"].endswith("gamma=6,stop_below=0") and len(record["candidates"]) == 2
    assert {each["left_after_rung"] for each in record["candidates"]} == {0, None}


@pytest.mark.slow
def test_any_method_is_tuned_by_naming_candidates(steady: None, draft: Path, call: Call, tmp_path: Path) -> None:
    before = (draft / MANIFEST).read_bytes()
    named = [f"-mprompt-lookup:gamma={gamma}" for gamma in (2, 6, 20)]
    result = call("tune", "--draft", draft.parent, *named, "--budget", "2", *SHORT, "--engine", "graphs", "--out",
                  tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "best: prompt-lookup:gamma=6 decodes 2.00×" in result.stdout and "-m prompt-lookup:gamma=6" in result.stdout
    assert "advice not written" in result.stdout and (draft / MANIFEST).read_bytes() == before
    record = json.loads(next((tmp_path / "out").glob("*/tune.json")).read_text())
    tried = {each["method"]: each["tried_decode_speedup"] for each in record["candidates"]}
    assert len(tried) == 3 and max(tried, key=lambda label: tried[label]) == "prompt-lookup:gamma=6"
    assert record["engine"]["passes"] > 3 and record["engine"]["self_check"].startswith("identical")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--budget", "0"], ["--budget is 0", "minutes above 0"]),
        pytest.param(
            ["--budget", "0.0001"], ["--budget 0.0001 is too small", "give at least --budget 1"], marks=pytest.mark.slow
        ),
        (["--gamma", "9:3"], ["--gamma", "empty"]),
        (["--exit-layer", "30"], [f"1 .. {layer_count('tiny') - 1}"]),
        (["--suite", "describ"], ["unknown suite"]),
        (["-m", "layerskip"], ["-m names the candidates; leave out --head"]),
    ],
)
def test_refused(arguments: list[str], says: list[str], refused: Callable[..., str], tmp_path: Path) -> None:
    line = refused("tune", "--head", "mlp", "--threads", "1", *arguments, "--out", tmp_path / "out")
    for text in says:
        assert text in line
    assert not (tmp_path / "out").exists()


def test_lossy_candidates_are_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    line = refused("tune", "-m", "early-exit", "-m", "layerskip", "--threads", "1", "--out", tmp_path / "out")
    assert "early-exit may decode another text than standard" in line
