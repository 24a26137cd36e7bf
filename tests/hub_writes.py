"""The writing half of the loopback hub: repositories, branches, LFS objects and commits, for the genuine client.

What it cannot show: xet storage (`HF_HUB_DISABLE_XET` is set for all tests), uploads in several parts to signed S3 URLs,
the hub's own rules for licenses, tags and quotas, and rights finer than one namespace a token.
"""

import base64
import hashlib
import json
import re
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from hub_server import HubServer, _Commit, _File, _Handler, _RefusalError, _Repo

_REPO = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES = {
    "POST": {
        "create": r"/api/repos/create",
        "validate": r"/api/validate-yaml",
        "branch": rf"/api/models/{_REPO}/branch/(?P<revision>[^/]+)",
        "preupload": rf"/api/models/{_REPO}/preupload/(?P<revision>[^/]+)",
        "commit": rf"/api/models/{_REPO}/commit/(?P<revision>[^/]+)",
        "batch": rf"/{_REPO}\.git/info/lfs/objects/batch",
    },
    "PUT": {"store": r"/lfs-storage/(?P<oid>[0-9a-f]{64})"},
}
_LARGE = (".safetensors", ".bin")
"""What a new repository's `.gitattributes` sends to large file storage."""


class Account(NamedTuple):
    """Whose token it is, and the namespaces it may write to."""

    user: str
    namespaces: tuple[str, ...]


class WritableHubServer(HubServer):
    """A `HubServer` that takes pushes with the tokens it was told of."""

    def __init__(self) -> None:
        super().__init__()
        self.accounts: dict[str, Account] = {}
        self.storage: dict[str, bytes] = {}

    def account(self, token: str, user: str, *organisations: str) -> None:
        """Let `token` write to the namespaces of a user and of organisations."""
        self.accounts[token] = Account(user, (user, *organisations))

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Every file of a revision, as the server has it."""
        return {name: file.data for name, file in self._repos[repo_id].revisions[revision].files.items()}

    def head(self, repo_id: str, revision: str = "main") -> str:
        """The commit a revision stands at."""
        return self._repos[repo_id].revisions[revision].sha

    def revisions(self, repo_id: str) -> set[str]:
        """Names of branches and pull requests."""
        return {name for name, commit in self._repos[repo_id].revisions.items() if name != commit.sha}

    def writer(self, authorization: str | None, namespace: str | None, *, may_read: bool = False) -> Account:
        """Whose request it is, refusing as the hub does."""
        account = self.accounts.get((authorization or "").removeprefix("Bearer "))
        if account is None:
            raise _RefusalError(401, X_Error_Code="", X_Error_Message="Invalid credentials in Authorization header")
        if not may_read and (namespace or account.user) not in account.namespaces:
            raise _RefusalError(403, X_Error_Code="", X_Error_Message="You don't have the required permissions")
        return account


class _WritingHandler(_Handler):
    hub: WritableHubServer
    _short = False

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _route(self, short: bool) -> None:
        if self.command not in _ROUTES:
            super()._route(short)
            return
        self._short = short
        url = urlsplit(self.path)
        for name, pattern in _ROUTES[self.command].items():
            if match := re.fullmatch(pattern, url.path):
                part = {key: unquote(value) for key, value in match.groupdict().items()}
                getattr(self, f"_{name}")(pull_request="create_pr" in parse_qs(url.query), **part)
                return
        raise _RefusalError(404)

    @property
    def _token(self) -> str:
        return str(self.headers["Authorization"]).removeprefix("Bearer ")

    def _repo(self, repo: str, may_read: bool = False) -> _Repo:
        self.hub.writer(self.headers["Authorization"], repo.partition("/")[0], may_read=may_read)
        if repo not in self.hub._repos:
            raise _RefusalError(404, X_Error_Code="RepoNotFound")
        return self.hub._repos[repo]

    def _revision(self, repo: _Repo, revision: str) -> _Commit:
        if revision not in repo.revisions:
            raise _RefusalError(404, X_Error_Code="RevisionNotFound")
        return repo.revisions[revision]

    def _create(self, pull_request: bool) -> None:
        asked = json.loads(self.body)
        account = self.hub.writer(self.headers["Authorization"], asked["organization"])
        repo_id = f"{asked['organization'] or account.user}/{asked['name']}"
        answer = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id}
        if repo_id in self.hub._repos:
            self._send_status(409, answer | {"error": "You already created this model repo"})
            return
        private = asked.get("visibility") == "private" or asked.get("private") is True
        attributes = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in _LARGE).encode()
        first = _make_commit({".gitattributes": _File(attributes, _git_oid(attributes))}, repo_id)
        self.hub._repos[repo_id] = _Repo(self._token if private else None, {"main": first, first.sha: first})
        self._send_json(answer)

    def _validate(self, pull_request: bool) -> None:
        front = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        try:
            known = isinstance(yaml.safe_load(front[1]) if front else None, dict)
            message = "" if known else "the card has no metadata"
        except yaml.YAMLError as error:
            message = str(error)
        errors = [{"message": message}] if message else []
        self._send_status(400 if errors else 200, {"errors": errors, "warnings": []})

    def _branch(self, repo: str, revision: str, pull_request: bool) -> None:
        stored = self._repo(repo)
        if revision in stored.revisions:
            self._send_status(409, {"error": "Reference already exists"})
            return
        stored.revisions[revision] = self._revision(stored, json.loads(self.body).get("startingPoint", "main"))
        self._send_json({})

    def _preupload(self, repo: str, revision: str, pull_request: bool) -> None:
        there = self._revision(self._repo(repo, may_read=pull_request), revision).files
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular",
                "shouldIgnore": False,
                "oid": there[file["path"]].oid if file["path"] in there else None,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._send_json({"files": files})

    def _batch(self, repo: str, pull_request: bool) -> None:
        self._repo(repo, may_read=True)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            actions = {"upload": {"href": f"{self.hub.url}/lfs-storage/{wanted['oid']}"}}
            objects.append(wanted if wanted["oid"] in self.hub.storage else wanted | {"actions": actions})
        self._send_json({"transfer": "basic", "objects": objects})

    def _store(self, oid: str, pull_request: bool) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _RefusalError(400)
        self.hub.storage[oid] = self.body
        self._send_json({})

    def _commit(self, repo: str, revision: str, pull_request: bool) -> None:
        stored = self._repo(repo, may_read=pull_request)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        parent = self._revision(stored, revision)
        if header.get("parentCommit", parent.sha) != parent.sha:
            self._send_status(412, {"error": "A commit has happened since. Please refresh and try again."})
            return
        files = dict(parent.files)
        for line in lines:
            self._apply(files, line["key"], line["value"])
        commit = _make_commit(files, parent.sha + header["summary"])
        number = sum(name.startswith("refs/pr/") for name in stored.revisions) + 1
        stored.revisions |= {f"refs/pr/{number}" if pull_request else revision: commit, commit.sha: commit}
        page = f"{self.hub.url}/{repo}"
        answer = {"success": True, "commitOid": commit.sha, "commitUrl": f"{page}/commit/{commit.sha}"}
        self._send_json(answer | ({"pullRequestUrl": f"{page}/discussions/{number}"} if pull_request else {}))

    def _apply(self, files: dict[str, _File], key: str, value: dict[str, Any]) -> None:
        if key == "file":
            data = base64.b64decode(value["content"])
            files[value["path"]] = _File(data, _git_oid(data))
        elif key == "lfsFile":
            if value["oid"] not in self.hub.storage:
                raise _RefusalError(400)
            files[value["path"]] = _File(self.hub.storage[value["oid"]], value["oid"])
        elif key == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise _RefusalError(400)
        elif key != "header":
            raise _RefusalError(400)

    def _send(self, status: int, headers: dict[str, str], body: bytes, short: bool = False) -> None:
        super()._send(status, headers, body, short or self._short)

    def _send_status(self, status: int, value: dict[str, Any]) -> None:
        self._send(status, {"Content-Type": "application/json"}, json.dumps(value).encode())


WritableHubServer.handler = _WritingHandler


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _make_commit(files: dict[str, _File], origin: str) -> _Commit:
    listing = origin + "".join(f"{file.oid} {name}\n" for name, file in sorted(files.items()))
    return _Commit(hashlib.sha1(listing.encode()).hexdigest(), files)
