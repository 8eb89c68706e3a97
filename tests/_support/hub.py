"""A local stand-in for the Hugging Face hub: its HTTP API as far as models' files need it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

_APART = ("/stored/", "/upload/")
LARGE = (".safetensors", ".parquet", ".png")
"""Files of these kinds are stored apart, as the hub does with large ones."""


class Repository:
    """The commits of a repository, newest last, each with the content of all files by name."""

    def __init__(self, *, private: bool = False, gated: bool = False) -> None:
        self.private, self.gated = private, gated
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, str] = {}
        self.commit({})

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.branches["main"]]

    def commit(self, files: Mapping[str, bytes], *, branch: str = "main") -> str:
        self.commits[oid := _digest(f"{len(self.commits)}".encode(), hashlib.sha1)] = dict(files)
        self.branches[branch] = oid
        return oid


class Hub:
    """The stand-in's state: repositories by name, uploads, users by token, and what was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.users: dict[str, str] = {}
        self.stored: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.sizes: dict[str, int] = {}
        self.is_down = False
        self.endpoint, self.storage = "", ""

    def add(self, name: str, files: Mapping[str, bytes], **kind: bool) -> Repository:
        self.repositories[name] = Repository(**kind)
        self.repositories[name].commit(files)
        return self.repositories[name]


class Refusal(Exception):
    """An answer other than success: its status, and the code by which the client knows it."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serve the stand-in on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    # Another host by name: the client is to keep its token from it.
    hub.storage = f"http://localhost:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        assert not (path.startswith(_APART) and "Authorization" in self.headers)
        try:
            if self.hub.is_down:
                raise Refusal(503)
            for pattern, answer in _ROUTES:
                if found := re.fullmatch(pattern, f"{self.command} {path}"):
                    return answer(self, body, *found.groups())
            raise Refusal(404, "RepoNotFound", "Repository not found")
        except Refusal as refusal:
            self.send(
                refusal.status, b"", {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)}
            )

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    @property
    def user(self) -> str | None:
        """The user of the request's token."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def repository(self, name: str, *, to_write: bool = False) -> Repository:
        repository = self.hub.repositories.get(name)
        owner = self.user == name.split("/")[0]
        if repository is None or (repository.private and not owner):
            raise Refusal(401 if self.user is None else 404, "RepoNotFound", "Repository not found")
        if repository.gated and not owner:
            raise Refusal(403, "GatedRepo", "Access is restricted")
        if to_write and not owner:
            raise Refusal(403, "", "You have no right to write here")
        return repository

    def commit(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self.repository(name)
        oid = repository.branches.get(revision, revision)
        if oid not in repository.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid, repository.commits[oid]


def _digest(content: bytes, kind: Callable[[bytes], Any] = hashlib.sha256) -> str:
    return str(kind(content).hexdigest())


def _blob(content: bytes) -> str:
    """The name that git gives a file's content."""
    return _digest(b"blob %d\0" % len(content) + content, hashlib.sha1)


def _info(handler: _Handler, _: bytes, name: str, revision: str | None = None) -> None:
    oid, files = handler.commit(name, revision or "main")
    handler.send_json(
        {
            "_id": "0" * 24,
            "id": name,
            "modelId": name,
            "sha": oid,
            "private": handler.hub.repositories[name].private,
            "siblings": [{"rfilename": file} for file in sorted(files)],
        }
    )


def _tree(handler: _Handler, _: bytes, name: str, revision: str) -> None:
    _, files = handler.commit(name, revision)
    entries = []
    for path, content in sorted(files.items()):
        size = handler.hub.sizes.get(path, len(content))
        entry: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": _blob(content)}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": _digest(content), "size": size, "pointerSize": 130}
        entries.append(entry)
    handler.send_json(entries)


def _resolve(handler: _Handler, _: bytes, name: str, revision: str, path: str) -> None:
    oid, files = handler.commit(name, revision)
    if path not in files:
        raise Refusal(404, "EntryNotFound", "Entry not found")
    content = files[path]
    headers = {"X-Repo-Commit": oid, "Content-Type": "application/octet-stream"}
    if not path.endswith(LARGE):
        return handler.send(200, content, headers | {"ETag": f'"{_blob(content)}"'})
    size = handler.hub.sizes.get(path, len(content))
    headers |= {"X-Linked-Etag": f'"{_digest(content)}"', "X-Linked-Size": str(size)}
    handler.hub.stored[_digest(content)] = content
    headers["Location"] = f"{handler.hub.storage}/stored/{_digest(content)}"
    return handler.send(302, b"", headers)


def _stored(handler: _Handler, _: bytes, oid: str) -> None:
    handler.send(200, handler.hub.stored[oid])


def _create(handler: _Handler, body: bytes) -> None:
    asked = json.loads(body)
    if handler.user is None:
        raise Refusal(401, "", "Invalid username or password.")
    owner = asked.get("organization") or handler.user
    if owner != handler.user:
        raise Refusal(403, "", f"You don't have the rights to create a model under {owner}")
    name = f"{owner}/{asked['name']}"
    if name in handler.hub.repositories:
        body = json.dumps({"url": f"{handler.hub.endpoint}/{name}"}).encode()
        return handler.send(409, body, {"X-Error-Message": "You already created this model repo"})
    handler.hub.repositories[name] = Repository(
        private=asked.get("visibility") == "private" or asked.get("private") is True
    )
    return handler.send_json({"url": f"{handler.hub.endpoint}/{name}", "name": name})


def _validate(handler: _Handler, body: bytes) -> None:
    assert json.loads(body)["content"].startswith("---\n")
    handler.send_json({"errors": [], "warnings": []})


def _preupload(handler: _Handler, body: bytes, name: str, _: str) -> None:
    held = handler.repository(name, to_write=True).files
    files = []
    for file in json.loads(body)["files"]:
        path = file["path"]
        large = path.endswith(LARGE)
        oid = (_digest if large else _blob)(held[path]) if path in held else None
        mode = "lfs" if large else "regular"
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    handler.send_json({"files": files})


def _batch(handler: _Handler, body: bytes, name: str) -> None:
    handler.repository(name, to_write=True)
    objects = []
    for asked in json.loads(body)["objects"]:
        upload = {"href": f"{handler.hub.storage}/upload/{asked['oid']}"}
        needed = {} if asked["oid"] in handler.hub.stored else {"actions": {"upload": upload}}
        objects.append({"oid": asked["oid"], "size": asked["size"], **needed})
    handler.send_json({"transfer": "basic", "objects": objects})


def _upload(handler: _Handler, body: bytes, oid: str) -> None:
    assert _digest(body) == oid
    handler.hub.stored[oid] = body
    handler.send(200, b"")


def _commit(handler: _Handler, body: bytes, name: str, branch: str) -> None:
    repository = handler.repository(name, to_write=True)
    files = dict(repository.files)
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = handler.hub.stored[value["oid"]]
        elif line["key"] == "deletedFile":
            del files[value["path"]]
    oid = repository.commit(files, branch=branch)
    handler.send_json(
        {"commitUrl": f"{handler.hub.endpoint}/{name}/commit/{oid}", "commitOid": oid}
    )


_NAME = r"([^/]+/[^/]+)"
_ROUTES: list[tuple[str, Callable[..., None]]] = [
    (rf"GET /api/models/{_NAME}", _info),
    (rf"GET /api/models/{_NAME}/revision/(.+)", _info),
    (rf"GET /api/models/{_NAME}/tree/([^/]+)", _tree),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/([^/]+)/(.+)", _resolve),
    (r"(?:GET|HEAD) /stored/(\w+)", _stored),
    (r"POST /api/repos/create", _create),
    (r"POST /api/validate-yaml", _validate),
    (rf"POST /api/models/{_NAME}/preupload/(.+)", _preupload),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", _batch),
    (r"PUT /upload/(\w+)", _upload),
    (rf"POST /api/models/{_NAME}/commit/(.+)", _commit),
]
