"""Data that people keep in files of a data set's repository: a folder on this machine, or `hf:OWNER/NAME[@REVISION]`.

Both give the names of files, and a path for a name. From the hub, single files are fetched, when they are asked for,
into the hub's own cache.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Protocol

from fastvlm_bench.errors import UsageError

PREFIX = "hf:"
HUB_TIMEOUT_S = 10.0
KINDS = ("*.parquet", "*.arrow")
DEPTH = 3
"""How deep below a folder its tables are looked for."""


class Files(Protocol):
    """Files by their names, relative and with slashes. label: how the user gave the place."""

    @property
    def label(self) -> str: ...
    def names(self) -> list[str]: ...
    def path(self, name: str) -> Path | None: ...


def is_hub(data: str | Path) -> bool:
    """Whether --data names a repository of the hub."""
    return str(data).startswith(PREFIX)


class Folder:
    """The files below a folder. `names` lists tables only, since there may be many images."""

    def __init__(self, root: Path, label: str = "") -> None:
        self.root, self.label = root, label or str(root)

    def names(self) -> list[str]:
        patterns = ["*/" * depth + kind for kind in KINDS for depth in range(DEPTH)]
        return sorted(
            path.relative_to(self.root).as_posix() for pattern in patterns for path in self.root.glob(pattern)
        )

    def path(self, name: str) -> Path | None:
        """The file's path; None if there is none."""
        return self.root / name if (self.root / name).is_file() else None


class HubData:
    """A data set's repository on the hub, or what the hub's cache has of it where the hub may not or cannot be asked.

    offline: it may not.
    """

    def __init__(self, data: str | Path, offline: bool = False) -> None:
        text = str(data).removeprefix(PREFIX)
        self.repository, _, revision = text.partition("@")
        self.revision = revision or None
        self.offline = offline
        self._paths: dict[str, Path] = {}
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repository) or text.endswith("@"):
            raise UsageError(f"--data {data}: give a data set of the hub as hf:OWNER/NAME or hf:OWNER/NAME@REVISION")

    @property
    def label(self) -> str:
        """The place with the commit that was read, so that the record names the bytes."""
        commit = self._listing[0] or self.revision
        return f"{PREFIX}{self.repository}" + (f"@{commit}" if commit else "")

    def names(self) -> list[str]:
        return self._listing[1]

    @cached_property
    def _listing(self) -> tuple[str | None, list[str]]:
        """The commit and the names of its files, asked of the hub, else read from its cache."""
        from huggingface_hub import HfApi, is_offline_mode
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        if not self.offline and not is_offline_mode():
            try:
                info = HfApi().dataset_info(self.repository, revision=self.revision, timeout=HUB_TIMEOUT_S)
                return info.sha, sorted(sibling.rfilename for sibling in info.siblings or ())
            except GatedRepoError:
                raise self._gated() from None
            except RevisionNotFoundError:
                raise UsageError(f"data set '{self.repository}' has no revision '{self.revision}': name a branch, "
                                 "a tag or a commit") from None  # fmt: skip
            except RepositoryNotFoundError:
                raise UsageError(f"the hub has no public data set '{self.repository}': check the id, or log in with "
                                 "`hf auth login`") from None  # fmt: skip
            except Exception:  # each way of being offline has an exception of its own
                pass
        folder = self._cached()
        if folder is None:
            why = (
                "with --offline or HF_HUB_OFFLINE"
                if self.offline or is_offline_mode()
                else "as the hub does not answer"
            )
            raise UsageError(f"data set '{self.repository}' is not in the hub's cache, and {why} it cannot be fetched: "
                             "run once online, or give a folder with --data")  # fmt: skip
        return folder.name, sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def _gated(self) -> UsageError:
        return UsageError(f"data set '{self.repository}' is gated: accept its terms on the hub, then log in with "
                          "`hf auth login`")  # fmt: skip

    def _cached(self) -> Path | None:
        """The folder of the snapshot in the hub's cache; None if it is not there."""
        from huggingface_hub import constants

        base = Path(constants.HF_HUB_CACHE) / f"datasets--{self.repository.replace('/', '--')}"
        reference = base / "refs" / (self.revision or "main")
        commit = reference.read_text().strip() if reference.is_file() else self.revision
        folder = base / "snapshots" / (commit or "")
        return folder if commit and folder.is_dir() else None

    def path(self, name: str) -> Path | None:
        """The file in the hub's cache, fetched if need be (with the hub's progress bar); None if there is none."""
        if name not in self._listing[1]:
            return None
        if name not in self._paths:
            self._paths[name] = self._fetched(name)
        return self._paths[name]

    def _fetched(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download, is_offline_mode
        from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

        alone = self.offline or is_offline_mode()
        try:
            return Path(hf_hub_download(self.repository, name, repo_type="dataset", revision=self.revision,
                                        local_files_only=alone))  # fmt: skip
        except GatedRepoError:
            raise self._gated() from None
        except LocalEntryNotFoundError:
            raise UsageError(f"{self.label}: {name} is not in the hub's cache and cannot be fetched; check the "
                             "network, or leave --offline out; what came is kept") from None  # fmt: skip
        except OSError as error:
            raise UsageError(f"{self.label}: {name} cannot be fetched ({str(error).splitlines()[0]}); what came is "
                             "kept, give the command again") from None  # fmt: skip
