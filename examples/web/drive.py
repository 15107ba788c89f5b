"""Clicks through the page in a headless Chromium, as a visitor would, and compares what it draws with the edge picture.

    drive.py SITE [--screenshot PNG]

SITE is what build.sh made. Prints a checksum line for the module without SIMD and for the one with it."""

import argparse
import functools
import http.server
import pathlib
import re
import tempfile
import threading
import zlib

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

ROOT = pathlib.Path(__file__).resolve().parents[2]
EDGE = re.search(r"^crc32 = (0x[0-9a-f]{8})$", (ROOT / "fixtures/edge-picture.txt").read_text(), re.M)[1]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def serve(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


class Page:
    def __init__(self, browser, url):
        self.browser = browser
        browser.get(url)
        self.until("ready")

    def __getitem__(self, name):
        return self.browser.find_element(By.ID, name)

    def until(self, *states):
        """Waits for a state; the page's own error message ends the wait, too."""
        at = lambda b: b.find_element(By.TAG_NAME, "body").get_dom_attribute("data-state")
        WebDriverWait(self.browser, 120, 0.05).until(lambda b: at(b) in {*states, "error"})
        assert at(self.browser) in states, self["error"].text

    def model(self, name):
        self.browser.find_element(By.CSS_SELECTOR, f'[data-model="{name}"]').click()
        self.until("ready")

    def tier(self, name):
        tiers = self.browser.find_elements(By.CSS_SELECTOR, ".tier")
        next(t for t in tiers if t.text.split()[0] == name).click()

    def type(self, name, text):
        self[name].clear()
        self[name].send_keys(text)

    def draw(self):
        self["draw"].click()
        self.until("done")
        return self["checksum"].text

    def number(self, name):
        return int(self[name].text.replace(",", ""))

    def seen(self):
        """The checksum of the pixels that the canvas shows."""
        script = """const c = document.getElementById("picture");
            return [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data];"""
        rgba = self.browser.execute_script(script)
        return f"0x{zlib.crc32(bytes(v for i, v in enumerate(rgba) if i % 4 != 3)):08x}"


def edge_picture(browser, url, platform):
    page = Page(browser, url)
    assert page["kernels"].text == ("simd128" if platform.endswith("simd128") else "scalar")
    page.tier("fast")
    page.type("class", "red heart")
    page.type("seed", "1")
    got = page.draw()
    print(f"checksum {platform} {got}")
    assert got == page.seen() == EDGE, f"{got}, on the canvas {page.seen()}; the edge picture is {EDGE}"

    # The plan's bytes, in a memory that holds everything and no page more.
    parts = [page.number(f"{n}-bytes") for n in ["model", "arena", "program", "generator", "free"]]
    budgets = (ROOT / "memory-budgets.toml").read_text()
    micro = budgets[budgets.index("[model.emoji-micro]") :]
    planned = int(re.search(r"tier\.fast = \{ arena = ([\d_]+)", micro)[1].replace("_", ""))
    assert parts[0] == (ROOT / "fixtures/emoji-micro.vmt").stat().st_size
    assert parts[1] == planned, (parts, planned)
    assert sum(parts) == page.number("total-bytes") and 0 <= parts[-1] < 65536, parts

    # A picture for every scale, and no two alike.
    shown = "return [...document.querySelectorAll('#strip canvas')].map((c) => c.toDataURL())"
    thumbs = browser.execute_script(shown)
    assert len(thumbs) == len(set(thumbs)) > 1
    # Another seed is another picture; the first one again is the first one.
    page.type("seed", "2")
    assert page.draw() != EDGE
    page.type("seed", "1")
    assert page.draw() == EDGE
    return page


def mistakes(page):
    """What a visitor gets wrong is said, and does no harm."""
    page.type("class", "red hart")
    page["draw"].click()
    assert "red hart" in page["error"].text
    with tempfile.TemporaryDirectory() as folder:
        broken = bytearray((ROOT / "fixtures/emoji-micro.vmt").read_bytes())
        broken[len(broken) // 2] ^= 1
        path = pathlib.Path(folder, "broken.vmt")
        path.write_bytes(broken)
        page["file"].send_keys(str(path))
        WebDriverWait(page.browser, 60).until(lambda _: "E106" in page["error"].text)
    page["file"].send_keys(str(ROOT / "fixtures/tiny.vmt"))
    page.until("ready")
    page.draw()
    assert page["picture"].is_displayed() and not page["error"].is_displayed()


def screenshot(page, path):
    page.model("emoji-64.vmt")
    page.tier("full")
    page.type("class", "smiling face with sunglasses")
    Select(page["style"]).select_by_index(1)
    page.type("seed", "1")
    page.draw()
    page.browser.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    path.parent.mkdir(parents=True, exist_ok=True)
    assert page.browser.save_screenshot(str(path))


def main():
    args = argparse.ArgumentParser()
    args.add_argument("site", type=pathlib.Path)
    args.add_argument("--screenshot", type=pathlib.Path)
    args = args.parse_args()
    url = serve(args.site)
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ["headless=new", "no-sandbox", "lang=en"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    view = {"width": 1160, "height": 812, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)
    try:
        edge_picture(browser, url + "?simd=0", "wasm32")
        page = edge_picture(browser, url, "wasm32-simd128")
        mistakes(page)
        if args.screenshot:
            screenshot(page, args.screenshot)
        # Nothing was refused by the page's own policy, nothing threw.
        log = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not log, log
    finally:
        browser.quit()


main()
