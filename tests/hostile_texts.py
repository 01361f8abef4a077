"""A run whose every text tries to be markup or script, for the tests of the page."""

from types import SimpleNamespace

from fastvlm_bench.records.record import Run

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><!-- \u2028 &amp; "
    "${7*7} {{7*7}}"
)


def hostile(fake: SimpleNamespace) -> Run:
    """Such texts in the data set, the model's name, the methods' labels, the environment and the record itself."""
    suite = fake.suite(n=8)
    for place, sample in enumerate(suite["samples"]):
        sample |= {"sample_id": f"{place}{HOSTILE}", "prompt": HOSTILE, "group": HOSTILE}
        sample["references"] = [HOSTILE, "a dog"]
    methods = [fake.method("standard"), {**fake.method("fastvlm"), "label": f"fastvlm:{HOSTILE}"}]
    return fake.run(  # type: ignore[no-any-return]
        suites=[suite], methods=methods, change=lambda line: {**line, "text": HOSTILE},
        meta={"model": {"id": HOSTILE}, "environment": {"cpu": HOSTILE}, "run_id": HOSTILE},
    )  # fmt: skip
