//! Tool calls in answers, in the conventions that models were trained on.
//!
//! | convention | an answer |
//! |---|---|
//! | Hermes, Qwen | `<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>`, any number, text before them |
//! | Llama 3 | `{"name": "f", "parameters": {"x": 1}}`, several with `;` between; `<function=f>{"x": 1}</function>` |
//! | Mistral | `[TOOL_CALLS][{"name": "f", "arguments": {"x": 1}}]`, `[TOOL_CALLS]f[ARGS]{"x": 1}` |
//! | Gemma, Llama 3.2 | a block of `tool_code`, or a list, with `f(x=1)` as Python writes it |
//!
//! Control tokens are not a part of an answer's text, so the marks may be missing.

use serde_json::{Map, Value};
use std::str::CharIndices;

/// A call.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ToolCall {
    /// The tool's name.
    pub name: String,
    /// Arguments by their names.
    pub arguments: Map<String, Value>,
}

/// An answer in its parts.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Parsed {
    /// The text without calls; all of it where there are none.
    pub text: String,
    /// The calls, in order.
    pub calls: Vec<ToolCall>,
}

impl Parsed {
    /// As JSON: `{"text": "...", "calls": [{"name": "...", "arguments": {...}}]}`.
    pub fn to_json(&self) -> String {
        serde_json::json!({"text": self.text, "calls": self.calls}).to_string()
    }
}

/// The calls in an answer. A call that cannot be parsed is text.
pub fn parse(text: &str) -> Parsed {
    let found = [marked, listed, named, objects, pythonic].into_iter().find_map(|convention| convention(text));
    found.unwrap_or_else(|| Parsed { text: text.to_owned(), calls: Vec::new() })
}

/// `{"name": ..., "arguments" or "parameters": ...}` and nothing else.
fn call(value: &Value) -> Option<ToolCall> {
    let fields = value.as_object()?;
    let known = |key: &String| ["name", "arguments", "parameters", "id", "type"].contains(&key.as_str());
    let name = fields.get("name")?.as_str().filter(|name| !name.is_empty() && fields.keys().all(known))?;
    let arguments = match fields.get("arguments").or(fields.get("parameters")) {
        Some(Value::Object(arguments)) => arguments.clone(),
        // Some models write the arguments as a string of JSON.
        Some(Value::String(text)) => serde_json::from_str(text).ok()?,
        None | Some(Value::Null) => Map::new(),
        Some(_) => return None,
    };
    Some(ToolCall { name: name.to_owned(), arguments })
}

/// Hermes: JSON between marks. The last one may lack its end.
fn marked(text: &str) -> Option<Parsed> {
    let (before, mut rest) = text.split_once("<tool_call>")?;
    let (mut said, mut calls) = (before.to_owned(), Vec::new());
    loop {
        let (inside, after) = rest.split_once("</tool_call>").unwrap_or((rest, ""));
        calls.push(call(&serde_json::from_str(inside.trim()).ok()?)?);
        let Some((between, next)) = after.split_once("<tool_call>") else {
            said.push_str(after);
            return Some(Parsed { text: said.trim().to_owned(), calls });
        };
        said.push_str(between);
        rest = next;
    }
}

/// Mistral: a list of objects, or a name and its arguments.
fn listed(text: &str) -> Option<Parsed> {
    let (before, list) = text.split_once("[TOOL_CALLS]").unwrap_or(("", text));
    let one = |part: &str| {
        let (name, arguments) = part.split_once("[ARGS]")?;
        let arguments = serde_json::from_str(arguments.trim()).ok()?;
        Some(ToolCall { name: name.trim().to_owned(), arguments })
    };
    let calls: Vec<ToolCall> = if list.contains("[ARGS]") {
        list.split("[TOOL_CALLS]").map(one).collect::<Option<_>>()?
    } else {
        let list: Vec<Value> = serde_json::from_str(list.trim()).ok()?;
        list.iter().map(call).collect::<Option<_>>()?
    };
    (!calls.is_empty()).then(|| Parsed { text: before.trim().to_owned(), calls })
}

/// Llama 3.1: `<function=f>{...}</function>`. The last one may lack its end.
fn named(text: &str) -> Option<Parsed> {
    let (before, mut rest) = text.split_once("<function=")?;
    let (mut said, mut calls) = (before.to_owned(), Vec::new());
    loop {
        let (name, inside) = rest.split_once('>')?;
        let (arguments, after) = inside.split_once("</function>").unwrap_or((inside, ""));
        calls.push(ToolCall { name: name.to_owned(), arguments: serde_json::from_str(arguments.trim()).ok()? });
        let Some((between, next)) = after.split_once("<function=") else {
            said.push_str(after);
            return Some(Parsed { text: said.trim().to_owned(), calls });
        };
        said.push_str(between);
        rest = next;
    }
}

/// Llama 3: objects and nothing else.
fn objects(text: &str) -> Option<Parsed> {
    let mut rest = text.trim().strip_prefix("<|python_tag|>").unwrap_or(text.trim()).trim_start();
    let mut calls = Vec::new();
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        calls.push(call(&values.next()?.ok()?)?);
        rest = rest[values.byte_offset()..].trim_start_matches([';', ',', '\n', ' ']);
    }
    (!calls.is_empty()).then_some(Parsed { text: String::new(), calls })
}

/// Gemma and Llama 3.2: calls as Python writes them, in a block or in a list.
fn pythonic(text: &str) -> Option<Parsed> {
    let (before, code, after) = match text.split_once("```tool_code") {
        Some((before, rest)) => {
            let (code, after) = rest.split_once("```").unwrap_or((rest, ""));
            (before, code, after)
        }
        None => ("", text.trim().strip_prefix('[')?.strip_suffix(']')?, ""),
    };
    let mut python = Python { rest: code.trim() };
    let mut calls = Vec::new();
    while !python.rest.is_empty() {
        calls.push(python.call()?);
        python.rest = python.rest.trim_start_matches([',', ';', '\n', '\r', ' ']);
    }
    let text = format!("{}\n{}", before.trim(), after.trim()).trim().to_owned();
    (!calls.is_empty()).then_some(Parsed { text, calls })
}

/// Reads Python's literals.
struct Python<'a> {
    rest: &'a str,
}

/// The deepest nesting of lists.
const DEPTH: usize = 32;

impl Python<'_> {
    fn take(&mut self, token: char) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(token)?;
        Some(())
    }

    /// A name, with dots: `default_api.search`.
    fn name(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '.').unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())).then(|| name.to_owned())
    }

    /// `f(x=1, y="a")`, perhaps in `print(...)`.
    fn call(&mut self) -> Option<ToolCall> {
        let name = self.name()?;
        self.take('(')?;
        if name != "print" {
            return self.arguments(name);
        }
        let name = self.name()?;
        self.take('(')?;
        let call = self.arguments(name)?;
        self.take(')')?;
        Some(call)
    }

    /// The rest of a call, after its first bracket.
    fn arguments(&mut self, name: String) -> Option<ToolCall> {
        let mut arguments = Map::new();
        while self.take(')').is_none() {
            let key = self.name()?;
            self.take('=')?;
            arguments.insert(key, self.value(0)?);
            if self.take(',').is_none() {
                self.take(')')?;
                break;
            }
        }
        Some(ToolCall { name, arguments })
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.rest = self.rest.trim_start();
        match self.rest.chars().next()? {
            _ if depth > DEPTH => None,
            quote @ ('"' | '\'') => self.text(quote).map(Value::String),
            '[' => {
                self.take('[')?;
                let mut list = Vec::new();
                while self.take(']').is_none() {
                    list.push(self.value(depth + 1)?);
                    if self.take(',').is_none() {
                        self.take(']')?;
                        break;
                    }
                }
                Some(Value::Array(list))
            }
            '{' => {
                self.take('{')?;
                let mut map = Map::new();
                while self.take('}').is_none() {
                    let Value::String(key) = self.value(depth + 1)? else { return None };
                    self.take(':')?;
                    map.insert(key, self.value(depth + 1)?);
                    if self.take(',').is_none() {
                        self.take('}')?;
                        break;
                    }
                }
                Some(Value::Object(map))
            }
            _ => {
                let end = self.rest.find([',', ')', ']', '}', '\n', ' ']).unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(end);
                self.rest = rest;
                match word {
                    "True" | "true" => Some(Value::Bool(true)),
                    "False" | "false" => Some(Value::Bool(false)),
                    "None" | "null" => Some(Value::Null),
                    number => serde_json::from_str::<serde_json::Number>(number).ok().map(Value::Number),
                }
            }
        }
    }

    fn text(&mut self, quote: char) -> Option<String> {
        self.take(quote)?;
        let mut text = String::new();
        let mut letters = self.rest.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => match letters.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'x' => text.push(code(&mut letters, 2)?),
                    'u' => text.push(code(&mut letters, 4)?),
                    'U' => text.push(code(&mut letters, 8)?),
                    other => text.push(other),
                },
                letter if letter == quote => {
                    self.rest = &self.rest[at + letter.len_utf8()..];
                    return Some(text);
                }
                letter => text.push(letter),
            }
        }
        None
    }
}

/// The letter whose number follows in hexadecimal digits.
fn code(letters: &mut CharIndices, digits: u32) -> Option<char> {
    let mut number = 0;
    for _ in 0..digits {
        number = u32::checked_mul(number, 16)? + letters.next()?.1.to_digit(16)?;
    }
    char::from_u32(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn calls(text: &str) -> (String, Value) {
        let parsed = parse(text);
        (parsed.text, json!(parsed.calls))
    }

    #[test]
    fn every_convention_is_read() {
        let two = json!([{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]);
        let one = json!([{"name": "f", "arguments": {"x": "a \"b\"", "y": [1, -2.5, null], "z": {"k": true}}}]);
        for (text, said, expected) in [
            (
                "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>\n<tool_call>{\"name\": \"g\", \"arguments\": {}}",
                "I look.",
                &two,
            ),
            ("{\"name\": \"f\", \"parameters\": {\"x\": 1}}; {\"name\": \"g\", \"parameters\": {}}", "", &two),
            ("<|python_tag|>{\"name\": \"f\", \"parameters\": {\"x\": 1}}\n{\"name\": \"g\"}", "", &two),
            ("<function=f>{\"x\": 1}</function><function=g>{}</function>", "", &two),
            ("I look. <function=f>{\"x\": 1}</function>And <function=g>{}</function> now.", "I look. And  now.", &two),
            (
                "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"x\": 1}}, {\"name\": \"g\", \"arguments\": \"{}\"}]",
                "",
                &two,
            ),
            ("[{\"name\": \"f\", \"arguments\": {\"x\": 1}}, {\"name\": \"g\", \"arguments\": {}}]", "", &two),
            ("Yes.[TOOL_CALLS]f[ARGS]{\"x\": 1}[TOOL_CALLS]g[ARGS]{}", "Yes.", &two),
            ("Sure:\n```tool_code\nprint(f(x=1))\ng()\n```", "Sure:", &two),
            ("[f(x=1), g()]", "", &two),
            ("[f(x='\\x61\\u0020\\\"\\U00000062\"', y=[1, -2.5, None], z={'k': True})]", "", &one),
            ("[f(x='a \"b\"', y=[1, -2.5, None,], z={'k': True})]", "", &one),
            (
                "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": \"a \\\"b\\\"\", \"y\": [1, -2.5, null], \"z\": {\"k\": true}}}</tool_call>",
                "",
                &one,
            ),
        ] {
            assert_eq!(calls(text), (said.to_owned(), expected.clone()), "{text}");
        }
    }

    #[test]
    fn what_is_no_call_is_text() {
        let deep = format!("[f(x={})]", "[".repeat(100_000));
        let printed = format!("[{}]", "print(".repeat(100_000));
        for text in [
            "",
            "Hello",
            "{\"name\": \"Ann\", \"age\": 3}",
            "[1, 2]",
            "[]",
            "[]()",
            "{}",
            "{\"name\": \"\"}",
            "[f(x=)]",
            "<tool_call>not JSON</tool_call>",
            "<tool_call>{\"name\": 3}</tool_call>",
            "<function=f>x</function>",
            "<function=",
            "```tool_code\nx = 3\n```",
            "[f(1)]",
            "[f(x='a]",
            "[f(x='\\u00e')]",
            "[f(x='\\ud800')]",
            "[f(x='\\UFFFFFFFF')]",
            "[TOOL_CALLS]",
            "{\"name\": \"f\"} and more",
            &deep,
            &printed,
        ] {
            assert_eq!(calls(text), (text.to_owned(), json!([])), "{text:.80}");
        }
    }
}
