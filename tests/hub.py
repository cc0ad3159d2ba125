"""Enough of the Hugging Face Hub for its unmodified clients to read public datasets from a folder."""

import hashlib
import http.server
import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.servers import HttpServer

SHA = "a" * 40  # the one commit of every repository


class LocalHub(HttpServer):
    """`root/OWNER/NAME/...` are the files of datasets."""

    def __init__(self, root: Path) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.asked.append(f"{self.command} {self.path}")
                path = unquote(urlsplit(self.path).path)
                if found := re.fullmatch(r"/api/datasets/(\w+/\w+)(?:/revision/\w+)?", path):
                    return self.answer(describe(root, found[1]))
                if found := re.fullmatch(r"/api/datasets/(\w+/\w+)/tree/\w+(?:/(.*))?", path):
                    return self.answer(
                        list_tree(root / found[1], found[2] or "", "recursive=true" in self.path.lower())
                    )
                if found := re.fullmatch(r"/datasets/(\w+/\w+)/resolve/\w+/(.*)", path):
                    return self.send_file(root / found[1] / found[2])
                return self.answer(None)

            do_HEAD = do_GET  # noqa: N815

            def do_POST(self):
                outer.asked.append(f"POST {self.path}")
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                found = re.fullmatch(r"/api/datasets/(\w+/\w+)/paths-info/\w+", urlsplit(self.path).path)
                if not found:
                    return self.answer(None)
                fields = json.loads(body) if body.startswith("{") else {"paths": re.findall(r"paths=([^&]*)", body)}
                paths = [fields["paths"]] if isinstance(fields["paths"], str) else fields["paths"]
                places = [root / found[1] / unquote(path) for path in paths]
                return self.answer([entry(root / found[1], place) for place in places if place.exists()])

            def answer(self, content):
                if content is None:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "RepoNotFound" if "/api/" in self.path else "EntryNotFound")
                    body = b'{"error": "Repository not found"}'
                else:
                    self.send_response(200)
                    body = json.dumps(content).encode()
                self.send_header("Content-Type", "application/json")
                self.send_body(body)

            def send_file(self, file):
                if not file.is_file():
                    return self.answer(None)
                body = file.read_bytes()
                whole = len(body)
                asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if asked:
                    last = int(asked[2] or whole - 1)
                    body = body[int(asked[1]) : last + 1]
                self.send_response(206 if asked else 200)
                if asked:
                    self.send_header("Content-Range", f"bytes {asked[1]}-{last}/{whole}")
                self.send_header("ETag", f'"{hashlib.sha1(file.read_bytes()).hexdigest()}"')
                self.send_header("X-Repo-Commit", SHA)
                self.send_header("Accept-Ranges", "bytes")
                return self.send_body(body)

            def send_body(self, body):
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        super().__init__(Handler)


def describe(root, name):
    folder = root / name
    if not folder.is_dir():
        return None
    files = [{"rfilename": str(path.relative_to(folder))} for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        "id": name,
        "sha": SHA,
        "private": False,
        "gated": False,
        "disabled": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": files,
    }


def list_tree(folder, below, is_recursive):
    if not (folder / below).is_dir():
        return None
    paths = (folder / below).rglob("*") if is_recursive else (folder / below).iterdir()
    return [entry(folder, path) for path in sorted(paths)]


def entry(folder, path):
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0, "path": name}
    content = path.read_bytes()
    return {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": name}
