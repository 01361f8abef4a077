"""`draft-model`: a second model sees the image and drafts; the output is the target's, and no pass is spent in vain."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from covering import covering
from decoding.test_batch import PROMPTS
from decoding.test_sampling import distance, options, outputs, products
from families.builders import FAMILIES, plain, randomise
from families.spelling import tokenizer as spelling
from PIL import Image
from second_models import Watched, drafts_of_its_own, given, off, show, silent, stood
from targets import generate, random_llava
from torch import Tensor
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.decoding.draft_model import DraftModel
from fastvlm_bench.embedded.parts import build_config, build_processor, build_tokenizer, save
from fastvlm_bench.engine.batch_inputs import collate
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.draft_model import TextModel, load_draft_model
from fastvlm_bench.models.draft_model_files import check_draft_model
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.models.names import TINY
from fastvlm_bench.records.record import read_run

COUNT = 24
ALIKE = 0.03
"""How far a draft model's weights are off, so that it is right at about two places of three."""


@pytest.fixture(scope="module")
def words() -> Any:
    return random_llava(2)[1]


@pytest.fixture(scope="module")
def target(llava: Any, words: Any) -> Any:
    return given(llava, words)


@pytest.fixture(scope="module")
def alike(llava: Any) -> Any:
    return off(llava, ALIKE)


def drafting(second: Any, target: Any, *inputs: dict[str, Tensor], **options: Any) -> Watched:
    """A method whose draft model is `second`, already shown its inputs."""
    return show(Watched(given(second, target.processor, *inputs), target=target, **options), len(inputs))


GREEDY: list[tuple[int, dict[str, Any]]] = [
    (1, {}), (6, {}), (5, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2})
]  # fmt: skip


@pytest.mark.parametrize(("gamma", "options"), covering(GREEDY, GREEDY[1:2]))
def test_it_is_standard_decoding(
    llava: Any, target: Any, alike: Any, inputs: Any, gamma: int, options: dict[str, Any]
) -> None:
    method = drafting(alike, target, inputs, gamma=gamma)
    assert generate(llava, inputs, method, COUNT, **options) == generate(llava, inputs, count=COUNT, **options)
    accepted, rejected = stood(method)
    assert accepted > 5 and rejected > 2
    if not options:
        assert drafts_of_its_own(method) > 3


@pytest.mark.slow  # processors are the engine's: test_identity.py has them in the default run
def test_processors_see_the_drafts_before(llava: Any, target: Any, inputs: Any) -> None:
    """A copy drafts what the target says only if a penalty sees, for each draft, those that stand before it."""
    options = {"repetition_penalty": 2.5, "no_repeat_ngram_size": 2}
    method = drafting(copy.deepcopy(llava), target, inputs, gamma=6)
    assert generate(llava, inputs, method, COUNT, **options) == generate(llava, inputs, count=COUNT, **options)
    assert stood(method) == (sum(len(own) for _, _, own in method.seen), 0)


def test_no_pass_is_spent_in_vain(llava: Any, target: Any, inputs: Any) -> None:
    """Every draft of a copy stands, so it lags by its last draft each round, and reads that with the bonus token."""
    second, read = copy.deepcopy(llava), list[int]()
    layer = second.model.language_model.layers[0]
    layer.register_forward_pre_hook(lambda _, states: read.append(states[0].shape[1]))
    method = drafting(second, target, inputs, gamma=4)
    assert generate(llava, inputs, method, COUNT) == generate(llava, inputs, count=COUNT)
    rounds = method.last.rounds  # type: ignore[union-attr]
    assert all(r.accepted == r.drafted == 4 for r in rounds[:-1]) and rounds[-1].accepted == rounds[-1].drafted
    assert len(read) == 1 + sum(r.drafted for r in rounds)
    assert read[1:] == [n for i, r in enumerate(rounds) if r.drafted for n in [1 + bool(i), *[1] * (r.drafted - 1)]]


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1, 4, 9])
def test_eos_and_limits(llava: Any, target: Any, alike: Any, inputs: Any, place: int) -> None:
    known = generate(llava, inputs, count=COUNT)
    for second in (alike, llava.__class__(llava.config).eval() if place == 4 else alike):
        method = drafting(second, target, inputs, gamma=5)
        cut = known[: known.index(known[place]) + 1]
        assert generate(llava, inputs, method, COUNT, eos_token_id=known[place]) == cut
        assert generate(llava, inputs, method, place + 1) == known[: place + 1]


@pytest.mark.slow
def test_doubt_stops_drafting(llava: Any, target: Any, alike: Any, inputs: Any) -> None:
    known, lengths = generate(llava, inputs, count=COUNT), []
    for stop_below in (0.0, 0.04, 0.9):
        method = drafting(alike, target, inputs, gamma=6, stop_below=stop_below)
        assert generate(llava, inputs, method, COUNT) == known
        lengths.append(sum(r.drafted for r in method.last.rounds) / len(method.last.rounds))  # type: ignore[union-attr]
    assert lengths[0] > lengths[1] > lengths[2] == 0


@pytest.mark.parametrize("more", covering([7, -9], [7]))
def test_another_image_size_and_another_head(llava: Any, target: Any, words: Any, inputs: Any, more: int) -> None:
    """A draft model with fewer image tokens and layers, and a padded LM head or a smaller one, has its own prompt."""
    config = build_config(words, 2)
    config.vision_config.image_size, config.image_seq_length = 60, 9
    config.text_config.vocab_size += more
    torch.manual_seed(3)
    second = hf.LlavaForConditionalGeneration(config).eval()
    ids = inputs["input_ids"][0].tolist()
    short = [token for token in ids if token != config.image_token_index]
    at = ids.index(config.image_token_index)
    own = torch.tensor([short[:at] + [config.image_token_index] * 9 + short[at:]])
    seen = {"input_ids": own, "attention_mask": torch.ones_like(own), "pixel_values": torch.randn(1, 3, 60, 60)}
    method = drafting(second, target, seen, gamma=3)
    assert generate(llava, inputs, method, 12) == generate(llava, inputs, count=12)
    assert drafts_of_its_own(method, every=1) > 6


def test_a_token_that_the_draft_model_cannot_read(llava: Any, target: Any, inputs: Any) -> None:
    """The target may say a token that stands for an image in the draft model's prompt."""
    known = generate(llava, inputs, count=COUNT)
    second = copy.deepcopy(llava)
    second.config.video_token_id = known[3]
    method = drafting(second, target, inputs, gamma=4)
    assert generate(llava, inputs, method, COUNT) == known
    drafted = {token for _, _, own in method.seen for token in own}
    assert stood(method)[0] > 2 and known[3] not in drafted


@pytest.mark.slow
@pytest.mark.parametrize("length", [3, 4])
def test_every_sampled_sequence_has_the_targets_probability(inputs: Any, words: Any, length: int) -> None:
    """By enumeration of all draws and coins, as in test_sampling.py, with three tokens to choose from."""
    model = random_llava(2)[0]
    with torch.inference_mode():
        said = model(**inputs).logits[0, -1].topk(3).indices.tolist()
    method = drafting(off(model, 0.3), given(model, words), inputs, gamma=2)
    found = outputs(model, inputs, method, **options(model, said, max_new_tokens=length))
    assert distance(found, products(model, inputs, said, length)) < 1e-5
    drafted = {tuple(own) for _, _, own in method.seen if own}
    assert len(drafted) >= 3 and max(map(len, drafted)) == length - 2, "drafts must be drawn"


# ------------------------------------------------------------------------------------------ batches


@pytest.fixture(scope="module")
def singles(words: Any) -> list[dict[str, Tensor]]:
    made = []
    for seed, prompt in enumerate(PROMPTS):
        ids = torch.tensor([words.encode("<s>USER: " + "<image>" * 36 + prompt, add_special_tokens=False)])
        pixels = torch.randn(1, 3, 120, 120, generator=torch.Generator().manual_seed(seed))
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels})
    return made


def rows(model: Any, batch: Any, method: Any, **options: Any) -> list[list[int]]:
    model.generate(**batch, max_new_tokens=COUNT, do_sample=False, custom_generate=method, **options)
    return [row.token_ids for row in method.trace.rows]


@pytest.mark.slow  # rows are the engine's: test_batch.py has them in the default run
def test_ragged_rows(llava: Any, target: Any, alike: Any, singles: Any) -> None:
    wanted, batch = [generate(llava, single, count=COUNT) for single in singles], collate(singles, 0)
    method = drafting(alike, target, *singles, gamma=5)
    assert rows(llava, batch, method) == wanted
    accepted = {tuple(r.accepted for r in row.rounds) for row in method.trace.rows}  # type: ignore[union-attr]
    assert len(accepted) > 1 and stood(method)[0] > 20 and stood(method)[1] > 5
    assert drafts_of_its_own(method, every=5) > 20
    eos = [wanted[0][6], wanted[2][1], wanted[3][0]]
    ends = [next((i + 1 for i, token in enumerate(row) if token in eos), COUNT) for row in wanted]
    assert len(set(ends)) > 2
    method.seen.clear()
    assert rows(llava, batch, method, eos_token_id=eos) == [row[:n] for row, n in zip(wanted, ends, strict=True)]


@pytest.mark.slow
def test_a_copy_stays_perfect_in_a_batch(llava: Any, target: Any, singles: Any) -> None:
    method = drafting(copy.deepcopy(llava), target, *singles, gamma=4)
    assert rows(llava, collate(singles, 0), method) == [generate(llava, single, count=COUNT) for single in singles]
    assert all(r.accepted == r.drafted for row in method.trace.rows for r in row.rounds)  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------ families


@pytest.mark.parametrize("name", covering(["qwen2_5_vl", "idefics3", "gemma3", "qwen3_5", "mllama"], ["qwen3_5"]))
def test_families_as_targets_and_drafts(name: str) -> None:
    """M-RoPE, tiles, sliding windows, recurrent states, cross-attention: each draft is what the model itself says."""
    torch.manual_seed(0)
    model, inputs = FAMILIES[name]()
    randomise(model, 1)
    target, never = given(model, spelling("<image>")), {"suppress_tokens": [2, *silent(model)]}
    known = plain(model, inputs, 16, **never)
    for share in (0.0, ALIKE):
        method = drafting(off(model, share), target, inputs, gamma=3)
        with torch.inference_mode():
            assert generate(model, inputs, method, 16, **never) == known
        assert drafts_of_its_own(method, every=2, **never) > 3
        if not share:
            assert stood(method) == (sum(len(own) for _, _, own in method.seen), 0) and stood(method)[0] > 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "qwen3_vl"])
def test_rows_of_families(name: str) -> None:
    """Sliding windows and M-RoPE in a ragged batch: rows of a draft model that lag by another number of tokens."""
    torch.manual_seed(0)
    model, first = FAMILIES[name]()
    randomise(model, 1)
    longer = {**first, "input_ids": first["input_ids"].clone()}
    longer["input_ids"][0, -3:] = torch.tensor([77, 30, 91])
    singles = [first, longer, {**first, "pixel_values": first["pixel_values"].flip(-1)}]
    never = {"suppress_tokens": [2, *silent(model)]}  # 2 is EOS
    wanted, batch = [plain(model, single, COUNT, **never) for single in singles], collate(singles, 0)
    method = drafting(off(model, ALIKE), given(model, spelling("<image>")), *singles, gamma=4)
    assert rows(model, batch, method, **never) == wanted
    assert drafts_of_its_own(method, every=5, **never) > 5 and min(stood(method)) > 5


@pytest.mark.slow  # the default run has a model that drafts with another's prompt, and a family
def test_a_family_drafts_for_another() -> None:
    torch.manual_seed(0)
    words = spelling("<image>")
    model, inputs = FAMILIES["smolvlm"]()
    second, seen = FAMILIES["qwen2_5_vl"]()
    randomise(model, 1), randomise(second, 1)
    method = drafting(second, given(model, words), seen, gamma=3)
    assert generate(model, inputs, method, 16) == plain(model, inputs, 16)
    assert drafts_of_its_own(method) > 4


# ------------------------------------------------------------------------------------------ text alone, folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the embedded checkpoint."""
    return Path(shutil.copytree(TINY, tmp_path_factory.mktemp("models") / "copy"))


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_target("tiny", device="cpu")


TEMPLATES = {
    None: "{}",
    "{% for m in messages %}<s>Q: {{ m['content'] }} A:{% endfor %}": "<s>Q: {} A:",
    "{% for m in messages %}{% for p in m['content'] %}[{{ p['text'] }}]{% endfor %}{% endfor %}": "[{}]",
}
"""Chat templates of a language model, for a text or for parts, and what they make of a prompt."""


@pytest.mark.parametrize("template", covering(TEMPLATES, [list(TEMPLATES)[2]]))
def test_a_language_model_drafts_without_the_image(tiny: Any, tmp_path: Path, template: str | None) -> None:
    words = copy.deepcopy(tiny.processor.tokenizer)
    words.chat_template = template
    second = hf.LlamaForCausalLM(tiny.model.config.text_config)
    second.model.load_state_dict(tiny.model.model.language_model.state_dict())
    second.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    check_draft_model("draft-model", str(tmp_path), "tiny")
    method = Watched(str(tmp_path), target=tiny, gamma=3)
    assert isinstance(method.second, TextModel) and method.second.model.dtype == tiny.model.dtype
    text, image = "Name the things that you see, please.", Image.effect_noise((120, 120), 60).convert("RGB")
    method.show([(image, text)])
    assert set(method._shown[0]) == {"input_ids", "attention_mask"}
    assert words.decode(method._shown[0]["input_ids"][0]) == TEMPLATES[template].format(text)
    inputs = tiny.encode(image, text)
    assert generate(tiny.model, inputs, method, 12) == generate(tiny.model, inputs, count=12)
    assert drafts_of_its_own(method, every=1) > 2


@pytest.mark.slow
def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    """A copy of the embedded model drafts for it: each draft stands, and the table says so. So does a stranger."""
    words = build_tokenizer(["what stands on the grey road below the hills?"] * 9)
    save(hf.LlavaForConditionalGeneration(build_config(words, 2)), build_processor(words), tmp_path / "stranger")
    call = ["run", "--suite", "coco-caption", "--limit", "5", "--threads", "1", "--warmup", "0",
            "--max-new-tokens", "12", "--out", str(tmp_path), "--phases", "-m", "standard",
            "-m", f"draft-model:model={folder},gamma=6,stop_below=0",
            "-m", f"token-timing:model={tmp_path / 'stranger'},gamma=2,stop_below=0"]  # fmt: skip
    result = CliRunner().invoke(app, call, catch_exceptions=False, env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    assert "5/5" in result.stdout and "token-timing" in result.stdout
    run = read_run(next(tmp_path.glob("*/run.json")).parent)
    (_, entry, other) = run.meta["methods"]
    assert entry["draft"]["source"] == str(folder) and entry["draft"]["sha256"] == run.meta["model"]["weights_sha256"]
    assert entry["extra_bytes"] == run.meta["model"]["weights_bytes"]
    assert other["draft"]["name"] == "stranger" and other["extra_bytes"] > 1e6
    strangers = [line for line in run.lines if line["method"] == other["label"]]
    assert sum(r[0] for line in strangers for r in line["rounds"]) > 10
    lines = [line for line in run.lines if line["method"] == entry["label"]]
    assert len(lines) == 5 and not any(line["error"] for line in lines)
    assert all(r[2] == r[0] for line in lines for r in line["rounds"])  # accepted, drafted
    assert all(line["phases"]["draft_s"] > line["phases"]["verify_s"] > 0 for line in lines)


def test_methods_share_what_they_load(tiny: Any, folder: Path) -> None:
    first, second = (DraftModel(str(folder), target=tiny, gamma=gamma) for gamma in (2, 4))
    assert first.second is second.second and load_draft_model(str(folder), tiny).model is first.second.model


# ------------------------------------------------------------------------------------------ refused


def other_words() -> Any:
    return build_tokenizer(["zebras and giraffes are grazing in the savannah"] * 9)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda f: shutil.rmtree(f), "unknown model"),
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda f: (f / "processor_config.json").unlink(), "no processor .*copy it from"),
        (lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")], "has no tokenizer"),
        (lambda f: other_words().save_pretrained(f), "tokenizer is not that of model 'tiny'.*-m token-timing:model="),
    ],
)
def test_refused_before_anything_is_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, words: str
) -> None:
    bad = Path(shutil.copytree(folder, tmp_path / "bad"))
    fault(bad)
    monkeypatch.setattr("fastvlm_bench.models.load.load_weights", lambda *_, **__: pytest.fail("nothing may be loaded"))
    result = CliRunner().invoke(app, ["run", "-m", f"draft-model:model={bad}", "--limit", "2", "--out", str(tmp_path)])
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1 and "draft-model:model=" in lines[0]
    with pytest.raises(UsageError, match=words):
        check_draft_model("draft-model", str(bad), "tiny")


def test_another_tokenizer_is_named_once_loaded(llava: Any, target: Any, words: Any) -> None:
    """Also where the vocabularies have the same tokens, and another text or another special token tells them apart."""
    same = copy.deepcopy(words)
    Watched(given(llava.__class__(llava.config), same), target=target)
    split, ended, mark = copy.deepcopy(words), copy.deepcopy(words), copy.deepcopy(words)
    split.backend_tokenizer.pre_tokenizer = __import__("tokenizers").pre_tokenizers.ByteLevel(add_prefix_space=True)
    ended.add_special_tokens({"additional_special_tokens": ["<end>"]})
    own = copy.deepcopy(words)
    own.add_special_tokens({"additional_special_tokens": ["<stop>"]})
    second = llava.__class__(copy.deepcopy(llava.config))
    for other, first, text in (
        (other_words(), words, "tokens differ"), (split, words, "split in other ways"), (ended, own, "'<stop>'"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=text) as caught:
            DraftModel(given(second, other), target=given(llava, first))
        assert "token-timing" in str(caught.value) and "\n" not in str(caught.value)
    mark.add_special_tokens({"additional_special_tokens": ["<picture>"]})  # one that is never said may differ
    second.config.image_token_id = mark.convert_tokens_to_ids("<picture>")
    DraftModel(given(second, mark), target=given(llava, own))


def test_misuse_is_refused_in_one_line(llava: Any, target: Any, alike: Any, inputs: Any, words: Any) -> None:
    method = DraftModel(given(alike, words, inputs), target=target)
    with pytest.raises(UsageError, match=r"shown 0 samples, and 1 are decoded: call show\("):
        generate(llava, inputs, method, 4)
    with pytest.raises(UsageError, match="the target itself"):
        DraftModel(given(llava, words), target=target)
    for wrong in ({"gamma": 0}, {"stop_below": 1.0}):
        with pytest.raises(ValueError, match="must be"):
            DraftModel(given(alike, words), target=target, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the draft model cannot be used: model .* is not in the cache, and --offline"):
        load_draft_model("nobody/no-such-model", Target("x", llava, None, torch.device("cpu"), None, offline=True))


def test_a_state_that_cannot_be_rolled_back_is_refused(
    llava: Any, target: Any, alike: Any, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastvlm_bench.drafters.following.can_roll_back", lambda *_: False)
    with pytest.raises(UsageError, match="cannot be rolled back, so it cannot draft"):
        generate(llava, inputs, drafting(alike, target, inputs), 4)


@pytest.mark.slow  # a corner: contexts of draft models are seldom so short
def test_a_full_context_ends_drafting(llava: Any, target: Any, alike: Any, inputs: Any) -> None:
    second = copy.deepcopy(alike)
    second.config.text_config.max_position_embeddings = inputs["input_ids"].shape[1] + 9
    method = drafting(second, target, inputs, gamma=4)
    assert generate(llava, inputs, method, COUNT) == generate(llava, inputs, count=COUNT)
    assert max(len(said) + len(own) for _, said, own in method.seen if own) <= 10
    assert not method.seen[-1][2]
