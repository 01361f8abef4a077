"""The group `times` of a row: how long a request waits and how much is produced per second, without the reference."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastvlm_bench.analysis.arms import Arm
from fastvlm_bench.analysis.batches import latencies
from fastvlm_bench.analysis.statistics import divide, middle, percentile, relative_spread


@dataclass(frozen=True)
class Spread:
    """Median and percentiles over samples; p5 and p95 are None below 100 samples."""

    median: float | None
    p5: float | None
    p95: float | None


@dataclass(frozen=True)
class Times:
    """Latencies in seconds, of samples that were decoded alone, and throughput over all samples.

    ttft_s: from the request to the first token. tpot_s: time per output token after the first. decode_s: from the first
    token to the last. e2e_s: the whole request. new_tokens_median: the length of an answer, EOS included. tpot_spread:
    interquartile range / median of the time per output token.
    """

    ttft_s: Spread
    tpot_s: Spread
    decode_s: Spread
    e2e_s: Spread
    new_tokens_median: float | None
    decode_tokens_per_s: float | None
    e2e_tokens_per_s: float | None
    requests_per_s: float | None
    tpot_spread: float | None


def spread(values: Sequence[float]) -> Spread:
    """Median, p5 and p95 of one value per sample."""
    ordered = sorted(values)  # once: of sorted values the next ones only see that they are
    return Spread(middle(ordered), percentile(ordered, 5), percentile(ordered, 95))


def times_of(arm: Arm) -> Times:
    """The times of an arm. An answer of one token has no decoding phase, and counts in no number about decoding."""
    everyone, alone = list(arm.measured.values()), latencies(arm)
    decoding = [sample for sample in everyone if sample.decodes]
    alone_decoding = decoding if arm.single else [sample for sample in alone if sample.decodes]
    e2e_s = sum(sample.e2e_s for sample in everyone)
    per_token = sorted(sample.decode_s / (sample.tokens - sample.answers) for sample in alone_decoding)
    return Times(
        ttft_s=spread([sample.ttft_s for sample in alone]),
        tpot_s=spread(per_token),
        decode_s=spread([sample.decode_s for sample in alone_decoding]),
        e2e_s=spread([sample.e2e_s for sample in alone]),
        new_tokens_median=middle([sample.tokens for sample in everyone]),
        decode_tokens_per_s=divide(sum(s.tokens - 1 for s in decoding), sum(s.decode_s for s in decoding)),
        e2e_tokens_per_s=divide(sum(sample.tokens for sample in everyone), e2e_s),
        requests_per_s=divide(len(everyone), e2e_s),
        tpot_spread=relative_spread(per_token),
    )
