"""Draws docs/report-light.png, report-dark.png and overview.png: the page of `moodreel report`, in Chromium.

The clip is drawn and the results are made up: see tests/browser.py. Needs chromium and chromium-driver.

make figures
"""

import sys
import tempfile
from io import BytesIO
from pathlib import Path

from click.testing import CliRunner
from PIL import Image
from selenium.webdriver.common.by import By

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from db.store import Store  # noqa: E402
from scheduler.cli import cli  # noqa: E402
from tests.browser import add_video, chromium, write_clip  # noqa: E402


def main() -> None:
    """Make an archive, its reports and their pictures."""
    with tempfile.TemporaryDirectory() as name, chromium(Path(name) / "profile") as browser:
        folder = Path(name)
        clip = write_clip(folder / "drawn.webm", 60)
        database = str(folder / "archive.db")
        with Store(database) as store:
            add_video(store, str(clip), 60, seed=4)
            for n in range(23):
                add_video(store, f"/archive/{2020 + n % 6}/talk-{n:02}.webm", 120 + 17 * n, seed=n)
        for out, videos in {"one.html": [str(clip)], "all.html": ["--all"]}.items():
            ran = CliRunner().invoke(cli, ["report", *videos, "--db", database, "-o", str(folder / out)])
            if ran.exception:
                raise ran.exception
        for picture, out, dark in (
            ("report-light", "one.html", False),
            ("report-dark", "one.html", True),
            ("overview", "all.html", False),
        ):
            browser.get((folder / out).as_uri())
            WebDriverWait(browser, 60).until(
                lambda b: b.execute_script("return document.documentElement.dataset.ready")
            )
            if dark:
                browser.find_element(By.ID, "theme").click()
            browser.execute_script("document.getElementById('name').textContent = 'drawn.webm'")
            browser.execute_script("if (open) moveTo(24, true)")
            browser.execute_async_script("setTimeout(arguments[0], 1500)")
            browser.execute_script(
                "for (const a of document.querySelectorAll('a')) a.textContent = a.title.replace(arguments[0], '~')",
                name,
            )
            shot = Image.open(BytesIO(browser.get_screenshot_as_png())).convert("RGB")
            shot.quantize(128, dither=Image.Dither.NONE).save(DOCS / f"{picture}.png", optimize=True)


if __name__ == "__main__":
    main()
