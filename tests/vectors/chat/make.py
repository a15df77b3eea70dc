"""Writes prompts.json: what the Hugging Face library makes of conversations by the templates of a folder.

    pip install transformers jinja2 && python3 make.py [FOLDER]

The templates of this folder, the default, are written for these tests, each in the manner of a family of models.
`.ci/run templates` gives a folder with those of some seventy models. Today's date is written as {TODAY}.
"""

import datetime
import json
import sys
import traceback
from pathlib import Path

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

here = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a place.\nIn \u00b0C <not> \u00b0F & \"now\".",
    "parameters": {"type": "object", "properties": {
        "place": {"type": "string", "description": "A city, as 'K\u00f6ln'"},
        "days": {"type": "integer", "minimum": 1, "maximum": 7.5},
        "unit": {"enum": ["C", "F"]},
        "parts": {"type": "array", "items": {"type": ["string", "null"]}}},
        "required": ["place"]}}}
CLOCK = {"type": "function", "function": {
    "name": "clock", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call00001", "type": "function", "function": {
    "name": "get_weather", "arguments": {"place": "K\u00f6ln", "days": 2, "ratio": 0.5, "deep": {"b": None, "a": [True, 1e-07]}}}}

system = {"role": "system", "content": "  Be brief. "}
user = {"role": "user", "content": "What's the weather in K\u00f6ln?\n"}
answer = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nSunny. "}
calls = {"role": "assistant", "content": "", "tool_calls": [CALL]}
result = {"role": "tool", "content": "{\"t\": 21.0}", "tool_call_id": "call00001", "name": "get_weather"}
parts = {"role": "user", "content": [{"type": "text", "text": " Look: "}, {"type": "image"}, {"type": "text", "text": "what?"}]}
documents = [{"doc_id": 7, "text": "A\tB"}, {"text": "Second <one>"}]

CONVERSATIONS = {
    "plain": ([user], {}),
    "system": ([system, user, answer, user], {}),
    "tools": ([user], {"tools": [WEATHER, CLOCK]}),
    "called": ([system, user, calls, result], {"tools": [WEATHER, CLOCK]}),
    "called, then asked": ([user, calls, result, {"role": "assistant", "content": "21."}, user], {"tools": [WEATHER]}),
    "parts": ([system, parts], {}),
    "documents": ([user], {"documents": documents}),
    "documents and tools": ([user], {"documents": documents, "tools": [CLOCK]}),
    "not thinking": ([user], {"enable_thinking": False, "thinking": True}),
    "variables": ([user], {"tools_in_user_message": False, "tools": [WEATHER], "date_string": "1 May 2025", "effort": "high",
                           "controls": {"length": "short", "n": 1.0}}),
    "ends": ([user, answer], {"add_generation_prompt": False}),
}


def refused(error):
    """Whether a template, not this script, made the error: one of Jinja's (`raise_exception` too), or Python's own type error
    inside the template, such as that of a text to which a list is added."""
    inside = any(frame.filename == "<template>" for frame in traceback.extract_tb(error.__traceback__))
    return isinstance(error, TemplateError) or inside


def main():
    today = datetime.date.today().strftime("%d %b %Y")
    cases = []
    for path in sorted(here.glob("*.jinja")):
        for name, (messages, variables) in CONVERSATIONS.items():
            given = {"add_generation_prompt": True} | variables
            tools, docs = given.pop("tools", None), given.pop("documents", None)
            try:
                prompts, _ = render_jinja_template(
                    [messages], tools=tools, documents=docs, chat_template=path.read_text(), bos_token="<s>", eos_token="</s>",
                    **given)
                prompt = prompts[0].replace(today, "{TODAY}")
            except (TemplateError, TypeError) as error:
                if not refused(error):
                    raise
                prompt = None
            cases.append({"template": path.stem, "name": name, "messages": messages, "variables": variables, "prompt": prompt})
    (here / "prompts.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(cases)} prompts, {sum(case['prompt'] is None for case in cases)} of them refused")


main()
