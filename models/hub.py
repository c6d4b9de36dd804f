"""Any classification checkpoint of Hugging Face transformers behind the interface of our own models.

Architecture, preprocessing and labels are the checkpoint's own. Weights come from safetensors or from pickles that hold
nothing but tensors; code that comes with a checkpoint never runs. Nothing here asks the network.
"""

import pickle
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
)
from transformers.utils import logging as hf_logging

from models.checkpoints import VIDEO, HubCheckpoint, weight_files
from models.errors import ModelError
from models.labels import LabelMap
from models.precision import to_device
from models.taxonomy import N_EMOTIONS, FloatArray

IntArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]

SAMPLE_RATE_HZ = 16_000
MIN_SAMPLES = 1_600  # 0.1 s: shorter sound is padded with silence, or convolutions would have nothing to stand on


class HubModel:
    """A classifier and how its outputs become emotions: what the three kinds share."""

    def __init__(self, classifier: Any, label_map: LabelMap, device: str, dtype: torch.dtype) -> None:
        self._device, self._dtype, self._label_map = torch.device(device), dtype, label_map
        self._classifier = classifier.to(self._device, dtype).eval()
        self.labels: tuple[str, ...] = label_map.labels

    def _judge(self, inputs: Tensor) -> FloatArray:
        """One batch of model inputs, batch axis first, to (n, 8) float32."""
        arguments = {self._classifier.main_input_name: inputs.to(self._device, self._dtype)}
        logits = self._classifier(**arguments).logits
        return self._label_map.widen(logits.float().softmax(dim=1).cpu().numpy())


class HubAudioModel(HubModel):
    """Waveforms in, probabilities out: wav2vec 2.0, HuBERT, WavLM, Whisper and others."""

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, classifier: Any, extractor: Any, label_map: LabelMap, device: str, dtype: torch.dtype) -> None:
        super().__init__(classifier, label_map, device, dtype)
        self._extractor, self._options = extractor, extractor_options(classifier.config, extractor)

    @classmethod
    def load(cls, checkpoint: HubCheckpoint, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """Load a checkpoint of kind `audio`.

        Raises:
            ModelError: it cannot be read, does not fit its own architecture, or does not hear 16 kHz.
        """
        classifier = _classifier(AutoModelForAudioClassification, checkpoint)
        return cls(classifier, feature_extractor(checkpoint), checkpoint.label_map, device, dtype)

    @torch.inference_mode()
    def predict(self, waveforms: FloatArray, lengths_samples: IntArray) -> FloatArray:
        """Probabilities of the emotions in each window.

        Windows of one length are read together and without padding, which would change what many of these models say;
        those that know one length only (Whisper) pad to it themselves.

        Args:
            waveforms: (n, samples) float32 in -1..1, 16 kHz.
            lengths_samples: (n,) int64, how much of each row, from its start, is real sound; at least 1.

        Returns:
            (n, 8) float32 in the order of `EMOTIONS`; rows sum to 1 over the model's labels, the others are NaN.

        Raises:
            ModelError: the windows are longer than the model can hear at once.
        """
        rows = np.empty((len(waveforms), N_EMOTIONS), np.float32)
        for length in np.unique(lengths_samples):
            same = lengths_samples == length
            rows[same] = self._judge(self._features(waveforms[same, :length]))
        return rows

    def _features(self, waveforms: FloatArray) -> Tensor:
        limit: int = self._options.get("max_length") or waveforms.shape[1]
        if waveforms.shape[1] > limit:
            raise ModelError(f"the audio model hears {limit / SAMPLE_RATE_HZ:g} s at once: choose a shorter --window")
        padded = np.pad(waveforms, ((0, 0), (0, max(0, MIN_SAMPLES - waveforms.shape[1]))))
        features = self._extractor(list(padded), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt", **self._options)
        tensor: Tensor = features[self._classifier.main_input_name]
        return tensor


def feature_extractor(checkpoint: HubCheckpoint) -> Any:
    """What makes a network's input of sound.

    Raises:
        ModelError: it cannot be read, or does not hear 16 kHz.
    """
    extractor = _processor(AutoFeatureExtractor, checkpoint)
    if getattr(extractor, "sampling_rate", SAMPLE_RATE_HZ) != SAMPLE_RATE_HZ:
        raise ModelError(f"{checkpoint.ref} hears {extractor.sampling_rate} Hz; only 16,000 is supported")
    return extractor


def extractor_options(config: Any, extractor: Any) -> dict[str, Any]:
    """Whisper's encoder takes one length only, twice its positions in spectrogram frames, which may have been cut."""
    if config.model_type != "whisper":
        return {}
    samples = 2 * config.max_source_positions * extractor.hop_length
    return {"padding": "max_length", "max_length": samples, "truncation": True}


@dataclass(frozen=True)
class PixelScale:
    """A processor's arithmetic on pixels, as one slope and one shift for each colour: (3, 1, 1) float32."""

    slope: Tensor
    shift: Tensor

    @classmethod
    def of(cls, processor: Any, device: torch.device) -> Self:
        """What a checkpoint's own image processor does."""
        factor = processor.rescale_factor if processor.do_rescale else 1.0
        offset = 1.0 if getattr(processor, "offset", False) else 0.0
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
        mean, std = (torch.tensor(value).float().expand(3).view(3, 1, 1) for value in (mean, std))
        return cls((factor / std).to(device), (-(offset + mean) / std).to(device))

    def normalised(self, pictures: ByteArray) -> Tensor:
        """(..., height, width, 3) uint8 to (..., 3, height, width) float32, on the scale's device."""
        pixels = to_device(np.ascontiguousarray(pictures), self.slope.device).movedim(-1, -3)
        return pixels.float() * self.slope + self.shift


class PixelModel(HubModel):
    """Scales and normalises pixels as the checkpoint's own processor does, but on the model's device."""

    auto: ClassVar[Any]

    def __init__(
        self, classifier: Any, processor: Any, checkpoint: HubCheckpoint, device: str, dtype: torch.dtype
    ) -> None:
        super().__init__(classifier, checkpoint.label_map, device, dtype)
        side = self.input_size = checkpoint.geometry.side_pixels
        self._shape = (*((checkpoint.n_frames,) if checkpoint.kind == VIDEO else ()), side, side, 3)
        self._scale = PixelScale.of(processor, self._device)

    @classmethod
    def load(cls, checkpoint: HubCheckpoint, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """Load a checkpoint of this kind.

        Raises:
            ModelError: it cannot be read, or does not fit its own architecture.
        """
        processor = image_processor(checkpoint)
        return cls(_classifier(cls.auto, checkpoint), processor, checkpoint, device, dtype)

    @torch.inference_mode()
    def predict(self, pictures: ByteArray) -> FloatArray:
        """Probabilities of the emotions in each face or clip.

        Args:
            pictures: uint8 RGB, (n, input_size, input_size, 3) faces or (n, frames, input_size, input_size, 3) clips.

        Returns:
            (n, 8) float32 in the order of `EMOTIONS`; rows sum to 1 over the model's labels, the others are NaN.

        Raises:
            ValueError: the pictures have another shape or type.
        """
        if pictures.shape[1:] != self._shape or pictures.dtype != np.uint8:
            raise ValueError(f"want pictures (n, *{self._shape}) of uint8, got {pictures.shape} of {pictures.dtype}")
        if not len(pictures):
            return np.empty((0, N_EMOTIONS), np.float32)
        return self._judge(self.normalised(pictures))

    def normalised(self, pictures: ByteArray) -> Tensor:
        """What the network is given: (..., height, width, 3) uint8 to (..., 3, height, width) float32."""
        return self._scale.normalised(pictures)


class HubVideoModel(PixelModel):
    """Clips of whole pictures, evenly spread over a window: ViViT, VideoMAE, TimeSformer and others."""

    auto = AutoModelForVideoClassification


class HubImageModel(PixelModel):
    """Faces in colour, aligned by `models.faces.align`."""

    auto = AutoModelForImageClassification


# What transformers and torch raise about a checkpoint that is damaged, of another model, or not only tensors.
_LOADING_ERRORS = (
    OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError, EOFError,
    SafetensorError, StrictDataclassError, pickle.UnpicklingError,
)  # fmt: skip


def _classifier(auto: Any, checkpoint: HubCheckpoint) -> Any:
    """The network with every one of its weights: one that starts at random would only guess."""
    classifier, lacking = load_network(auto, checkpoint)
    if lacking:
        raise ModelError(f"{checkpoint.ref} lacks weights of its own network: {', '.join(lacking[:4])}")
    return classifier


def load_network(auto: Any, checkpoint: HubCheckpoint, **changes: Any) -> tuple[Any, list[str]]:
    """A network with the weights that its checkpoint has, float32.

    Args:
        auto: one of transformers' classes AutoModelFor...
        changes: of the configuration, and options of `from_pretrained`.

    Returns:
        The network, and the names of the weights that the checkpoint lacks or has in another shape.

    Raises:
        ModelError: it cannot be read, or does not fit its own architecture.
    """
    options = {"local_files_only": True, "trust_remote_code": False, "weights_only": True, "dtype": torch.float32}
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    safe = weight_files(checkpoint.folder)[0].suffix == ".safetensors"
    try:
        network, info = auto.from_pretrained(
            checkpoint.folder, use_safetensors=safe, output_loading_info=True, **options, **changes
        )
    except _LOADING_ERRORS as error:
        raise ModelError(f"{checkpoint.ref} cannot be loaded: {_first_line(error)}") from error
    mismatched = (str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"])
    return network, sorted(info["missing_keys"]) + sorted(mismatched)


def image_processor(checkpoint: HubCheckpoint) -> Any:
    """What makes a network's input of pictures.

    Raises:
        ModelError: it cannot be read.
    """
    return _processor(AutoImageProcessor, checkpoint)


def _processor(auto: Any, checkpoint: HubCheckpoint) -> Any:
    options = {"backend": "pil"} if auto is AutoImageProcessor else {}
    try:
        return auto.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False, **options)
    except _LOADING_ERRORS as error:
        raise ModelError(f"the processor of {checkpoint.ref} cannot be loaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
