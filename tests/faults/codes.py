"""For each failure code a test that brings it about, by a file or a fault."""

# ruff: noqa: E501 - names of tests are as long as they are

_ANNOTATE, _MEDIA, _LIMITS = (
    "tests/acceptance/test_annotate.py", "tests/integration/test_bad_media.py", "tests/integration/test_limits.py"
)  # fmt: skip
_BUCKETS, _OBJECTS, _HOOKS = (
    "tests/integration/test_buckets.py", "tests/integration/test_objects.py", "tests/unit/test_hooks_commands.py"
)  # fmt: skip
_DATABASES = "tests/faults/test_databases.py"

PROVOKED = {
    "path_missing": f"{_ANNOTATE}::test_bad_files_fail_one_by_one_and_the_rest_goes_on",
    "no_videos": f"{_ANNOTATE}::test_bad_files_fail_one_by_one_and_the_rest_goes_on",
    "not_readable": f"{_ANNOTATE}::test_a_file_without_permission_is_named",
    "access_denied": f"{_BUCKETS}::test_what_a_store_refuses",
    "empty_file": f"{_MEDIA}::test_empty_file",
    "not_media": f"{_MEDIA}::test_what_is_no_media",
    "image_not_video": f"{_MEDIA}::test_images",
    "no_streams": f"{_MEDIA}::test_streams_of_no_length",
    "truncated": f"{_MEDIA}::test_index_missing",
    "undecodable": "tests/faults/test_files.py::test_encrypted_and_random_files_fail_with_a_code_each_and_the_rest_goes_on",
    "codec_refused": f"{_LIMITS}::test_a_decoder_of_games_is_not_run",
    "picture_too_large": f"{_LIMITS}::test_pictures_of_too_many_pixels",
    "recording_too_long": f"{_LIMITS}::test_a_recording_that_leaps_on_and_on_is_ended_where_it_is_too_long",
    "too_many_streams": f"{_LIMITS}::test_too_many_streams",
    "metadata_too_large": f"{_LIMITS}::test_metadata_that_is_too_large",
    "corrupt_stretch": f"{_ANNOTATE}::test_a_corrupt_stretch_keeps_the_good_windows",
    "changed_while_reading": f"{_MEDIA}::test_changed_while_reading",
    "object_archived": f"{_BUCKETS}::test_what_is_archived_is_told_of_once_for_each_place",
    "decoder_crashed": f"{_MEDIA}::test_killed_child",
    "decoder_timeout": "tests/integration/test_sandbox.py::test_a_child_that_talks_but_does_not_get_on_is_ended",
    "out_of_memory": f"{_MEDIA}::test_too_little_memory",
    "not_installed": "tests/unit/test_environments.py::test_the_extra_that_is_to_be_installed_is_not_swallowed_as_markup",
    "weights_missing": "tests/integration/test_pipeline_faults.py::test_weights_that_are_missing_end_the_batch_once",
    "device_unavailable": "tests/integration/test_pipeline_faults.py::test_a_device_that_is_not_there_is_said_before_any_file_is_opened",
    "source_unreachable": f"{_OBJECTS}::test_a_store_that_is_not_there_is_unreachable",
    "bucket_missing": f"{_BUCKETS}::test_what_is_not_there_is_told_of",
    "source_slow_down": f"{_BUCKETS}::test_what_a_store_refuses",
    "credentials_rejected": f"{_BUCKETS}::test_without_credentials",
    "database_locked": f"{_ANNOTATE}::test_a_locked_database_is_said_to_be_locked",
    "database_newer": "tests/unit/test_migrations.py::test_newer_schema_is_refused_by_name",
    "database_unreachable": "tests/integration/test_database_restarts.py::test_rows_being_copied_when_the_server_goes_are_not_stored",
    "database_full": f"{_DATABASES}::test_a_full_disk_keeps_what_is_stored_and_takes_the_rest_later",
    "database_error": "tests/integration/test_database_restarts.py::test_rows_that_break_a_rule_are_their_own_fault",
    "bad_option": "tests/integration/test_queue.py::test_a_url_that_names_no_redis_is_a_wrong_option_and_is_not_repeated",
    "untrainable": "tests/unit/test_training_examples.py::test_a_folder_without_clips_is_refused_with_what_was_looked_for",
    "cancelled": "tests/acceptance/test_scheduler.py::test_cancel_and_retry_by_path_folder_code_and_all",
    "expired": "tests/unit/test_retention.py::test_results_are_erased_and_what_they_were_stays_known",
    "forgotten": "tests/unit/test_erasing.py::test_a_forgotten_name_is_kept_out",
    "worker_died": "tests/integration/test_fleet_worker.py::test_a_worker_that_never_returns_costs_as_many_attempts_as_allowed",
    "pipeline_mismatch": "tests/integration/test_fleet_worker.py::test_other_weights_are_refused_with_what_differs",
    "pipeline_unknown": "tests/unit/test_fleet_rows.py::test_names_of_pipelines_may_move",
    "broker_unreachable": "tests/integration/test_queue.py::test_a_hung_broker_is_noticed_by_a_new_connection_too",
    "hook_refused": "tests/unit/test_webhook.py::test_where_a_post_may_go",
    "hook_failed": f"{_HOOKS}::test_a_hook_is_added_tried_shown_and_removed",
    "hook_unknown": f"{_HOOKS}::test_a_hook_is_added_tried_shown_and_removed",
    "rule_unknown": f"{_HOOKS}::test_rules_are_added_shown_and_removed",
    "query_refused": "tests/integration/test_query.py::test_hostile_questions_are_refused_and_change_nothing",
    "query_failed": "tests/integration/test_query.py::test_a_question_has_an_end",
    "question_unknown": "tests/integration/test_query.py::test_what_cannot_be_asked_is_said_in_a_sentence",
    "interrupted": "tests/unit/test_batcher.py::test_after_a_stop_only_the_batch_under_way_is_finished",
    "lease_lost": "tests/integration/test_lock_order.py::test_whoever_held_a_span_before_its_results_expired_writes_nothing_into_the_next_one",
    "internal": "tests/integration/test_pipeline_faults.py::test_a_batcher_survives_a_model_that_answers_wrongly",
}
