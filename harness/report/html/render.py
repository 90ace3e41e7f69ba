# SPDX-License-Identifier: MIT
"""From a `Page` to one HTML file: nothing in it is fetched, nothing a guest said takes effect."""

import base64
import datetime
import importlib.resources
import json
from functools import cache
from typing import Any

import jinja2
import plotly.io
from markupsafe import Markup

from harness.base.text import inert
from harness.base.units import format_size
from harness.report.html.content import Page, percent
from harness.report.html.figure import Figure

LIBRARY = "plotly-basic-4.1.1.min.js.gz"
"""As published, under the MIT licence beside it."""


def render(page: Page) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource),
        autoescape=True,
        finalize=_finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, size=format_size)
    now = datetime.datetime.now(datetime.UTC)
    return environment.get_template("report.html").render(
        page=page,
        css=Markup(_resource("report.css")),
        script=Markup(_resource("report.js")),
        library=Markup(_library()),
        plots=Markup(_embedded({figure.id: _plot(figure) for figure in page.figures})),
        written=now.isoformat(timespec="seconds"),
    )


def _finalize(value: Any) -> Any:
    return inert(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _plot(figure: Figure) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(plotly.io.to_json(figure.figure, validate=False))
    content["layout"].pop("template", None)  # the page has its own, light and dark
    return content


def _embedded(content: Any) -> str:
    """JSON that can stand in a script element: no character in it can end the element."""
    text = json.dumps(content, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@cache
def _library() -> str:
    """plotly.js's basic bundle, compressed: 0.5 MB of base64. The whole library is four times as
    large, and takes a slow machine seconds to start."""
    packed = importlib.resources.files(__package__).joinpath("vendor", LIBRARY).read_bytes()
    return base64.b64encode(packed).decode("ascii")


def _resource(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
