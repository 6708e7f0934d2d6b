"""
A Hugging Face Hub on the loopback interface, in memory, for the real client to talk to:

    with MiniHub() as hub:
        hub.create_repository("me/model", files={"config.json": b"{}"})
        HfApi(endpoint=hub.url, token=hub.token).upload_file(...)

It implements what pushing and loading need: accounts, private and gated repositories, branches and commits, large files
by the LFS protocol, the variables of Spaces. It logs every request, and can break off uploads.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import transformers
from huggingface_hub import constants

LARGE_FILE_SUFFIXES = (".safetensors", ".bin", ".model", ".mp4")


@dataclass(frozen=True)
class StoredFile:
    content: bytes
    is_large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def id(self) -> str:
        """The client compares it with its own file, to know whether that has changed."""
        return self.sha256 if self.is_large else self.git_id


@dataclass
class Repository:
    """A repository; `kind` is models, datasets or spaces, as in the addresses of the Hub's API."""

    id: str
    kind: str = "models"
    private: bool = False
    gated: bool = False
    sdk: str | None = None
    variables: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)

    def __post_init__(self):
        self.commit({})

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def commit(self, files: dict[str, StoredFile], branch: str = "main") -> str:
        """Replace the content of the branch by `files`; returns the commit's id, 40 hexadecimal digits."""
        content = repr((len(self.commits), self.id, sorted((name, file.sha256) for name, file in files.items())))
        commit_id = hashlib.sha1(content.encode()).hexdigest()
        self.commits[commit_id] = dict(files)
        self.branches[branch] = commit_id
        return commit_id

    def change_file(self, name: str, content: bytes) -> str:
        """Commit one new or changed file to main; returns the commit's id."""
        return self.commit({**self.files(), name: _stored(name, content)})

    def files(self, revision: str = "main") -> dict[str, StoredFile]:
        return self.commits[self.commit_id(revision)]

    def commit_id(self, revision: str) -> str:
        commit_id = self.branches.get(revision, revision)
        if commit_id not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit_id


@dataclass
class LoggedRequest:
    method: str
    path: str
    status: int
    body: bytes = field(repr=False)


@dataclass
class Request:
    method: str
    body: bytes
    user: str | None

    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass
class Answer:
    body: bytes | dict | list = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


class Refusal(Exception):
    """An error response like the Hub's: a status, a code that the client knows, and a message."""

    def __init__(self, status: int, code: str, message: str, **headers: str):
        super().__init__(message)
        self.answer = Answer({"error": message}, {"X-Error-Code": code, "X-Error-Message": message, **headers}, status)


class MiniHub:
    """The server; entered as a context it listens on a free port of 127.0.0.1."""

    def __init__(self):
        self.token = "hf_of_me"
        self.users_by_token = {self.token: "me", "hf_of_another": "another"}
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[LoggedRequest] = []
        self.lock = threading.RLock()
        self.refusal: Refusal | None = None  # the answer to every request, if set
        self._uploads_until_failure: int | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self

    def __enter__(self) -> "MiniHub":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def create_repository(
        self, repo_id: str, kind: str = "models", files: dict[str, bytes] | None = None, **values: Any
    ) -> Repository:
        repository = self.repositories[kind, repo_id] = Repository(repo_id, kind, **values)
        repository.commit({name: _stored(name, content) for name, content in (files or {}).items()})
        return repository

    def repository(self, repo_id: str, kind: str = "models") -> Repository:
        return self.repositories[kind, repo_id]

    def uploads(self) -> list[LoggedRequest]:
        """The large files that have arrived."""
        return [request for request in self.requests if request.method == "PUT" and request.status == 200]

    def writes(self) -> list[LoggedRequest]:
        """The requests for changes."""
        return [request for request in self.requests if request.method not in ("GET", "HEAD")]

    @contextmanager
    def failing_after_uploads(self, count: int) -> Iterator[None]:
        """Let this many large files arrive, then close the connection in the middle of every further one."""
        self._uploads_until_failure = count
        yield
        self._uploads_until_failure = None

    def takes_one_more_upload(self) -> bool:
        with self.lock:
            if self._uploads_until_failure is None:
                return True
            self._uploads_until_failure -= 1
            return self._uploads_until_failure >= 0


def connect(monkeypatch: pytest.MonkeyPatch, url: str, token: str | None) -> None:
    """Connect the client of this process, which tests keep offline, to a Hub; it reads its settings on import."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)  # remembers an earlier address
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self) -> None:
        hub: MiniHub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        if self.command == "PUT" and not hub.takes_one_more_upload():
            hub.requests.append(LoggedRequest(self.command, path, 0, b""))
            self.close_connection = True
            return
        body = self._read_body()
        with hub.lock:
            try:
                if hub.refusal is not None:
                    raise hub.refusal
                answer = _route(hub, path, Request(self.command, body, self._user(hub)))
            except Refusal as refusal:
                answer = refusal.answer
            hub.requests.append(LoggedRequest(self.command, path, answer.status, body))
        self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def _user(self, hub: MiniHub) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in hub.users_by_token:
            return ""
        return hub.users_by_token.get(token)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, answer: Answer) -> None:
        is_json = not isinstance(answer.body, bytes)
        body = json.dumps(answer.body).encode() if is_json else answer.body
        content_type = "application/json" if is_json else "application/octet-stream"
        self.send_response(answer.status)
        for name, value in {"Content-Type": content_type, "Content-Length": len(body), **answer.headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _stored(name: str, content: bytes) -> StoredFile:
    return StoredFile(content, is_large=name.endswith(LARGE_FILE_SUFFIXES))


def _route(hub: MiniHub, path: str, request: Request) -> Answer:
    if request.user == "":
        raise Refusal(401, "", "Invalid credentials in Authorization header")
    for methods, pattern, function in ROUTES:
        match = re.fullmatch(pattern, path)
        if match and request.method in methods:
            parts = match.groupdict()
            if "id" not in parts:
                return function(hub, request, **parts)
            repository = _readable(hub, parts.pop("kind") or "models", parts.pop("id"), request.user)
            return function(hub, request, repository, **parts)
    raise Refusal(404, "", f"no route for {request.method} {path}")


def _readable(hub: MiniHub, kind: str, repo_id: str, user: str | None) -> Repository:
    repository = hub.repositories.get((kind, repo_id))
    if repository is None or (repository.private and user != repository.owner):
        raise Refusal(401 if user is None else 404, "RepoNotFound", "Repository not found")
    return repository


def _check_may_write(request: Request, owner: str) -> None:
    if request.user is None:
        raise Refusal(401, "", "Invalid username or password.")
    if request.user != owner:
        raise Refusal(403, "", f"You don't have the rights to write under the namespace {owner!r}")


def _who_am_i(hub: MiniHub, request: Request) -> Answer:
    if request.user is None:
        raise Refusal(401, "", "Invalid username or password.")
    return Answer({"type": "user", "name": request.user, "orgs": [], "auth": {"accessToken": {"role": "write"}}})


def _validate_card(hub: MiniHub, request: Request) -> Answer:
    """The Hub checks the YAML; this only finds the one error that tests make."""
    if re.search(r"^base_model: ?/", request.json()["content"], flags=re.MULTILINE):
        errors = [{"message": '"base_model" is not a model id'}]
        return Answer({"error": "invalid", "errors": errors, "warnings": []}, status=400)
    return Answer({"errors": [], "warnings": []})


def _create(hub: MiniHub, request: Request) -> Answer:
    wanted = request.json()
    owner, kind = wanted.get("organization") or request.user, f"{wanted.get('type') or 'model'}s"
    _check_may_write(request, owner)
    repo_id = f"{owner}/{wanted['name']}"
    url = f"{hub.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"
    if (kind, repo_id) in hub.repositories:
        return Answer({"error": "You already created this repo", "url": url}, status=409)
    private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
    hub.create_repository(repo_id, kind, {".gitattributes": b""}, private=private, sdk=wanted.get("sdk"))
    return Answer({"url": url})


def _info(hub: MiniHub, request: Request, repository: Repository, revision: str | None) -> Answer:
    commit_id = repository.commit_id(revision or "main")
    return Answer(
        {
            "id": repository.id,
            "modelId": repository.id,
            "sha": commit_id,
            "private": repository.private,
            "gated": "auto" if repository.gated else False,
            "sdk": repository.sdk,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": name} for name in repository.files(commit_id)],
        }
    )


def _tree(hub: MiniHub, request: Request, repository: Repository, revision: str, folder: str | None) -> Answer:
    commit_id = repository.commit_id(revision)
    files = {name: file for name, file in repository.files(commit_id).items() if name.startswith(folder or "")}
    if folder and not files:
        raise Refusal(404, "EntryNotFound", f"{folder} does not exist on {revision}", **{"X-Repo-Commit": commit_id})
    return Answer([_entry(name, file) for name, file in sorted(files.items())])


def _paths_info(hub: MiniHub, request: Request, repository: Repository, revision: str) -> Answer:
    files = repository.files(revision)
    return Answer([_entry(name, files[name]) for name in request.json()["paths"] if name in files])


def _entry(name: str, file: StoredFile) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "size": len(file.content), "oid": file.git_id}
    if file.is_large:
        entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}
    return entry


def _create_branch(hub: MiniHub, request: Request, repository: Repository, branch: str) -> Answer:
    _check_may_write(request, repository.owner)
    if branch in repository.branches:
        return Answer({"error": "Reference already exists"}, status=409)
    repository.branches[branch] = repository.branches["main"]
    return Answer({})


def _announce(hub: MiniHub, request: Request, repository: Repository, revision: str) -> Answer:
    """Which of the announced files are large, and what the repository has under their names."""
    _check_may_write(request, repository.owner)
    present = repository.files(revision)
    files = [
        {
            "path": name,
            "uploadMode": "lfs" if name.endswith(LARGE_FILE_SUFFIXES) else "regular",
            "shouldIgnore": False,
            "oid": present[name].id if name in present else None,
        }
        for name in (file["path"] for file in request.json()["files"])
    ]
    return Answer({"files": files})


def _large_file_actions(hub: MiniHub, request: Request, repository: Repository) -> Answer:
    _check_may_write(request, repository.owner)
    objects = request.json()["objects"]
    for wanted in objects:
        if wanted["oid"] not in hub.large_files:
            wanted["actions"] = {"upload": {"href": f"{hub.url}/large-files/{wanted['oid']}"}}
    return Answer({"transfer": "basic", "objects": objects})


def _receive_large_file(hub: MiniHub, request: Request, sha256: str) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != sha256:
        raise Refusal(400, "", "the content is not what was announced")
    hub.large_files[sha256] = request.body
    return Answer()


def _commit(hub: MiniHub, request: Request, repository: Repository, revision: str) -> Answer:
    _check_may_write(request, repository.owner)
    if revision not in repository.branches:
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    files = dict(repository.files(revision))
    for line in request.body.splitlines():
        operation = json.loads(line)
        key, value = operation["key"], operation["value"]
        if key == "file":
            files[value["path"]] = StoredFile(base64.b64decode(value["content"]), is_large=False)
        elif key == "lfsFile":
            if value["oid"] not in hub.large_files:
                raise Refusal(400, "", f"large file {value['path']} has not arrived")
            files[value["path"]] = StoredFile(hub.large_files[value["oid"]], is_large=True)
        elif key == "deletedFile":
            del files[value["path"]]
    commit_id = repository.commit(files, revision)
    return Answer(
        {"success": True, "commitOid": commit_id, "commitUrl": f"{hub.url}/{repository.id}/commit/{commit_id}"}
    )


def _variables(hub: MiniHub, request: Request, repository: Repository) -> Answer:
    _check_may_write(request, repository.owner)
    if request.method == "POST":
        repository.variables[request.json()["key"]] = request.json()["value"]
    return Answer({key: {"value": value} for key, value in repository.variables.items()})


def _download(hub: MiniHub, request: Request, repository: Repository, revision: str, name: str) -> Answer:
    if repository.gated and request.user != repository.owner:
        raise Refusal(401 if request.user is None else 403, "GatedRepo", f"Access to {repository.id} is restricted")
    commit_id = repository.commit_id(revision)
    file = repository.files(commit_id).get(name)
    if file is None:
        raise Refusal(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit_id})
    return Answer(file.content, {"X-Repo-Commit": commit_id, "ETag": f'"{file.id}"'})


ID, REVISION = r"(?P<id>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{ID}"
PAGE = rf"/(?:(?P<kind>datasets|spaces)/)?{ID}"
ROUTES: tuple[tuple[tuple[str, ...], str, Callable[..., Answer]], ...] = (
    (("GET",), r"/api/whoami-v2", _who_am_i),
    (("POST",), r"/api/validate-yaml", _validate_card),
    (("POST",), r"/api/repos/create", _create),
    (("GET",), rf"{API}(?:/revision/{REVISION})?", _info),
    (("GET",), rf"{API}/tree/{REVISION}(?:/(?P<folder>.+))?", _tree),
    (("POST",), rf"{API}/paths-info/{REVISION}", _paths_info),
    (("POST",), rf"{API}/branch/(?P<branch>.+)", _create_branch),
    (("POST",), rf"{API}/preupload/{REVISION}", _announce),
    (("POST",), rf"{API}/commit/{REVISION}", _commit),
    (("GET", "POST"), rf"{API}/variables", _variables),
    (("POST",), rf"{PAGE}\.git/info/lfs/objects/batch", _large_file_actions),
    (("PUT",), r"/large-files/(?P<sha256>\w+)", _receive_large_file),
    (("GET", "HEAD"), rf"{PAGE}/resolve/{REVISION}/(?P<name>.+)", _download),
)
