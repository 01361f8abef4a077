"""The old path of `python -m fastvlm_bench`, which documents of version 0.1 name: `python -m fastvlm_bench.cli`."""

from fastvlm_bench.cli.app import main

if __name__ == "__main__":
    main()
