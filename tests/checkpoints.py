"""Small checkpoints of true architectures with random weights, as their authors would have saved them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as hf

CREMA_D = ("angry", "disgust", "fearful", "happy", "neutral", "sad")
RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")

_SMALL: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
_SPEECH = _SMALL | {
    "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8, "num_feat_extract_layers": 7,
}  # fmt: skip
_PIXELS = _SMALL | {"image_size": 32}
_SIZES = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}

AUDIO = {
    "wav2vec2": (hf.Wav2Vec2ForSequenceClassification, hf.Wav2Vec2Config, _SPEECH),
    "hubert": (hf.HubertForSequenceClassification, hf.HubertConfig, _SPEECH),
    "wavlm": (hf.WavLMForSequenceClassification, hf.WavLMConfig, _SPEECH),
    "whisper": (
        hf.WhisperForAudioClassification,
        hf.WhisperConfig,
        {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_source_positions": 200,
         "classifier_proj_size": 8, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
         "decoder_start_token_id": 1},
    ),
}  # fmt: skip
VIDEO = {
    "vivit": (
        hf.VivitForVideoClassification,
        hf.VivitConfig,
        _PIXELS | {"num_frames": 32, "tubelet_size": [2, 16, 16]},
    ),
    "videomae": (hf.VideoMAEForVideoClassification, hf.VideoMAEConfig, _PIXELS | {"num_frames": 16}),
    "timesformer": (hf.TimesformerForVideoClassification, hf.TimesformerConfig, _PIXELS | {"num_frames": 8}),
}
IMAGE = {
    "vit": (hf.ViTForImageClassification, hf.ViTConfig, _PIXELS),
    "resnet": (
        hf.ResNetForImageClassification,
        hf.ResNetConfig,
        {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"},
    ),
}


def save(folder: Path, name: str, labels: Sequence[str], *, pickled: bool = False, **changes: Any) -> Path:
    """Save a checkpoint of one of the architectures above with its processor; returns the folder.

    Args:
        pickled: as `pytorch_model.bin` instead of safetensors.
        changes: of the configuration.
    """
    torch.manual_seed(len(name))
    network, config, settings = (AUDIO | VIDEO | IMAGE)[name]
    names = dict(enumerate(labels))
    options = settings | changes | {"id2label": names, "label2id": {v: k for k, v in names.items()}}
    model = network(config(**options)).eval()
    for parameter in model.parameters():  # as large as after training, so that outputs differ from input to input
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    processor(name).save_pretrained(folder)
    return folder


def processor(name: str) -> Any:
    """The processor that checkpoints of an architecture come with."""
    if name == "whisper":
        return hf.WhisperFeatureExtractor()
    if name in AUDIO:
        return hf.Wav2Vec2FeatureExtractor(return_attention_mask=name != "hubert")
    if name == "vivit":
        return hf.VivitImageProcessor(**_SIZES)
    if name in VIDEO:
        return hf.VideoMAEImageProcessorPil(**_SIZES)
    return hf.ViTImageProcessorPil(size={"height": 32, "width": 32})
