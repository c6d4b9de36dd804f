"""docs/accuracy.md, its pictures, the README and the models' cards say what docs/accuracy.json says."""

import json
import re
from pathlib import Path

import pytest

from models.training import report
from tests.accuracy_json import assert_shape

ROOT = Path(__file__).parents[2]
DOCS, WEIGHTS = ROOT / "docs", ROOT / "models" / "weights"


@pytest.fixture(scope="module")
def found():
    return json.loads((DOCS / "accuracy.json").read_text())


def test_the_page_tells_the_figures_of_the_json(found):
    assert_shape(found)
    assert (DOCS / "accuracy.md").read_text() == report.page(found), "run: make eval"
    pictures = re.findall(r"\(accuracy/(\S+\.svg)\)", (DOCS / "accuracy.md").read_text())
    assert len(pictures) == 11
    assert all((DOCS / "accuracy" / name).stat().st_size < 100_000 for name in pictures)
    assert found["measured"]["clips"] == {"ravdess": 1440, "crema-d": 7440, "javanese": 240}


def row(page: str, begins: str) -> list[str]:
    """The cells after the first of the one line of a table that begins like this, without emphasis."""
    (line,) = [line for line in page.splitlines() if line.replace("*", "").startswith(f"| {begins}")]
    return [cell.strip() for cell in line.replace("*", "").strip("|").split("|")][1:]


def said(*figures: dict[str, float]) -> tuple[str, str]:
    """Accuracies and calibration errors, as the README writes them."""
    return (
        f"{', '.join(report.percent(found['wa']) for found in figures)} %",
        ", ".join(f"{found['ece']:.3f}" for found in figures),
    )


def test_the_readme_tells_them(found):
    section = (ROOT / "README.md").read_text().partition("## How good is it?")[2].partition("\n## ")[0]
    lines = [line.replace("*", "") for line in section.splitlines() if line.startswith("| ")][1:]
    told = [tuple(cell.strip() for cell in line.strip("|").split("|")[2:]) for line in lines]
    ravdess, javanese = found["ravdess"], found["javanese"]
    assert told == [
        said(ravdess["audio"]),
        said(ravdess["face"]),
        said(ravdess["fused"]),
        said(found["crema-d"]["audio"]),
        said(found["fer2013"]["face"]),
        said(*(javanese[side] for side in ("audio", "face", "fused"))),
        said(*(javanese["shipped"][side] for side in ("audio", "face", "fused"))),
    ]


def test_the_voice_s_card_tells_them(found):
    card = (WEIGHTS / "audio" / "README.md").read_text()
    for begins, corpus in (("RAVDESS, 8 labels", "ravdess"), ("CREMA-D, 6 labels", "crema-d")):
        figures = found[corpus]["audio"]
        actors = figures["people"]["actor"].values()
        assert row(card, begins) == [
            *(report.percent(figures[name]) for name in ("wa", "uar")),
            f"{figures['ece']:.3f}",
            *(report.percent(figures["people"]["sex"][sex]) for sex in ("women", "men")),
            f"{report.percent(min(actors))}, {report.percent(max(actors))}",
        ]
    shipped = found["javanese"]["shipped"]["audio"]
    assert row(card, "Javanese videos, 6 labels, as shipped")[:3] == [
        *(report.percent(shipped[name]) for name in ("wa", "uar")),
        f"{shipped['ece']:.3f}",
    ]
    kinds = ("balanced, all clips", "balanced", "70 %", "100 %", "two speakers, balanced", "four to six speakers, 40 %")
    for name, corpus in (("CREMA-D |", "crema-d"), ("RAVDESS |", "ravdess"), ("Javanese (adaptation", "javanese")):
        gains = {kind: by["adaptation"]["gain"] for kind, by in found["adaptation"][corpus].items()}
        told = [float(cell) for cell in row(card, name) if cell]
        assert told == pytest.approx([100 * gains[kind] for kind in kinds if kind in gains], abs=0.051)


def test_the_cards_of_the_face_tell_them(found):
    card = (WEIGHTS / "face" / "README.md").read_text()
    face = found["fer2013"]["face"]
    expected = [f"{report.percent(face[name])} %" for name in ("wa", "uar")]
    assert row(card, "PrivateTest | 3,589")[1:3] == expected
    shipped = found["javanese"]["shipped"]["face"]
    assert f"{report.percent(shipped['wa'])} % of the clips" in card
    temporal = row((WEIGHTS / "temporal" / "README.md").read_text(), "Javanese videos")
    assert (temporal[0], temporal[2]) == (f"{report.percent(shipped['wa'])} %", f"{shipped['ece']:.3f}")
