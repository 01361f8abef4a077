"""Old paths: the embedded model moved to `fastvlm_bench.embedded`."""
