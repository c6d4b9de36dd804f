"""The faults that moodreel must outlive: for each the tests that cause it, and the defences that they show.

A defence is a few lines of code. `python -m tests.faults` takes each out of a copy of the project and wants its test to
fail there: a test that passes without its defence shows nothing.
"""

# ruff: noqa: E501 - lines of code stand here as they stand elsewhere, indented

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A test, and the defence without which it fails.

    Attributes:
        test: its node id, without parameters.
        defence: in words.
        file, code: where the defence is, and its text, which stands there once.
        without: what stands there while it is taken out.
        also: more of this kind, where one defence stands behind another: file, code and what stands there instead.
    """

    test: str
    defence: str
    file: str
    code: str
    without: str
    also: tuple[tuple[str, str, str], ...] = ()

    @property
    def edits(self) -> tuple[tuple[str, str, str], ...]:
        """All that is taken out."""
        return ((self.file, self.code, self.without), *self.also)


# By the fault, in words.
CASES: dict[str, tuple[Check, ...]] = {
    "kill -9 of a worker midway": (
        Check(
            "tests/acceptance/test_annotate.py::test_after_kill_nine_the_next_run_takes_over_at_once",
            "claims of a process that is gone are taken over at once",
            "worker/pipeline.py",
            "dead = [owner for owner in self._store.lease_owners(annotation_id) if is_dead(owner)]",
            "dead: list[str] = []",
        ),
    ),
    "kill -9 of a decoding child midway": (
        Check(
            "tests/integration/test_bad_media.py::test_killed_child",
            "a child that did not end its job is replaced before the next one",
            "worker/reader.py",
            "            if not completed:\n                self.close()\n",
            "",
        ),
    ),
    "a message is lost": (
        Check(
            "tests/faults/test_fleet_faults.py::test_messages_that_were_taken_and_never_acted_on_are_sent_again",
            "the scheduler compares marks with the length of Redis's lists, and sends again what is missing",
            "scheduler/feeder.py",
            "return now - self._short_since >= self._lost_seconds",
            "return False",
        ),
    ),
    "a message is delivered twice": (
        Check(
            "tests/faults/test_fleet_faults.py::test_a_message_that_comes_again_while_its_job_is_done_is_done_once",
            "a job that somebody holds is not claimed",
            "db/jobs.py",
            "sa.or_(table.c.lease_until.is_(None), table.c.lease_until <= now - _apart(table)),",
            "sa.true(),",
        ),
    ),
    "a worker wakes up after its lease (SIGSTOP)": (
        Check(
            "tests/faults/test_fleet_faults.py::test_a_worker_that_wakes_up_after_its_lease_writes_nothing",
            "writes are fenced by the claim's epoch and owner",
            "db/leases.py",
            (
                "        spans.c.epoch == claim.epoch,\n"
                "        spans.c.lease_owner == claim.owner,\n"
                '        spans.c.status == "running",\n'
            ),
            "",
        ),
    ),
    "kill -9 just before and just after each commit of a run": (
        Check(
            "tests/faults/test_databases.py::test_a_worker_that_dies_around_each_of_its_commits_leaves_the_rows_of_one_that_lives",
            "windows and their count are stored in one transaction, over what was stored before",
            "db/leases.py",
            (
                "            _write(connection, claim, windows_done=last + 1 - claim.first_window)\n"
                "            insert_rows(connection, windows, WINDOW_COLUMNS, claim.annotation_id, rows, replace=True)\n"
            ),
            (
                "            insert_rows(connection, windows, WINDOW_COLUMNS, claim.annotation_id, rows)\n"
                "        with self.writing() as connection:\n"
                "            _write(connection, claim, windows_done=last + 1 - claim.first_window)\n"
            ),
        ),
    ),
    "a file crashes its decoder every time": (
        Check(
            "tests/integration/test_fleet_worker.py::test_a_span_that_kills_its_decoder_each_time_is_quarantined",
            "attempts are counted before the work, and after so many the video is quarantined",
            "db/leases.py",
            "attempts=spans.c.attempts + 1,",
            "attempts=spans.c.attempts,",
        ),
    ),
    "SIGTERM, and the grace period runs out": (
        Check(
            "tests/faults/test_fleet_faults.py::test_what_is_not_done_within_the_grace_after_sigterm_is_given_back_uncounted",
            "what is under way is given back, and the attempt is not counted",
            "db/jobs.py",
            'values = {"status": "pending", "attempts": one_less(spans.c.attempts)}',
            'values = {"status": "pending"}',
        ),
    ),
    "Redis restarts, empty": (
        Check(
            "tests/faults/test_fleet_faults.py::test_redis_that_restarts_empty_while_jobs_are_done_costs_nothing",
            "the scheduler compares marks with the length of Redis's lists, and sends again what is missing",
            "scheduler/feeder.py",
            "return now - self._short_since >= self._lost_seconds",
            "return False",
        ),
    ),
    "a network swallows all that goes to Redis and back": (
        Check(
            "tests/faults/test_fleet_faults.py::test_a_network_that_swallows_what_is_sent_to_redis_costs_nothing",
            "a broker that does not answer in time is connected to anew",
            "worker/broker.py",
            '        "socket_timeout": TIMEOUT_SECONDS,\n',
            '        "socket_timeout": None,\n',
        ),
    ),
    "Redis is out of memory, without eviction": (
        Check(
            "tests/faults/test_fleet_faults.py::test_redis_that_is_out_of_memory_costs_no_worker",
            "a worker that takes a message writes nothing into Redis",
            "worker/broker.py",
            '"ack_emulation": False,',
            '"ack_emulation": True,',
        ),
    ),
    "PostgreSQL is killed in the middle of a write": (
        Check(
            "tests/integration/test_database_restarts.py::test_rows_being_copied_when_the_server_goes_are_not_stored",
            "a connection that was lost is told apart from a row that was refused",
            "db/session.py",
            "is_lost = isinstance(error, sa.exc.OperationalError) and (error.connection_invalidated or state is None)",
            "is_lost = False",
        ),
    ),
    "a deadlock": (
        Check(
            "tests/faults/test_databases.py::test_a_deadlock_costs_one_of_two_a_try_and_no_row",
            "it counts as a lock that was not had, which is tried again",
            "db/session.py",
            '_LOCKED_SQLSTATES = ("55P03", "40P01", "40001")',
            '_LOCKED_SQLSTATES = ("55P03", "40001")',
        ),
        Check(
            "tests/integration/test_lock_order.py::test_spans_that_were_planned_while_it_was_waited_for_are_locked_first_too",
            "spans that were planned while their annotation was waited for are locked in the order that all keep to",
            "db/catalogue.py",
            "if connection.execute(unfinished).all() == locked:",
            "if True:",
        ),
    ),
    "a serialization failure": (
        Check(
            "tests/faults/test_databases.py::test_a_serialization_failure_is_a_lock_that_was_not_had",
            "it counts as a lock that was not had, which is tried again",
            "db/session.py",
            '_LOCKED_SQLSTATES = ("55P03", "40P01", "40001")',
            '_LOCKED_SQLSTATES = ("55P03", "40P01")',
        ),
    ),
    "the database's disk is full": (
        Check(
            "tests/faults/test_databases.py::test_a_full_disk_keeps_what_is_stored_and_takes_the_rest_later",
            "a full disk has a failure of its own",
            "db/session.py",
            "if state == _FULL_SQLSTATE:",
            "if False:",
        ),
        Check(
            "tests/integration/test_fleet_worker.py::test_a_full_disk_of_the_database_is_waited_for",
            "what the database cannot take is given back uncounted, and waited for",
            "worker/fleet.py",
            ("            case DatabaseUnreachable() | DatabaseLocked():\n                delay = REFUSED_SECONDS\n"),
            "",
        ),
    ),
    "eight SQLite writers beside a long reader": (
        Check(
            "tests/faults/test_databases.py::test_eight_sqlite_writers_beside_a_long_reader",
            "SQLite's write-ahead log: readers and a writer do not wait for each other",
            "db/session.py",
            'connection.execute("PRAGMA journal_mode = WAL")',
            'connection.execute("PRAGMA journal_mode = DELETE")',
        ),
    ),
    "the device is out of memory": (
        Check(
            "tests/unit/test_batcher.py::test_a_batch_that_does_not_fit_into_memory_is_done_in_halves",
            "a batch that does not fit is done in halves, and stays halved",
            "worker/batcher.py",
            "            if asked == 1:\n                raise\n",
            "            raise\n",
        ),
    ),
    "a decoder never returns": (
        Check(
            "tests/integration/test_bad_media.py::test_a_crash_or_a_hang_costs_one_file",
            "a child that says nothing for too long is killed",
            "worker/child.py",
            "ours.settimeout(limits.silence_seconds)",
            "ours.settimeout(None)",
        ),
    ),
    "headers of enormous pictures, decompression bombs": (
        Check(
            "tests/integration/test_limits.py::test_pictures_of_too_many_pixels",
            "a picture's size is compared with the limit before it is decoded",
            "worker/decoder_open.py",
            "        if width * height > limits.max_pixels:\n",
            "        if False:\n",
        ),
        Check(
            "tests/integration/test_limits.py::test_a_header_that_claims_more_than_there_is",
            "the same",
            "worker/decoder_open.py",
            "        if width * height > limits.max_pixels:\n",
            "        if False:\n",
        ),
    ),
    "playlists and concat scripts under other names": (
        Check(
            "tests/integration/test_limits.py::test_the_lists_of_formats_and_of_protocols_each_keep_a_script_from_opening",
            "only containers of recordings are opened, and FFmpeg has no protocol to open more by",
            "worker/decoder_open.py",
            '        "format_whitelist": FORMATS,\n        "protocol_whitelist": "none",\n',
            "",
        ),
    ),
    "truncated, empty, random and encrypted files": (
        Check(
            "tests/faults/test_files.py::test_encrypted_and_random_files_fail_with_a_code_each_and_the_rest_goes_on",
            "a video of which nothing could be decoded is not done",
            "worker/finish.py",
            "if store.states(annotation_id) <= {ABSENT, UNREADABLE}:",
            "if False:",
            (
                (
                    "worker/decoder.py",
                    'raise MediaError("undecodable", "not one of its frames or samples can be decoded")',
                    "return",
                ),
            ),
        ),
        Check(
            "tests/integration/test_bad_media.py::test_index_missing",
            "a file that breaks off before its index is told from a damaged one",
            "worker/decoder_open.py",
            "        if not _has_whole_index(file):\n",
            "        if False:\n",
        ),
        Check(
            "tests/integration/test_bad_media.py::test_cut_off_midway",
            "what the container promises is compared with what came",
            "worker/decoder.py",
            "truncated = missing > max(MIN_MISSING_SECONDS, MIN_MISSING_SHARE * (promised or 0.0))",
            "truncated = False",
        ),
        Check(
            "tests/integration/test_bad_media.py::test_empty_file",
            "a file's size is looked at before a decoder is",
            "worker/reader.py",
            "if stat.S_ISREG(status.st_mode) and not status.st_size:",
            "if False:",
            (("worker/decoder_open.py", "    if file.seekable() and not file.size:\n", "    if False:\n"),),
        ),
    ),
    "corrupt packets midway": (
        Check(
            "tests/integration/test_bad_media.py::test_a_damaged_stretch_keeps_what_lies_before_and_after",
            "what cannot be decoded is lost until the next key frame, and said to be unreadable",
            "worker/decoder.py",
            "            self._times.lose()\n            self.track.lose(t_seconds)\n            return []\n",
            "            raise\n",
        ),
        Check(
            "tests/acceptance/test_annotate.py::test_a_corrupt_stretch_keeps_the_good_windows",
            "the same",
            "worker/decoder.py",
            "            self._times.lose()\n            self.track.lose(t_seconds)\n            return []\n",
            "            raise\n",
        ),
    ),
    "no sound, no pictures, many tracks, 5.1, a rate that changes": (
        Check(
            "tests/acceptance/test_annotate.py::test_sound_alone_and_pictures_alone",
            "a side that is not there has a state of its own",
            "worker/collect.py",
            "        if not self._present:\n            return [SideWindow(ABSENT)] * n_windows\n",
            "",
        ),
        Check(
            "tests/integration/test_reader.py::test_sample_rate_and_layout_that_change_midway",
            "a resampler for each kind of frame",
            "worker/decoder_sound.py",
            "if kind != self._kind or expected is None or abs(t_seconds - expected) > MAX_DRIFT_SECONDS:",
            "if expected is None:",
        ),
        Check(
            "tests/integration/test_reader.py::test_layouts_and_rates",
            "sound of any layout becomes one channel",
            "worker/decoder_sound.py",
            'AudioResampler("flt", "mono", SAMPLE_RATE_HZ',
            'AudioResampler("flt", None, SAMPLE_RATE_HZ',
        ),
    ),
    "variable frame rate, negative timestamps, edit lists, rotation": (
        Check(
            "tests/integration/test_reader.py::test_variable_rate",
            "a frame's time is its own timestamp, not its number",
            "worker/decoder.py",
            "        stamp, length = self._times.of(frame), self._length(frame)\n",
            "        stamp, length = None, 0.04\n",
        ),
        Check(
            "tests/integration/test_reader.py::test_start_other_than_zero",
            "times count from the container's start",
            "worker/decoder_time.py",
            "self._offsets = [-start_seconds]",
            "self._offsets = [0.0]",
        ),
        Check(
            "tests/integration/test_reader.py::test_edit_list_that_skips_the_beginning",
            "edit lists are heeded",
            "worker/decoder_open.py",
            '"protocol_whitelist": "none",',
            '"protocol_whitelist": "none", "ignore_editlist": "1",',
        ),
        Check(
            "tests/integration/test_reader.py::test_rotation",
            "pictures are turned upright",
            "worker/decoder_video.py",
            "turns = round(frame.rotation / 90) % 4",
            "turns = 0",
        ),
    ),
    "an S3 object is replaced midway": (
        Check(
            "tests/integration/test_objects_annotated.py::test_an_object_that_is_replaced_while_it_is_annotated_is_annotated_as_it_then_is",
            "each range is asked for under the version that was begun, and what is replaced is begun anew",
            "worker/pipeline.py",
            "if not is_replaced or video.n_versions == MAX_VERSIONS:",
            "if True:",
        ),
        Check(
            "tests/integration/test_objects.py::test_a_store_that_knows_no_conditions_mixes_no_versions",
            "the version of each answer is looked at",
            "worker/objects.py",
            'if answer["ETag"].strip(\'"\') != source.version:',
            "if False:",
        ),
    ),
    "S3: storms of 503, truncated bodies, odd keys": (
        Check(
            "tests/integration/test_objects.py::test_a_storm_of_slow_down_is_waited_out",
            "requests are tried again, later each time",
            "worker/objects.py",
            '"total_max_attempts": MAX_ATTEMPTS',
            '"total_max_attempts": 1',
        ),
        Check(
            "tests/integration/test_objects.py::test_a_body_that_breaks_off_is_continued",
            "a body that breaks off is continued where it broke",
            "worker/objects.py",
            "if breaks > MAX_BREAKS:",
            "if True:",
        ),
        Check(
            "tests/integration/test_objects.py::test_an_object_is_found_under_any_key",
            "keys stay as they are: nothing is unquoted or cut",
            "db/identity.py",
            "        return cls(bucket, key)\n",
            "        return cls(bucket, key.strip().partition('#')[0].replace('+', ' '))\n",
        ),
    ),
    "hostile names and texts: terminal escapes, newlines, 4 kB of Unicode": (
        Check(
            "tests/acceptance/test_annotate.py::test_hostile_names_do_not_drive_the_terminal",
            "names are shown with control characters escaped",
            "db/identity.py",
            'return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))',
            "return str(text)",
        ),
        Check(
            "tests/unit/test_quarantine.py::test_hostile_names_and_reasons_do_not_drive_the_terminal",
            "the same",
            "db/identity.py",
            'return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))',
            "return str(text)",
        ),
        Check(
            "tests/faults/test_files.py::test_hostile_texts_in_a_file_go_nowhere",
            "of a file's texts only its date is read, and only if it is one",
            "worker/decoder_probe.py",
            "    except ValueError:\n        return None\n",
            "    except ValueError:\n        return stamp\n",
        ),
    ),
    "a poisoned folder of a checkpoint (a pickle with code in it)": (
        Check(
            "tests/unit/test_hub.py::test_pickles_of_tensors_are_read_and_others_refused",
            "pickles may hold nothing but tensors",
            "models/hub.py",
            '"weights_only": True,',
            '"weights_only": setattr(torch, "load", lambda f, _load=torch.load, **o: _load(f, **(o | {"weights_only": False}))),',
        ),
    ),
}
