"""Why a checkpoint cannot be loaded: the package is named, the advice can be followed, the line is one line."""

import logging

import pytest

from fastvlm_bench.models.hub import Once, once_each
from fastvlm_bench.models.unloadable import lacking, reason

TORCHVISION = (
    "\nCohere2VisionImageProcessor requires the Torchvision library but it was not found in your environment. Check "
    "out the instructions on the\ninstallation page: https://pytorch.org/get-started/locally/ and follow the ones that "
    "match your environment.\n"
)
MISSING = (
    "Could not load any image processor class for a/folder. The model configuration resolves to the following image "
    "processor classes: torchvision: Cohere2VisionImageProcessor. None of these classes could be imported. Missing "
    "optional dependencies: torchvision. Please install the missing dependencies or select a backend."
)
IMPORTS = (
    "This modeling file requires the following packages that were not found in your environment: absent_one, absent2. "
    "Run `pip install absent_one absent2`"
)
REPORT = "We encountered some issues during automatic conversion of the weights. For details look at the `CONVERSION` entries of the above report!"  # noqa: E501


@pytest.fixture(autouse=True)
def nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def chained(first: Exception, then: Exception) -> Exception:
    try:
        try:
            raise first
        except Exception:
            raise then  # noqa: B904 - as transformers does
    except Exception as error:
        return error


@pytest.mark.parametrize(
    ("error", "packages"),
    [
        (ImportError(TORCHVISION), ["torchvision"]),
        (ValueError(MISSING), ["torchvision"]),
        (ImportError("x" * 400 + TORCHVISION), ["torchvision"]),
        (ImportError(IMPORTS), ["absent-one", "absent2"]),
        (ModuleNotFoundError("No module named 'timm.layers'"), ["timm"]),
        (ImportError("Using `bitsandbytes` needs: run pip install -U bitsandbytes"), ["bitsandbytes"]),
        (ImportError("4-bit quantization requires accelerate: `pip install 'accelerate>=1.1.0'`"), ["accelerate"]),
        (chained(ModuleNotFoundError("No module named 'cv2'"), ValueError("Could not import module 'X'.")),
         ["opencv-python"]),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(error: Exception, packages: list[str]) -> None:
    assert lacking(error) == packages
    told = reason(error, "its processor", True, None)
    assert told.endswith(f"pip install {' '.join(packages)}") and "\n" not in told
    assert ("in the build for your torch" in told) == ("torchvision" in packages)


def test_what_is_installed_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert lacking(ImportError(TORCHVISION)) == []


def test_an_unknown_type_is_not_a_package() -> None:
    error = ValueError(
        "The checkpoint you are trying to load has model type `never_heard_of` but Transformers does not recognize "
        "this architecture. This could be because of an issue with the checkpoint, or because your version is out of "
        "date.\n\nYou can update Transformers with the command `pip install --upgrade transformers`."
    )
    told = reason(error, "its config.json", True, None)
    assert "has no model type 'never_heard_of'" in told and "pip" not in told and "--upgrade" not in told


def test_no_report_is_pointed_to_that_was_not_printed() -> None:
    told = reason(RuntimeError(REPORT), "its weights", True, None)
    assert (
        "report" not in told and "automatic conversion of the weights" in told and "its weights cannot be used" in told
    )


def test_warnings_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    once_each()
    once_each()
    handlers = logging.getLogger("transformers").handlers
    assert handlers and all(sum(isinstance(own, Once) for own in handler.filters) == 1 for handler in handlers)
    own, said = Once(), []
    for level, text in ((logging.WARNING, "a"), (logging.WARNING, "a"), (logging.ERROR, "a"), (logging.ERROR, "a"),
                        (logging.WARNING, "b")):  # fmt: skip
        if own.filter(logging.LogRecord("transformers.x", level, "", 0, text, None, None)):
            said.append((level, text))
    assert said == [(logging.WARNING, "a"), (logging.ERROR, "a"), (logging.ERROR, "a"), (logging.WARNING, "b")]
