"""docs/accuracy.md and its pictures say what docs/accuracy.json says."""

import json
import re
from pathlib import Path

from models.training import report
from tests.accuracy_json import assert_shape

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_tells_the_figures_of_the_json():
    found = json.loads((DOCS / "accuracy.json").read_text())
    assert_shape(found)
    assert (DOCS / "accuracy.md").read_text() == report.page(found), "run: make eval"
    pictures = re.findall(r"\(accuracy/(\S+\.svg)\)", (DOCS / "accuracy.md").read_text())
    assert len(pictures) == 11
    assert all((DOCS / "accuracy" / name).stat().st_size < 100_000 for name in pictures)
    assert found["measured"]["clips"] == {"ravdess": 1440, "crema-d": 7440, "javanese": 240}
