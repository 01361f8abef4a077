"""Asks the hub about a model before it is downloaded, and keeps `transformers` quiet while it loads."""

import contextlib
from collections.abc import Iterator

import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from fastvlm_bench.errors import UsageError

HUB_TIMEOUT_S = 5.0


def hub_answers(name: str, revision: str | None = None) -> bool:
    """Whether the hub can be asked for this model; if not, loading uses the cache alone.

    It is asked with a short time-out, because loading itself would retry each file for minutes. UsageError where the
    hub answers that there is no such model or revision, or that the model is gated.
    """
    try:
        HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_S)
    except GatedRepoError:
        raise UsageError(
            f"model '{name}' is gated: accept its terms on the hub, then log in with `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise UsageError(f"model '{name}' has no revision '{revision}': name a branch, a tag or a commit") from None
    except RepositoryNotFoundError:
        raise UsageError(
            f"the hub has no public model '{name}': check the id, or log in with `hf auth login`"
        ) from None
    except Exception:  # each way of being offline has an exception of its own
        return False
    return True


@contextlib.contextmanager
def quiet(downloads: bool) -> Iterator[None]:
    """Within the block transformers prints errors only, and progress bars only where something may be downloaded.

    Without torchvision it would print many lines: one for each image processor that falls back to Pillow.
    """
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    if not downloads:
        transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
