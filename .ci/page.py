"""The page in a headless Chromium: python3 .ci/page.py URL MODEL EXPECTED FOLDER MODELS

EXPECTED is a file with the text that the program writes for the question below; FOLDER gets screenshots at two widths, light
and dark; MODELS is a folder of models with other tokenizers and what their texts are in tokens (.ci/foreign.py). Needs the
Python package playwright and Debian's chromium.
"""

import base64
import json
import sys
import unicodedata
from pathlib import Path

from playwright.sync_api import sync_playwright

url, model, expected, folder, models = sys.argv[1:]
QUESTION = "Tell me a story about a dog."


def done(page):
    """Waits for the end of an answer, and returns what the page says of it."""
    page.wait_for_selector("#status[data-state=done], #status[data-state=failed]", timeout=60000)
    assert page.get_attribute("#status", "data-state") == "done", page.inner_text("#status")
    return page.inner_text("#status")


def asked(page, **query):
    page.goto(f"{url}?prompt={QUESTION.replace(' ', '+')}&temperature=0&maxTokens=24&" + "&".join(f"{k}={v}" for k, v in query.items()))
    return done(page)


def bytes_read(page):
    return float(page.inner_text("#figures").split(" MB")[0].split()[-1])


def answers(page):
    """The program's text, fewer bytes at half the density, both beside each other, nothing asked of other servers."""
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    said = asked(page, density=1)
    assert said.startswith("24 tokens; cut off"), said
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
    page.fill("[name=maxTokens]", "400")
    page.press("[name=prompt]", "Enter")
    page.wait_for_function("document.getElementById('answer').textContent.length > 10")
    page.click("[name=stop]")
    assert "; stopped" in done(page)
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
    page.fill("[name=prompt]", QUESTION)
    page.fill("[name=temperature]", "0")
    page.fill("[name=until]", " dog")
    page.click("[name=ask]")
    assert "text to stop at" in done(page)
    text = Path(expected).read_text(encoding="utf-8").strip()
    assert page.inner_text("#answer").strip() == text.split(" dog")[0].strip(), page.inner_text("#answer")
    assert "answers questions" in page.inner_text("#about")


IDS = """async ([image, texts]) => {
  const {Model} = await import('./shadowllm.js');
  const bytes = Uint8Array.from(atob(image), (letter) => letter.charCodeAt(0));
  const model = await Model.open(await (await fetch('shadowllm_web.wasm')).arrayBuffer(), bytes);
  return texts.map((text) => {
    const ids = model.encode(text);
    return [ids, model.decode(ids)];
  });
}"""


def tokenizers(page):
    """Models with the tokenizers of Qwen, Llama 3, Llama 2 and SentencePiece: the published ids, and their own templates."""
    page.goto(url)
    page.wait_for_selector("#status[data-state=ready]")
    record = json.loads((Path(models) / "texts.json").read_text())
    assert {"qwen3", "llama3", "llama2", "unigram-nfkc"} <= set(record), record.keys()
    for name, cases in record.items():
        file = Path(models) / f"{name}.sllm"
        found = page.evaluate(IDS, [base64.b64encode(file.read_bytes()).decode(), [case["text"] for case in cases]])
        for case, (ids, text) in zip(cases, found, strict=True):
            assert ids == case["ids"], (name, case, ids)
            if name == "qwen3":  # byte-level, so texts come back as they were, but for composed letters (NFC)
                assert text == unicodedata.normalize("NFC", case["text"]), (name, case, text)
        page.set_input_files("[name=file]", str(file))
        page.wait_for_function("document.getElementById('about').textContent.startsWith(%s)" % json.dumps(f"{name}.sllm"))
        page.fill("[name=prompt]", "Why is the sky blue?")
        page.fill("[name=maxTokens]", "4")
        page.click("[name=ask]")
        assert "4 tokens" in done(page) or "cut off" not in page.inner_text("#status"), page.inner_text("#status")
        chat = name in ("qwen3", "llama3")
        assert ("answers questions" in page.inner_text("#about")) == chat, (name, page.inner_text("#about"))


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
        errors = []
        for part in (answers, stops, tokenizers):
            page = browser.new_page()
            page.on("pageerror", lambda error: errors.append(error))
            part(page)
            page.close()
            assert not errors, errors
            print(f"  {part.__doc__}", flush=True)
        pictures(browser)
        print(f"  {pictures.__doc__}")
        browser.close()


main()
