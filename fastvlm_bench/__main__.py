"""`python -m fastvlm_bench` is the console script. May import the command line."""

from fastvlm_bench.cli.app import main

if __name__ == "__main__":
    main()
