"""The compact expression network: an aligned grey face in, probabilities over `EMOTIONS` out.

A residual network (He et al. 2016, doi 10.1109/CVPR.2016.90) with squeeze and excitation (Hu et al. 2018, arXiv
1709.01507) of 4.0 M parameters, trained by `models.training.face` on FER2013. It knows nothing of where faces come from
(`models.faces`) nor of time: `models.temporal` makes one row of a window's faces.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.errors import ModelError
from models.precision import to_device
from models.taxonomy import EMOTIONS, FloatArray, widen

WEIGHTS_FILE, INTEGERS_FILE = "model.safetensors", "int8.onnx"
INPUT_SIZE = 48  # pixels, both sides: the size of FER2013's images
BATCH_SIZE = 64  # faces a forward pass on a CPU; more gains nothing there and costs memory
GPU_BATCH_SIZE = 1024
MIN_CONTRAST = 4.0  # grey levels; keeps the noise of a nearly flat crop from being blown up to full contrast


class Gate(nn.Module):
    """Squeeze and excitation: each channel is weighed by what all channels show on average (arXiv 1709.01507)."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Linear(n_channels, n_channels // 8), nn.ReLU(), nn.Linear(n_channels // 8, n_channels), nn.Sigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, c, h, w) to the same shape."""
        return x * self.weigh(x.mean(dim=(2, 3)))[:, :, None, None].to(x.dtype)  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, a gate and a shortcut (He et al. 2016, figure 2; Hu et al. 2018, figure 3)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.gate = Gate(n_out)
        changes = stride > 1 or n_in != n_out
        smaller = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        projection = nn.Sequential(smaller, nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out))
        self.shortcut = projection if changes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, n_in, h, w) to (n, n_out, h / stride, w / stride)."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.gate(self.norm2(self.conv2(y))) + self.shortcut(x))


class ExpressionNet(nn.Module):
    """Stem, stages of residual blocks (each but the first halves the picture), mean over the picture, head.

    Args:
        widths, depths: channels and blocks of each stage.
        n_labels: outputs; dropout: share of features that training does without.
    """

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...], n_labels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 5, 2, 2, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        blocks, n_in = [], widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for place in range(depth):
                blocks.append(ResidualBlock(n_in, width, 2 if stage and not place else 1))
                n_in = width
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(n_in, n_labels)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, 48, 48) float, standardised, to what the head reads: (n, widths[-1])."""
        return self.blocks(self.stem(x)).mean(dim=(2, 3))  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, 48, 48) float, standardised, to logits (n, n_labels)."""
        return self.head(self.dropout(self.features(x).to(self.head.weight.dtype)))  # type: ignore[no-any-return]

    def judge(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, 48, 48) float, standardised, to probabilities (n, n_labels) float32: of the face and its mirror image,
        averaged."""
        rows = torch.softmax(self(torch.cat([x, x.flip(3)])).float(), dim=1)
        return rows.unflatten(0, (2, len(x))).mean(dim=0)  # type: ignore[no-any-return,no-untyped-call]


def fold(part: nn.Module) -> None:
    """Put each batch norm into the convolution before it: the same numbers with less work, but no more training."""
    children = list(part.named_children())
    for (name, child), (next_name, following) in pairwise([*children, ("", nn.Identity())]):
        if isinstance(child, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
            setattr(part, name, fuse_conv_bn_eval(child, following))
            setattr(part, next_name, nn.Identity())
        else:
            fold(child)


def standardise(crops: torch.Tensor) -> torch.Tensor:
    """Give each crop mean 0 and standard deviation 1, so that exposure and contrast do not matter.

    Args:
        crops: (n, h, w) uint8 or float, grey levels 0 to 255.

    Returns:
        (n, 1, h, w) float32.
    """
    x = crops.float().unsqueeze(1)
    spread, mean = torch.std_mean(x, dim=(2, 3), correction=0, keepdim=True)
    return (x - mean) / spread.clamp_min(MIN_CONTRAST)


_ONNX_ERRORS = (RuntimeError, Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile)


class IntegerNet:
    """A network in 8-bit integers, made of an `ExpressionNet` by `models.training.integers`; ONNX Runtime runs it."""

    def __init__(self, path: Path, source_sha256: str) -> None:
        """Read the network of a file, which says of which weights it was made.

        Raises:
            ModelError: the file is missing or damaged, or was made of other weights.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the decoders need the cores
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except _ONNX_ERRORS as error:
            raise ModelError(f"cannot load the expression network from {path}: {error}") from error
        if self._session.get_modelmeta().custom_metadata_map.get("source_sha256") != source_sha256:
            raise ModelError(f"{path} was made of other weights; make it anew: python -m models.training.integers")

    def judge(self, x: torch.Tensor) -> torch.Tensor:
        """As `ExpressionNet.judge`."""
        (logits,) = self._session.run(None, {"x": torch.cat([x, x.flip(3)]).numpy()})
        rows = torch.from_numpy(logits).softmax(dim=1)
        return rows.unflatten(0, (2, len(x))).mean(dim=0)  # type: ignore[no-any-return,no-untyped-call]


class ExpressionModel:
    """The network with its weights, ready to run.

    Attributes:
        labels: what the network knows, in the order of its outputs; all in `EMOTIONS`.
        input_size: side of the crops in pixels.
    """

    def __init__(
        self,
        net: ExpressionNet | IntegerNet,
        labels: tuple[str, ...],
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Take a network over: one that is not in integers computes in `dtype`, and can no longer be trained."""
        self.labels = labels
        self.input_size = INPUT_SIZE
        self._device, self._dtype, self._net = torch.device(device), dtype, net
        if isinstance(net, ExpressionNet):
            fold(net.eval())
            net.to(self._device, dtype)
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            net.head.float()

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """Read `folder/config.json` and `folder/model.safetensors`, or for int8 `folder/int8.onnx`, on the CPU only.

        Raises:
            ModelError: a file is missing, damaged, or does not fit the other.
        """
        if dtype == torch.int8:
            labels, _, _ = _read_config(folder / "config.json")
            return cls(IntegerNet(folder / INTEGERS_FILE, weights_sha256(folder)), labels, dtype=dtype)
        net, labels = read_net(folder)
        return cls(net, labels, device=device, dtype=dtype)

    @torch.inference_mode()
    def predict(self, crops: npt.NDArray[np.uint8]) -> FloatArray:
        """Read the expression of each face: the mean of what the network says of it and of its mirror image.

        Args:
            crops: (n, 48, 48) uint8, grey, aligned by `models.faces.align`.

        Returns:
            (n, 8) float32 in the order of `EMOTIONS`; NaN for labels that the network does not know, the
            others sum to 1.

        Raises:
            ValueError: the crops have another shape or type.
        """
        if not self._checked(crops):
            return widen(np.empty((0, len(self.labels)), dtype=np.float32), self.labels)
        rows = [self._net.judge(batch).cpu() for batch in self._batches(crops)]
        return widen(torch.cat(rows).numpy(), self.labels)

    def _batches(self, crops: npt.NDArray[np.uint8]) -> Iterator[torch.Tensor]:
        size = GPU_BATCH_SIZE if self._device.type == "cuda" else BATCH_SIZE
        for start in range(0, len(crops), size):
            batch = np.ascontiguousarray(crops[start : start + size])
            pictures = standardise(to_device(batch, self._device))
            if self._dtype.is_floating_point:
                pictures = pictures.to(self._dtype, memory_format=torch.channels_last)
            yield pictures

    def _checked(self, crops: npt.NDArray[np.uint8]) -> int:
        """How many crops there are; raises ValueError if they are not what `predict` wants."""
        if crops.ndim != 3 or crops.shape[1:] != (INPUT_SIZE, INPUT_SIZE) or crops.dtype != np.uint8:
            raise ValueError(f"want crops (n, {INPUT_SIZE}, {INPUT_SIZE}) of uint8, got {crops.shape} of {crops.dtype}")
        return len(crops)


def read_net(folder: Path) -> tuple[ExpressionNet, tuple[str, ...]]:
    """The network of a folder as it was trained, float32, and its labels; raises ModelError."""
    labels, widths, depths = _read_config(folder / "config.json")
    net, weights = ExpressionNet(widths, depths, len(labels)), folder / WEIGHTS_FILE
    try:
        missing, unexpected = net.load_state_dict(load_file(weights), strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"cannot load the expression network from {weights}: {error}") from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]  # only training counts batches
    if missing or unexpected:
        raise ModelError(f"{weights} is not this network: missing {missing}, unexpected {unexpected}")
    return net, labels


def weights_sha256(folder: Path) -> str:
    """What tells of which weights an `IntegerNet` was made; raises ModelError."""
    try:
        return hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"cannot load the expression network from {folder / WEIGHTS_FILE}: {error}") from error


def _read_config(path: Path) -> tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    """The labels, widths and depths of `config.json`; raises ModelError."""
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        labels = tuple(config["labels"])
        widths, depths = (tuple(int(value) for value in config[name]) for name in ("widths", "depths"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"cannot read the expression network's {path}: {error!r}") from error
    if config.get("input_size") != INPUT_SIZE:
        raise ModelError(f"{path}: input_size must be {INPUT_SIZE}, got {config.get('input_size')}")
    if not labels or not set(labels) <= set(EMOTIONS) or len(set(labels)) != len(labels):
        raise ModelError(f"{path}: labels must be distinct and among {EMOTIONS}, got {labels}")
    if not widths or len(widths) != len(depths):
        raise ModelError(f"{path}: every stage wants a width and a depth, got {widths} and {depths}")
    return labels, widths, depths


def pool(rows: FloatArray) -> FloatArray:
    """One window's row from its faces' rows, where nothing was trained for it: the mean of their probabilities.

    The normalised geometric mean is as accurate and has the higher cross-entropy on talking faces: see the model card.

    Args:
        rows: (m, 8) float32, m >= 1, as `ExpressionModel.predict` gives them.

    Returns:
        (8,) float32, NaN where the rows are; the others sum to 1.

    Raises:
        ValueError: there is no row.
    """
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"want at least one row (m, {len(EMOTIONS)}), got {rows.shape}")
    return np.asarray(rows.mean(axis=0), dtype=np.float32)
