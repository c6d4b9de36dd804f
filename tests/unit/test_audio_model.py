"""The audio model on a small random network: shapes, padding, the spectrogram, the checkpoint's conversion, errors."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from models.audio import AudioEmotionModel, WhisperForEmotion, load_checkpoint
from models.errors import ModelError
from models.taxonomy import EMOTIONS
from models.training.audio import save
from models.training.whisper import emotion_config, read_whisper
from models.whisper import SHORT_POSITIONS, LogMel, mel_filters, pool_over_time
from tests.sound import read_sound

SMALL = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 8, "n_audio_layer": 2, "n_audio_head": 2}
KNOWN = ("neutral", "happy", "sad")
SHIPPED = Path(__file__).parents[2] / "models" / "weights" / "audio"


def small_model(labels: tuple[str, ...] = EMOTIONS) -> WhisperForEmotion:
    torch.manual_seed(0)
    config = replace(emotion_config(SMALL, hidden=6), id2label=dict(enumerate(labels)))
    model = WhisperForEmotion(config).eval()
    for parameter in model.parameters():  # far enough from zero that different sounds get different rows
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def noise(n: int, seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((n, round(16_000 * seconds)))).astype(np.float32)


def full(waveforms: np.ndarray) -> np.ndarray:
    return np.full(len(waveforms), waveforms.shape[1], np.int64)


def openai_encoder(state: dict[str, Tensor], mel: Tensor, n_heads: int) -> Tensor:
    """Whisper's encoder written out from the paper's figure and OpenAI's names, without transformers."""
    get = {name.removeprefix("encoder."): value for name, value in state.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return nn.functional.linear(x, get[f"{name}.weight"], get.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], get[f"{name}.weight"], get[f"{name}.bias"])

    def attention(x: Tensor, name: str) -> Tensor:
        q, k, v = (linear(x, f"{name}.{part}").unflatten(-1, (n_heads, -1)).transpose(1, 2)
                   for part in ("query", "key", "value"))  # fmt: skip
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return linear((scores @ v).transpose(1, 2).flatten(2), f"{name}.out")

    gelu = nn.functional.gelu
    x = gelu(nn.functional.conv1d(mel, get["conv1.weight"], get["conv1.bias"], padding=1))
    x = gelu(nn.functional.conv1d(x, get["conv2.weight"], get["conv2.bias"], stride=2, padding=1))
    x = x.transpose(1, 2) + get["positional_embedding"]
    for i in range(SMALL["n_audio_layer"]):
        x = x + attention(norm(x, f"blocks.{i}.attn_ln"), f"blocks.{i}.attn")
        hidden = gelu(linear(norm(x, f"blocks.{i}.mlp_ln"), f"blocks.{i}.mlp.0"))
        x = x + linear(hidden, f"blocks.{i}.mlp.2")
    return norm(x, "ln_post")


def openai_state() -> dict[str, Tensor]:
    """Random weights under OpenAI's names; with one of the decoder, which is to be left out."""
    random = torch.Generator().manual_seed(1)
    width = SMALL["n_audio_state"]
    shapes = {"positional_embedding": (1500, width), "decoder.ln.weight": (width,)}
    shapes |= {"conv1.weight": (width, 80, 3), "conv1.bias": (width,)}
    shapes |= {"conv2.weight": (width, width, 3), "conv2.bias": (width,)}
    linears = {f"attn.{name}": (width, width) for name in ("query", "key", "value", "out")}
    linears |= {"mlp.0": (4 * width, width), "mlp.2": (width, 4 * width)}
    for i in range(SMALL["n_audio_layer"]):
        for name, shape in linears.items():
            shapes[f"blocks.{i}.{name}.weight"] = shape
            if name != "attn.key":  # the one linear layer of Whisper without a bias
                shapes[f"blocks.{i}.{name}.bias"] = shape[:1]
    norms = ["ln_post", *(f"blocks.{i}.{n}" for i in range(SMALL["n_audio_layer"]) for n in ("attn_ln", "mlp_ln"))]
    shapes |= {f"{norm}.{kind}": (width,) for norm in norms for kind in ("weight", "bias")}
    named = {name if name.startswith("decoder.") else f"encoder.{name}": shape for name, shape in shapes.items()}
    return {name: 0.3 * torch.randn(shape, generator=random) for name, shape in named.items()}


def test_a_converted_openai_checkpoint_computes_what_openai_s_own_encoder_does(tmp_path: Path) -> None:
    state = openai_state()
    torch.save({"dims": SMALL, "model_state_dict": state}, tmp_path / "small.pt")
    model = read_whisper(tmp_path / "small.pt", hidden=6, sha256=None)
    mel = torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        ours = model.encoder(mel)[-1]
    torch.testing.assert_close(ours, openai_encoder(state, mel, SMALL["n_audio_head"]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", [100, SHORT_POSITIONS + 4, 1500])
def test_the_encoder_s_layers_are_those_of_transformers(positions: int) -> None:
    """Below and above the length from which attention is computed in blocks."""
    model = small_model()
    theirs = WhisperEncoder(WhisperConfig(**asdict(replace(model.config, max_source_positions=positions)))).eval()
    state = model.encoder.state_dict()
    theirs.load_state_dict(state | {"embed_positions.weight": state["embed_positions.weight"][:positions]})
    mel = torch.randn(2, 80, 2 * positions, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected, found = theirs(mel, output_hidden_states=True).hidden_states, model.encoder(mel)
    assert len(found) == len(expected) == SMALL["n_audio_layer"] + 1
    for mine, yours in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, yours, atol=1e-4, rtol=1e-4)


def test_the_mel_filters_are_whisper_s_own() -> None:
    np.testing.assert_allclose(mel_filters(), WhisperFeatureExtractor().mel_filters.T, atol=1e-8)


def test_another_checkpoint_than_whisper_s_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.en.pt").write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"tiny\.en\.pt: sha256"):
        read_whisper(tmp_path / "tiny.en.pt", hidden=6)


@pytest.mark.parametrize("seconds", [0.5, 2.0, 30.0])
def test_the_spectrogram_is_whisper_s_own_on_the_window_s_length(seconds: float) -> None:
    waveforms = noise(2, seconds)
    waveforms[1] *= np.linspace(0, 1, waveforms.shape[1])
    expected = WhisperFeatureExtractor()(
        list(waveforms), sampling_rate=16_000, padding="do_not_pad", return_tensors="np"
    ).input_features
    np.testing.assert_allclose(LogMel()(torch.from_numpy(waveforms)).numpy(), expected, atol=1e-4)


def test_pooling_looks_only_at_the_positions_that_hold_sound() -> None:
    layers = torch.tensor([[[1.0], [3.0], [100.0]], [[2.0], [2.0], [2.0]]])
    pooled = pool_over_time([layers, 2 * layers], torch.tensor([2, 3]))
    torch.testing.assert_close(pooled[0], torch.tensor([2.0, 4.0, 1.0, 2.0]))  # means of both, then their deviations
    torch.testing.assert_close(pooled[1, :2], torch.tensor([2.0, 4.0]))
    assert pooled[1, 2:].max() < 0.01


@pytest.mark.parametrize("seconds", [0.5, 0.733, 2.0, 30.0])
def test_rows_sum_to_1_for_any_window(seconds: float) -> None:
    waveforms = noise(3, seconds)
    lengths = full(waveforms)
    lengths[2] = 1
    rows = AudioEmotionModel(small_model(), window_seconds=seconds).predict(waveforms, lengths)
    assert rows.shape == (3, 8)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows.sum(axis=1), 1.0, atol=1e-6)
    assert not np.allclose(rows[0], rows[1], atol=1e-6)


def test_a_label_that_the_model_lacks_is_nan_and_no_rows_are_no_rows() -> None:
    model = AudioEmotionModel(small_model(KNOWN), window_seconds=1.0)
    rows = model.predict(noise(2, 1.0), np.array([16_000, 16_000]))
    assert model.labels == KNOWN
    assert [EMOTIONS[i] for i in np.flatnonzero(~np.isnan(rows[0]))] == list(KNOWN)
    np.testing.assert_allclose(np.nansum(rows, axis=1), 1.0, atol=1e-6)
    assert model.predict(np.zeros((0, 16_000), np.float32), np.zeros(0, np.int64)).shape == (0, 8)


def test_a_row_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    waveforms, model = noise(4, 1.0), AudioEmotionModel(small_model(), window_seconds=1.0)
    alone = [model.predict(row[None], np.array([16_000])) for row in waveforms]
    np.testing.assert_allclose(model.predict(waveforms, full(waveforms)), np.concatenate(alone), atol=1e-5)


def test_wrong_shapes_and_lengths_are_refused() -> None:
    model = AudioEmotionModel(small_model(), window_seconds=1.0)
    for waveforms, lengths in (
        (noise(1, 2.0), np.array([16_000])),
        (noise(2, 1.0), np.array([16_000])),
        (noise(1, 1.0), np.array([16_001])),
        (noise(1, 1.0), np.array([0])),
    ):
        with pytest.raises(ValueError, match=r"must be|lengths"):
            model.predict(waveforms, lengths)
    with pytest.raises(ValueError, match="at most 30, got 31"):
        AudioEmotionModel(small_model(), window_seconds=31)


def test_a_saved_model_is_the_same_up_to_float16(tmp_path: Path) -> None:
    model, waveforms = small_model(KNOWN), noise(2, 1.0)
    save(model, model.classifier, tmp_path)
    before = AudioEmotionModel(model, window_seconds=1.0).predict(waveforms, full(waveforms))
    after = AudioEmotionModel.load(tmp_path, window_seconds=1.0).predict(waveforms, full(waveforms))
    np.testing.assert_allclose(after, before, atol=2e-3)
    assert WhisperFeatureExtractor.from_pretrained(tmp_path).feature_size == 80


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", None),
        ("config.json", b"{"),
        ("config.json", b'{"d_model": "wide"}'),
        ("model.safetensors", None),
        ("model.safetensors", b"not a safetensors file"),
    ],
)
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, file: str, content: bytes | None) -> None:
    model = small_model()
    save(model, model.classifier, tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelError, match=file):
        load_checkpoint(tmp_path)


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    model = small_model()
    save(model, model.classifier, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"encoder_layers": 3}))
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_the_shipped_model_reads_real_speech(media: Path, seconds: float) -> None:
    sound = read_sound(media / "obama_speech.mp4")
    size = round(16_000 * seconds)
    windows = np.stack([sound[start : start + size] for start in range(16_000, 6 * 16_000, 16_000)])
    model = AudioEmotionModel.load(SHIPPED, window_seconds=seconds)
    rows = model.predict(windows, full(windows))
    assert model.labels == EMOTIONS
    np.testing.assert_allclose(rows.sum(axis=1), 1.0, atol=1e-5)
    assert rows.max(axis=1).mean() > 0.25  # twice what a model that knows nothing says


def test_padding_hardly_changes_what_a_tail_is_judged_as(media: Path) -> None:
    tail = read_sound(media / "obama_speech.mp4")[4 * 16_000 : 5 * 16_000]
    exact = AudioEmotionModel.load(SHIPPED, window_seconds=1.0).predict(tail[None], np.array([16_000]))
    padded = np.zeros((1, 32_000), np.float32)
    padded[0, :16_000] = tail
    as_tail = AudioEmotionModel.load(SHIPPED, window_seconds=2.0).predict(padded, np.array([16_000]))
    as_whole = AudioEmotionModel.load(SHIPPED, window_seconds=2.0).predict(padded, np.array([32_000]))
    assert np.abs(as_tail - exact).sum() < 0.5 * np.abs(as_whole - exact).sum()


def speech(media: Path) -> np.ndarray:
    """Windows of 2 s of real sound, (n, 32_000): a talk and a crowd."""
    sounds = (read_sound(media / "obama_speech.mp4"), read_sound(media / "crowd.mp3")[: 10 * 16_000])
    return np.stack([sound[start : start + 32_000] for sound in sounds for start in range(0, 6 * 16_000, 12_000)])


def test_bfloat16_changes_probabilities_by_no_more_than_is_said(media: Path) -> None:
    """Measured on 201 windows: 0.0026 on average, 0.027 at most, and no window changes its emotion."""
    windows = speech(media)
    exact, rounded = (
        AudioEmotionModel.load(SHIPPED, window_seconds=2.0, dtype=dtype).predict(windows, full(windows))
        for dtype in (torch.float32, torch.bfloat16)
    )
    difference = np.abs(rounded - exact)
    assert 0 < difference.mean() <= 0.005
    assert difference.max() <= 0.05


def test_a_row_in_bfloat16_does_not_depend_on_its_batch(media: Path) -> None:
    windows, model = speech(media), AudioEmotionModel.load(SHIPPED, window_seconds=2.0, dtype=torch.bfloat16)
    together = model.predict(windows[:5], full(windows[:5]))
    np.testing.assert_allclose(model.predict(windows[:1], full(windows[:1])), together[:1], atol=1e-4)
