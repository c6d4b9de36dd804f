"""The one place that knows boto3: clients for buckets and queues, and what their errors mean.

Credentials, region and endpoint come from where every tool of AWS takes them: the environment (`AWS_ENDPOINT_URL` for
stores other than AWS's), the shared files, the machine's role. boto3 is imported when the first client is made, since
most commands need none. Imports nothing that only a worker has: the scheduler uses it too.
"""

import os
from functools import cache
from typing import Any

CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 20.0  # after which a connection, or silence on one, counts as failed
MAX_ATTEMPTS = 5  # of one request, with botocore's standard back-off in between
MAX_CONNECTIONS = 64  # that a process keeps open to one service


@cache
def client(service: str) -> Any:
    """A client of botocore, which threads may share; made once for each service.

    Args:
        service: `s3` or `sqs`.

    Raises:
        botocore.exceptions.BotoCoreError: the settings are wrong, or a region is missing where one is needed.
    """
    from boto3.session import Session
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
        max_pool_connections=MAX_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        response_checksum_validation="when_required",  # stores other than AWS's may not know them
        tcp_keepalive=True,
    )
    return Session().client(service, config=config)


def payer() -> dict[str, str]:
    """What requests to S3 say of who pays: `MOODREEL_S3_REQUEST_PAYER=requester` where the bucket asks for that."""
    named = os.environ.get("MOODREEL_S3_REQUEST_PAYER")
    return {"RequestPayer": named} if named else {}
