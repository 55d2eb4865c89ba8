"""A Python client of the service.

For example:

    from autotune.service.client import Client

    with Client("http://127.0.0.1:8420", key="atk_…") as client:
        job = client.submit("tune", {"latency_budget": "0.85x"})
        for event in client.events(job["id"]):
            print(event)
        client.fetch(job["id"], "out")
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2 as httpx

from autotune.core.errors import UsageError, option_name
from autotune.core.files import file_sha256, write_whole
from autotune.service.errors import (
    BusyError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    QuotaError,
    ServiceError,
    TooLargeError,
)

DEFAULT_SERVER = "http://127.0.0.1:8420"
_ERRORS: dict[int, type[ServiceError]] = {
    error.status: error
    for error in (
        NotFoundError,
        ForbiddenError,
        ConflictError,
        TooLargeError,
        QuotaError,
        BusyError,
    )
}
_AGAIN_S = 1.0
_PATIENCE = 30


class Client:
    """A connection to one server, with an API key if it needs one. Use as a context manager.

    Raises (any method):
        ServiceError: the server does not answer, or refuses the request; see its subclasses.
        UsageError: the server rejects a value of the request.
    """

    def __init__(
        self, server: str = DEFAULT_SERVER, key: str | None = None, *, timeout_s: float = 60.0
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx.Client(base_url=server, headers=headers, timeout=timeout_s)
        except httpx.InvalidURL as error:
            raise UsageError(f"{server!r} is not the address of a server: {error}") from error
        self.server = server

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(
        self, kind: str, spec: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Queue a job of a kind such as "tune"; the fields of `spec` are the command's options."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        body = {"kind": kind, "spec": dict(spec)}
        return self._object("POST", "/v1/jobs", json=body, headers=headers)

    def last(self) -> str:
        """The id of the latest job.

        Raises:
            NotFoundError: there is no job yet.
        """
        found = self.jobs(limit=1)["jobs"]
        if not found:
            raise NotFoundError(f"{self.server} has no jobs yet; submit one with `autotune submit`")
        return str(found[0]["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """The state of one job."""
        return self._object("GET", f"/v1/jobs/{_part(job_id)}")

    def jobs(self, *, limit: int = 50, **query: Any) -> dict[str, Any]:
        """List jobs, the latest first; `state`, `kind` and `before` select among them."""
        return self._object("GET", "/v1/jobs", params={"limit": limit, **query})

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Ask the service to cancel a job, and return the job."""
        return self._object("POST", f"/v1/jobs/{_part(job_id)}/cancel")

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with its events, log and result files."""
        self._json("DELETE", f"/v1/jobs/{_part(job_id)}")

    def delete_upload(self, name: str) -> None:
        """Delete an uploaded model with all of its files."""
        self._json("DELETE", f"/v1/models/{quote(name, safe='')}")

    def logs(self, job_id: str, offset: int = 0) -> dict[str, Any]:
        """The log of a job from byte `offset` on."""
        return self._object("GET", f"/v1/jobs/{_part(job_id)}/logs", params={"offset": offset})

    def artefacts(self, job_id: str) -> list[dict[str, Any]]:
        """Name and size of every file that a job has made."""
        found: list[dict[str, Any]] = self._json("GET", f"/v1/jobs/{_part(job_id)}/artefacts")
        return found

    def predict(self, device: str, shapes: list[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
        """Predict the latency of layers on a device."""
        body = {"device": device, "shapes": [dict(shape) for shape in shapes], **more}
        return self._object("POST", "/v1/predict", json=body)

    def events(self, job_id: str, after: int = 0) -> Iterator[dict[str, Any]]:
        """Yield events until the job ends; after a broken connection, those that are missing.

        Each is a dict with `event`, `id` (None for progress) and `data`.
        """
        failures = 0
        while True:
            try:
                for event in self._stream(job_id, after):
                    failures = 0
                    after = int(event["id"] or after)
                    yield event
                    if event["event"] == "end":
                        return
            except (httpx.TransportError, httpx.StreamError) as error:
                failures += 1
                if failures > _PATIENCE:
                    raise self._silent(error) from error
                time.sleep(_AGAIN_S)

    def _stream(self, job_id: str, after: int) -> Iterator[dict[str, Any]]:
        path = f"/v1/jobs/{_part(job_id)}/events"
        headers = {"Last-Event-ID": str(after)} if after else {}
        with self._http.stream("GET", path, headers=headers) as response:
            self._check(response)
            fields: dict[str, str] = {}
            for line in response.iter_lines():
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                elif "data" in fields:
                    yield {
                        "event": fields.get("event", "message"),
                        "id": fields.get("id"),
                        "data": json.loads(fields["data"]),
                    }
                    fields = {}

    def wait(self, job_id: str) -> dict[str, Any]:
        """Wait until a job has ended, and return its state."""
        for _ in self.events(job_id):
            pass
        return self.job(job_id)

    def fetch(self, job_id: str, folder: str | Path) -> list[Path]:
        """Download all files of a job to `folder`; each appears whole. Returns their paths.

        Files that are there already are left as they are.

        Raises:
            UsageError: a file of the same name and another content is there.
        """
        root, found = Path(folder), {}
        for entry in self.artefacts(job_id):
            target = (root / entry["name"]).resolve()
            if root.resolve() not in target.parents:
                raise ServiceError(
                    f"{self.server} names a file outside of {root}: {entry['name']!r}"
                )
            if target.exists() and (
                not target.is_file() or target.stat().st_size != entry["bytes"]
            ):
                raise _another_file(target)
            found[target] = entry["name"]
        for target, name in found.items():
            self._fetch(job_id, target, name=name)
        return list(found)

    def _fetch(self, job_id: str, target: Path, *, name: str) -> None:
        """Download one file, or compare it with the one that is there."""
        if not target.exists():
            write_whole(target, partial(self._get, job_id, name=name), new=True)
            return
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            copy = Path(folder) / "copy"
            self._get(job_id, copy, name=name)
            if file_sha256(copy) != file_sha256(target):
                raise _another_file(target)

    def _get(self, job_id: str, path: Path, *, name: str) -> None:
        address = f"/v1/jobs/{_part(job_id)}/artefacts/{name}"
        try:
            with self._http.stream("GET", address) as response, path.open("wb") as file:
                self._check(response)
                for chunk in response.iter_bytes():
                    file.write(chunk)
        except httpx.HTTPError as error:
            raise self._silent(error) from error

    def _object(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._json(method, path, **more)
        return found

    def _json(self, method: str, path: str, **more: Any) -> Any:
        try:
            response = self._http.request(method, path, **more)
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        self._check(response)
        return response.json() if response.content else None

    def _silent(self, error: Exception) -> BusyError:
        return BusyError(
            f"{self.server} does not answer ({error}); check the address (--server), and that "
            "`autotune serve` runs there"
        )

    @staticmethod
    def _check(response: httpx.Response) -> None:
        if response.is_success:
            return
        response.read()
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = f"the server answered {response.status_code}"
        if response.status_code == 422:
            raise UsageError(message)
        raise _ERRORS.get(response.status_code, ServiceError)(message)


def _another_file(path: Path) -> UsageError:
    return UsageError(
        f"{path} exists and is not that of the job; move it away, or set {option_name('output')} "
        "to another folder"
    )


def _part(job_id: str) -> str:
    """A job's id, checked to be safe as a part of a path."""
    if not job_id.isalnum():
        raise UsageError(f"{job_id!r} is not the id of a job; list them with `autotune jobs`")
    return job_id
