//! Chat templates of models that have several.

use serde_json::Value;

/// The template of `chat_template`: a text, or several with names, in a list or a map; nothing if it is null or empty.
pub fn named_templates(value: &Value) -> Result<Option<String>, String> {
    let none = || "chat_template is not a text, nor texts with names: download it again".to_owned();
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned).ok_or_else(none);
    let named: Vec<(String, String)> = match value {
        Value::Null => return Ok(None),
        Value::String(text) => return Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Value::Array(list) => {
            let entry = |entry: &Value| Ok((text(entry.get("name"))?, text(entry.get("template"))?));
            list.iter().map(entry).collect::<Result<_, String>>()?
        }
        Value::Object(map) => {
            let entry = |(name, value): (&String, &Value)| Ok((name.clone(), text(Some(value))?));
            map.iter().map(entry).collect::<Result<_, String>>()?
        }
        _ => return Err(none()),
    };
    let of = |name: &str| named.iter().find(|(other, _)| other == name).map(|(_, text)| text.as_str());
    let default = of("default").or(named.first().map(|(_, text)| text.as_str()));
    Ok(default.map(|default| with_tools(default, of("tool_use"))))
}

/// One template of two, of which the second is for conversations with tools.
pub fn with_tools(default: &str, tools: Option<&str>) -> String {
    // A line break at a template's end does not count.
    let whole =
        |text: &str| text.strip_suffix('\n').map_or(text.to_owned(), |text| text.trim_end_matches('\r').to_owned());
    match tools.filter(|tools| !tools.is_empty() && *tools != default) {
        // The signs keep the spaces beside them.
        Some(tools) => {
            let (tools, default) = (whole(tools), whole(default));
            format!("{{%+ if tools is not none +%}}{tools}{{%+ else +%}}{default}{{%+ endif +%}}")
        }
        None => default.to_owned(),
    }
}
