"""What a training leaves: draft folders with manifest, weights and card, and the curve as CSV and picture."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastvlm_bench import __version__
from fastvlm_bench.drafts.imitation_head import Draft, describe_target
from fastvlm_bench.drafts.manifest import Manifest, decoded_by
from fastvlm_bench.drafts.speculation_profile import PROFILE, profile
from fastvlm_bench.models.load import Target
from fastvlm_bench.models.names import OWN, split_revision
from fastvlm_bench.records.storage import now, write_atomically
from fastvlm_bench.report.picture_style import blank, can_draw, colour, marker, save_picture, styled
from fastvlm_bench.training import parallel
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.display import Display
from fastvlm_bench.training.folder import LOG, QUALITY
from fastvlm_bench.training.settings import TrainSettings
from fastvlm_bench.training.student import Student
from fastvlm_bench.training.trainer import HeadTrainer
from fastvlm_bench.training.validation import GAMMA

CURVE_COLUMNS = ("done", "elapsed_s", "draft", "loss", "alpha", "tau", "speedup", "gamma", "stop_below")


def save_drafts(
    settings: TrainSettings, target: Target, trainer: HeadTrainer, best: Mapping[str, Mapping[str, Any]],
    data: Mapping[str, Any], display: Display, begin: Callable[[str], None],
) -> list[Path]:  # fmt: skip
    """Write the best state of each recipe, the curve, and say how to use them. Returns the draft folders.

    begin: called with what begins: each draft's writing, the curve, and the end.
    """
    if not parallel.leads():
        return []
    root, made = Path(settings.out), []
    favourite = max(best, key=lambda name: best[name]["validated"]["speedup"])
    for student in trainer.students:
        kept = best[student.name]
        begin(f"writing {student.name}")
        student.head.load_state_dict(kept["head"])
        folder = root if len(trainer.students) == 1 else root / student.name
        draft = _finished(settings, target, trainer, student, kept, data, default=student.name == favourite)
        draft.save(folder)
        write_profile(settings, folder, kept["validated"])
        (folder / "README.md").write_text(
            card(settings, target.id, folder, draft.manifest, kept["validated"]), encoding="utf-8"
        )
        made.append(folder)
    begin("writing the curve")
    write_curve(root)
    picture = draw_curve(root, settings.updates if settings.refine_updates else None)
    begin("done")
    own = best[favourite]["validated"]
    drawn = f" and {picture}" if picture else " (its picture needs: pip install 'fastvlm-bench[plots]')"
    display.conclude(f"saved {', '.join(map(str, made))}; curve in {root / 'curve.csv'}{drawn}")
    if own["speedup"] <= 1:
        display.conclude(f"no draft is predicted to be faster than standard decoding ({own['speedup']:.2f}x at best): "
                         "train longer, on more samples, or with another head or exit")  # fmt: skip
    display.conclude(
        f"best: {favourite}, held-out α {own['alpha']:.3f}, predicted decode speed-up {own['speedup']:.2f}x at "
        f"γ {own['gamma']}, stop below {own['stop_below']:g}. Measure it:"
    )
    display.conclude("  " + measure_command(settings, target.id, root, own, _method(trainer, favourite)))
    if settings.push:
        push(root, settings.push, display)
    return made


def write_profile(settings: TrainSettings, folder: Path, own: Mapping[str, Any]) -> None:
    """The acceptance on held-out text beside the draft, for `predict --draft` and other tools."""
    if own.get("counts"):  # a training that an older version began has none
        found = profile(own["counts"], tokens=own["tokens"], rounds=own["rounds"], gamma=GAMMA,
                        data=list(own["by_suite"]) or list(settings.suites),
                        tool=f"fastvlm-bench {__version__}")  # fmt: skip
        write_atomically(folder / PROFILE, json.dumps(found, indent=1).encode())


def _method(trainer: HeadTrainer, name: str) -> str:
    return decoded_by(next(student.recipe.head for student in trainer.students if student.name == name))


def measure_command(
    settings: TrainSettings, model: str, root: Path, own: Mapping[str, Any], method: str = "fastvlm"
) -> str:
    """The `run` command that measures the draft, beside the raw exit (layerskip) where the draft has an exit."""
    suite = settings.suites[0] if settings.suites else "jsonl"
    where = f" --data {settings.data}" if settings.data else "" if settings.suites else " --data FILE.jsonl"
    loading = "".join(
        f" --{name.replace('_', '-')}" + (f" {value}" if isinstance(value, str) else "")
        for name, value in settings.loading.items()
        if value and value != "auto" and name in ("dtype", "attn", "quantize", "trust_remote_code")
    )
    return (
        f"fastvlm-bench run --model {model}{loading} --draft {root} --suite {suite}{where} "
        f"-m {method}:gamma={own['gamma']},stop_below={own['stop_below']:g}"
        + (" -m layerskip" if method == "fastvlm" else "")
    )


def _finished(
    settings: TrainSettings, target: Target, trainer: HeadTrainer, student: Student, kept: Mapping[str, Any],
    data: Mapping[str, Any], *, default: bool,
) -> Draft:  # fmt: skip
    recipe, own, draft = student.recipe, kept["validated"], trainer.draft(student)
    manifest = Manifest(
        exit_layer=draft.exit_layer, head=recipe.head, losses=dict(recipe.losses), default=default,
        head_parameters=sum(p.numel() for p in student.head.parameters()), head_options=dict(recipe.head_options),
        draft_vocabulary=0 if trainer.output_ids is None else len(trainer.output_ids),
        validation={suite: round(alpha, 4) for suite, alpha in own["by_suite"].items()},
        advice={"gamma": own["gamma"], "stop_below": own["stop_below"], "speedup": round(own["speedup"], 3)},
        data={**data, "kept_update": kept["done"], "recipe": recipe.as_dict()},
        **describe_target(target.model),
    )  # fmt: skip
    return Draft(draft.exit_layer, student.head.eval(), manifest, draft.output)


def story(settings: TrainSettings, base: Sequence[Example]) -> dict[str, Any]:
    """The entry `data` of a manifest: on what the draft was trained, how long, and what phase 1 did before."""
    s = settings
    text = [*(["the target's own greedy answers"] if s.on_policy else []), *(["references"] if s.references else [])]
    tuned = {}
    if s.finetune_backbone:
        quality = json.loads((Path(s.out) / QUALITY).read_text(encoding="utf-8"))
        tuned = {"finetuned_backbone": {"how": s.finetune_backbone, "of": s.model, "quality": quality}}
    return {
        "source": " and ".join(text), "samples": s.images or s.data or "rendered training scenes",
        "suites": list(s.suites), "texts": len(base), "tokens": sum(len(e.answer) for e in base),
        "updates": s.updates, "refine_updates": s.refine_updates, "batch": s.batch, "lr": s.lr, "seed": s.seed,
        "trained_at": now()[:10], **tuned,
    }  # fmt: skip


def write_curve(root: Path) -> None:
    """Write log.jsonl as a table, curve.csv: one row for each validation and draft."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CURVE_COLUMNS)
    for line in _validations(root):
        for name, own in line["validated"].items():
            writer.writerow([
                line["done"], line["elapsed_s"], name, line["loss"].get(name), own["alpha"], own["tau"],
                own["speedup"], own["gamma"], own["stop_below"],
            ])  # fmt: skip
    write_atomically(root / "curve.csv", text.getvalue().encode())


def draw_curve(root: Path, refined_from: int | None = None) -> Path | None:
    """The curve as a picture: α and predicted speed-up over the updates. None without matplotlib.

    refined_from: the update after which refinement began, marked by a line.
    """
    if not can_draw():
        return None
    with styled("the curve"):
        return _drawn(root, refined_from)


def _drawn(root: Path, refined_from: int | None) -> Path:
    figure = blank(7, 5)
    axes = figure.subplots(2, 1, sharex=True)
    lines = _validations(root)
    for place, name in enumerate(dict.fromkeys(name for line in lines for name in line["validated"]), start=1):
        seen = [line for line in lines if name in line["validated"]]
        for axis, key in zip(axes, ("alpha", "speedup"), strict=True):
            axis.plot([line["done"] for line in seen], [line["validated"][name][key] for line in seen], label=name,
                      color=colour(place), marker=marker(place))  # fmt: skip
    if refined_from is not None:
        for axis in axes:
            axis.axvline(refined_from, color="0.5", linestyle="--", linewidth=1)
        axes[0].text(refined_from, 1.01, "refinement", transform=axes[0].get_xaxis_transform(), fontsize=7, ha="center")
    axes[0].set_ylabel("held-out α (γ 10)")
    axes[1].set_ylabel("predicted decode speed-up")
    axes[1].set_xlabel("update")
    axes[0].legend()
    path = root / "curve.png"
    save_picture(figure, path, "the curve")
    return path


def _validations(root: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (root / LOG).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "validated" in line]


def card(settings: TrainSettings, model: str, folder: Path, manifest: Manifest | None, own: Mapping[str, Any]) -> str:
    """The README of a draft folder, as the hub shows it. Every number is from the manifest or the validation."""
    assert manifest is not None
    base = [] if model in OWN or Path(model).is_dir() else [f"base_model: {split_revision(model)[0]}"]
    places = ", ".join(f"{value:.2f}" for value in own["by_position"])
    losses = ", ".join(f"{name} {weight:g}" for name, weight in manifest.losses.items())
    method = decoded_by(manifest.head)
    where = f"Exit layer {manifest.exit_layer} of {manifest.target_layers} with a head of kind `{manifest.head}`"
    if manifest.at_the_end:
        where = f"Heads of kind `{manifest.head}` after the last of {manifest.target_layers} layers"
    rows = "\n".join(f"| {suite} | {alpha:.3f} |" for suite, alpha in own["by_suite"].items())
    return "\n".join([
        "---", "library_name: fastvlm-bench", *base, "tags: [speculative-decoding, vision-language, draft]", "---",
        "# A draft for self-speculative decoding", "",
        f"{where} ({manifest.head_parameters:,} parameters), for `{model}` ({manifest.target_architecture}, weights "
        f"`{manifest.target_weights_sha256[:16]}`). It is refused by any other model.", "",
        f"Trained on {manifest.data['texts']} texts ({manifest.data['source']}; {manifest.data['samples']}), "
        f"{manifest.data['tokens']} tokens, for {manifest.data['updates']} updates and "
        f"{manifest.data['refine_updates']} of refinement; losses {losses}.", "",
        "| held-out samples of | α (γ 10, no confidence stop) |", "| --- | --- |", rows, "",
        *([f"α by place in the draft: {places}.", ""] if places else []),
        f"Predicted decode speed-up on the machine that trained it: {own['speedup']:.2f} at γ {own['gamma']}, "
        f"stop_below {own['stop_below']:g}. A prediction is not a measurement; measure with", "",
        "```sh", measure_command(settings, model, Path(settings.push or folder), own, method), "```", "",
    ])  # fmt: skip


def push(root: Path, repository: str, display: Display) -> None:
    """Upload the draft folder to the hub, but not the training's state, answers and settings."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, exist_ok=True)
    api.upload_folder(
        folder_path=root, repo_id=repository, ignore_patterns=["*.pt", "answers*.jsonl", "settings.json", ".*"]
    )
    display.conclude(f"pushed to {repository}: use it with --draft {repository}")
