"""The Celery tasks: each carries the id of one job, and the job's row decides what is done."""

from collections.abc import Callable

from celery import Celery

from db.rows import JOB_KINDS
from worker.fleet import FleetWorker


def register(app: Celery, worker: FleetWorker) -> None:
    """Let an application's tasks `plan`, `annotate_span` and `finish` be done by this worker."""
    for kind in JOB_KINDS:
        app.task(name=kind)(_task(worker, kind))


def _task(worker: FleetWorker, kind: str) -> Callable[[str], None]:
    def task(job_id: str) -> None:
        worker.run(kind, job_id)

    return task
