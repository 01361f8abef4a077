"""A run whose every text tries to be markup or script, for the tests of the page."""

from types import SimpleNamespace

from fastvlm_bench.records.record import Run

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><!-- \u2028 &amp; "
    "${7*7} {{7*7}}"
)

LABELS = (
    'x style="}*{zoom}"', 'y <g id="points-0"', "z url(#p) 1.23456", 'w::xlink:href="#b"', "v:: #0072b2",
    "-->]]>?><style>",
)  # fmt: skip
"""Labels of methods that look like what a figure's own markup has. None is so long that it is broken apart."""


def hostile(fake: SimpleNamespace) -> Run:
    """Such texts in the data set, the model's name, the methods' labels, the environment and the record itself."""
    suite = fake.suite(n=8)
    for place, sample in enumerate(suite["samples"]):
        sample |= {"sample_id": f"{place}{HOSTILE}", "prompt": HOSTILE, "group": HOSTILE}
        sample["references"] = [HOSTILE, "a dog"]
    methods = [fake.method("standard"), *({**fake.method("fastvlm"), "label": label}
                                          for label in (f"fastvlm:{HOSTILE}", *LABELS))]  # fmt: skip
    return fake.run(  # type: ignore[no-any-return]
        suites=[suite], methods=methods, change=lambda line: {**line, "text": HOSTILE},
        meta={"model": {"id": HOSTILE}, "environment": {"cpu": HOSTILE}, "run_id": HOSTILE},
    )  # fmt: skip
