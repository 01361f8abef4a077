"""Finds the files that declare a method or a metric: one file is all that either of them needs.

A file declares itself by an assignment at its top level, `METHOD = MethodKind(...)` or `METRIC = MetricKind(...)`.
That is read without running the file, so that names and options are known without torch. Files are looked for in the
package's own folder and in the folder that `FASTVLM_BENCH_PLUGINS` names; a single file can be added by its path.
"""

import ast
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from fastvlm_bench.errors import UsageError, did_you_mean

FOLDER_VARIABLE = "FASTVLM_BENCH_PLUGINS"
NAME = re.compile(r"[a-z][a-z0-9_]*")
K = TypeVar("K")


class Declarations(Mapping[str, K]):
    """Name -> declaration, of all methods or of all metrics. `first` comes first, the others follow by name.

    what: "method" or "metric". variable: what the files assign. kind: the declaration's class. package: the dotted name
    of the folder of the package. words: what a declaration may use. named: makes the name of a file's stem.
    """

    def __init__(
        self, what: str, variable: str, kind: type[K], package: str, words: Mapping[str, Any], *,
        named: Callable[[str], str] = str, first: str = "",
    ) -> None:  # fmt: skip
        self.what, self.variable, self.kind, self.package, self.words = what, variable, kind, package, words
        self.named, self.first = named, first
        self._added: dict[str, Path] = {}
        self._known: tuple[Any, dict[str, tuple[K, Path]]] | None = None

    def __getitem__(self, name: str) -> K:
        return self._all()[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def add(self, file: str | Path) -> str:
        """Take up a file from anywhere. Returns its name. UsageError if it is none, or its name is taken."""
        path = Path(file).expanduser().resolve()
        if not path.is_file():
            raise UsageError(f"there is no file {file}; name a file of a {self.what}, or one of {', '.join(self)}")
        if declaration(path, self.variable) is None:
            raise UsageError(f"{file} declares no {self.what}: it needs {self.variable} = {self.kind.__name__}(...)")
        name = self._name(path)
        if (taken := self._all().get(name)) is not None and taken[1] != path:
            raise UsageError(f"{file}: there is a {self.what} '{name}' already, in {taken[1]}; rename the file")
        self._added[name] = path
        return name

    def known(self, text: str) -> str:
        """The name that a user's text stands for: a name, or the path of a file. UsageError if it is neither."""
        if text.endswith(".py"):
            return self.add(text)
        if text not in self:
            raise UsageError(f"unknown {self.what} '{text}': one of {', '.join(self)}{did_you_mean(text, self)}")
        return text

    def path(self, name: str) -> Path:
        """The file of a name."""
        return self._all()[name][1]

    def own(self, name: str) -> bool:
        """Whether the file is one of the package's own."""
        return self.path(name).parent == self._folder

    def module(self, name: str) -> ModuleType:
        """Import the file. UsageError, in one line, where a user's file cannot be imported."""
        path = self.path(name)
        if self.own(name):
            return importlib.import_module(f"{self.package}.{path.stem}")
        return _module_of(path)

    @property
    def _folder(self) -> Path:
        return Path(__file__).parent / self.package.rpartition(".")[2]

    def _name(self, path: Path) -> str:
        if not NAME.fullmatch(path.stem):
            raise UsageError(f"{path}: the file of a {self.what} is named by small letters, digits and '_'; rename it")
        return self.named(path.stem)

    def _all(self) -> dict[str, tuple[K, Path]]:
        """Everything that is declared now: files may be added, and the folder's variable may change, in one process."""
        plugins = os.environ.get(FOLDER_VARIABLE) or None
        state = (plugins, tuple(self._added.items()))
        if self._known is None or self._known[0] != state:
            self._known = (state, self._find(plugins))
        return self._known[1]

    def _find(self, plugins: str | None) -> dict[str, tuple[K, Path]]:
        paths = sorted(self._folder.glob("*.py"))
        if plugins is not None:
            folder = Path(plugins).expanduser().resolve()
            if not folder.is_dir():
                raise UsageError(f"{FOLDER_VARIABLE} is {plugins}, which is not a folder; correct it or unset it")
            paths += sorted(folder.glob("*.py"))
        paths += [path for path in self._added.values() if path not in paths]
        found: dict[str, tuple[K, Path]] = {}
        for path in paths:
            if (expression := declaration(path, self.variable)) is None:
                continue
            name = self._name(path)
            if name in found:
                raise UsageError(f"{path}: there is a {self.what} '{name}' already, in {found[name][1]}; rename it")
            found[name] = (self._read(path, expression), path)
        return dict(sorted(found.items(), key=lambda item: (item[0] != self.first, item[0])))

    def _read(self, path: Path, expression: ast.expr) -> K:
        where = f"{path}: {self.variable}"
        try:
            value = eval(compile(ast.Expression(expression), str(path), "eval"), {"__builtins__": {}, **self.words})
        except Exception as error:  # whatever a user has written there
            raise UsageError(f"{where} cannot be read ({_line(error)}); it may use literals and {', '.join(self.words)}"
                             ) from None  # fmt: skip
        if not isinstance(value, self.kind):
            raise UsageError(f"{where} must be a {self.kind.__name__}, not {type(value).__name__}")
        return value


@lru_cache(maxsize=256)
def _parsed(path: Path, changed_ns: int) -> dict[str, ast.expr]:
    """The assignments to a name in capitals at the top level of a file."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{path} is no Python file ({_line(error)}); correct it, or move it away") from None
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else (
            node.target if isinstance(node, ast.AnnAssign) else None)  # fmt: skip
        if isinstance(target, ast.Name) and target.id.isupper() and getattr(node, "value", None) is not None:
            found[target.id] = node.value  # type: ignore[attr-defined]
    return found


def declaration(path: Path, variable: str) -> ast.expr | None:
    """What a file assigns to `variable` at its top level, unevaluated; None if it does not. UsageError: no Python."""
    return _parsed(path, path.stat().st_mtime_ns).get(variable)


def _module_of(path: Path) -> ModuleType:
    name = f"fastvlm_bench_own_{path.stem}"
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        del sys.modules[name]
        raise UsageError(f"{path} cannot be imported ({_line(error)}); correct it") from None
    return module


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
