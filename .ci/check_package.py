"""Build the sdist and the wheel twice, check them, and use both as their users do.

Takes a folder to work in. Run with "tox -e package".
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command: object, cwd: Path = ROOT, stdin: str = "", **variables: str) -> str:
    """Run a command and return what it prints; stop when it fails."""
    print("$", *[Path(str(part)).name for part in command], flush=True)
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("TWILIO_", "PYTHON"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        cwd=cwd,
        env={**kept, **variables},
        input=stdin,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}\nexit status {done.returncode}")
    return done.stdout


def build(folder: Path) -> dict[str, str]:
    """Build the sdist and the wheel at a fixed time; return their hashes by name."""
    run(
        sys.executable,
        "-m",
        "build",
        "--outdir",
        folder,
        SOURCE_DATE_EPOCH="1767225600",
    )
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
    }


def check(work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    if build(work / "dist") != build(work / "again"):
        raise SystemExit("a second build gives other bytes")
    (sdist,) = (work / "dist").glob("*.tar.gz")
    (wheel,) = (work / "dist").glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)

    with zipfile.ZipFile(wheel) as archive:
        code = [name for name in archive.namelist() if ".dist-info/" not in name]
    if code != ["twilio_capability.py"]:
        raise SystemExit(f"the wheel holds more than the module: {code}")

    bin_folder = work / "venv" / ("Scripts" if os.name == "nt" else "bin")
    venv.create(work / "venv")  # without a pip of its own, which needs ensurepip
    pip = [sys.executable, "-m", "pip", "--python", bin_folder / "python"]
    run(*pip, "install", "--quiet", "--no-index", wheel)
    secrets = {"TWILIO_ACCOUNT_SID": "AC123123", "TWILIO_AUTH_TOKEN": "secret"}
    command = bin_folder / "twilio-capability"
    token = run(command, "generate", "--incoming", "Alice", cwd=work, **secrets)
    if '"signature": "valid"' not in run(
        command, "verify", cwd=work, stdin=token, **secrets
    ):
        raise SystemExit("the installed command does not verify its own token")
    version = run(command, "--version", cwd=work).split()[1]
    if version not in wheel.name or version not in sdist.name:
        raise SystemExit(f"the version is not {version} everywhere")

    with tarfile.open(sdist) as archive:
        # Python 3.11.2, which Debian 12 has, knows no filter.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(work / "unpacked")
    (unpacked,) = (work / "unpacked").iterdir()
    for name in ("tox.ini", ".github/workflows/tests.yml"):
        if not (unpacked / name).is_file():
            raise SystemExit(f"the sdist carries no {name}")
    run(bin_folder / "python", "-m", "unittest", cwd=unpacked)


if __name__ == "__main__":
    check(Path(sys.argv[1]))
