"""A small Hub over HTTP: stores the bytes that the real client sends, checks its token, serves them back.

It knows data set repositories with one branch, as far as `upload_folder` and `load_dataset` ask.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

__all__ = ["Hub", "run_hub"]

TOKEN = "hf_test_token"


class Hub:
    """The state of the server: files by repository, large ones by their hash, and what was sent."""

    def __init__(self):
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        self.commits: list[str] = []
        self.uploaded: list[str] = []
        self.can_write = True

    def revision(self, repo: str) -> str:
        content = b"".join(name.encode() + data for name, data in sorted(self.files[repo].items()))
        return hashlib.sha1(content).hexdigest()

    def commit(self, repo: str, lines: list[dict]) -> None:
        files = dict(self.files[repo])
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.large[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        self.files[repo] = files
        self.commits.append(repo)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments):
        pass

    def _answer(self, status: int, body: bytes | dict | list = b"", **headers) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        if not isinstance(body, bytes):
            headers.setdefault("Content-Type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self):
        path, body = unquote(urlsplit(self.path).path), self._body()
        if not self._known:
            return self._answer(401, {"error": "Invalid username or password."})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if not self.hub.can_write:
            return self._answer(403, {"error": "You don't have the rights to create or change this repository"})
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if repo in self.hub.files:
                return self._answer(409, {"error": "You already created this dataset repo", "url": self._url(repo)})
            self.hub.files[repo] = {".gitattributes": b""}
            self.hub.private[repo] = asked.get("private") or asked.get("visibility") == "private"
            return self._answer(200, {"url": self._url(repo), "name": repo, "id": repo})
        if found := re.fullmatch(r"/api/datasets/(.+)/preupload/main", path):
            return self._answer(200, {"files": [self._mode(found[1], f) for f in json.loads(body)["files"]]})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [{"oid": asked["oid"], "size": asked["size"]} for asked in json.loads(body)["objects"]]
            for wanted in objects:
                if wanted["oid"] not in self.hub.large:
                    wanted["actions"] = {"upload": {"href": self._lfs(wanted["oid"])}}
            return self._answer(200, {"objects": objects}, Content_Type="application/vnd.git-lfs+json")
        if found := re.fullmatch(r"/api/datasets/(.+)/commit/main", path):
            self.hub.commit(found[1], [json.loads(line) for line in body.splitlines()])
            revision = self.hub.revision(found[1])
            return self._answer(200, {"commitUrl": f"{self._url(found[1])}/commit/{revision}", "commitOid": revision})
        return self._answer(404, {"error": path})

    def _mode(self, repo: str, file: dict) -> dict:
        there = self.hub.files[repo].get(file["path"])
        mode = "lfs" if file["path"].endswith(".parquet") else "regular"
        oid = None
        if there is not None:  # large files are known by their SHA-256, others as git knows them
            git = hashlib.sha1(b"blob %d\0" % len(there) + there).hexdigest()
            oid = hashlib.sha256(there).hexdigest() if mode == "lfs" else git
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def do_PUT(self):
        oid, data = self.path.rsplit("/", 1)[-1], self._body()
        assert hashlib.sha256(data).hexdigest() == oid
        self.hub.large[oid] = data
        self.hub.uploaded.append(oid)
        self._answer(200)

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            return self._answer(200 if self._known else 401, {"name": "tester", "type": "user", "orgs": []})
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", path):
            return self._describe(*found.groups())
        if found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            data = self.hub.files.get(found[1], {}).get(found[3])
            if data is None or (self.hub.private[found[1]] and not self._known):
                return self._answer(404, {"error": "missing"}, X_Error_Code="EntryNotFound")
            return self._answer(
                200, data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=self.hub.revision(found[1])
            )
        return self._answer(404, {"error": path})

    do_HEAD = do_GET

    def _describe(self, repo: str, what: str | None, revision: str | None, folder: str | None):
        if repo not in self.hub.files or (self.hub.private[repo] and not self._known):
            return self._answer(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        files = self.hub.files[repo]
        if what == "tree":
            inside = {name: data for name, data in files.items() if not folder or name.startswith(f"{folder}/")}
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
        info = {"id": repo, "sha": self.hub.revision(repo), "private": self.hub.private[repo], "siblings": siblings}
        return self._answer(200, info | {"tags": [], "cardData": {}, "downloads": 0, "likes": 0})

    def _url(self, repo: str) -> str:
        return f"http://{self.headers['Host']}/datasets/{repo}"

    def _lfs(self, oid: str) -> str:
        return f"http://{self.headers['Host']}/lfs/{oid}"


@contextmanager
def run_hub():
    """A running [`Hub`] and its address."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hub, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
