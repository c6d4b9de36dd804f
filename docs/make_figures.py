"""Draws docs/demo.svg: what the demo's commands really print, in a terminal 100 columns wide.

make figures
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).parent
WIDTH = 100
MOODREEL = Path(sys.executable).with_name("moodreel")


def terminal(*commands: tuple[str, ...], folder: Path) -> Text:
    """Run commands one after the other and return what a terminal would show."""
    screen = Text()
    for command in commands:
        ran = subprocess.run(
            [str(MOODREEL), *command],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
            env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color"},
        )
        screen.append(f"$ moodreel {' '.join(command)}\n", style="bold")
        screen.append_text(Text.from_ansi(ran.stdout.rstrip()))
        screen.append("\n\n")
    screen.rstrip()
    return screen


def main() -> None:
    """Fetch the clips, annotate them in a folder of their own, draw."""
    fetch = [
        sys.executable,
        str(DOCS.parent / "tests" / "fetch_media.py"),
        "obama_speech.mp4",
        "WolfgangLanger_Pexels.mp4",
    ]
    clips = [Path(line) for line in subprocess.run(fetch, capture_output=True, text=True, check=True).stdout.split()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for clip in clips:
            (folder / clip.name).symlink_to(clip)
        names = [clip.name for clip in clips]
        screen = terminal(("annotate", *names), ("timeline", names[1]), folder=folder)
    screen = Text.from_ansi(re.sub(re.escape(str(folder)), "~", _ansi(screen)))
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"))  # noqa: SIM115 - nothing to keep
    console.print(screen)
    svg = console.export_svg(title="moodreel")
    (DOCS / "demo.svg").write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


def _ansi(text: Text) -> str:
    console = Console(force_terminal=True, color_system="256", width=10_000)
    with console.capture() as captured:
        console.print(text, soft_wrap=True)
    return captured.get()


if __name__ == "__main__":
    main()
