"""The command `moodreel fuse`: another timeline from stored windows, without decoding and without a model."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from db.errors import BadOption, DatabaseLocked, LeaseLost, PathMissing
from db.identity import printable
from db.rows import Video
from db.store import Store
from scheduler.cli import EXIT_FAILED, print_json, stderr
from scheduler.render import complain, legend, strip
from scheduler.show import find_video, open_existing

MAX_STRIPS = 20


def run(
    names: Sequence[str],
    every: bool,
    db_url: str,
    changes: dict[str, dict[str, Any]],
    as_json: bool,
    adapt: bool | None = None,
) -> int:
    """Fuse anew and print; returns the exit status.

    Args:
        names: URIs or paths; with `every`, all videos that have a timeline are meant instead.
        changes: what is to be different, like `{"fusion": {"rule": "average"}}`; None in it leaves a value as it is.
        adapt: whether the voice is adapted to the video; None leaves that as it is.
    """
    if every == bool(names):
        raise BadOption("name the videos, or give --all for every video that has a timeline")
    check(changes)
    console, shown, failed = Console(stderr=as_json), [], 0
    with open_existing(db_url) as store:
        for item in _videos(store, names, every):
            try:
                if isinstance(item, PathMissing):
                    raise item
                pipeline = _fuse(store, item, changes, adapt)
            except (PathMissing, BadOption, LeaseLost, DatabaseLocked) as error:
                where = "" if isinstance(item, PathMissing) else f"{item.uri}: "
                complain(stderr(), error.code, f"{where}{error}", error.hint)
                failed += 1
                continue
            shown.append({"video": item.uri, "pipeline": pipeline})
            if not as_json and len(shown) <= MAX_STRIPS:
                pieces = store.timeline(item.uri)
                console.print(Text(printable(item.uri), style="bold"), Text(pipeline, style="dim"), soft_wrap=True)
                console.print(strip(pieces, min(console.width, 100)))
                console.print(legend(pieces))
    if as_json:
        print_json({"videos": shown, "done": len(shown), "failed": failed})
    else:
        console.print(f"{len(shown)} fused anew" + (f", {failed} failed" if failed else ""))
    return EXIT_FAILED if failed else 0


def check(changes: dict[str, dict[str, Any]]) -> None:
    """See whether a pipeline can have these values.

    Raises:
        BadOption: it cannot.
    """
    from models.calibration import Calibration
    from models.fusion import Fusion
    from worker.timeline import Smoothing

    try:
        for kind, part in ((Fusion, "fusion"), (Calibration, "calibration"), (Smoothing, "smoothing")):
            kind(**{name: value for name, value in changes[part].items() if value is not None})
    except ValueError as error:
        raise BadOption(str(error)) from error


def _videos(store: Store, names: Sequence[str], every: bool) -> Iterator[Video | PathMissing]:
    for name in store.annotated_uris() if every else names:
        video = find_video(store, name)
        if video is None or video.current_annotation_id is None:
            yield PathMissing(
                f"{name} has no timeline in this database", f"Annotate it first: moodreel annotate {name}"
            )
        else:
            yield video


def _fuse(store: Store, video: Video, changes: dict[str, dict[str, Any]], adapt: bool | None) -> str:
    """Give a video another timeline; the new pipeline's name.

    Raises:
        BadOption: it is to be adapted, and its voice model has not what that takes.
    """
    from worker.finish import fuse_anew
    from worker.recipe import Identity

    assert video.current_annotation_id is not None
    config = store.pipeline_config(video.current_annotation_id)
    for part, values in changes.items():
        config[part] = config[part] | {name: value for name, value in values.items() if value is not None}
    if adapt is not None:
        config["adaptation"] = _adaptation(config["audio"]) if adapt else None
    identity = Identity.of(config)
    fuse_anew(store, video.current_annotation_id, identity)
    return identity.name


def _adaptation(audio: dict[str, Any]) -> dict[str, Any]:
    """What adapts the rows of a voice model, given as a pipeline's configuration describes it."""
    from models.presets import COMPACT_AUDIO

    if audio != COMPACT_AUDIO.describe():
        raise BadOption("only the voice model that this version of moodreel ships can be adapted to a video")
    return COMPACT_AUDIO.adaptation.config
