"""Finds the config.json that a user means: of `tiny`, of a folder, a file, the hub's cache, or the hub itself.

Nothing else of a checkpoint is read or downloaded.
"""

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from fastvlm_bench.drafts.manifest import first_line
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.hub import asks_nothing, cached_commit, hub_answers, offline_by, quiet
from fastvlm_bench.models.names import TINY, check_model_name, split_revision
from fastvlm_bench.models.whole import reads_text_alone


def read_config(name: str, *, trust_remote_code: bool = False, offline: bool = False) -> Any:
    """The configuration of a vision-language model. UsageError, in one line, where there is none or it is another."""
    if name.endswith(".json") or Path(name).is_file():
        if not Path(name).is_file():
            raise UsageError(f"there is no file {name}; give a config.json, a folder with one, or a hub id")
        source, revision, local = name, None, True
    else:
        check_model_name(name)
        source, revision = (str(TINY), None) if name == "tiny" else split_revision(name)
        local = Path(source).is_dir()
    with asks_nothing(offline):
        if not local and cached_commit(source, revision) is not None:
            local = True
        elif not local and not hub_answers(source, revision):
            by = offline_by(offline)
            why = f"{by} forbids asking the hub" if by else "the hub cannot be asked"
            raise UsageError(f"the config.json of '{name}' is not in the cache, and {why}; give a folder or its "
                             "config.json")  # fmt: skip
        try:
            with quiet(downloads=not local):
                config = AutoConfig.from_pretrained(
                    source, revision=revision, local_files_only=local, trust_remote_code=trust_remote_code
                )
        except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
            if "trust_remote_code" in str(error):
                raise UsageError(f"'{name}' needs Python code of its own; read that code, then allow it with "
                                 "--trust-remote-code") from None  # fmt: skip
            raise UsageError(f"no configuration can be read from '{name}' ({first_line(error)}); give the "
                             "config.json of a vision-language model") from None  # fmt: skip
    if reads_text_alone(config) or config.get_text_config(decoder=True) is config and not _vision(config):
        raise UsageError(f"'{name}' is a text model ({config.model_type}): predict reads the config.json of a "
                         "vision-language model")  # fmt: skip
    return config


def _vision(config: Any) -> bool:
    return any(getattr(config, part, None) is not None for part in ("vision_config", "vision_tower", "visual"))
