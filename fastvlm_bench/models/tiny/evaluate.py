"""The old path of `fastvlm_bench.embedded.evaluate`, which documents of version 0.1 name."""

from fastvlm_bench.embedded.evaluate import main

if __name__ == "__main__":
    main()
