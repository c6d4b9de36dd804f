"""The page that `report` and `serve` show: one document, made of the files beside this one and of plotly.js.

plotly.js is read from the installed package `plotly`; nothing is loaded when the page is opened. All data travels as
JSON, which the page's script puts into text nodes: no name can become markup.
"""

import base64
import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from db.errors import NotInstalled
from db.gallery import SORTS, STATES
from db.words import EMOTIONS

# Okabe and Ito's palette with a grey that is lighter than their reddish purple; a test measures how far they are apart.
COLOURS: dict[str, str] = dict(
    zip(
        EMOTIONS,
        ("#D0D0D0", "#56B4E9", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#009E73", "#E69F00"),
        strict=True,
    )
)
_HERE = Path(__file__).parent


def page(data: dict[str, Any], details: dict[int, str] | None = None, *, live: bool = False) -> str:
    """The whole document.

    Args:
        data: what the overview shows; see `scheduler.report.overview`.
        details: JSON of each video by its id, where the page is not served.
        live: whether the page asks its own server for what it shows.

    Raises:
        NotInstalled: plotly is not.
    """
    library, script = _library(), (_HERE / "page.js").read_text()
    known = {"emotions": list(EMOTIONS), "colours": COLOURS, "states": list(STATES), "sorts": list(SORTS), "live": live}
    parts = {
        "POLICY": _policy(live, library, script),
        "CSS": (_HERE / "page.css").read_text(),
        "DATA": harmless(json.dumps(known | data)),
        "DETAILS": "\n".join(
            f'<script type="application/json" id="video-{video_id}">{harmless(text)}</script>'
            for video_id, text in (details or {}).items()
        ),
        "LIBRARY": library,
        "SCRIPT": script,
    }
    head, *rest = (_HERE / "page.html").read_text().split("@")
    # Names of parts stand at odd places between the signs; what is put in is not looked at again.
    return head + "".join(parts.get(text, text) for text in rest)


def harmless(text: str) -> str:
    """JSON that cannot end the element that it stands in."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _library() -> str:
    spec = find_spec("plotly")
    path = Path(spec.origin).parent / "package_data" / "plotly.min.js" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise NotInstalled("plotly is not installed, and this command needs it", "pip install 'moodreel[report]'")
    return path.read_text(encoding="utf-8").replace("</script", "<\\/script")


def _policy(live: bool, *scripts: str) -> str:
    """A Content-Security-Policy: only these scripts run, and nothing is fetched from elsewhere."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    media, connect = ("'self'", "'self'") if live else ("'self' file: data:", "'none'")
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; media-src {media}; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
