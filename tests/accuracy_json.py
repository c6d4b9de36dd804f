"""What accuracy.json promises, whoever wrote it."""

import numpy as np
import pytest


def assert_shape(found):
    """The corpora, their sides and figures that agree with each other."""
    for name, side in (
        *((name, side) for name in ("ravdess", "javanese") for side in ("audio", "face", "fused")),
        ("crema-d", "audio"),
        ("fer2013", "face"),
    ):
        figures = found[name][side]
        assert all(0 <= figures[key] <= 1 for key in ("wa", "uar", "macro_f1", "ece", "answered")), (name, side)
        folds = 1 if name == "fer2013" else 5
        assert len(figures["per_fold"]["wa"]) == folds
        if name != "fer2013":
            assert set(figures["people"]["sex"]) == {"women", "men"}
        assert figures["wa"] == pytest.approx(np.mean(figures["per_fold"]["wa"]), abs=2e-4)
        assert sum(label["clips"] for label in figures["per_class"].values()) == figures["clips"]
        right = sum(line[k] for k, line in enumerate(figures["confusion"]["counts"]))
        assert right / figures["clips"] == pytest.approx(figures["pooled"]["wa"], abs=1e-4)
    for conditions in found["fusion"].values():
        assert {len(condition["rules"]) for condition in conditions.values()} == {6}
    for kinds in found["adaptation"].values():
        for by in kinds.values():
            assert by["adaptation"]["wa"] == pytest.approx(by["none"]["wa"] + by["adaptation"]["gain"], abs=2e-4)
