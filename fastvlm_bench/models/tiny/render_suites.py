"""The old path of `fastvlm_bench.embedded.render_suites`, which documents of version 0.1 name."""

from fastvlm_bench.embedded.render_suites import main

if __name__ == "__main__":
    main()
