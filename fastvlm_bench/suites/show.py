"""What `suites` and `suites show` print: a suite in words, wrapped to the terminal."""

import os
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from shutil import get_terminal_size

from fastvlm_bench.metrics import variants_of
from fastvlm_bench.suites.definition import Definition
from fastvlm_bench.suites.files import layout
from fastvlm_bench.suites.results_formats import FORMATS
from fastvlm_bench.suites.suite import Sample

LABEL, NAME = 10, 19


def wrapped(label: str, text: str, indent: int) -> str:
    """A label and its text, wrapped with further lines under the text's first; one line in a pipe or a file."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return f"{label:<{indent}}{text}"
    width = max(get_terminal_size().columns, indent + 20)
    lines = textwrap.wrap(text, width - indent, break_long_words=False, break_on_hyphens=False) or [""]
    return "\n".join(f"{label if not number else '':<{indent}}{line}" for number, line in enumerate(lines))


def listed(suite: Definition) -> str:
    """A suite's entry in the list of all."""
    return wrapped(suite.name, f"{suite.title} ({', '.join(suite.splits)})", NAME)


def described(suite: Definition) -> Iterator[str]:
    """Everything that the suite file says, in paragraphs."""
    yield wrapped("", f"{suite.name}, version {suite.version}: {suite.title}", 0)
    if suite.about:
        yield wrapped("", suite.about, 0)
    told = [_metric(suite, name) for name in suite.metrics]
    yield wrapped("metrics", ", ".join(told) or "none: generated and timed, not scored", LABEL)
    yield wrapped("results", f"{FORMATS[suite.results].layout}: what --predictions-out writes", LABEL)
    yield wrapped("tokens", f"at most {suite.max_new_tokens} new ones an answer", LABEL)
    yield wrapped("licence", suite.licence, LABEL)
    yield wrapped("citation", suite.citation, LABEL)
    for key, text in suite.prompts.items():
        yield wrapped("prompt", f"{key}{' (default)' if key == suite.default_set else ''}: {text!r}", LABEL)
    for split in suite.splits.values():
        count = f", {split.samples} samples" if split.samples else ""
        where = "comes with the tool, rendered scenes" if split.root else f"DIR holds {layout(split)}"
        yield wrapped("split", f"{split.name}{count}: {where}", LABEL)
        if split.table is not None:
            yield wrapped("", f"or --data hf:{split.table.repository}, or a folder with its parquet files", LABEL)
        if split.note:
            yield wrapped("", split.note, LABEL)
    for download in suite.downloads:
        checked = ", checksum known" if download.sha256 or download.md5 else ""
        yield wrapped("get", f"{download.url} -> DIR/{download.makes}{checked}", LABEL)
    if suite.manual:
        yield wrapped("by hand", suite.manual, LABEL)


def _metric(suite: Definition, name: str) -> str:
    """The metric, the variant that this suite uses, and the others that `--variant` may ask for."""
    known = variants_of(name)
    if not known:
        return name
    own = suite.variants.get(name, known[0])
    return f"{name} (variant {own}; others: {', '.join(variant for variant in known if variant != own)})"


def answers(sample: Sample) -> Iterator[str]:
    """What a sample is scored against, in lines: the options to rank, or each different reference with its count."""
    if sample.options:
        for number, text in enumerate(sample.options):
            right = " (a person's answer)" if str(number) == sample.references[0] else ""
            yield f"option {number + 1}: {text}{right}"
        return
    for text, count in Counter(sample.references).items():
        yield f"reference: {text}{f' ({count} times)' if count > 1 else ''}"
