"""Where videos are: objects of buckets. Lists them by pages, and says what one of them is now. Reads none."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db.errors import AccessDenied, MoodreelError, NotReadable, NoVideos, ObjectArchived, PathMissing
from db.identity import ObjectName, Source, printable
from scheduler.wanted import Wanted

_ARCHIVES = frozenset(("GLACIER", "DEEP_ARCHIVE", "ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS"))


@dataclass(frozen=True)
class Found:
    """An object as its store describes it.

    Attributes:
        is_archived: whether nothing can be read from it before it is restored.
    """

    name: ObjectName
    source: Source
    is_archived: bool


def listed(place: ObjectName) -> Iterator[Found]:
    """The object with this name, if there is one; else all whose keys begin like this, a page at a time.

    They come in the store's order, which is that of the keys' bytes. Folders, keys that end in a slash, are left out.

    Raises:
        MoodreelError: the store refuses, or is out of reach.
    """
    for page in _pages(place):
        for entry in page.get("Contents", ()):
            name = ObjectName(place.bucket, entry["Key"])
            if can_be_video(name):
                restored = entry.get("RestoreStatus", {})
                is_restored = "RestoreExpiryDate" in restored and not restored.get("IsRestoreInProgress")
                yield _found(name, entry, entry["Size"], is_restored)
                if name == place:
                    return


def can_be_video(name: ObjectName) -> bool:
    """Whether a key is neither a folder's nor one that no database can hold."""
    is_text = not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in name.key)  # JSON can have halves of characters
    return is_text and bool(name.key) and not name.key.endswith("/")


def look_at(name: ObjectName) -> Found | None:
    """An object as it is now; None: there is none of this name.

    Raises:
        MoodreelError: the store refuses, or is out of reach.
    """
    from worker.objects import head

    try:
        said = head(name)
    except PathMissing:
        return None
    except AccessDenied:
        # Whoever may list only what lies below a prefix is denied what is not there, too; a listing can tell.
        if _is_listed(name):
            raise
        return None
    return _found(name, said, said["ContentLength"], 'ongoing-request="false"' in said.get("Restore", ""))


def _is_listed(name: ObjectName) -> bool:
    """Whether a listing has an object. Of all whose names begin like its own it comes first, so one entry is enough."""
    first = (entry["Key"] for page in _pages(name, MaxKeys=1) for entry in page.get("Contents", ()))
    return next(first, None) == name.key


def is_wanted(found: Found, place: ObjectName, wanted: Wanted) -> bool:
    """Whether an object is what a search for videos in a place is for; hidden ones are not, as with files."""
    key, begins = found.name.key, place.key
    within = key.removeprefix(begins) if begins.endswith("/") or not begins else f"_{key.removeprefix(begins)}"
    return (
        lies_in(found.name, place)
        and not any(part.startswith(".") for part in within.split("/"))
        and wanted.takes_name(key)
        and wanted.takes(found.source.size_bytes, found.source.modified_at_seconds)
    )


def lies_in(name: ObjectName, place: ObjectName) -> bool:
    """Whether an object's name begins with that of a place."""
    return name.bucket == place.bucket and name.key.startswith(place.key)


class Search:
    """Finds videos in several places, each once, however the places overlap.

    Remembers the places, not what it found there, which may be millions of objects.

    Args:
        wanted: what to look for where a place is not one object.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted.as_search()
        self._named: set[ObjectName] = set()
        self._searched: list[ObjectName] = []

    def find(self, place: ObjectName) -> Iterator[Source | MoodreelError]:
        """Yields:
        A source for each video that no earlier place held; the errors that say what else there is.
        """
        n_listed = n_wanted = 0
        archived: list[Found] = []  # the first one, and how many there are
        n_archived = 0
        try:
            for found in listed(place):
                n_listed += 1
                if found.name != place and not is_wanted(found, place, self._wanted):
                    continue
                n_wanted += 1
                if found.is_archived:
                    n_archived += 1
                    archived = archived or [found]
                elif not self._was_found(found):
                    yield found.source
                if found.name == place:
                    self._named.add(place)
        except MoodreelError as error:
            yield error
            return
        finally:
            if place not in self._named:
                self._searched.append(place)
        if archived:
            yield _archived(archived[0], n_archived)
        elif not n_wanted:
            yield _nothing(place, n_listed)

    def _was_found(self, found: Found) -> bool:
        return found.name in self._named or any(is_wanted(found, place, self._wanted) for place in self._searched)


def _pages(place: ObjectName, **limits: int) -> Iterator[Mapping[str, Any]]:
    from botocore.exceptions import BotoCoreError, ClientError

    from worker.objects import as_failure, client, payer

    query = {"Bucket": place.bucket, "Prefix": place.key, **payer(), **limits}
    more: Mapping[str, str] = {}
    while True:
        try:
            page = client("s3").list_objects_v2(OptionalObjectAttributes=["RestoreStatus"], **query, **more)
        except (BotoCoreError, ClientError) as error:
            raise as_failure(error, place.uri) from error
        except UnicodeEncodeError as error:
            raise NotReadable(f"{printable(place.uri)}: a name that is not UTF-8 is no object's") from error
        yield page
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _found(name: ObjectName, said: Mapping[str, Any], size_bytes: int, is_restored: bool) -> Found:
    modified: datetime = said["LastModified"]
    is_archived = bool(_ARCHIVES & {said.get("StorageClass"), said.get("ArchiveStatus")}) and not is_restored
    return Found(name, Source.of_object(name, said["ETag"], size_bytes, modified.timestamp()), is_archived)


def _archived(first: Found, n: int) -> MoodreelError:
    others = f", and so do {n - 1} others in this place" if n > 1 else ""
    return ObjectArchived(f"{printable(first.name.uri)}: lies in an archive tier{others}")


def _nothing(place: ObjectName, n_listed: int) -> MoodreelError:
    shown = printable(place.uri)
    if n_listed:
        return NoVideos(f"{shown}: no video of those wanted among {n_listed} objects")
    return PathMissing(f"{shown}: no object has this name, or one that begins with it")
