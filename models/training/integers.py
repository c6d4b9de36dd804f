"""Makes int8.onnx of the expression network's weights: 8-bit integers, which ONNX Runtime multiplies fastest on a CPU.

    pip install onnx
    python -m models.training.integers --data FOLDER [--model models/weights/face]

FOLDER holds `train/LABEL/*.jpg`, as for `models.training.face`. Weights are scaled by channel, what passes between
layers by the range that it has on 1,050 training pictures. The stem, which sees the widest range, and the linear layers
stay float32: together they are 2 % of the work.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from models.expression import INTEGERS_FILE, ExpressionNet, fold, read_net, standardise, weights_sha256
from models.presets import COMPACT_FACE
from models.training.face import LABELS, Images, read_images

PICTURES_A_LABEL = 150
BATCH = 16


class Pictures:
    """Batches of calibration pictures, as `onnxruntime.quantization` asks for them."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self._batches = iter(torch.split(standardise(pixels), BATCH))

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, or None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"x": batch.numpy()}


def spread(images: Images, n_of_each: int) -> torch.Tensor:
    """As many pictures of each label, spread evenly over them in order: (n, 48, 48) uint8."""
    chosen = []
    for label in range(len(LABELS)):
        places = (images.labels == label).nonzero().flatten()
        chosen.append(places[:: max(1, len(places) // n_of_each)][:n_of_each])
    return images.pixels[torch.cat(chosen)]


def export(net: ExpressionNet, path: Path) -> None:
    """Write the network's logits, norms folded in, as ONNX."""
    fold(net.eval())
    picture = torch.zeros(2, 1, 48, 48)
    axes = {"x": {0: "n"}, "logits": {0: "n"}}
    torch.onnx.export(
        net, (picture,), path, input_names=["x"], output_names=["logits"], dynamic_axes=axes, dynamo=False
    )


def quantise(source: Path, pixels: torch.Tensor, out: Path, source_sha256: str) -> None:
    """Write an ONNX network in integers, with what it was made of."""
    import onnx  # type: ignore[import-not-found, unused-ignore]
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = source.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared)
    nodes = onnx.load(prepared).graph.node
    kept = [next(node.name for node in nodes if node.op_type == "Conv")]
    kept += [node.name for node in nodes if node.op_type == "Gemm"]
    quantize_static(
        prepared, out, Pictures(pixels), per_channel=True, nodes_to_exclude=kept,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    model = onnx.load(out)
    onnx.helper.set_model_props(model, {"source_sha256": source_sha256})
    onnx.save(model, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m models.training.integers", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="FER2013, unpacked")
    parser.add_argument("--model", type=Path, default=COMPACT_FACE.folder, help="folder of the network")
    options = parser.parse_args(arguments)
    pixels = spread(read_images(options.data / "train"), PICTURES_A_LABEL)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "net.onnx")
        export(read_net(options.model)[0], source)
        quantise(source, pixels, options.model / INTEGERS_FILE, weights_sha256(options.model))
    print(f"written: {options.model / INTEGERS_FILE}")


if __name__ == "__main__":
    main()
