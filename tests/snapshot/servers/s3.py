"""A running S3 service, whichever program it is."""

from __future__ import annotations

import urllib.request
from datetime import timedelta

import msgspec
import obstore
from obstore.store import S3Store


class S3(msgspec.Struct, frozen=True):
    """Where it listens, what is in it, and who may use it."""

    port: int
    bucket: str
    access_key: str
    secret_key: str

    def environment(self, port: int | None = None) -> dict[str, str]:
        """What a user sets to reach it; `port` for a proxy in between."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self) -> None:
        """Create the bucket."""
        store = S3Store(
            self.bucket,
            endpoint=f"http://127.0.0.1:{self.port}",
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            region="us-east-1",
            client_options={"allow_http": True},
        )
        url = obstore.sign(store, "PUT", "", timedelta(minutes=1))
        with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=30):
            pass
