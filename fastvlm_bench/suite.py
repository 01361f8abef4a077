"""The old path of `fastvlm_bench.suites.suite`, which the README of version 0.1 names."""

from fastvlm_bench.suites.suite import Sample, Suite, load_suite, open_image

__all__ = ["Sample", "Suite", "load_suite", "open_image"]
