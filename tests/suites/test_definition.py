"""Suite files: the ones we ship, where they are found, and what a faulty one of a user's own is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites import catalogue
from fastvlm_bench.suites.catalogue import suites_folder
from fastvlm_bench.suites.definition import read_definition
from fastvlm_bench.suites.suite import describe_suites, suite_names

GOOD = """
version = "1"
title = "Mine"
kind = "vqa"
prompt = "{question}"
max_new_tokens = 8
metrics = ["exact_match"]
licence = "mine"
citation = "none"
default_split = "test"
[splits.test]
format = "vqav2"
questions = "q.json"
annotations = "a.json"
images = "images"
image_name = "{image_id:06d}.png"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTVLM_BENCH_SUITES", str(tmp_path))
    (tmp_path / "mine.toml").write_text(GOOD)
    return tmp_path


EMBEDDED = ("coco-caption", "describe", "gqa", "nocaps", "okvqa", "pope", "stories", "visdial-gen",
            "visdial-turns", "vqav2")  # fmt: skip
UNSCORED = {"coco-caption-long", "llava-bench", "mm-vet", "mmspec", "mmstar-long", "vqav2-long"}


def test_the_shipped_suites() -> None:
    assert suite_names() == [
        "chartqa", "coco-caption", "coco-caption-long", "describe", "docvqa", "flickr30k", "gqa", "jsonl",
        "llava-bench", "mm-vet", "mmmu", "mmspec", "mmstar", "mmstar-long", "nocaps", "okvqa", "pope",
        "scienceqa-img", "stories", "textvqa", "visdial", "visdial-gen", "visdial-turns", "vqav2", "vqav2-long",
    ]  # fmt: skip
    for suite in describe_suites():
        assert suite.title and "\n" not in suite.title and suite.licence and suite.citation and suite.version
        embedded = [split.name for split in suite.splits.values() if split.root]
        assert embedded == (["embedded"] if suite.name in EMBEDDED else [])
        assert (suite.default_split == "embedded") == bool(embedded)
        assert (suite.metrics == ()) == (suite.name in UNSCORED)
        for download in suite.downloads:
            assert download.url.startswith("https://")
            assert download.md5 or "cocodataset" not in download.url, "its archives have published checksums"


def test_visdial_gen_is_never_given_the_names_of_the_ranking() -> None:
    suite = read_definition("visdial-gen")
    assert not {"ndcg", "mrr", "visdial_ranking"} & set(suite.metrics)


def test_a_suite_of_ones_own(folder: Path) -> None:
    assert "mine" in suite_names() and "coco-caption" in suite_names(), "its own beside the shipped ones"
    assert read_definition("coco-caption").metrics, "a shipped suite is still there"
    assert read_definition("mine").split("test").image_name.format(image_id=7) == "000007.png"


def test_an_installed_package_uses_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "fastvlm_bench"
    monkeypatch.setattr(catalogue, "__file__", str(package / "suites" / "catalogue.py"))
    assert suites_folder() == tmp_path / "suites"
    (package / "_suites").mkdir(parents=True)
    (tmp_path / "suites").mkdir()  # another package's
    assert suites_folder() == package / "_suites"


def test_an_override_without_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVLM_BENCH_SUITES", str(tmp_path))
    with pytest.raises(UsageError, match="no suite files .* correct FASTVLM_BENCH_SUITES or unset it"):
        suite_names()


@pytest.mark.parametrize(("old", "new", "problem"), [
    ('version = "1"', "version = 1", "'version' must be given as str"),
    ('version = "1"', "", "'version' must be given as str"),
    ('version = "1"', 'version = "1"\nmetric = []', "unknown key 'metric': .*did you mean 'metrics'"),
    ('version = "1"', "version = ", "not a readable TOML file"),
    ('kind = "vqa"', 'kind = "chat"', "kind 'chat' must be one of caption, vqa"),
    ("max_new_tokens = 8", "max_new_tokens = 0", "max_new_tokens must be at least 1"),
    ("max_new_tokens = 8", "max_new_tokens = true", "'max_new_tokens' must be given as int"),
    ('["exact_match"]', "[1]", "metrics must list names"),
    ('"{question}"', '"?"', "prompt lmms must contain {question}"),
    ('default_split = "test"', 'default_split = "val"', "default_split must be one of test"),
    ('format = "vqav2"', 'format = "vqa"', "splits.test.format 'vqa' must be one of .*coco-captions, "),
    ('questions = "q.json"', "", "splits.test needs 'questions' for format vqav2"),
    ('images = "images"', "", "splits.test needs 'images'"),
    ('images = "images"', "images = 3", "every value must be a string"),
    ('images = "images"', 'images = "i"\nimage = "j"', "unknown key 'image': .*did you mean 'images'"),
    ("{image_id:06d}", "{id}", "image_name must format image_id only"),
    ("{image_id:06d}", "{image_id:zz}", "image_name must format image_id only"),
    ("[splits.test]", "[splits]\ntest = 1\n[splits.other]", "splits.test must be a table"),
])  # fmt: skip
def test_a_faulty_suite_file(folder: Path, old: str, new: str, problem: str) -> None:
    assert old in GOOD
    (folder / "mine.toml").write_text(GOOD.replace(old, new))
    with pytest.raises(UsageError, match=problem) as caught:
        read_definition("mine")
    assert str(caught.value).startswith(str(folder / "mine.toml")) and "\n" not in str(caught.value)


def test_reading_a_suite_needs_no_heavy_import() -> None:
    code = (
        "import sys\nfrom fastvlm_bench.suites.suite import load_suite\n"
        "import fastvlm_bench.config, fastvlm_bench.machine.clock\n"
        "import fastvlm_bench.machine.memory, fastvlm_bench.machine.environment\nload_suite('coco-caption', limit=1)\n"
        "print([m for m in ('torch', 'transformers', 'PIL', 'numpy', 'psutil', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          cwd=Path(__file__).parents[2])  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr


def test_a_suite_file_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_BY_PATH", {})
    file = tmp_path / "elsewhere.toml"
    file.write_text(GOOD)
    assert "elsewhere" not in suite_names()
    found = read_definition(str(file))
    assert (found.name, found.folder) == ("elsewhere", tmp_path)
    assert read_definition("elsewhere") == found, "known by its name from then on"
    with pytest.raises(UsageError, match=r"nowhere\.toml does not exist; give a file, or a name"):
        read_definition(str(tmp_path / "nowhere.toml"))


def test_a_suite_of_ones_own_takes_the_place_of_a_shipped_one(folder: Path) -> None:
    (folder / "describe.toml").write_text(GOOD)
    assert read_definition("describe").folder == folder
