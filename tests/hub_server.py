"""A small Hub over HTTP: checks the real client's token, stores and serves its bytes, and fails on request.

It implements models and data sets with branches and tags, as far as `upload_folder`, `from_pretrained` and
`load_dataset` need them.
"""

import base64
import hashlib
import json
import re
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

__all__ = ["TOKEN", "Fault", "Hub", "run_hub"]

TOKEN = "hf_test_token"
READ_TOKEN = "hf_read_only_token"
PLACES = {"branches": "heads", "tags": "tags"}  # in git's names of references


@dataclass
class Fault:
    """What the server does with the next `times` requests whose method and path match `request`.

    Args:
        request: Regular expression that `METHOD path` must match.
        status: HTTP status to answer with; None closes the connection halfway through the body.
        headers: HTTP headers to answer with.
        body: What to answer with, instead of an error in JSON.
        late: Do what was asked, then fail: the answer is lost.
        skip: Number of such requests that succeed before.
        pause: Seconds between the bytes of the answer.
    """

    request: str
    status: int | None
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    late: bool = False
    skip: int = 0
    pause: float = 0.0
    seen: int = 0


@dataclass
class Repository:
    """Branches and tags name commits; a commit maps paths to files."""

    kind: str
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        content = b"".join(name.encode() + data for name, data in sorted(files.items()))
        oid = hashlib.sha1(content).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def find(self, revision: str) -> str | None:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return oid if oid in self.commits else None


class Hub:
    """The state of the server: repositories, large files by hash, the requests received, and the faults to inject."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.commits: list[str] = []
        self.uploaded: list[str] = []
        self.faults: list[Fault] = []

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[repo]
        return repository.commits[repository.find(revision)]

    def fault(self, request: str) -> Fault | None:
        for fault in self.faults:
            if fault.seen < fault.times and re.search(fault.request, request):
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.seen += 1
                return fault
        return None

    def commit(self, repo: str, branch: str, lines: list[dict]) -> str:
        repository, files = self.repositories[repo], dict(self.files(repo, branch))
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.large[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        self.commits.append(repo)
        return repository.commit(branch, files)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub
    late: Fault | None = None

    def log_message(self, *arguments):
        pass

    def _answer(self, status: int, body: bytes | dict | list = b"", pause: float = 0.0, **headers) -> None:
        if self.late is not None:  # all is done; now fail
            fault, self.late = self.late, None
            return self._fail(fault)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        if not isinstance(body, bytes):
            headers.setdefault("Content-Type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD" and not pause:
            self.wfile.write(data)
        elif pause:
            self._drip(data, pause)
        return None

    def _drip(self, data: bytes, pause: float) -> None:
        with suppress(OSError):  # the client has gone
            for number in range(len(data)):
                self.wfile.write(data[number : number + 1])
                self.wfile.flush()
                time.sleep(pause)

    @property
    def _path(self) -> str:
        return unquote(urlsplit(self.path).path)

    @property
    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _fails(self) -> bool:
        fault = self.hub.fault(f"{self.command} {self._path}")
        length = int(self.headers.get("Content-Length", 0))
        self.late = fault if fault is not None and fault.late else None
        if fault is None or fault.late:
            return False
        self.rfile.read(length // 2 if fault.status is None else length)
        self._fail(fault)
        return True

    def _fail(self, fault: Fault) -> None:
        if fault.status is None:
            self.close_connection = True
            self.connection.close()
        else:
            body = {"error": f"fault {fault.status}"} if fault.body is None else fault.body
            self._answer(fault.status, body, fault.pause, **fault.headers)

    def do_POST(self):
        if self._fails():
            return None
        path, body = self._path, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._token not in (TOKEN, READ_TOKEN):
            return self._answer(401, {"error": "Invalid username or password."})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self._token != TOKEN:
            return self._answer(403, {"error": "You don't have the rights to create or change this repository"})
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            kind = asked.get("type", "model")
            if repo in self.hub.repositories:
                return self._answer(409, {"error": f"You already created this {kind} repo", "url": self._url(repo)})
            private = asked.get("private", False) or asked.get("visibility") == "private"
            repository = self.hub.repositories[repo] = Repository(kind, private)
            repository.commit("main", {".gitattributes": b"*.parquet filter=lfs\n*.safetensors filter=lfs\n"})
            return self._answer(200, {"url": self._url(repo), "name": repo, "id": repo})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [{"oid": asked["oid"], "size": asked["size"]} for asked in json.loads(body)["objects"]]
            for wanted in objects:
                if wanted["oid"] not in self.hub.large:
                    href = f"http://{self.headers['Host']}/lfs/{wanted['oid']}"
                    wanted["actions"] = {"upload": {"href": href}}
            return self._answer(200, {"objects": objects}, Content_Type="application/vnd.git-lfs+json")
        found = re.fullmatch(r"/api/(?:model|dataset)s/([^/]+/[^/]+)/(preupload|commit|branch|tag)/(.+)", path)
        if not found or found[1] not in self.hub.repositories:
            return self._answer(404, {"error": path}, X_Error_Code="RepoNotFound")
        repo, what, name = found.groups()
        repository = self.hub.repositories[repo]
        if what == "branch":
            repository.branches.setdefault(name, repository.branches["main"])
            return self._answer(200, {})
        if repository.find(name) is None:
            return self._answer(404, {"error": "no such revision"}, X_Error_Code="RevisionNotFound")
        if what == "tag":
            if json.loads(body)["tag"] in repository.tags:
                return self._answer(409, {"error": "Tag already exists"})
            repository.tags[json.loads(body)["tag"]] = repository.find(name)
            return self._answer(200, {})
        if what == "preupload":
            return self._answer(200, {"files": [self._mode(repo, name, f) for f in json.loads(body)["files"]]})
        oid = self.hub.commit(repo, name, [json.loads(line) for line in body.splitlines()])
        return self._answer(200, {"commitUrl": f"{self._url(repo)}/commit/{oid}", "commitOid": oid})

    def _mode(self, repo: str, revision: str, file: dict) -> dict:
        there = self.hub.files(repo, revision).get(file["path"])
        mode = "lfs" if file["path"].endswith((".parquet", ".safetensors")) else "regular"
        oid = None
        if there is not None:  # large files are known by their SHA-256, others as git knows them
            git = hashlib.sha1(b"blob %d\0" % len(there) + there).hexdigest()
            oid = hashlib.sha256(there).hexdigest() if mode == "lfs" else git
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def do_DELETE(self):
        if self._fails():
            return None
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._token != TOKEN:
            return self._answer(403, {"error": "You don't have the rights to delete this"})
        if self._path == "/api/repos/delete":
            asked = json.loads(body)
            self.hub.repositories.pop(f"{asked['organization']}/{asked['name']}")
            return self._answer(200, {})
        found = re.fullmatch(r"/api/(?:model|dataset)s/([^/]+/[^/]+)/(branch|tag)/(.+)", self._path)
        repo, what, name = found.groups()
        repository = self.hub.repositories[repo]
        (repository.branches if what == "branch" else repository.tags).pop(name)
        return self._answer(200, {})

    def do_PUT(self):
        if self._fails():
            return
        oid, data = self.path.rsplit("/", 1)[-1], self.rfile.read(int(self.headers.get("Content-Length", 0)))
        assert hashlib.sha256(data).hexdigest() == oid
        self.hub.large[oid] = data
        self.hub.uploaded.append(oid)
        self._answer(200)

    def do_GET(self):
        if self._fails():
            return None
        path = self._path
        if path == "/api/whoami-v2":
            known = self._token in (TOKEN, READ_TOKEN)
            return self._answer(200 if known else 401, {"name": "tester", "type": "user", "orgs": []})
        if found := re.fullmatch(
            r"/api/(?:model|dataset)s/([^/]+/[^/]+)(?:/(refs)|/(revision|tree)/([^/]+)(?:/(.*))?)?", path
        ):
            repo, refs, what, revision, folder = found.groups()
            return self._describe(repo, refs or what, revision or "main", folder)
        if found := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo, revision, name = found.groups()
            repository = self._readable(repo)
            if repository is None:
                return self._answer(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            oid = repository.find(revision)
            if oid is None:
                return self._answer(404, {"error": "no such revision"}, X_Error_Code="RevisionNotFound")
            data = repository.commits[oid].get(name)
            if data is None:
                return self._answer(404, {"error": "missing"}, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
            return self._answer(200, data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=oid)
        return self._answer(404, {"error": path})

    do_HEAD = do_GET

    def _readable(self, repo: str) -> Repository | None:
        repository = self.hub.repositories.get(repo)
        hidden = repository is not None and repository.private and self._token not in (TOKEN, READ_TOKEN)
        return None if hidden else repository

    def _describe(self, repo: str, what: str | None, revision: str, folder: str | None):
        repository = self._readable(repo)
        if repository is None:
            return self._answer(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if what == "refs":
            refs = {"branches": repository.branches, "tags": repository.tags}
            described = {
                kind: [
                    {"name": name, "ref": f"refs/{PLACES[kind]}/{name}", "targetCommit": oid}
                    for name, oid in names.items()
                ]
                for kind, names in refs.items()
            }
            return self._answer(200, described | {"converts": []})
        oid = repository.find(revision)
        if oid is None:
            return self._answer(404, {"error": "no such revision"}, X_Error_Code="RevisionNotFound")
        files = repository.commits[oid]
        if what == "tree":
            inside = {name: data for name, data in files.items() if not folder or name.startswith(f"{folder}/")}
            if folder and not inside:
                return self._answer(404, {"error": "missing"}, X_Error_Code="EntryNotFound")
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in inside.items()
            ]
            entries += [
                {"type": "directory", "path": name, "size": 0, "oid": "0"}
                for name in {name.rsplit("/", 1)[0] for name in inside if "/" in name} - {folder}
            ]
            return self._answer(200, entries)
        siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
        info = {"id": repo, "sha": oid, "private": repository.private, "siblings": siblings}
        return self._answer(200, info | {"tags": [], "cardData": {}, "downloads": 0, "likes": 0})

    def _url(self, repo: str) -> str:
        repository = self.hub.repositories.get(repo)
        prefix = "datasets/" if repository is not None and repository.kind == "dataset" else ""
        return f"http://{self.headers['Host']}/{prefix}{repo}"


@contextmanager
def run_hub():
    """A running [`Hub`] and its address."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield hub, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
