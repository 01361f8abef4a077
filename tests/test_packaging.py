"""What a stranger installs and cites: the citation file, the container's recipe, the suites inside the package."""

import fnmatch
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from fastvlm_bench import __version__
from fastvlm_bench.suites import catalogue

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version_and_licence() -> None:
    assert CITATION["version"] == PYPROJECT["project"]["version"] == __version__
    assert CITATION["license"] == PYPROJECT["project"]["license"]
    assert set(CITATION["keywords"]) <= set(PYPROJECT["project"]["keywords"])


def test_the_citation_is_valid_cff() -> None:
    """What version 1.2.0 of the format demands of the file and of each reference."""
    assert CITATION["cff-version"] == "1.2.0" and CITATION["type"] == "software"
    for work in (CITATION, *CITATION["references"]):
        assert work["title"] and work["type"] and work["authors"]
        for author in work["authors"]:
            assert set(author) in ({"name"}, {"family-names", "given-names"})
    assert isinstance(CITATION["message"], str) and isinstance(CITATION["version"], str)


def test_the_paper_is_cited() -> None:
    (paper,) = [work for work in CITATION["references"] if "FastVLM" in work["title"]]
    assert [author["family-names"] for author in paper["authors"]] == ["Bajpai", "Hanawal"]
    assert any("2510.22641" in identifier["value"] for identifier in paper["identifiers"])
    assert "2510.22641" in PYPROJECT["project"]["description"] and "IJCNLP-AACL 2025" in paper["conference"]["name"]


def instructions() -> list[tuple[str, str]]:
    """(instruction, what follows) of the Dockerfile, without comments."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", " ")
    pairs = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, rest in pairs]


DOCKER = instructions()


def told(word: str) -> list[str]:
    return [rest for name, rest in DOCKER if name == word]


def test_the_recipe_begins_and_ends_as_it_should() -> None:
    known = {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in DOCKER} <= known
    assert DOCKER[0][0] == "ARG" and DOCKER[1][0] == "FROM"
    assert json.loads(told("ENTRYPOINT")[0]) == ["fastvlm-bench"]
    assert [name for name, _ in DOCKER][-2:] == ["ENTRYPOINT", "CMD"]
    assert "fastvlm-bench" in PYPROJECT["project"]["scripts"]
    (command,) = map(json.loads, told("CMD"))
    assert command == ["--help"]


def test_python_of_the_recipe_is_one_that_the_project_takes() -> None:
    (version,) = [rest.partition("=")[2] for rest in told("ARG") if rest.startswith("PYTHON=")]
    assert SpecifierSet(PYPROJECT["project"]["requires-python"]).contains(version)
    assert told("FROM") == ["python:${PYTHON}-slim"]


def test_arguments_are_declared_before_they_are_used() -> None:
    known: set[str] = set()
    for name, rest in DOCKER:
        for used in re.findall(r"\$\{(\w+)\}", rest):
            assert used in known, f"{name} {rest}"
        if name == "FROM":
            known.clear()
        if name == "ARG":
            known.add(rest.partition("=")[0])
    assert "TORCH=cpu" in told("ARG")


def test_it_does_not_run_as_root_and_may_write_its_results() -> None:
    (user,) = told("USER")
    assert user not in ("root", "0")
    (made,) = [rest for rest in told("RUN") if "useradd" in rest]
    (volumes,) = map(json.loads, told("VOLUME"))
    assert user in made and all(volume in made for volume in volumes) and f"chown -R {user} /bench" in made
    assert told("WORKDIR")[-1] == "/bench" and "/bench/results" in volumes  # the default of --out is ./results
    assert any(f"HF_HOME={volume}" in told("ENV") for volume in volumes)


def pip_installs(lines: list[str]) -> list[list[str]]:
    """The packages of each `pip install -c constraints.txt`, in order; options left out."""
    found = []
    for line in lines:
        if "pip install" in line:
            words = shlex.split(line.split("pip install", 1)[1])
            assert words[words.index("-c") + 1] == "constraints.txt", line
            valued = {i + 1 for i, word in enumerate(words) if word in ("-c", "--extra-index-url")}
            found.append([word for i, word in enumerate(words) if not word.startswith("-") and i not in valued])
    return found


def test_it_installs_what_make_installs() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("$(VENV)/installed:")[1].split("\n\n")[0]
    assert pip_installs(told("RUN")) == pip_installs(recipe.splitlines()) == [["torch"], ["."]]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a file or folder at the top out of the build: the last rule that fits decides."""
    kept_out = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        rule = line.strip()
        if rule and not rule.startswith("#") and fnmatch.fnmatch(path, rule.removeprefix("!").removeprefix("**/")):
            kept_out = not rule.startswith("!")
    return kept_out


def copied() -> list[str]:
    return [source for rest in told("COPY") for source in shlex.split(rest)[:-1]]


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_is_there_and_not_ignored(source: str) -> None:
    assert (ROOT / source).exists() and not ignored(source)


@pytest.mark.parametrize("name", [".git", ".venv", "results", "tests", "docs", "__pycache__", "x.pyc"])
def test_nothing_else_goes_into_the_build(name: str) -> None:
    assert ignored(name)


def test_what_the_build_of_the_package_reads_is_copied() -> None:
    project, wheel = PYPROJECT["project"], PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["readme"], *project["license-files"], *wheel["packages"],
              *wheel["force-include"]}  # fmt: skip
    assert needed <= set(copied())


def test_the_installed_package_holds_its_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyproject.toml puts them where `suites_folder` looks first."""
    (place,) = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].values()
    installed = tmp_path / place
    installed.mkdir(parents=True)
    monkeypatch.delenv(catalogue.SUITES_VARIABLE, raising=False)
    monkeypatch.setattr(catalogue, "__file__", str(tmp_path / "fastvlm_bench" / "suites" / "catalogue.py"))
    assert catalogue.suites_folder() == installed
