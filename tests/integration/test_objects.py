"""Objects of buckets, read from a real server over HTTP."""

from worker import objects


def test_the_clients_reach_the_server_that_the_environment_names(object_store):
    object_store.client("s3").create_bucket(Bucket="archive")
    assert [bucket["Name"] for bucket in objects.client("s3").list_buckets()["Buckets"]] == ["archive"]
    object_store.client("sqs").create_queue(QueueName="events")
    assert len(objects.client("sqs").list_queues()["QueueUrls"]) == 1
    assert objects.client("s3") is objects.client("s3")
