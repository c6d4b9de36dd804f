"""OpenAI's own Whisper checkpoint, read as ours."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from models.audio import VoiceConfig, WhisperForEmotion
from models.errors import ModelError
from models.taxonomy import EMOTIONS

TINY_EN_SHA256 = "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03"

# OpenAI's names within an encoder block, and transformers' names within an encoder layer.
BLOCK_NAMES = {
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "attn_ln": "self_attn_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    "mlp_ln": "final_layer_norm",
}
TOP_NAMES = {"positional_embedding": "embed_positions.weight", "ln_post": "layer_norm"}


def encoder_name(name: str) -> str:
    """`encoder.blocks.0.attn.query.weight` -> `layers.0.self_attn.q_proj.weight`."""
    name = name.removeprefix("encoder.")
    if not name.startswith("blocks."):
        first, _, rest = name.partition(".")
        return ".".join([TOP_NAMES.get(first, first), *filter(None, [rest])])
    _, index, rest = name.split(".", 2)
    module, _, kind = rest.rpartition(".")
    return f"layers.{index}.{BLOCK_NAMES[module]}.{kind}"


def encoder_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights of an OpenAI state dict, float32, under transformers' names."""
    return {encoder_name(name): value.float() for name, value in state.items() if name.startswith("encoder.")}


def emotion_config(dims: dict[str, int], hidden: int) -> VoiceConfig:
    """The configuration of an encoder of these dimensions (OpenAI's `dims`) with a head for all of `EMOTIONS`,
    `hidden` units wide."""
    return VoiceConfig(
        classifier_proj_size=hidden,
        num_mel_bins=dims["n_mels"],
        max_source_positions=dims["n_audio_ctx"],
        d_model=dims["n_audio_state"],
        encoder_layers=dims["n_audio_layer"],
        encoder_attention_heads=dims["n_audio_head"],
        encoder_ffn_dim=4 * dims["n_audio_state"],
        id2label=dict(enumerate(EMOTIONS)),
    )


def read_whisper(path: Path, *, hidden: int, sha256: str | None = TINY_EN_SHA256) -> WhisperForEmotion:
    """The encoder of an OpenAI checkpoint, with an untrained head.

    Raises:
        ModelError: the file is missing or is not the expected one.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such Whisper checkpoint")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 is not None and found != sha256:
        raise ModelError(f"{path}: sha256 is {found}, expected {sha256}")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    model = WhisperForEmotion(emotion_config(checkpoint["dims"], hidden))
    model.encoder.load_state_dict(encoder_state(checkpoint["model_state_dict"]), strict=True)
    model.eval()
    return model
