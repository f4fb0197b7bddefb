"""Distributions made for a test: wheels in a folder, and a page of links that answers when the test lets it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def wheel(folder: Path, name: str, version: str, **modules: str) -> Path:
    """A wheel of these modules (name -> source), installable without a network."""
    info = f"{name}-{version}.dist-info"
    files = {f"{module}.py": source for module, source in modules.items()}
    files |= {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{file},sha256={_hash(text)},{len(text.encode())}" for file, text in files.items()]
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": "\n".join([*record, f"{info}/RECORD,,", ""])}.items():
            archive.writestr(file, text)
    return made


def _hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


class Page:
    """A page that links to the wheels of a folder. It counts what is asked for, and answers once `open` is set."""

    def __init__(self, folder: Path) -> None:
        self.open = threading.Event()
        self.asked = threading.Event()
        self.fetched: list[str] = []
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page.asked.set()
                page.open.wait(120)
                name = self.path.strip("/")
                links = "".join(f'<a href="{one.name}">{one.name}</a>' for one in folder.glob("*.whl"))
                body = (folder / name).read_bytes() if name else links.encode()
                if name:
                    page.fetched.append(name)
                with contextlib.suppress(OSError):  # who asked was killed
                    self.send_response(200)
                    self.send_header("Content-Type", "application/octet-stream" if name else "text/html")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    @contextlib.contextmanager
    def served(self) -> Iterator[Page]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.open.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()
