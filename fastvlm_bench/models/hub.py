"""What the hub says of a model before it is downloaded, and how loud `transformers` is meanwhile."""

import contextlib
from collections.abc import Iterator

import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from fastvlm_bench.errors import UsageError

HUB_TIMEOUT_S = 5.0


def hub_answers(name: str, revision: str | None = None) -> bool:
    """Whether the hub can be asked for this model; without it, the cache serves at once, or not at all.

    Asked first with a short time-out, because loading would retry each file for minutes. UsageError where the hub
    answers that there is no such model, or that it is gated.
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
    """Without torchvision, transformers tells of each fallback to Pillow: many lines too many.

    Its progress bars stay only where something may be downloaded.
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
