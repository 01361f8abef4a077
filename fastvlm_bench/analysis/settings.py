"""The group `settings` of a row: what was measured, and how the model ran."""

from dataclasses import dataclass

from fastvlm_bench.analysis.arms import Arm
from fastvlm_bench.analysis.batches import batch_size
from fastvlm_bench.records.record import Run


@dataclass(frozen=True)
class Settings:
    """What the user chose for a suite and a method, and what the run recorded of it.

    method_name: the name alone, where the row's `method` is the label as typed. lossless: whether greedy output must
    equal the reference's. max_new_tokens: the limit of an answer; with `ignore_eos` every answer has that length.
    temperature: 0 where decoding is greedy, and then top_p and top_k are None. batch_size: samples decoded at a time.
    """

    suite_version: str
    split: str
    source: str
    method_name: str
    lossless: bool
    dtype: str
    device: str
    attention: str
    threads: int | None
    max_new_tokens: int
    ignore_eos: bool
    temperature: float
    top_p: float | None
    top_k: int | None
    batch_size: int

    @property
    def sampled(self) -> bool:
        """Whether tokens were drawn. Two runs of the target itself then differ in their tokens and their lengths."""
        return bool(self.temperature)


def settings_of(run: Run, arm: Arm) -> Settings:
    """The settings of an arm, from its entries in `run.json`."""
    model, method, suite, config = run.meta["model"], arm.method, arm.suite, run.meta["config"]
    threads = run.meta.get("environment", {}).get("threads")
    return Settings(
        suite_version=str(suite["version"]),
        split=suite["split"],
        source=suite["source"],
        method_name=method["name"],
        lossless=bool(method["lossless"]),
        dtype=model["dtype"],
        device=model["device"],
        attention=model["attention"],
        threads=threads if isinstance(threads, int) else None,
        max_new_tokens=suite["max_new_tokens"],
        ignore_eos=bool(config.get("ignore_eos")),
        temperature=float(config.get("temperature") or 0),
        top_p=config.get("top_p"),
        top_k=config.get("top_k"),
        batch_size=batch_size(run),
    )
