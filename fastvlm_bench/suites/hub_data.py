"""Data that people keep in files of a data set's repository: a folder on this machine, or `hf:OWNER/NAME[@REVISION]`.

Both give the names of files, and a path for a name. From the hub, single files are fetched, when they are asked for,
into the hub's own cache. That cache does not tell whether it holds all of a data set, so the list of a commit's files
is kept beside it.
"""

import contextlib
import json
import re
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from fastvlm_bench.errors import UsageError, WriteFailed
from fastvlm_bench.records.storage import write_atomically
from fastvlm_bench.suites.files import cache_folder

PREFIX = "hf:"
SPELLING = re.compile(r"(?i:hf):/*(?:datasets/)?([\w.-]+/[\w.-]+(?:@\S+)?)/?")
"""What people also write: hf://datasets/OWNER/NAME, as fsspec has it, and HF:OWNER/NAME."""
HUB_TIMEOUT_S = 10.0
KINDS = ("*.parquet", "*.arrow")
DEPTH = 3
"""How deep below a folder its tables are looked for."""


class Files(Protocol):
    """Files by their names, relative and with slashes. label: how the user gave the place. note: what a reader of the
    numbers must know of it, or ""."""

    @property
    def label(self) -> str: ...
    @property
    def note(self) -> str: ...
    def names(self) -> list[str]: ...
    def path(self, name: str) -> Path | None: ...


def is_hub(data: str | Path) -> bool:
    """Whether --data names a repository of the hub, be it in another spelling, which `HubData` then refuses."""
    return str(data).lower().startswith(PREFIX)


def spelled(data: str | Path) -> str:
    """--data as this package spells it where another spelling is known, else unchanged."""
    meant = SPELLING.fullmatch(str(data))
    return f"{PREFIX}{meant[1]}" if meant else str(data)


class Folder:
    """The files below a folder. `names` lists tables only, since there may be many images."""

    def __init__(self, root: Path, label: str = "") -> None:
        self.root, self.label = root, label or str(root)
        self.note = ""

    def names(self) -> list[str]:
        patterns = ["*/" * depth + kind for kind in KINDS for depth in range(DEPTH)]
        return sorted(
            path.relative_to(self.root).as_posix() for pattern in patterns for path in self.root.glob(pattern)
        )

    def path(self, name: str) -> Path | None:
        """The file's path; None if there is none."""
        return self.root / name if (self.root / name).is_file() else None


class Listing(NamedTuple):
    """The commit (None: the hub did not say) and the names of its files. note: as in `Files`."""

    commit: str | None
    names: list[str]
    note: str = ""


class HubData:
    """A data set's repository on the hub, or what the hub's cache has of it where the hub may not or cannot be asked.

    offline: it may not. limited: only the first samples are wanted, for which a part of the data set may do.
    """

    def __init__(self, data: str | Path, offline: bool = False, limited: bool = False) -> None:
        text = str(data).removeprefix(PREFIX)
        self.repository, _, revision = text.partition("@")
        self.revision = revision or None
        self.offline, self.limited = offline, limited
        self._paths: dict[str, Path] = {}
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repository) or text.endswith("@"):
            meant = spelled(data)
            hint = f"; did you mean {meant}?" if meant != str(data) else ""
            raise UsageError(
                f"--data {data}: give a data set of the hub as hf:OWNER/NAME or hf:OWNER/NAME@REVISION{hint}"
            )

    @property
    def label(self) -> str:
        """The place with the commit that was read, so that the record names the bytes."""
        commit = self._listing.commit or self.revision
        return f"{PREFIX}{self.repository}" + (f"@{commit}" if commit else "")

    @property
    def note(self) -> str:
        return self._listing.note

    def names(self) -> list[str]:
        return self._listing.names

    @cached_property
    def _listing(self) -> Listing:
        """The names of the data set's files, asked of the hub, else as they were kept when it was last asked."""
        from huggingface_hub import HfApi, is_offline_mode
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        if self.offline or is_offline_mode():
            return self._from_cache("with --offline or HF_HUB_OFFLINE", "")
        try:
            info = HfApi().dataset_info(self.repository, revision=self.revision, timeout=HUB_TIMEOUT_S)
        except GatedRepoError:
            raise self._gated() from None
        except RevisionNotFoundError:
            raise UsageError(f"data set '{self.repository}' has no revision '{self.revision}': name a branch, "
                             "a tag or a commit") from None  # fmt: skip
        except RepositoryNotFoundError:
            raise UsageError(f"the hub has no public data set '{self.repository}': check the id, or log in with "
                             "`hf auth login`") from None  # fmt: skip
        except Exception as error:  # each way of being offline has an exception of its own
            status = getattr(getattr(error, "response", None), "status_code", None)
            said = "does not answer" if status is None else f"answers with HTTP {status}"
            return self._from_cache(f"as the hub {said}", f"the hub {said}: its cache was read, which may be older")
        names = sorted(sibling.rfilename for sibling in info.siblings or ())
        self._keep(info.sha, names)
        return Listing(info.sha, names)

    def _from_cache(self, why: str, note: str) -> Listing:
        """The listing without the hub. UsageError where the cache has nothing, or what may be a part of the whole."""
        folder = self._cached()
        if folder is None:
            raise UsageError(f"data set '{self.repository}' is not in the hub's cache, and {why} it cannot be fetched: "
                             "run once online, or give a folder with --data")  # fmt: skip
        try:
            names = json.loads(self._list_file(folder.name).read_text(encoding="utf-8"))
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                return Listing(folder.name, names, note)
        except (OSError, ValueError):
            pass  # it was never kept, or is damaged, which is the same
        if not self.limited:
            raise UsageError(
                f"the hub's cache may hold only a part of data set '{self.repository}', whose list of files was not "
                f"kept, and {why} it cannot be asked for: run once online, or use --limit to stay with the samples "
                f"that are there; if all is there, give --data {folder}"
            )
        partial = f"partial: of {self.repository} only what was in the hub's cache was read"
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return Listing(folder.name, names, f"{note}; {partial}" if note else partial)

    def _list_file(self, commit: str) -> Path:
        return cache_folder("listings") / f"{self.repository.replace('/', '--')}@{commit}.json"

    def _keep(self, commit: str | None, names: list[str]) -> None:
        """Keep a listing for when the hub cannot be asked. One that cannot be written will be refused then."""
        if commit is None or (file := self._list_file(commit)).is_file():
            return
        with contextlib.suppress(OSError, WriteFailed):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(names).encode("ascii"))

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
        if name not in self._listing.names:
            return None
        if name not in self._paths:
            self._paths[name] = self._fetched(name)
        return self._paths[name]

    def _fetched(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download, is_offline_mode
        from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

        alone = self.offline or is_offline_mode()
        try:
            path = Path(hf_hub_download(self.repository, name, repo_type="dataset", revision=self.revision,
                                        local_files_only=alone))  # fmt: skip
        except GatedRepoError:
            raise self._gated() from None
        except LocalEntryNotFoundError:
            raise UsageError(f"{self.label}: {name} is missing; it is not in the hub's cache and cannot be fetched: "
                             "check the network, leave --offline out, or use --limit to stay with the first samples; "
                             "what came is kept") from None  # fmt: skip
        except Exception as error:  # those of the HTTP client are no OSError, and a name that leads out is a ValueError
            reason = " ".join(str(error).split()[:40]) or type(error).__name__
            raise UsageError(f"{self.label}: {name} cannot be fetched ({reason}); what came is kept, give the command "
                             "again") from None  # fmt: skip
        commit = Path(str(path).removesuffix(f"/{name}")).name
        if commit != (self._listing.commit or commit):
            raise UsageError(f"{self.label}: {name} came from another commit, {commit}: the data set "
                             "changed meanwhile; give the command again, or name a commit with "
                             f"hf:{self.repository}@COMMIT")  # fmt: skip
        return path
