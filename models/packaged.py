"""Weights that another package brings: found without importing it, checked by their hash. Knows no torch."""

import hashlib
import importlib.util
from pathlib import Path

import onnxruntime

from models.errors import ModelError


def path_in(module: str, file: str, distribution: str, of_what: str) -> Path:
    """Where a file of an installed package lies.

    Args:
        module, distribution: as Python and as pip name the package.
        file: below the module's folder.
        of_what: the model whose weights it holds, for messages.

    Raises:
        ModelError: the package is not installed, or lacks the file.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModelError(f"{Path(file).name}: the package {distribution} that holds it is not installed")
    path = Path(spec.origin).parent / file
    if not path.is_file():
        raise ModelError(f"{path}: the {of_what}'s weights are missing")
    return path


def checked(path: Path, sha256: str) -> bytes:
    """What is in a file.

    Raises:
        ModelError: it is not what this version was written for.
    """
    weights = path.read_bytes()
    found = hashlib.sha256(weights).hexdigest()
    if found != sha256:
        raise ModelError(f"{path}: sha256 is {found}, expected {sha256}")
    return weights


def session(weights: bytes) -> onnxruntime.InferenceSession:
    """A network that runs in one thread: those of detectors are too small to share out."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: warnings are about unused initializers in the files
    return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
