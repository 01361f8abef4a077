"""The page of `report --html` in a real browser: no complaint, no request; tables sort, samples open."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chromium import Page, chromium
from hostile_texts import HOSTILE, hostile

from fastvlm_bench.records.record import read_run
from fastvlm_bench.report.html import write_html

pytestmark = [pytest.mark.usefixtures("quick_bounds"), pytest.mark.slow]
"""A browser takes seconds to start; test_html.py reads the pages themselves in the default run."""

GOLDEN = Path(__file__).parent / "golden-v1"
TITLE = "document.querySelector('#detail h3').textContent"
LISTED = "[...document.querySelectorAll('#list li span:first-child')].map(e => e.textContent)"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as opened:
        yield opened


def shown(page: Page, path: Path, **how: Any) -> None:
    page.errors.clear()
    page.requests.clear()
    page.show(path, **how)


def complaints(page: Page, path: Path) -> list[str]:
    """What the browser complains of, and every request beyond the file itself and the images inside it."""
    asked = [address for address in page.requests if not address.startswith("data:")]
    return page.errors + [address for address in asked if address != path.absolute().as_uri()]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_html([read_run(GOLDEN)], path)
    return path


@pytest.mark.parametrize("width", [1280, 400])
def test_tables_sort_and_nothing_scrolls_sideways(width: int, page: Page, golden: Path) -> None:
    shown(page, golden, width=width)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    order = "[...document.querySelectorAll('table.main tbody th')].map(e => Number(e.dataset.sort))"
    values = "[...document.querySelectorAll('table.main tbody tr')].map(r => r.children[1].dataset.sort ?? null)"
    before = page.run(order)
    for backwards in (True, False):
        page.run("document.querySelectorAll('table.main thead button')[1].click()")
        told = page.run(values)
        known = [float(value) for value in told if value is not None]
        assert known == sorted(known, reverse=backwards) and told[-1] is None
        state = page.run("document.querySelectorAll('table.main thead th')[1].getAttribute('aria-sort')")
        assert state == ("descending" if backwards else "ascending")
    page.run("document.querySelector('table.main thead button').click()")
    assert page.run(order) == before and complaints(page, golden) == []


def test_samples_open_by_mouse_and_by_keys(page: Page, golden: Path) -> None:
    shown(page, golden)
    first = page.run(TITLE)
    assert page.run("document.querySelector('#detail .text').textContent")
    page.run("document.querySelectorAll('#list li')[1].click()")
    second = page.run(TITLE)
    assert second != first
    for key, title in (("k", first), ("j", second)):
        page.press(key)
        assert page.run(TITLE) == title
    page.run("list.focus()")
    page.press("ArrowUp")
    assert page.run(TITLE) == first
    page.press("/")
    assert page.run("document.activeElement.id") == "search"
    page.run("search.value = 'no such words'; search.dispatchEvent(new Event('input'))")
    assert page.run(LISTED) == [] and complaints(page, golden) == []


def test_dark_follows_the_reader_and_the_button(page: Page, golden: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    shown(page, golden)
    light = page.run(paper)
    page.run("theme.click()")
    dark = page.run(paper)
    shown(page, golden, dark=True)
    assert page.run(paper) == dark != light


def test_hostile_texts_do_nothing(page: Page, fake: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    write_html([hostile(fake)], path)
    shown(page, path)
    title = page.run("document.title")
    for place in range(3):
        page.run(f"document.querySelectorAll('#list li')[{place}].click()")
    assert title != "owned" and page.run("document.title") == title and complaints(page, path) == []
    assert page.run("document.querySelector('.answer .text').textContent") == HOSTILE


def test_tokens_are_coloured_by_what_became_of_them(page: Page, fake: SimpleNamespace, tmp_path: Path) -> None:
    """The text of the answer is what was emitted; struck through is what was rejected; each round says its time."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        words = [f"w{token} " for token in line["token_ids"]]
        lost = [[7] * (tested - accepted) for _, tested, accepted, *_ in line["rounds"]]
        return {**line, "text": "".join(words), "token_chars": list(map(len, words)), "rejected_ids": lost,
                "rejected_pieces": [["<b>no</b> "] * len(each) for each in lost]}  # fmt: skip

    run = fake.run(suites=[fake.suite(n=4)], change=change)
    path = tmp_path / "report.html"
    write_html([run], path)
    shown(page, path)
    line = next(line for line in run.lines if line["method"] == "fastvlm")
    parts = "[...document.querySelectorAll('.answer.chosen .text {}')].map(e => e.textContent)"
    assert "".join(page.run(parts.format(".round > span"))) == line["text"]
    rejected = sum(tested - accepted for _, tested, accepted, *_ in line["rounds"])
    assert page.run(parts.format("del.rejected")) == ["<b>no</b> "] * rejected and rejected
    assert len(page.run(parts.format("span.accepted"))) == sum(min(r[2], r[3]) for r in line["rounds"])
    titles = page.run("[...document.querySelectorAll('.answer.chosen .round')].map(e => e.title)")
    assert len(titles) == len(line["rounds"]) + 1 and "ms" in titles[0] and "so far" in titles[-1]
    page.run(f"search.value = {line['text'].split()[1]!r}; search.dispatchEvent(new Event('input'))")
    assert line["sample_id"] in page.run(LISTED) and complaints(page, path) == []


def test_filters_show_what_differs_and_the_worst_first(page: Page, fake: SimpleNamespace, tmp_path: Path) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        if line["method"] == "fastvlm" and line["sample_id"] == "005":
            return {**line, "token_ids": [7, 7, 2], "text": "a red circle in error", "rounds": [[0, 0, 0, 2, 0, 0.1]]}
        if line["method"] == "fastvlm" and line["sample_id"] == "003":
            return {**line, "decode_s": 50 * line["decode_s"]}
        return dict(fake.failed(line)) if line["sample_id"] == "002" else line

    path = tmp_path / "report.html"
    labels = ("standard", "fastvlm", "early-exit")
    write_html([fake.run(suites=[fake.suite(n=12)], labels=labels, change=change)], path)
    shown(page, path)

    def choose(control: str, value: str) -> list[str]:
        page.run(f"controls.{control}.value = {value!r}; controls.{control}.dispatchEvent(new Event('change'))")
        return list(page.run(LISTED))

    methods = "[...document.querySelectorAll('.answer h3')].map(e => e.textContent)"
    assert page.run(methods) == ["standard", "fastvlm", "early-exit (lossy)"]
    page.run("controls.method.value = 2; controls.method.dispatchEvent(new Event('change')); only.click()")
    assert page.run(methods) == ["standard", "early-exit (lossy)"]
    page.run("controls.method.value = 1; controls.method.dispatchEvent(new Event('change'))")
    assert page.run(methods) == ["standard", "fastvlm"]
    assert choose("filter", "differs") == ["005"]
    assert page.run("document.querySelector('.answer mark').textContent").endswith("error")
    assert choose("filter", "failed") == ["002"] and page.run("document.querySelector('.answer .no').textContent")
    assert len(choose("filter", "all")) == 12
    points = "document.querySelectorAll('#suite-0 [data-points=\"2\"] use')"
    assert page.run(f"{points}.length") == 11, "one sample failed"
    page.run(f"{points}[4].dispatchEvent(new MouseEvent('click'))")
    assert page.run(TITLE) == page.run(f"{points}[4].textContent").split()[1].rstrip(",") == "005"
    assert page.run("controls.method.value") == "2"
    page.run("controls.method.value = 1")
    assert choose("order", "worst")[0] == "003" and choose("order", "best")[-2:] == ["003", "002"]
    assert complaints(page, path) == []


def test_what_differs_is_marked_from_its_own_runs_reference_on(
    page: Page, fake: SimpleNamespace, tmp_path: Path
) -> None:
    """Of several runs, which may answer otherwise as a whole; the opened method stands beside its own reference."""

    def change(line: dict[str, Any], whole: str) -> dict[str, Any]:
        if line["method"] == "early-exit":
            return {**line, "token_ids": [7, 7, 2], "text": f"{whole} upside down"}
        return {**line, "text": f"{whole} on its side"}

    labels, path = ("standard", "early-exit"), tmp_path / "report.html"
    runs = [fake.run(suites=[fake.suite(n=2)], labels=labels, change=lambda line, whole=whole: change(line, whole),
                     meta={"run_id": whole}) for whole in ("a cat", "some dog")]  # fmt: skip
    write_html(runs, path)
    shown(page, path)
    assert page.run("[...document.querySelectorAll('.answer mark')].map(e => e.textContent)") == ["upside down"] * 2
    page.run("controls.method.value = 3; controls.method.dispatchEvent(new Event('change')); only.click()")
    cards = "[...document.querySelectorAll('.answer h3')].map(e => e.textContent)"
    assert page.run(cards) == ["B: standard", "B: early-exit (lossy)"] and complaints(page, path) == []


def test_texts_of_some_rounds_alone_are_boxes_and_no_error(page: Page, fake: SimpleNamespace, tmp_path: Path) -> None:
    """A record that knows the texts of the first tokens only, for whatever reason."""
    path = tmp_path / "report.html"
    run = fake.run(suites=[fake.suite(n=2)])
    write_html([run], path)
    line = next(line for line in run.lines if line["method"] == "fastvlm")
    page_text = path.read_text(encoding="utf-8")
    first = json.loads(page_text.split('id="data">')[1].split("</script>")[0])["suites"][0]["samples"][0]["answers"][1]
    known = json.dumps(first["rounds"], separators=(",", ":"))
    first["rounds"][0][3] = ["one"]
    path.write_text(page_text.replace(known, json.dumps(first["rounds"], separators=(",", ":")), 1), encoding="utf-8")
    shown(page, path)
    assert page.run("document.querySelectorAll('.answer.chosen .box').length") == len(line["token_ids"]) + sum(
        tested - accepted for _, tested, accepted, *_ in line["rounds"])  # fmt: skip
    assert line["text"] in page.run("document.querySelector('.answer.chosen').textContent")
    assert complaints(page, path) == []
