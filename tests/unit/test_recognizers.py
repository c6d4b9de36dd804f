"""How the models are loaded: in which number format, with how many threads, in batches of which size."""

import numpy as np
import pytest
import torch

from db.errors import OutOfMemory, WeightsMissing
from models import audio
from models.audio import AudioEmotionModel
from models.expression import ExpressionModel
from worker import recognizers
from worker.recipe import Recipe
from worker.recognizers import AUDIO_BATCH, CORES_A_THREAD, CPU_SHAPES, FACE_BATCH, Recognizers

WAVE = (np.zeros(32_000, np.float32), np.array(32_000, np.int64))
CROP = np.zeros((48, 48), np.uint8)


class Fake:
    """Loads as either model does and notes how; takes batches of up to `room` rows."""

    def __init__(self, room: int = 1000) -> None:
        self.room, self.options, self.sizes = room, {}, []

    def load(self, folder, **options):
        self.options = options
        return self

    def predict(self, *columns):
        if len(columns[0]) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.sizes.append(len(columns[0]))
        return np.zeros((len(columns[0]), 8), np.float32)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("has", "asked", "voice", "face"),
    [
        ({"avx512_bf16": True, "avx512_vnni": True}, "auto", "bfloat16", "int8"),
        ({"avx512_bf16": True, "avx512_vnni": True}, "float32", "float32", "float32"),
        ({}, "auto", "float32", "float32"),
        ({}, "bfloat16", "bfloat16", "bfloat16"),
    ],
)
def test_models_compute_in_what_their_provenance_says(monkeypatch, threads, has, asked, voice, face):
    voices, faces = Fake(), Fake()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(AudioEmotionModel, "load", voices.load)
    monkeypatch.setattr(ExpressionModel, "load", faces.load)
    with Recognizers(Recipe(), "cpu", asked) as models:
        models.submit_audio(*WAVE).result(10)
        models.submit_face(CROP).result(10)
        assert models.provenance() == {
            "device": "cpu", "audio_dtype": voice, "face_dtype": face,
            "audio_batch": AUDIO_BATCH, "face_batch": FACE_BATCH,
        }  # fmt: skip
    assert voices.options == {"window_seconds": 2.0, "device": "cpu", "dtype": getattr(torch, voice)}
    assert faces.options == {"device": "cpu", "dtype": getattr(torch, face)}


def test_a_cpu_sees_few_shapes_whose_code_it_keeps(monkeypatch, threads):
    """Or memory grows with the length of a video, until each size of a batch that leaves early has been seen."""
    voices = Fake()
    monkeypatch.setattr(AudioEmotionModel, "load", voices.load)
    with Recognizers(Recipe(), "cpu") as models:
        for n_rows in range(1, AUDIO_BATCH + 1):
            assert len([answer.result(10) for answer in [models.submit_audio(*WAVE) for _ in range(n_rows)]]) == n_rows
    assert set(voices.sizes) == {AUDIO_BATCH * n // CPU_SHAPES for n in range(1, CPU_SHAPES + 1)}


@pytest.mark.parametrize(("cores", "wanted"), [(2, 1), (2 * CORES_A_THREAD, 2)])
def test_small_models_leave_the_cores_to_the_decoders(monkeypatch, threads, cores, wanted):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(recognizers.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(ExpressionModel, "load", Fake().load)
    torch.set_num_threads(5)
    with Recognizers(Recipe(), "cpu") as models:
        models.submit_face(CROP).result(10)
    assert torch.get_num_threads() == wanted


def test_threads_that_the_environment_asks_for_are_kept(monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setattr(ExpressionModel, "load", Fake().load)
    torch.set_num_threads(5)
    with Recognizers(Recipe(), "cpu") as models:
        models.submit_face(CROP).result(10)
    assert torch.get_num_threads() == 5


def test_on_a_gpu_the_largest_batch_that_fits_is_found_and_kept_to(monkeypatch):
    fake = Fake(room=2 * AUDIO_BATCH)
    monkeypatch.setattr(recognizers, "pick_device", lambda asked: "cuda")
    monkeypatch.setattr("worker.batcher._seconds_a_row", timed(fake))
    monkeypatch.setattr(AudioEmotionModel, "load", fake.load)
    with Recognizers(Recipe(), "cuda") as models:
        models.submit_audio(*WAVE).result(10)
        assert models.provenance()["audio_batch"] == 2 * AUDIO_BATCH
    assert fake.sizes == [2 * AUDIO_BATCH]  # filled up: one shape only


def timed(fake):
    """In the place of a clock: larger batches save time as long as they fit."""
    return lambda predict, row, n_rows: 1 / n_rows if n_rows <= fake.room else float("inf")


def test_memory_that_runs_out_under_way_halves_the_batches(monkeypatch, threads):
    fake = Fake(room=1)
    monkeypatch.setattr(AudioEmotionModel, "load", fake.load)
    with Recognizers(Recipe(), "cpu") as models:
        rows = [models.submit_audio(*WAVE) for _ in range(5)]
        assert all(row.result(10).shape == (8,) for row in rows)
        assert models.provenance()["audio_batch"] == 1
        fake.room = 0
        with pytest.raises(OutOfMemory):
            models.submit_audio(*WAVE).result(10)


def test_weights_that_are_missing_say_so(monkeypatch, tmp_path, threads):
    monkeypatch.setattr(audio, "CONFIG_FILE", "nowhere.json")
    with Recognizers(Recipe(), "cpu") as models, pytest.raises(WeightsMissing, match=r"nowhere\.json"):
        models.submit_audio(*WAVE)
