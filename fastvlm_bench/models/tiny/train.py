"""The old path of `fastvlm_bench.embedded.train`, which documents of version 0.1 name."""

from fastvlm_bench.embedded.train import main

if __name__ == "__main__":
    main()
