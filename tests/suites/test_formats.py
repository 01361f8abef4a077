"""Every official format, tiny but exact: what becomes a sample, and what is refused with file, place and layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from suites.conftest import coco_name, picture, vqa_answers, vqa_questions, write

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.readers import coco_id
from fastvlm_bench.suites.suite import Suite, check_images, load_suite

SHORT = "Answer the question using a single word or phrase."
ODD = "a\rb\u2028c\vd\fe\nf"
POPE = ("random", "popular", "adversarial")


def lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def nocaps(root: Path) -> None:
    domains = ("in-domain", "near-domain", "out-domain")
    images = [{"id": n, "open_images_id": f"0013{n}", "file_name": f"0013{n}.jpg", "coco_url": "u", "domain": d,
               "height": 6, "width": 8} for n, d in enumerate(domains)]  # fmt: skip
    captions = [{"id": 10 * n + k, "image_id": n, "caption": f"C{k} of {n}."} for n in range(3) for k in range(10)]
    write(
        root / "nocaps_val_4500_captions.json", {"info": {}, "licenses": [], "images": images, "annotations": captions}
    )
    for image in images:
        picture(root / "val" / str(image["file_name"]))


def flickr30k(root: Path) -> None:
    names = ("1000092795.jpg", "10002456.jpg")
    rows = [{"sentids": [0, 1], "imgid": n, "filename": name, "split": "test" if n else "train",
             "sentences": [{"raw": ODD if k else "Two men.", "tokens": [], "imgid": n, "sentid": k} for k in (0, 1)]}
            for n, name in enumerate(names)]  # fmt: skip
    write(root / "dataset_flickr30k.json", {"dataset": "flickr30k", "images": rows})
    text = "".join(f"{name}#{k}\tCaption \u2028{k} \x0b. \n" for name in names for k in range(5))
    (root / "results_20130124.token").write_text(text, encoding="utf-8")
    for name in names:
        picture(root / "flickr30k-images" / name)


def okvqa(root: Path) -> None:
    answers = vqa_answers()
    for row in answers["annotations"]:
        row["answers"] = [{**a, "raw_answer": a["answer"] + "s"} for a in row["answers"]]
    write(root / "OpenEnded_mscoco_val2014_questions.json", vqa_questions())
    write(root / "mscoco_val2014_annotations.json", answers)
    for i in (42, 73, 139):
        picture(root / "val2014" / coco_name("2014", i))


def gqa(root: Path) -> None:
    row = {"question": "Is it red?", "imageId": "n161313", "answer": "no", "fullAnswer": "No.", "isBalanced": True,
           "types": {}, "groups": {}, "entailed": [], "equivalent": [], "semantic": []}  # fmt: skip
    write(root / "testdev_balanced_questions.json", {"201307251": row, "07": {**row, "answer": "yes"}})
    picture(root / "images" / "n161313.jpg")


def textvqa(root: Path) -> None:
    row = {"question_id": 34602, "question": "what Brand is it?", "image_id": "003a8ae2ef43b901", "image_classes": [],
           "answers": [f"a{n}" for n in range(10)], "image_width": 8, "image_height": 6, "set_name": "val"}  # fmt: skip
    data = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": [row]}
    write(root / "TextVQA_0.5.1_val.json", data)
    picture(root / "train_images" / "003a8ae2ef43b901.jpg")


def visdial(root: Path) -> None:
    turns = [{"question": n, "answer": n, "answer_options": list(range(10)) * 10, "gt_index": n} for n in range(10)]
    data = {"dialogs": [{"image_id": 185565, "caption": "c", "dialog": turns}],
            "questions": [f"is it {n}" for n in range(10)], "answers": [f"yes {n}" for n in range(10)]}  # fmt: skip
    write(root / "visdial_1.0_val.json", {"split": "val", "version": "1.0", "data": data})
    picture(root / "VisualDialog_val2018" / "VisualDialog_val2018_000000185565.jpg")


def scienceqa(root: Path) -> None:
    row = {"question": "Which one?", "choices": ["a cell", "a rock"], "answer": 1, "hint": "Look.",
           "image": "image.png", "split": "test"}  # fmt: skip
    write(root / "problems.json", {"4": row, "5": {**row, "image": None}, "6": {**row, "hint": ""}})
    write(root / "pid_splits.json", {"train": [], "test": ["4", "5", "6"]})
    for name in ("4", "6"):
        picture(root / "images" / "test" / name / "image.png")


def chartqa(root: Path) -> None:
    for half, label in (("human", "14"), ("augmented", "0.57")):
        rows = [{"imgname": "41699051005347.png", "query": "How many?", "label": label}] * 2
        write(root / "ChartQA Dataset" / "test" / f"test_{half}.json", rows)
    picture(root / "ChartQA Dataset" / "test" / "png" / "41699051005347.png")


def docvqa(root: Path) -> None:
    row = {"questionId": 49153, "question": "What is it?", "question_types": [], "image": "documents/ffx_1.png",
           "docId": 1, "answers": ["0.28", ".28"], "data_split": "val"}  # fmt: skip
    write(root / "val_v1.0.json", {"dataset_name": "docvqa", "dataset_split": "val", "data": [row]})
    picture(root / "documents" / "ffx_1.png")


def pope(root: Path) -> None:
    name = coco_name("2014", 310196)
    for kind in POPE:
        rows = [{"question_id": n, "image": name, "text": f"Is there a {kind} {n}?", "label": ("yes", "no")[n % 2]}
                for n in (1, 2)]  # fmt: skip
        lines(root / f"coco_pope_{kind}.json", rows)
    picture(root / "val2014" / name)


def mm_vet(root: Path) -> None:
    row = {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5", "capability": ["math"]}
    write(root / "mm-vet.json", {"v1_0": row})
    picture(root / "images" / "v1_0.png")


def llava_bench(root: Path) -> None:
    lines(root / "questions.jsonl", [{"question_id": 0, "image": "001.jpg", "text": "Who?", "category": "conv"}])
    picture(root / "images" / "001.jpg")


def own(root: Path) -> None:
    row = {"id": "a", "image": "photos/1.png", "prompt": "What {is} \u2028 it?", "references": ["a dog", "dog"]}
    lines(root / "mine.jsonl", [row, {**row, "id": "b"}])
    picture(root / "photos" / "1.png")


def lavis(root: Path) -> None:
    names = ("val2014/COCO_val2014_000000391895.jpg", "val2014/000000000042.jpg")
    write(root / "coco_karpathy_test.json", [{"image": name, "caption": ["One.", "Two."]} for name in names])
    for name in names:
        picture(root / name)


MAKE: dict[str, Callable[[Path], None]] = {
    "nocaps": nocaps, "flickr30k": flickr30k, "okvqa": okvqa, "gqa": gqa, "textvqa": textvqa, "visdial-gen": visdial,
    "scienceqa-img": scienceqa, "chartqa": chartqa, "docvqa": docvqa, "pope": pope, "mm-vet": mm_vet,
    "llava-bench": llava_bench, "jsonl": own, "coco-caption": lavis,
}  # fmt: skip


def made(name: str, root: Path, **options: Any) -> Suite:
    MAKE[name](root)
    suite = load_suite(name, data=root, **options)
    check_images(suite)
    return suite


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
