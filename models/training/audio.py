"""Trains the shipped voice model: the frozen encoder of Whisper tiny.en and a head, on RAVDESS and CREMA-D together.

    python -m models.training.audio --data FOLDER --whisper tiny.en.pt [--out FOLDER] [--cache FOLDER]

FOLDER of the data holds `ravdess-audio` and `crema-d-audio`, each as a folder or as a .tar. `tiny.en.pt` is OpenAI's
own checkpoint. The recipe is `models.training.voice_recipe.FrozenEncoder`; what it reaches on unseen speakers is
measured by `models.training.evaluate`, which trains its fold models by the same recipe.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save as serialised
from torch import nn
from transformers import WhisperConfig, WhisperFeatureExtractor

from models.audio import CONFIG_FILE, WEIGHTS_FILE, WhisperForEmotion
from models.presets import COMPACT_AUDIO
from models.training.cache import Cache, default_folder
from models.training.corpora import clips_in, crema_d_clip, ravdess_clip
from models.training.head import HeadOptions
from models.training.recordings import Recordings, unpacked
from models.training.voice_recipe import FrozenEncoder
from models.training.whisper import read_whisper


def save(whisper: WhisperForEmotion, head: nn.Sequential, out: Path) -> None:
    """Write encoder and head, float16, in the layout of Hugging Face."""
    out.mkdir(parents=True, exist_ok=True)
    whisper.classifier.load_state_dict(head.state_dict())
    state = {name: value.half().contiguous() for name, value in whisper.state_dict().items()}
    (out / WEIGHTS_FILE).write_bytes(serialised(state, metadata={"format": "pt"}))
    config = WhisperConfig(**asdict(whisper.config), label2id={v: k for k, v in whisper.config.id2label.items()})
    config.architectures, config.dtype = [type(whisper).__name__], "float16"
    (out / CONFIG_FILE).write_text(config.to_json_string())
    WhisperFeatureExtractor().save_pretrained(out)


def train(whisper: WhisperForEmotion, recordings: Recordings, recipe: FrozenEncoder, out: Path) -> None:
    """Train on all clips, calibrate, save. `recipe` is of this very encoder, and of as many hidden units."""
    model = recipe.train(recordings, range(len(recordings.clips)))
    save(whisper, model.head, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m models.training.audio", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets, packed or unpacked")
    parser.add_argument("--whisper", type=Path, required=True, help="OpenAI's tiny.en.pt")
    parser.add_argument("--out", type=Path, default=COMPACT_AUDIO.folder, help="where the model is written")
    parser.add_argument("--cache", type=Path, default=default_folder(), help="where what took long is kept")
    given = parser.parse_args(arguments)
    kept, options = Cache(given.cache), HeadOptions()
    whisper = read_whisper(given.whisper, hidden=options.members * options.hidden)
    ravdess, crema_d = (unpacked(given.data, f"{name}-audio", kept.folder) for name in ("ravdess", "crema-d"))
    recordings = Recordings(clips_in(ravdess, ravdess_clip) + clips_in(crema_d, crema_d_clip), kept)
    recordings.read("RAVDESS, CREMA-D")
    train(whisper, recordings, FrozenEncoder(whisper, options), given.out)
    print(f"the model is in {given.out}; `python -m models.training.evaluate` measures the recipe")


if __name__ == "__main__":
    main()
