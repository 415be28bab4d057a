"""Opening a page in headless Chromium, and what it did there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
    "--v=0",
)

# A line such as [1:1:1122/065331.0:INFO:CONSOLE:1] "Uncaught Error: no", source: file:///page.html (1)
CONSOLE = re.compile(r':CONSOLE[^\]]*\] "(.*)", source: ')
ERROR = re.compile(r"error|uncaught|refused|violates|failed|net::", re.IGNORECASE)

PROBE = """
<script>
setTimeout(function () {
  function blank(canvas) {
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const seen = new Set();
    for (let i = 0; i < data.length; i += 4) {
      if (data[i + 3] > 0) { seen.add(data[i] + "," + data[i + 1] + "," + data[i + 2]); }
    }
    return seen.size < 3;
  }
  function texts(box, selector) {
    return Array.from(box.querySelectorAll(selector)).map(function (e) { return e.textContent; });
  }
  const all = function (selector) { return Array.from(document.querySelectorAll(selector)); };
  const boxes = all("details[data-view]");
  const answer = encodeURIComponent(JSON.stringify({
    width: innerWidth,
    scrollWidth: document.documentElement.scrollWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    alerted: document.documentElement.dataset.alerted || "",
    closed: all("details:not([open])").length,
    views: boxes.map(function (box) {
      const canvases = Array.from(box.querySelectorAll("canvas"));
      return {
        mounted: box.dataset.mounted || "",
        canvases: canvases.length,
        blank: canvases.filter(blank).length,
        tokens: texts(box, ".colored-tokens > span"),
        height: box.querySelector(".circuits > div").offsetHeight
      };
    }),
    strips: all(".tokens").map(function (strip) { return texts(strip, "bdi"); }),
    figures: all(".figure").filter(function (f) { return f.offsetHeight > 40; }).length,
    resources: performance.getEntriesByType("resource").map(function (r) { return r.name; })
      .filter(function (name) { return !name.startsWith("data:"); }),
    injected: all("img, b, s, iframe, object, embed, form").length,
    summaries: texts(document, "summary"),
    headings: all("h1, main h2, main h3").filter(function (h) { return !h.closest(".circuits"); })
      .map(function (h) { return Number(h.tagName[1]); })
  }));
  document.title = answer;
  if (parent !== window) { parent.postMessage(answer, "*"); }
}, 20000);
</script>
"""
"""Looks at the page from inside, after everything was drawn, and answers in its title."""


@dataclass(frozen=True)
class Opened:
    """What a page did.

    Attributes
    ----------
    dom
        The document once it was at rest.
    errors
        Console messages that are errors.
    requests
        Addresses that the page, not the browser itself, asked the network for.
    """

    dom: str
    errors: tuple[str, ...]
    requests: tuple[str, ...]

    @property
    def probed(self) -> dict[str, object]:
        """What the probe saw."""
        title = re.search(r"<title>(.*?)</title>", self.dom, re.DOTALL)
        assert title is not None, "the page has no title"
        answer: dict[str, object] = json.loads(unquote(title[1]))
        return answer


def executable() -> str:
    """Return where Chromium is; skip the test, saying so, where there is none."""
    for name in NAMES:
        found = shutil.which(name)
        if found:
            return found
    pytest.skip(f"no browser on this machine: none of {', '.join(NAMES)} is installed")


def with_probe(page: str) -> str:
    """Return a page that looks at itself; without its policy, so that only its escaping protects it."""
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert bare != page, "the page has no content security policy"
    watch = (
        '<script>window.alert = function () { document.documentElement.dataset.alerted = "yes"; };</script>'
    )
    return bare.replace("<head>", f"<head>{watch}", 1).replace("</body>", f"{PROBE}</body>")


def in_frame(path: Path, *, width: int) -> Path:
    """Return a page that shows another in a frame: a window of its own is never under 500 pixels wide."""
    outer = path.with_name(f"frame-{path.name}")
    outer.write_text(
        "<!doctype html><title>waiting</title>"
        f'<iframe src="{path.name}#open-all" style="width: {width}px; height: 800px; border: 0"></iframe>'
        '<script>addEventListener("message", function (e) { document.title = e.data; });</script>'
    )
    return outer


def open_page(path: Path, *, fragment: str = "#open-all", dark: bool = False) -> Opened:
    """Open a page without a network and wait until it is at rest."""
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        log = Path(profile) / "net.json"
        command = [
            executable(),
            *FLAGS,
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            f"--user-data-dir={profile}",
            f"--log-net-log={log}",
            "--window-size=1400,1200",
            "--virtual-time-budget=60000",
            "--dump-dom",
            f"{path.resolve().as_uri()}{fragment}",
        ]
        done = subprocess.run(command, capture_output=True, timeout=240, check=True)
        requests = _requests(log.read_text(encoding="utf-8"))
    messages = CONSOLE.findall(done.stderr.decode("utf-8", "replace"))
    return Opened(
        dom=done.stdout.decode("utf-8", "replace"),
        errors=tuple(message for message in messages if ERROR.search(message)),
        requests=tuple(requests),
    )


def _requests(log: str) -> list[str]:
    try:
        recorded = json.loads(log)
    except json.JSONDecodeError:  # the browser was ended before it could close the list
        recorded = json.loads(log.rstrip().rstrip(",") + "]}")
    asked = [event.get("params", {}) for event in recorded["events"]]
    return [
        one["url"]
        for one in asked
        # The browser's own errands have no origin.
        if one.get("initiator", "not an origin") != "not an origin" and re.match("(https?|wss?):", one["url"])
    ]
