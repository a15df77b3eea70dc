"""The page in a headless Chromium: python3 .ci/page.py URL MODEL EXPECTED FOLDER

EXPECTED is a file with the text that the program writes for the question below; FOLDER gets screenshots at two widths, light
and dark. Needs the Python package playwright and Debian's chromium.
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

url, model, expected, folder = sys.argv[1:]
QUESTION = "Tell me a story about a dog."


def done(page):
    """Waits for the end of an answer, and returns what the page says of it."""
    page.wait_for_selector("#status[data-state=done], #status[data-state=failed]", timeout=60000)
    assert page.get_attribute("#status", "data-state") == "done", page.inner_text("#status")
    return page.inner_text("#status")


def asked(page, **query):
    page.goto(f"{url}?prompt={QUESTION.replace(' ', '+')}&temperature=0&most=24&" + "&".join(f"{k}={v}" for k, v in query.items()))
    return done(page)


def bytes_read(page):
    return float(page.inner_text("#figures").split(" MB")[0].split()[-1])


def answers(page):
    """The program's text, fewer bytes at half the density, both beside each other, nothing asked of other servers."""
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    assert asked(page, density=1) == "24 tokens"
    text = Path(expected).read_text(encoding="utf-8").strip()
    assert page.inner_text("#answer") == text, (page.inner_text("#answer"), text)
    whole = bytes_read(page)
    asked(page, density=0.5)
    assert bytes_read(page) < 0.9 * whole, (bytes_read(page), whole)
    said = asked(page, density=0.3, beside="")
    assert page.inner_text("#dense") == text and "with all weights" in said, said
    same = page.inner_text("#answer") == text
    assert same == (page.locator("#answer mark").count() == 0), page.inner_html("#answer")
    assert all(request.startswith(url.rsplit("/", 1)[0]) for request in requests), requests


def stops(page):
    """An answer is stopped while the page stays alive; another model is opened; what is wrong is said."""
    page.goto(url)
    page.wait_for_selector("#status[data-state=ready]")
    page.fill("[name=prompt]", "Tell me a story about a dog and a red ball.")
    page.fill("[name=most]", "400")
    page.press("[name=prompt]", "Enter")
    page.wait_for_function("document.getElementById('answer').textContent.length > 10")
    page.click("[name=stop]")
    done(page)
    length = len(page.inner_text("#answer"))
    page.wait_for_timeout(200)
    assert len(page.inner_text("#answer")) == length, "it goes on"
    page.fill("[name=prompt]", "  ")
    page.click("[name=ask]")
    assert "Type a question" in page.inner_text("#status")
    page.set_input_files("[name=file]", {"name": "bad.sllm", "mimeType": "", "buffer": b"no model at all" * 9})
    page.wait_for_selector("#status[data-state=failed]")
    assert "not a shadowllm image" in page.inner_text("#status"), page.inner_text("#status")
    page.set_input_files("[name=file]", model)
    page.wait_for_selector("#status[data-state=ready]")
    page.fill("[name=prompt]", "Once upon a time")
    page.click("[name=ask]")
    done(page)
    assert "continues a text" in page.inner_text("#about")


def pictures(browser):
    """Nothing is wider than the screen, light and dark."""
    for width, height in ((1000, 800), (390, 844)):
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            asked(page, density=0.3, beside="")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, width
            page.screenshot(path=f"{folder}/page-{width}-{scheme}.png", full_page=True)
            page.close()


def main():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
        for part in (answers, stops):
            page = browser.new_page()
            page.on("pageerror", lambda error: print("error of the page:", error))
            part(page)
            page.close()
            print(f"  {part.__doc__}", flush=True)
        pictures(browser)
        print(f"  {pictures.__doc__}")
        browser.close()


main()
