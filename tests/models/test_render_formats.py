"""The embedded splits over shared images: read by the official readers, true to their scenes, balanced, small."""

from collections import Counter
from pathlib import Path

import pytest

from fastvlm_bench.suites.catalogue import suites_folder
from fastvlm_bench.suites.suite import Sample, check_images, load_suite
from fastvlm_bench.world.scenes import KINDS, Scene
from fastvlm_bench.world.splits import suite_scenes


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Those of the embedded vqav2, whose images gqa, pope and visdial-gen share."""
    return suite_scenes("vqav2")


def scene_of(sample: Sample, scenes: list[Scene]) -> Scene:
    return scenes[int(sample.image_path.stem.rpartition("_")[2]) - 1]


@pytest.mark.parametrize(("name", "samples", "images", "groups"), [
    ("nocaps", 100, 100, {"in-domain", "near-domain", "out-domain"}),
    ("okvqa", 233, 120, {"other"}), ("gqa", 360, 120, {"query", "choose", "verify"}), ("visdial-gen", 300, 30, {""}),
    ("pope", 480, 40, {f"embedded_pope_{kind}" for kind in ("random", "popular", "adversarial")}),
])  # fmt: skip
def test_the_official_reader_reads_it(name: str, samples: int, images: int, groups: set[str]) -> None:
    suite = load_suite(name)
    check_images(suite)
    assert (suite.split, len(suite.samples), suite.source) == ("embedded", samples, "embedded (rendered scenes)")
    assert len({sample.image_path for sample in suite.samples}) == images
    assert {sample.group for sample in suite.samples} == groups


def asked_kind(sample: Sample) -> str:
    words = sample.question.removeprefix("Is there ").removesuffix(" in the image?").split()
    assert words[0] in ("a", "an") and words[1] in KINDS and len(words) == 2
    return words[1]


def test_pope_is_true_in_its_own_words_and_balanced_in_each_file(scenes: list[Scene]) -> None:
    for sample in load_suite("pope").samples:
        there = asked_kind(sample) in {o.kind for o in scene_of(sample, scenes).objects}
        assert sample.references == ("yes" if there else "no",)
    for file, labels in Counter((s.group, s.references[0]) for s in load_suite("pope").samples).items():
        assert labels == 80, file


def test_adversarial_questions_ask_for_what_is_often_there_with_the_rest(scenes: list[Scene]) -> None:
    """The absent kinds asked for occur more often beside the image's own kinds than those drawn from all kinds do."""
    held = [{o.kind for o in scene.objects} for scene in scenes]
    wrong = [s for s in load_suite("pope").samples if s.references == ("no",)]
    share = {}
    for kind in ("random", "adversarial"):
        own = [(asked_kind(s), {o.kind for o in scene_of(s, scenes).objects}) for s in wrong if s.group.endswith(kind)]
        share[kind] = sum(sum(k in kinds and bool(kinds & there) for kinds in held) for k, there in own) / len(own)
    assert share["adversarial"] > 1.7 * share["random"]


def test_okvqa_asks_for_what_no_picture_shows() -> None:
    suite = load_suite("okvqa")
    assert all("Unanswerable" in s.prompt and len(s.references) == 10 for s in suite.samples)
    assert not {"red", "top left", "3"} & {r for s in suite.samples for r in s.references}


def test_gqa_does_not_count_and_its_verified_answers_are_yes_or_no() -> None:
    for sample in load_suite("gqa").samples:
        assert "How many" not in sample.question
        assert (sample.references[0] in ("yes", "no")) == (sample.group == "verify")


def test_a_dialog_never_repeats_a_question() -> None:
    samples = load_suite("visdial-gen").samples
    for start in range(0, 300, 10):
        dialog = samples[start : start + 10]
        assert len({s.question for s in dialog}) == 10 and len({s.image_id for s in dialog}) == 1
        assert dialog[9].prompt.count(" a: ") == 9


def test_the_shared_images_keep_the_data_small() -> None:
    added = [
        p
        for name in ("nocaps", "okvqa", "gqa", "pope", "visdial")
        for p in Path(suites_folder() / "data" / name).iterdir()
    ]
    assert sum(path.stat().st_size for path in added) < 500_000
