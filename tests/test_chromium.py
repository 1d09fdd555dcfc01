"""Report and viewer in a real browser: nothing fetched, nothing complained about, everything seen and pressed."""

import shutil
import threading

import cv2
import numpy as np
import pytest
from evaluations import LOG

from tf_liver.data.cases import find_cases
from tf_liver.volume.evaluation import read_evaluation
from tf_liver.volume.report import write_report
from tf_liver.volume.viewer import Viewer, viewer_files

# WebGL2 is drawn by software where there is no graphics card; root needs --no-sandbox.
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing (pip install '.[dev]')")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("Chromium is missing (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser):
    """Open a URL in a window of some size; `said` and `asked` are what its console and its network saw."""

    def open_tab(url, **how):
        page = browser.new_context(**{"viewport": WIDE, **how}).new_page()
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(str(url))
        return page

    yield open_tab
    for context in browser.contexts:
        context.close()


@pytest.fixture(scope="module")
def report(evaluated, phantoms, tmp_path_factory):
    folder = shutil.copytree(evaluated, tmp_path_factory.mktemp("chromium") / "evaluation")
    (folder / "log.csv").write_text(LOG)
    return write_report(folder, find_cases(phantoms), folder).as_uri()


def column(page, name):
    return page.locator("table.sortable").first.evaluate(
        "(table, name) => [...table.tBodies[0].rows].map(row => row.cells[[...table.tHead.rows[0].cells].findIndex("
        "head => head.textContent.startsWith(name))].textContent.trim())",
        name,
    )


def test_the_report_loads_alone_and_in_silence(tab, report):
    page = tab(report)
    page.mouse.wheel(0, 20_000)
    page.wait_for_load_state("networkidle")
    assert page.said == []
    assert [url for url in page.asked if not url.startswith("data:")] == [report]


def test_its_pictures_are_drawn(tab, report):
    page = tab(report)
    figure = page.locator("figure.plane svg").first
    figure.scroll_into_view_if_needed()
    picture = cv2.imdecode(np.frombuffer(figure.screenshot(), np.uint8), cv2.IMREAD_COLOR).astype(int)
    blue, green, red = picture[..., 0], picture[..., 1], picture[..., 2]
    assert (np.abs(blue - green) < 8).mean() > 0.5, "most of a CT is grey"
    assert picture.std() > 20
    assert ((green - red > 80) & (green - blue > 60)).sum() > 50, "the reference is green"
    page.locator("article").nth(3).scroll_into_view_if_needed()
    assert page.locator("figure.chart svg path").count() > 50


def test_sorting_by_click_and_by_keyboard(tab, report):
    page = tab(report)
    button = page.locator("table.sortable").first.get_by_role("button", name="HD95")
    before = column(page, "HD95")
    assert before[0] == "– undefined: no liver in prediction"
    button.click()
    rising = [float(text) for text in column(page, "HD95")[:3]]
    assert rising == sorted(rising)
    assert column(page, "HD95")[3] == before[0], "undefined values stay last"
    button.focus()
    page.keyboard.press("Enter")
    assert [float(text) for text in column(page, "HD95")[:3]] == rising[::-1]
    assert column(page, "HD95")[3] == before[0]
    assert page.locator("th[aria-sort=descending]").first.inner_text().startswith("HD95")
    page.locator("table.sortable").first.get_by_role("button", name="case").press("Space")
    assert column(page, "case") == sorted(column(page, "case"))


def test_a_wish_shows_all_columns(tab, report):
    page = tab(report)
    hidden = page.locator("table.sortable").first.get_by_role("button", name="precision")
    assert not hidden.is_visible()
    page.locator("input.all").first.check()
    assert hidden.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_shows_it_without_scrolling_sideways(tab, report, scheme):
    page = tab(report, viewport=NARROW, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('article').forEach(part => part.style.contentVisibility = 'visible')")
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    bright = [sum(int(n) for n in colour[4:-1].split(",")) for colour in (ink, paper)]
    assert (bright[0] > bright[1]) == (scheme == "dark")


def test_it_prints_every_case(tab, report):
    page = tab(report, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink')").strip() == "#1b2230"
    data = page.pdf(prefer_css_page_size=True)
    assert data.startswith(b"%PDF")
    assert data.count(b"/Type /Page\n") >= 5, "the overview and a page for each of four cases"


def test_the_viewer_draws_a_scan_with_both_masks(tab, evaluated, phantoms):
    with Viewer(viewer_files(read_evaluation(evaluated), find_cases(phantoms)), 0) as viewer:
        threading.Thread(target=viewer.serve_forever, daemon=True).start()
        page = tab(viewer.url + "#phantom_02", viewport={"width": 640, "height": 480})
        page.wait_for_selector("body[data-shown=phantom_02]", timeout=60_000)
        page.wait_for_timeout(500)
        drawn = cv2.imdecode(np.frombuffer(page.locator("canvas").screenshot(), np.uint8), cv2.IMREAD_COLOR).astype(int)
        green, red = drawn[..., 1], drawn[..., 2]
        assert drawn.std() > 10
        assert (green - red > 40).sum() > 30, "reference only: green"
        assert (red - green > 40).sum() > 30, "prediction only: magenta"
        page.locator("#case").select_option("phantom_01")
        page.wait_for_selector("body[data-shown=phantom_01]", timeout=60_000)
        page.get_by_role("button", name="coronal").click()
        page.locator("canvas").click(position={"x": 320, "y": 160})
        page.wait_for_function("document.querySelector('#place').textContent.includes(' HU')")
        assert page.said == []
        assert page.locator("#problem").inner_text() == ""
        assert all(url.startswith((viewer.url, "data:", "blob:")) for url in page.asked)
        assert page.request.get(viewer.url + "..%2f..%2fetc/passwd").status == 404
        viewer.shutdown()
