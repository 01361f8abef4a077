"""What the methods `eagle3` and `eagle` share: a head in a folder of somebody else's, loaded for a target."""

import hashlib
from pathlib import Path
from typing import Any

from fastvlm_bench.drafters.from_states import FromStates
from fastvlm_bench.drafts.formats import head_folder, in_words
from fastvlm_bench.drafts.head_files import weight_files
from fastvlm_bench.drafts.load_eagle import load_eagle
from fastvlm_bench.drafts.state_heads import Eagle
from fastvlm_bench.models.load import Target

IMAGES = ("merged", "placeholder")


class EagleMethod(FromStates):
    """draft: a folder, a hub id, or a loaded head. images: what the head reads of an image. aux: see `formats.py`.

    The head is loaded now if `target` is given, else at the first call. options: as `FromStates` takes them.
    """

    kind = "eagle3"

    def __init__(
        self, draft: str | Path | Eagle, *, images: str = "merged", aux: str | None = None,
        target: Target | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**options)
        if images not in IMAGES:
            raise ValueError(f"images must be one of {', '.join(IMAGES)}, not {images}")
        self.images, self.aux, self.source = images, aux, str(draft)
        self.folder: Path | None = None
        if isinstance(draft, Eagle):
            self._take(draft)
        elif target is not None:
            self.check(target.model)
            self._load(target.model, target.id)

    def _load(self, model: Any, name: str) -> Eagle:
        self.folder = head_folder(self.source)
        return self._take(load_eagle(self.kind, self.folder, model, name, self.aux))

    def _take(self, head: Eagle) -> Eagle:
        head.merged = self.images == "merged"
        self.head = head
        return head

    def head_for(self, model: Any) -> Eagle:
        if self.head is None:
            return self._load(model, type(model).__name__)
        assert isinstance(self.head, Eagle)
        return self.head

    @property
    def drafter(self) -> dict[str, Any] | None:
        if self.folder is None or self.head is None:
            return None
        digest = hashlib.sha256()
        for path in weight_files(self.folder):
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
        return {
            "kind": self.kind, "name": self.source.rstrip("/").rpartition("/")[2], "source": self.source,
            "sha256": digest.hexdigest(), **({"states": in_words(self.head.reads)} if self.kind == "eagle3" else {}),
        }  # fmt: skip
