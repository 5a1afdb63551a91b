"""The page as text: self-contained, escaped, verdict first. What a browser makes of it: test_page_in_browser.py."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from radixrt.validate.gates import GateLimits
from radixrt.validate.report.compare import render_comparison
from radixrt.validate.report.html import render_html
from tests.validate.reports import make_report


class Page(HTMLParser):
    """What the page would load, its scripts, images, and its visible words in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.images: list[str] = []
        self.handlers: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self._hidden = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "srcset") and value and not value.startswith(("#", "data:")):
                self.loads.append(value)
            if name.startswith("on"):
                self.handlers.append(name)
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        if tag in ("script", "style", "title"):
            self._hidden = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._hidden:
            self._hidden = ""

    def handle_data(self, data: str) -> None:
        if not self._hidden and data.strip():
            self.words.append(" ".join(data.split()))


@pytest.fixture(scope="module")
def page() -> str:
    return render_html(make_report(noise=0.3))


def test_nothing_is_loaded_and_a_policy_forbids_it(page: str) -> None:
    assert Page(page).loads == []
    assert "default-src 'none'" in page
    own = re.sub(r'<script type="text/plain".*?</script>', "", page, flags=re.S)
    assert not re.search(r"https?://", own), "neither style nor script may name a host"
    assert "@import" not in own and "url(" not in own


def test_the_page_stays_small_enough_to_mail(page: str) -> None:
    assert len(page) < 2_600_000


def test_nothing_from_outside_becomes_markup(page: str) -> None:
    parsed = Page(page)
    assert parsed.images == [] and parsed.handlers == []
    assert "alert(1)" in page, "the hostile names are shown, as text"
    assert parsed.tags.count("script") == page.count("<script") == page.count("</script>")
    assert "onerror=alert(1)>" not in re.sub(r"&\w+;|&#\d+;", "", page).replace("\\u003e", "")


# Protects what the build decided: nothing that was chosen, and no node that was left, goes unsaid.
def test_every_decision_of_the_rewriter_is_on_the_page(page: str) -> None:
    for words in ("1.10x", "layer2.0.downsample.1", "1.20x as fast as pool", "layer3.0.conv1", "reaches 1e+05"):
        assert words in page


def test_verdict_and_warning_come_first() -> None:
    random = Page(render_html(make_report(weights="random"))).words
    assert random[1].startswith("Weights are random: no accuracy is claimed")
    failed = Page(render_html(make_report(limits=GateLimits(min_speedup=50)))).words
    assert failed.index("Failed: 1 of 2 gates not kept") < failed.index("Gates")
    idle = Page(render_html(make_report(executed=False))).words
    assert "Built, not executed here" in idle
    assert "Accuracy" not in idle and "Latency" not in idle


def test_the_page_labels_what_the_stand_in_answered() -> None:
    report = make_report(stand_in=True, noise=0.3, limits=GateLimits(max_drop=90))
    page = render_html(report)
    words = Page(page).words
    assert "Built, not executed here; its CPU stand-in kept 1 gate" in words
    assert {"Accuracy of the CPU stand-in", "Parity of the CPU stand-in with PyTorch", "Top-1, CPU stand-in"} <= set(
        words
    )
    assert "engine" not in words, "no column and no point of a plot is called the engine's"
    assert "CPU stand-in minus PyTorch" in page and "engine minus PyTorch" not in page


def test_without_figures_there_is_no_library_either() -> None:
    assert len(render_html(make_report(executed=False))) < 40_000


def test_flips_show_their_pictures_as_pairs() -> None:
    report = make_report(noise=0.3)
    assert report.accuracy
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    first = report.accuracy.flips[0].image
    images = Page(render_html(report, {first: file.getvalue()})).images
    assert len(images) == 2 and all(src.startswith("data:image/png;base64,") for src in images)


def test_comparison_is_self_contained_and_escaped() -> None:
    text = render_comparison([make_report(target="<img src=x onerror=alert(1)>"), make_report(executed=False)])
    parsed = Page(text)
    assert parsed.loads == [] and parsed.images == [] and parsed.handlers == []
