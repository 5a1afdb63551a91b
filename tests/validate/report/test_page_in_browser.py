"""The pages in a real browser: no console error, nothing requested, every plot drawn, nothing wider than the window."""

from __future__ import annotations

import base64
import functools
import html
import json
import os
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from radixrt.validate.report.compare import render_comparison
from radixrt.validate.report.html import render_html
from tests.validate.reports import make_report

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed: apt-get install chromium")

# Runs before anything of the page; writes what it saw into the page, from where --dump-dom brings it out.
PROBE = """<script>
const seen = { errors: [], policy: [] };
addEventListener("error", (e) => seen.errors.push(String(e.message || e.target.src)), true);
addEventListener("unhandledrejection", (e) => seen.errors.push(String(e.reason)));
document.addEventListener("securitypolicyviolation", (e) => seen.policy.push(e.blockedURI + " " + e.violatedDirective));
for (const level of ["error", "warn"]) console[level] = (...words) => seen.errors.push(words.join(" "));
const note = () => {
  const root = document.documentElement;
  seen.state = root.dataset.plots || "none";
  seen.requests = performance.getEntriesByType("resource").map((r) => r.name);
  seen.window = innerWidth;
  seen.page = root.scrollWidth;
  seen.ink = getComputedStyle(document.body).color;
  seen.plots = [...document.querySelectorAll(".plot")].map((plot) => {
    const svg = plot.querySelector(".main-svg");
    const box = svg ? svg.getBoundingClientRect() : { width: 0, height: 0 };
    const text = svg ? [...plot.querySelectorAll("text")].map((t) => t.textContent) : [];
    return { id: plot.id, width: box.width, height: box.height, marks: plot.querySelectorAll("path").length, text };
  });
  let pre = document.getElementById("probe");
  if (!pre) {
    pre = Object.assign(document.createElement("script"), { type: "text/plain", id: "probe" });
    document.body.append(pre);
  }
  pre.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(seen))));
};
addEventListener("load", () => setInterval(note, 500));
</script>"""


@dataclass(frozen=True)
class Seen:
    state: str
    errors: list[str]
    policy: list[str]
    requests: list[str]
    window: int
    page: int
    ink: str
    plots: list[dict[str, object]]


def open_page(text: str, folder: Path, *, width: int, dark: bool = False) -> Seen:
    file = folder / "page.html"
    file.write_text(text.replace("<head>", "<head>" + PROBE, 1), encoding="utf-8")
    handler = functools.partial(QuietHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            return _look(f"http://127.0.0.1:{server.server_port}/page.html", folder, width, dark)
        finally:
            server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _look(address: str, folder: Path, width: int, dark: bool) -> Seen:
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},1000", "--virtual-time-budget=20000", "--dump-dom",
        *(["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]),
        address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(folder)})
    match = re.search(r'id="probe"[^>]*>([^<]+)<', done.stdout)
    assert match, f"the page never finished loading: {done.stderr[-500:]}"
    return Seen(**json.loads(base64.b64decode(html.unescape(match[1]))))


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (500, True)])
def test_report_page(tmp_path: Path, width: int, dark: bool) -> None:
    seen = open_page(render_html(make_report(noise=0.3)), tmp_path, width=width, dark=dark)
    assert (seen.state, seen.errors, seen.policy, seen.requests) == ("drawn", [], [], [])
    assert [plot["id"] for plot in seen.plots] == [
        "plot-accuracy", "plot-classes", "plot-latency", "plot-batch", "plot-drift", "plot-layers",
    ]  # fmt: skip
    for plot in seen.plots:
        assert 0.5 * width < plot["width"] <= width, plot  # type: ignore[operator]
        assert plot["height"] > 100 and plot["marks"] > 5, plot  # type: ignore[operator]
    words = {str(plot["id"]): " ".join(plot["text"]) for plot in seen.plots}  # type: ignore[arg-type]
    assert "limit -1" in words["plot-accuracy"] and "PyTorch" in words["plot-accuracy"]
    assert "<script>alert(1)</script>" in words["plot-classes"], "a hostile class name is drawn as it is written"
    assert "torch.compile" in words["plot-latency"]
    assert "first drop" in words["plot-drift"]
    assert seen.page <= seen.window, "the page scrolls sideways"
    bright = sum(int(number) for number in re.findall(r"\d+", seen.ink)[:3]) > 3 * 128
    assert bright is dark, f"ink {seen.ink} on a {'dark' if dark else 'light'} page"


def test_the_probe_sees_what_it_must_rule_out(tmp_path: Path) -> None:
    # A page with an error, a forbidden request and an allowed one: were the probe blind, the tests here could not fail.
    policy = '<meta http-equiv="Content-Security-Policy" content="img-src data:">'
    body = "<script src='absent.js'></script><script src='there.js'></script><img src='http://127.0.0.1:9/x.png'><script>console.error('bad')</script>"
    (tmp_path / "there.js").write_text("document.title = 'loaded'")
    seen = open_page(f"<html><head>{policy}</head><body>{body}</body></html>", tmp_path, width=800)
    assert "bad" in seen.errors
    assert any("img-src" in violation for violation in seen.policy)
    assert any(error.endswith("absent.js") for error in seen.errors)
    assert any(request.endswith("there.js") for request in seen.requests)


def test_comparison_page(tmp_path: Path) -> None:
    reports = [
        make_report(precision="fp32", noise=0.001, milliseconds=8.0),
        make_report(precision="int8", noise=0.1, milliseconds=3.0),
        make_report(precision="fp16", target="tensorrt-rtx", executed=False),
    ]
    seen = open_page(render_comparison(reports), tmp_path, width=1280)
    assert (seen.state, seen.errors, seen.policy, seen.requests) == ("drawn", [], [], [])
    [plot] = seen.plots
    assert {"fp32", "int8"} <= set(plot["text"])  # type: ignore[call-overload]
    assert "fp16" not in plot["text"], "what was not executed has no point"  # type: ignore[operator]
    assert seen.page <= seen.window
