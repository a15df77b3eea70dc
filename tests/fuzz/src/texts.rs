//! Tokenizers and chat templates.

use crate::panics_are_findings;
use shadowllm_host::template::{Message, Template, Variables, render, render_with, set_variable};
use shadowllm_host::text::Text;
use shadowllm_host::tool_calls;

/// Tokenizes a text, and makes text of the tokens again.
pub fn exercise(text: &Text, what: &str) {
    let Ok(ids) = text.encode(what, true) else { return };
    let _ = (text.decode(&ids), text.encode_plain(what, true));
    let mut stream = text.stream();
    for id in ids.iter().take(64) {
        text.bytes(*id, false);
        let _ = stream.push(*id);
    }
    let _ = stream.finish();
}

/// A `tokenizer.json`, and after a zero the text that it gets.
pub fn tokenizer(data: &[u8]) {
    panics_are_findings();
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let Ok(json) = str::from_utf8(parts.next().unwrap_or_default()) else { return };
    let own = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let Ok(text) = Text::from_json(json) else { return };
    for what in [&*own, "The <|im_end|> quick\n brown fox's 123 ünïcode 😀"] {
        exercise(&text, what);
    }
    let _ = text.decode(&[0, 1, u32::MAX, 1 << 31]);
}

/// A chat template, and four messages. One that takes too long is found by libFuzzer.
pub fn template(data: &[u8]) {
    panics_are_findings();
    let Ok(source) = str::from_utf8(data) else { return };
    let source = source.to_owned();
    let template = Template { source, bos_token: "<s>".into(), eos_token: "</s>".into(), ..Template::default() };
    let said = [("system", "Be."), ("user", "Hi {{ x }} <|im_end|>"), ("assistant", "yes"), ("user", "go")];
    let messages = said.map(|(role, content)| Message::new(role, content));
    std::hint::black_box(render(&template, &messages).is_ok());
}

/// What programs hand on from others: a message and a variable as JSON, and a model's answer with tool calls.
pub fn chat(data: &[u8]) {
    panics_are_findings();
    let parts: Vec<_> = data.splitn(3, |byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let parsed = tool_calls::parse(&parts[0]);
    let json: serde_json::Value = serde_json::from_str(&parsed.to_json()).expect("calls are JSON");
    assert_eq!(json["calls"].as_array().map(Vec::len), Some(parsed.calls.len()));
    let (Some(message), Some(value)) = (parts.get(1), parts.get(2)) else { return };
    let mut variables = Variables::new();
    let Ok(message) = Message::from_json(message) else { return };
    let _ = set_variable(&mut variables, "tools", value);
    let source = "{{ tools|tojson(indent=1) }}{% for m in messages %}{{ m.role }}{{ m.content }}{{ m|tojson }}{{ m }}\
                  {% for k, v in m.items() %}{{ k|upper }}{{ v }}{% endfor %}{% endfor %}";
    let template = Template { source: source.into(), ..Template::default() };
    std::hint::black_box(render_with(&template, &[message], &variables).is_ok());
}
