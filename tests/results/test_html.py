"""The page of `report --html`: in a real browser, with hostile texts, of several runs, and within its size."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chromium import Page, chromium
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.report import html_browser
from fastvlm_bench.report.html import html_of, write_html

GOLDEN = Path(__file__).parent / "golden-v1"
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><!-- \u2028 &amp; ${7*7} {{7*7}}"


def hostile(fake: SimpleNamespace, n: int = 8) -> Run:
    """A run in which every text of the data set, of the model and of the record tries to be markup or script."""
    suite = fake.suite(n=n)
    for place, sample in enumerate(suite["samples"]):
        sample |= {
            "sample_id": f"{place}{HOSTILE}",
            "prompt": HOSTILE,
            "references": [HOSTILE, "a dog"],
            "group": HOSTILE,
        }
    methods = [fake.method("standard"), fake.method("fastvlm", label=f"fastvlm:{HOSTILE}")]
    return fake.run(  # type: ignore[no-any-return]
        suites=[suite], methods=methods, change=lambda line: {**line, "text": HOSTILE},
        meta={"model": {"id": HOSTILE}, "environment": {"cpu": HOSTILE}, "run_id": HOSTILE},
    )  # fmt: skip


class Tags(HTMLParser):
    """What a parser finds: the elements, the addresses that they would fetch, and the handlers they would run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "xlink:href") and not (value or "").startswith(
                ("#", "data:")
            ):
                self.fetched.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.handlers.append(f"{tag} {name}")


def test_hostile_texts_stay_text(fake: SimpleNamespace) -> None:
    plain, text = html_of([fake.run(suites=[fake.suite(n=8)])]), html_of([hostile(fake)])
    found = Tags(text)
    assert found.names.count("script") == 2 and not found.fetched and not found.handlers
    assert set(found.names) <= set(Tags(plain).names) | {"summary"}
    assert "{{7*7}}" in text and ">49<" not in text
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.S)
    assert json.loads(data)["suites"][0]["samples"][0]["prompt"] == HOSTILE


def test_the_page_names_the_only_script_that_may_run(fake: SimpleNamespace) -> None:
    text = html_of([fake.run()])
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert re.search(r"script-src 'sha256-[\w+/=]{44}'$", policy)


@pytest.fixture(scope="module")
def page() -> Any:
    with chromium() as opened:
        yield opened


def complaints(page: Page, path: Path) -> list[str]:
    """What the browser complains of, and every request beyond the file itself and the images inside it."""
    asked = [address for address in page.requests if not address.startswith("data:")]
    return page.errors + [address for address in asked if address != path.absolute().as_uri()]


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_works_in_a_browser(width: int, page: Page, fake: SimpleNamespace, tmp_path: Path) -> None:
    """No complaint, no request, no sideways scrolling; a table sorts; a sample opens by mouse and by keys."""
    path = tmp_path / "report.html"
    write_html([read_run(GOLDEN)], path)
    page.errors.clear(), page.requests.clear()
    page.show(path, width=width)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    column = "document.querySelectorAll('table.main thead button')[1]"
    order = "[...document.querySelectorAll('table.main tbody th')].map(e => Number(e.dataset.sort))"
    values = "[...document.querySelectorAll('table.main tbody tr')].map(r => r.children[1].dataset.sort ?? null)"
    before = page.run(order)
    for sign in (-1, 1):
        page.run(f"{column}.click()")
        told = [float(value) for value in page.run(values) if value is not None]
        assert told == sorted(told, key=lambda value, sign=sign: sign * value) and page.run(values)[-1] is None  # type: ignore[misc]
    assert page.run(f"{column}.parentElement.getAttribute('aria-sort')") == "ascending"
    page.run("document.querySelector('table.main thead button').click()")
    assert page.run(order) == before
    title = "document.querySelector('#detail h3').textContent"
    first = page.run(title)
    assert page.run("document.querySelectorAll('#list li').length") > 1 and page.run(
        "!!document.querySelector('#detail .text').textContent"
    )
    page.run("document.querySelectorAll('#list li')[1].click()")
    second = page.run(title)
    assert second != first
    page.press("k")
    assert page.run(title) == first
    page.press("j")
    assert page.run(title) == second
    page.press("/")
    assert page.run("document.activeElement.id") == "search"
    page.run(
        "document.getElementById('search').value = 'no such words'; document.getElementById('search').dispatchEvent(new Event('input'))"
    )
    assert page.run("document.querySelectorAll('#list li').length") == 0
    page.run("document.getElementById('theme').click()")
    assert page.run("getComputedStyle(document.documentElement).colorScheme") in ("dark", "light")
    assert complaints(page, path) == []


def test_hostile_texts_do_nothing_in_a_browser(page: Page, fake: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    write_html([hostile(fake)], path)
    page.errors.clear(), page.requests.clear()
    page.show(path)
    title = page.run("document.title")
    for place in range(3):
        page.run(f"document.querySelectorAll('#list li')[{place}].click()")
    assert title != "owned" and page.run("document.title") == title and complaints(page, path) == []
    assert page.run("document.querySelector('.answer .text').textContent") == HOSTILE


def test_filters_show_what_differs_and_the_worst_first(page: Page, fake: SimpleNamespace, tmp_path: Path) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] == "fastvlm" and line["sample_id"] == "005":
            return {**line, "token_ids": [7, 7, 2], "text": "a red circle in error"}
        if line["method"] == "fastvlm" and line["sample_id"] == "003":
            return {**line, "decode_s": 50 * line["decode_s"]}
        return dict(fake.failed(line)) if line["sample_id"] == "002" else line

    run = fake.run(suites=[fake.suite(n=12)], change=change)
    path = tmp_path / "report.html"
    write_html([run], path)
    page.show(path)
    listed = "[...document.querySelectorAll('#list li span:first-child')].map(e => e.textContent)"

    def choose(name: str, value: str) -> list[str]:
        page.run(f"{name}.value = {value!r}; {name}.dispatchEvent(new Event('change'))")
        return list(page.run(listed))

    assert choose("filter", "differs") == ["005"]
    assert page.run("document.querySelector('.answer mark').textContent").endswith("error")
    assert choose("filter", "failed") == ["002"] and page.run("document.querySelector('.answer .no').textContent")
    choose("filter", "all")
    assert choose("order", "worst")[0] == "003" and choose("order", "best")[-2] == "003"


def test_several_runs_stand_side_by_side_and_what_differs_is_said(fake: SimpleNamespace) -> None:
    runs = [fake.run(), fake.run(meta={"run_id": "other", "model": {"dtype": "bfloat16"}})]
    text = html_of(runs)
    assert "A: fastvlm" in text and "B: fastvlm" in text
    assert "Not comparable" in text and "float32 / bfloat16" in text
    assert "Not comparable" not in html_of([runs[0], fake.run(seed=1)]) and "A: fastvlm" not in html_of(runs[:1])


def test_missing_images_are_said(fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    own = html_browser.browser_of([_series(read_run(GOLDEN))]).suites[0]
    assert "Images are not shown" in own["images"] or all(s["image"] is not None for s in own["samples"])
    told = html_browser.browser_of([_series(fake.run(suites=[fake.suite("no-such-suite-caption", n=3)]))])
    assert "no-such-suite-caption" in told.suites[0]["images"] and told.images == []


def _series(run: Run) -> Any:
    from fastvlm_bench.analysis.summary import summarise
    from fastvlm_bench.report.figure_data import series_of

    return series_of([run], [summarise(run)], run.meta["suites"][0]["name"])


def test_a_big_run_shows_what_matters(fake: SimpleNamespace) -> None:
    """Beyond the cap: what failed or differs, and the slowest, are there whatever their place."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] != "standard" and line["sample_id"] == "057":
            return {**line, "token_ids": [9, 2]}
        return {**line, "decode_s": 9.0} if line["method"] != "standard" and line["sample_id"] == "058" else line

    shown = html_browser.choose(_series(fake.run(suites=[fake.suite(n=60)], change=change)), 20)
    assert len(shown) == 20 and {"057", "058", "000"} <= set(shown)


def test_the_page_of_200_samples_and_5_methods_is_small(fake: SimpleNamespace) -> None:
    """Below 5 MB with long answers; the images, 200 of at most 6 kB, would add 1.6 MB."""
    labels = ("standard", *(f"fastvlm:gamma={gamma}" for gamma in (2, 4, 6, 8)))
    text = html_of([fake.run(suites=[fake.suite(n=200)], labels=labels, tokens=120)])
    assert len(text.encode()) < 3_400_000


def test_the_command_writes_the_page_and_refuses_in_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(GOLDEN), "--html", str(tmp_path / "page.html")])
    assert done.exit_code == 0 and (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert str(tmp_path / "page.html") in done.output.replace("\n", "")
    for path in (tmp_path, tmp_path / "no" / "page.html"):
        with pytest.raises(UsageError, match="--html"):
            write_html([read_run(GOLDEN)], path)
