"""Questions about the embedded world: each has one answer, which its scene bears out; knowledge is unambiguous."""

from collections import Counter

import numpy as np
import pytest

from fastvlm_bench.world import knowledge, questions
from fastvlm_bench.world.language import article, plural
from fastvlm_bench.world.scenes import KINDS, POSITIONS, Object, Scene, sample_scene


def asked(count: int, seed: int = 2) -> list[tuple[Scene, questions.Question]]:
    rng = np.random.default_rng(seed)
    worlds = [sample_scene(rng, held_out=False) for _ in range(count)]
    return [(scene, q) for scene in worlds for q in questions.questions(scene, rng)]


def named(scene: Scene, text: str) -> list[Object]:
    """The one thing of each kind that the question names, in the order of naming."""
    words = text.rstrip("?").split()
    kinds = [word for word in words if word in KINDS]
    found = [[o for o in scene.objects if o.kind == kind] for kind in kinds]
    assert all(len(same) == 1 for same in found), text
    return [same[0] for same in found]


def true_answer(scene: Scene, q: questions.Question) -> str:
    """The answer, read off the scene by code that is independent of `questions`."""
    things, text = scene.objects, q.text
    if q.kind == "count":
        return str(len(things))
    if q.kind == "count-color":
        return str(sum(f" {o.color} " in text for o in things))
    if q.kind == "count-kind":
        return str(sum(f" {plural(o.kind)} " in text for o in things))
    if q.kind == "place":
        return scene.place
    if q.kind == "time":
        claims = {"Is it daytime?": "day", "Is the sun setting?": "sunset", "Is it night?": "night"}
        return scene.time if text not in claims else "yes" if claims[text] == scene.time else "no"
    if q.kind == "exists":
        name = text.removesuffix(" in the image?").rstrip("?")
        return "yes" if any(name.endswith((f" {article(o.kind)}", f" {o.color} {o.kind}")) for o in things) else "no"
    if q.kind == "what-at":
        position = text.removeprefix("What is in the ").rstrip("?")
        assert position in POSITIONS
        return next((o.kind for o in things if o.position == position), "nothing")
    if q.kind == "which":
        (item,) = [o for o in things if o.color in text]
        return item.kind
    if q.kind in ("color", "size", "where"):
        (item,) = named(scene, text)
        return {"color": item.color, "size": item.size, "where": item.position}[q.kind]
    a, b = named(scene, text)
    if "left" in text or "right" in text:
        assert a.column != b.column
        truth = "left" if a.column < b.column else "right"
    else:
        assert a.row != b.row
        truth = "above" if a.row < b.row else "below"
    return truth if q.kind == "side" else "yes" if truth in text else "no"


def test_every_answer_is_borne_out_by_the_scene() -> None:
    kinds = Counter[str]()
    for scene, q in asked(1500):
        kinds[q.kind] += 1
        assert q.text.endswith("?") and q.answer
        if q.kind != "knowledge":
            assert q.answer == true_answer(scene, q), (q, scene)
    assert len(kinds) == 14 and min(kinds.values()) > 500


@pytest.mark.slow  # the committed questions are final
def test_yes_and_no_are_balanced() -> None:
    answers = Counter((q.kind, q.answer) for _, q in asked(1500))
    for kind, yes, no in (("exists", "yes", "no"), ("relation", "yes", "no"), ("side", "left", "right")):
        assert 0.45 < answers[kind, yes] / (answers[kind, yes] + answers[kind, no]) < 0.55


def test_knowledge_is_asked_only_where_one_answer_is_meant() -> None:
    """No property that is asked for belongs, clearly or in a way, to a second kind that is there."""
    rng, seen = np.random.default_rng(4), set[str]()
    for _ in range(1500):
        scene = sample_scene(rng, held_out=False)
        there = {o.kind for o in scene.objects}
        for q in questions.knowledge_questions(scene, rng):
            seen.add(q.text)
            for p in knowledge.PROPERTIES:
                if q.text in p.texts:
                    assert there & {*p.kinds, *p.doubtful} == {q.answer}
            for fact in knowledge.FACTS:
                if q.text in fact.texts:
                    (kind,) = there & {*fact.answers, *fact.meant}
                    assert q.answer == fact.answers[kind]
    every = {t for p in (*knowledge.PROPERTIES, *knowledge.FACTS, *knowledge.PLACE_FACTS) for t in p.texts}
    assert seen == every
    named_kinds = {k for p in knowledge.PROPERTIES for k in (*p.kinds, *p.doubtful)}
    assert named_kinds | {k for f in knowledge.FACTS for k in f.answers} == set(KINDS)


def test_an_answer_is_never_in_its_question_but_where_a_choice_is_offered() -> None:
    for _, q in asked(400):
        if q.kind not in ("size", "side", "knowledge", "time"):
            assert q.answer not in q.text.rstrip("?").split()
        if q.kind == "knowledge" and " or " not in q.text:
            assert q.answer not in q.text.lower().rstrip("?").split()


def test_ten_answers_agree_on_the_right_one() -> None:
    rng = np.random.default_rng(5)
    for _, q in asked(200):
        answers = questions.human_answers(q, rng)
        assert len(answers) == 10 and answers.count(q.answer) >= 7


def test_a_dialog_asks_each_question_once_in_small_letters() -> None:
    rng = np.random.default_rng(6)
    for _ in range(50):
        turns = questions.dialog(sample_scene(rng, held_out=False, min_objects=2), rng, 10)
        assert len({t.text for t in turns}) == len(turns) == 10
        assert all(t.text == t.text.lower() and "?" not in t.text for t in turns)


def test_questions_follow_from_scene_and_seed() -> None:
    assert [q for _, q in asked(50, seed=9)] == [q for _, q in asked(50, seed=9)]
