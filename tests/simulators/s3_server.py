"""A server with S3's API in this process, that can be taken away and brought back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

BUCKET = "models"


@contextmanager
def s3_server(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """The endpoint's URL; it has one empty bucket, and lets in who the environment names."""
    boto3 = pytest.importorskip("boto3", reason="fills the bucket: pip install 'moto[s3]'")
    server_of = pytest.importorskip("moto.server", reason="pip install 'moto[s3]' flask flask-cors")
    s3fs = pytest.importorskip("s3fs", reason="reads s3://: pip install 'edgekit[s3]'")
    patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # A server that is not there is told of at once.
    patch.setenv("AWS_MAX_ATTEMPTS", "1")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=endpoint)
    # One that was made before knows the server of the test before.
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        client.create_bucket(Bucket=BUCKET)
        yield endpoint
        client.list_objects_v2(Bucket=BUCKET)
    finally:
        client.close()
        server.stop()
