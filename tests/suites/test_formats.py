"""Every official format, tiny but exact: what becomes a sample, and what is refused with file, place and layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from suites.conftest import write
from suites.official import MAKE, ODD, POPE, flickr30k, lines, made, nocaps, own

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.readers import coco_id
from fastvlm_bench.suites.suite import load_suite

SHORT = "Answer the question using a single word or phrase."


@pytest.mark.parametrize(("name", "split", "ids", "images", "prompt", "references"), [
    ("nocaps", None, ["0", "1", "2"], ["0", "1", "2"], "Provide a one-sentence caption for the provided image.",
     tuple(f"C{k} of 0." for k in range(10))),
    ("flickr30k", None, ["10002456"], ["10002456"], "Provide a one-sentence caption for the provided image.",
     ("Two men.", ODD)),
    ("flickr30k", "all", ["1000092795", "10002456"], ["1000092795", "10002456"],
     "Provide a one-sentence caption for the provided image.", tuple(f"Caption \u2028{k} \x0b. " for k in range(5))),
    ("okvqa", None, ["42000", "42001", "73000", "73001", "139000", "139001"], ["42", "42", "73", "73", "139", "139"],
     "What is 0 {here}?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n" + SHORT,
     tuple(f"a{n}" for n in range(1, 11))),
    ("gqa", None, ["201307251", "07"], ["n161313"] * 2, "Is it red?\n" + SHORT, ("no",)),
    ("textvqa", None, ["34602"], ["003a8ae2ef43b901"], "What brand is it?\n" + SHORT,
     tuple(f"a{n}" for n in range(10))),
    ("scienceqa-img", None, ["4", "6"], ["4", "6"], "Context: Look.\nWhich one?\nA. a cell\nB. a rock\n"
     "Answer with the option's letter from the given choices directly.", ("B", "A. a cell", "B. a rock")),
    ("chartqa", None, ["test_human/0", "test_human/1", "test_augmented/0", "test_augmented/1"],
     ["41699051005347.png"] * 4, "How many?\nAnswer the question with a single word.", ("14",)),
    ("docvqa", None, ["49153"], ["ffx_1.png"], "What is it?\n" + SHORT, ("0.28", ".28")),
    ("mm-vet", None, ["v1_0"], ["v1_0.png"], "First please perform reasoning, and think step by step to provide best "
     "answer to the following question:\n\nWhat is x?", ("-1<AND>-5",)),
    ("llava-bench", None, ["0"], ["001.jpg"], "Who?", ()),
    ("jsonl", None, ["a", "b"], ["photos/1.png"] * 2, "What {is} \u2028 it?", ("a dog", "dog")),
    ("coco-caption", "karpathy-test-lavis", ["391895", "42"], ["391895", "42"],
     "Provide a one-sentence caption for the provided image.", ("One.", "Two.")),
])  # fmt: skip
def test_official_format(tmp_path: Path, name: str, split: str | None, ids: list[str], images: list[str], prompt: str,
                         references: tuple[str, ...]) -> None:  # fmt: skip
    suite = made(name, tmp_path, split=split)
    assert [sample.sample_id for sample in suite.samples] == ids
    assert [sample.image_id for sample in suite.samples] == images
    assert (suite.samples[0].prompt, suite.samples[0].references) == (prompt, references)


def test_nocaps_domains(tmp_path: Path) -> None:
    nocaps(tmp_path)
    for split, image in (("val-in", "0"), ("val-near", "1"), ("val-out", "2")):
        assert [s.sample_id for s in load_suite("nocaps", split=split, data=tmp_path).samples] == [image]
    path = tmp_path / "nocaps_val_4500_captions.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        del image["domain"]  # as in copies of the file: the entire set can be read, a domain cannot
    write(path, content)
    assert len(load_suite("nocaps", data=tmp_path).samples) == 3
    with pytest.raises(UsageError, match="has no domain, nor has 2 other; nocaps_val_image_info.json gives it"):
        load_suite("nocaps", split="val-in", data=tmp_path)


def test_every_round_of_a_dialog_is_its_own(tmp_path: Path) -> None:
    """LAVIS's reader reuses one entry, so that all ten of a dialog end as its tenth round; ours must not."""
    suite = made("visdial-gen", tmp_path)
    assert [s.sample_id for s in suite.samples] == [f"185565-{n}" for n in range(1, 11)]
    assert [s.references for s in suite.samples] == [(f"yes {n}",) for n in range(10)]
    assert suite.samples[0].prompt == "Dialog history: \n Question: is it 0 Short answer:"
    expected = "Dialog history: q: is it 0 a: yes 0 q: is it 1 a: yes 1\n Question: is it 2 Short answer:"
    assert suite.samples[2].prompt == expected
    assert {s.image_id for s in suite.samples} == {"185565"}


def test_pope_ids_do_not_collide_across_files(tmp_path: Path) -> None:
    suite = made("pope", tmp_path)
    assert [s.sample_id for s in suite.samples] == [f"coco_pope_{kind}/{n}" for kind in POPE for n in (1, 2)]
    assert [s.references for s in suite.samples] == [("no",), ("yes",)] * 3
    assert {s.image_id for s in suite.samples} == {"310196"}
    one = load_suite("pope", split="popular", data=tmp_path)
    assert [s.sample_id for s in one.samples] == ["coco_pope_popular/1", "coco_pope_popular/2"]


def test_coco_ids_from_both_forms_of_name() -> None:
    assert coco_id("COCO_val2014_000000000042.jpg") == coco_id("val2017/000000000042.jpg") == "42"
    with pytest.raises(ValueError):
        coco_id("photo.jpg")


def put(*path: str | int, value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(("name", "split", "file", "change", "problem"), [
    ("okvqa", None, "mscoco_val2014_annotations.json", lambda c: c["annotations"][0]["answers"].pop(), "9 answers"),
    ("textvqa", None, "TextVQA_0.5.1_val.json", lambda c: c["data"][0]["answers"].pop(), "has 9 answers, not 10"),
    ("textvqa", None, "TextVQA_0.5.1_val.json", lambda c: c["data"].append(c["data"][0]), "a duplicate id: data[0]"),
    ("textvqa", None, "TextVQA_0.5.1_val.json", put("data", 0, "image_id", value="../x"), "not a path below"),
    ("gqa", None, "testdev_balanced_questions.json", put("07", "answer", value=None), "['07'].answer is null"),
    ("gqa", None, "testdev_balanced_questions.json", put("07", "imageId", value="../x"), "not a path below"),
    ("visdial-gen", None, "visdial_1.0_val.json", put("data", "dialogs", 0, "dialog", 3, "answer", value=99),
     "data.dialogs[0].dialog[3].answer is 99, but data.answers has 10 texts"),
    ("visdial-gen", None, "visdial_1.0_val.json", put("data", "questions", value=None), "data.questions is null"),
    ("scienceqa-img", None, "problems.json", put("4", "answer", value=2), "['4'].answer is 2, but there are 2 choices"),
    ("scienceqa-img", None, "pid_splits.json", put("test", 0, value="9"), "test[0] is '9', which is not in"),
    ("scienceqa-img", None, "pid_splits.json", put("test", 0, value={}), "test[0] is {}, which is not in"),
    ("scienceqa-img", None, "problems.json", put("4", "image", value="../../x.png"), "not a path below"),
    ("chartqa", None, "ChartQA Dataset/test/test_human.json", put(1, "label", value=14), "[1].label is a whole number"),
    ("chartqa", None, "ChartQA Dataset/test/test_human.json", lambda c: c.clear(), "holds an empty list"),
    ("docvqa", None, "val_v1.0.json", put("data", 0, "answers", value=[]), "data[0].answers is an empty list"),
    ("mm-vet", None, "mm-vet.json", put("v1_0", "imagename", value="/etc/passwd"), "not a path below"),
    ("nocaps", "val-in", "nocaps_val_4500_captions.json", put("images", 0, "domain", value="in"),
     "is 'in', not one of"),
    ("coco-caption", "karpathy-test-lavis", "coco_karpathy_test.json", put(0, "image", value="val2014/x.jpg"),
     "[0].image is 'val2014/x.jpg', which ends in no image id"),
    ("coco-caption", "karpathy-test-lavis", "coco_karpathy_test.json",
     put(0, "image", value="val2014/COCO_val2014_000000000042.jpg"), "[1].image is 42, a duplicate id"),
    ("coco-caption", "karpathy-test-lavis", "coco_karpathy_test.json", put(0, "caption", 1, value=None), "is null"),
    ("flickr30k", None, "dataset_flickr30k.json", put("images", 1, "filename", value="../x.jpg"), "not a path below"),
])  # fmt: skip
def test_faulty_file(tmp_path: Path, name: str, split: str | None, file: str, change: Callable[[Any], Any],
                     problem: str, edit: Callable[..., None]) -> None:  # fmt: skip
    MAKE[name](tmp_path)
    edit(tmp_path / file, lambda content: change(content) and None)
    with pytest.raises(UsageError) as caught:
        load_suite(name, split=split, data=tmp_path)
    assert problem in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "file", "text", "problem"), [
    ("pope", "coco_pope_random.json", '{"question_id": 1}\n', "line 1 has no 'image'"),
    ("pope", "coco_pope_random.json", '[{"question_id": 1}]', "line 1 is a list, not an object"),
    ("pope", "coco_pope_random.json", "\n{", "line 2 is not JSON"),
    ("pope", "coco_pope_random.json", "", "the file has no lines"),
    ("pope", "coco_pope_random.json", '{"question_id": 1, "image": "COCO_1.jpg", "text": "t", "label": "Yes"}',
     "line 1.label is 'Yes', not 'yes' or 'no'"),
    ("llava-bench", "questions.jsonl", '{"question_id": 0, "image": "../1.jpg", "text": "t"}', "not a path below"),
    ("jsonl", "mine.jsonl", '{"id": 1, "image": "x.png", "prompt": "<image> a"}', "contains '<image>'"),
    ("jsonl", "mine.jsonl", '{"id": 1, "image": "../x.png", "prompt": "a"}', "not a path below"),
    ("jsonl", "mine.jsonl", '{"id": 1, "image": "x", "prompt": "a"}\n{"id": "1", "image": "x", "prompt": "a"}',
     "line 2.id is 1, a duplicate id: line 1 has it too"),
    ("jsonl", "mine.jsonl", '{"id": 1, "image": "x", "prompt": "a"}\n'
     '{"id": 2, "image": "x", "prompt": "a", "references": ["b"]}', "not in all lines"),
])  # fmt: skip
def test_faulty_lines(tmp_path: Path, name: str, file: str, text: str, problem: str) -> None:
    MAKE[name](tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(UsageError) as caught:
        load_suite(name, data=tmp_path)
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_a_token_file_that_is_none(tmp_path: Path) -> None:
    flickr30k(tmp_path)
    token = tmp_path / "results_20130124.token"
    for text, problem in (("1.jpg caption\n", "line 1 is '1.jpg caption'"), ("1.jpg#0\ta\n1.jpg#0\tb\n", "line 2 is")):
        token.write_text(text)
        with pytest.raises(UsageError, match=problem):
            load_suite("flickr30k", split="all", data=tmp_path)
    token.write_bytes(b"1.jpg#0\ta\n1.jpg#1\t\xff\n")
    with pytest.raises(UsageError, match="line 2 is not UTF-8"):
        load_suite("flickr30k", split="all", data=tmp_path)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    own(tmp_path)
    assert len(load_suite("jsonl", data=tmp_path / "mine.jsonl").samples) == 2
    lines(tmp_path / "more.jsonl", [{"id": "a", "image": "photos/1.png", "prompt": "p"}])
    with pytest.raises(UsageError, match="has mine.jsonl, more.jsonl; name one with --data FILE"):
        load_suite("jsonl", data=tmp_path)
    suite = load_suite("jsonl", data=tmp_path / "more.jsonl")
    assert suite.metrics == () and suite.samples[0].references == ()  # generated and timed, not scored


@pytest.mark.parametrize(("chosen", "prompt"), [
    (None, "What is 0 {here}?\n" + SHORT), ("lmms", "What is 0 {here}?\n" + SHORT),
    ("blip2", "Question: What is 0 {here}? Short answer:"),
])  # fmt: skip
def test_prompt_sets(data: Path, chosen: str | None, prompt: str) -> None:
    suite = load_suite("vqav2", data=data, prompt_set=chosen)
    assert (suite.prompt_set, suite.samples[0].prompt) == (chosen or "lmms", prompt)
    suite = load_suite("vqav2", data=data, prompt="Q: {question} A:")
    assert (suite.prompt_set, suite.samples[0].prompt) == ("custom", "Q: What is 0 {here}? A:")
    with pytest.raises(UsageError, match="holds {history}, which these samples do not have; use {question}"):
        load_suite("vqav2", data=data, prompt="{history} {question}")
