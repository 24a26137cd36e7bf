"""A loopback server that speaks the Hugging Face hub's file protocol, so that tests run the genuine client."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

Fault = int | Literal["short", "stall"]

_REPO = r"(?P<repo>[^/]+(?:/[^/]+)?)"
_RESOLVE = re.compile(rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_API = re.compile(rf"/api/models/{_REPO}(?:/(?P<kind>revision|tree)/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")

# What the hub sends beside a status; a status that is not here is sent bare.
_STATUS_HEADERS = {
    401: {"X-Error-Code": "GatedRepo"},
    403: {"X-Error-Code": "GatedRepo"},
    404: {"X-Error-Code": "EntryNotFound"},
    429: {"Retry-After": "1"},
}
_STALL_SECONDS = 60.0


class Request(NamedTuple):
    """One request as it arrived; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


class _RefusalError(Exception):
    """Ends a request with a status and headers instead of a body."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(status)
        self.status = status
        self.headers = _STATUS_HEADERS.get(status, {}) | {k.replace("_", "-"): v for k, v in headers.items()}


class _File(NamedTuple):
    data: bytes
    oid: str


class _Commit(NamedTuple):
    sha: str
    files: dict[str, _File]


@dataclass
class _Repo:
    token: str | None
    revisions: dict[str, _Commit] = field(default_factory=dict)


@dataclass
class _Rule:
    substring: str
    mode: Fault
    method: str | None
    times: int | None


def _read_commit(folder: Path) -> _Commit:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        files[path.relative_to(folder).as_posix()] = _File(data, oid)
    listing = "".join(f"{file.oid} {name}\n" for name, file in files.items())
    return _Commit(hashlib.sha1(listing.encode()).hexdigest(), files)


class HubServer:
    """Serves folders as model repositories on 127.0.0.1 while the ``with`` block lasts."""

    handler: ClassVar[type[BaseHTTPRequestHandler]]

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.stopped = threading.Event()
        self._repos: dict[str, _Repo] = {}
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (self.handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        # A short poll: the default makes every shutdown take half a second.
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stopped.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def add(self, repo_id: str, folder: Path, *, revision: str = "main", private_token: str | None = None) -> str:
        """Serve the folder's present contents as a revision and return its commit; earlier commits stay reachable."""
        commit = _read_commit(folder)
        repo = self._repos.setdefault(repo_id, _Repo(private_token))
        repo.token = private_token
        repo.revisions |= {revision: commit, commit.sha: commit}
        return commit.sha

    def fail(self, path_substring: str, mode: Fault, *, method: str | None = None, times: int | None = None) -> None:
        """Answer requests whose path contains the substring with a fault, for the first `times` of them or always.

        A number is an HTTP status, "short" breaks off in mid-body, "stall" never answers. Later rules win.
        """
        self._rules.insert(0, _Rule(path_substring, mode, method, times))

    def heal(self) -> None:
        """Forget all faults."""
        self._rules.clear()

    def clear(self) -> None:
        """Forget the recorded requests."""
        self.requests.clear()

    def fault_for(self, method: str, path: str) -> Fault | None:
        """The fault this request meets, used up by asking."""
        with self._lock:
            for rule in self._rules:
                if rule.substring in path and rule.method in (None, method) and rule.times != 0:
                    if rule.times is not None:
                        rule.times -= 1
                    return rule.mode
        return None

    def find(self, repo_id: str, revision: str, authorization: str | None) -> tuple[_Repo, _Commit]:
        """Look a revision up, refusing as the hub does."""
        repo = self._repos.get(repo_id)
        if repo is None:
            raise _RefusalError(404, X_Error_Code="RepoNotFound")
        if repo.token is not None and authorization != f"Bearer {repo.token}":
            raise _RefusalError(401 if authorization is None else 403)
        if revision not in repo.revisions:
            raise _RefusalError(404, X_Error_Code="RevisionNotFound")
        return repo, repo.revisions[revision]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    body: bytes

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        headers = {k.lower(): v for k, v in self.headers.items()}
        self.body = self.rfile.read(int(headers.get("content-length", 0)))
        self.hub.requests.append(Request(self.command, self.path, headers, self.body))
        fault = self.hub.fault_for(self.command, self.path)
        try:
            if fault == "stall":
                self.hub.stopped.wait(_STALL_SECONDS)
            elif isinstance(fault, int):
                raise _RefusalError(fault)
            else:
                self._route(short=fault == "short")
        except _RefusalError as refused:
            self._send(refused.status, refused.headers, b"")
        except ConnectionError:
            pass  # the client gave up first, as it does in the tests of timeouts

    def _route(self, short: bool) -> None:
        url_path = urlsplit(self.path).path
        match = _RESOLVE.fullmatch(url_path) or _API.fullmatch(url_path)
        if match is None:
            raise _RefusalError(404)
        part = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
        repo, commit = self.hub.find(part["repo"], part.get("revision", "main"), self.headers["Authorization"])
        if match.re is _RESOLVE:
            self._send_file(commit, part["path"], short)
        elif part.get("kind") == "tree":
            self._send_json(list(_tree(commit, part.get("path", ""))))
        else:
            siblings = [{"rfilename": n, "size": len(f.data), "blobId": f.oid} for n, f in commit.files.items()]
            private = repo.token is not None
            about = {"id": part["repo"], "sha": commit.sha, "private": private, "gated": False, "tags": []}
            self._send_json(about | {"siblings": siblings})

    def _send_file(self, commit: _Commit, path: str, short: bool) -> None:
        if path not in commit.files:
            raise _RefusalError(404, X_Repo_Commit=commit.sha)
        data, oid = commit.files[path]
        headers = {"ETag": f'"{oid}"', "X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        wanted = _RANGE.fullmatch(self.headers["Range"] or "")
        if wanted is None:
            self._send(200, headers, data, short)
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if start > end:
            raise _RefusalError(416, Content_Range=f"bytes */{len(data)}")
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        self._send(206, headers, data[start : end + 1], short)

    def _send_json(self, value: object) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes, short: bool = False) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            # HTTP/1.0 closes after each answer, which is what ends a short one.
            self.wfile.write(body[: len(body) // 2] if short else body)


HubServer.handler = _Handler


def _tree(commit: _Commit, folder: str) -> Iterator[dict[str, object]]:
    """List files under a folder, always recursively: the client's calls in use ask for that."""
    prefix = f"{folder}/" if folder else ""
    names = [name for name in commit.files if name.startswith(prefix)]
    if folder and not names:
        raise _RefusalError(404)
    for name in names:
        yield {"type": "file", "path": name, "size": len(commit.files[name].data), "oid": commit.files[name].oid}
