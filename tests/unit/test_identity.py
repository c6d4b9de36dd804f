"""What videos are called: files and objects."""

import pytest

from db.identity import ObjectName, Source


@pytest.mark.parametrize("key", ["a.mp4", "a b/ü+%20?#\n.mp4", "/begins/with/a/slash.mp4", "folder/", ""])
def test_a_uri_leads_back_to_its_object(key: str) -> None:
    name = ObjectName("archive", key)
    assert name.uri == f"s3://archive/{key}"
    assert ObjectName.of(name.uri) == name


def test_what_is_no_object() -> None:
    assert ObjectName.of("/videos/a.mp4") is None
    assert ObjectName.of("file:///videos/s3://a") is None


def test_listings_and_events_name_the_same_version() -> None:
    name = ObjectName("archive", "a.mp4")
    assert Source.of_object(name, '"0f3a-2"', 9, 1.5) == Source.of_object(name, "0f3a-2", 9, 1.5)
    assert Source.of_object(name, '"0f3a-2"', 9, 1.5).version == "0f3a-2"
