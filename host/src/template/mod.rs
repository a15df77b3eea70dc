//! Chat templates: messages become the prompt that a model was trained on. Templates find the variables and functions
//! that the Hugging Face library sets, and no template can hang or end the process (`budget`).

mod budget;
mod dates;
mod filters;
mod python;
mod watch;

pub use budget::{cancelled_by, is_cancelled};

use crate::error::{Error, Result};
use crate::text_guard::caught;
use budget::{Budget, ELEMENTS, Weight, largest, refused};
use filters::grows;
use minijinja::machinery::{eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, ErrorKind, State, UndefinedBehavior, Value};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

/// What a chat needs beside the tokenizer, stored in the image as JSON.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Template {
    /// Jinja template, empty when the model has none.
    #[serde(default, rename = "template")]
    pub source: String,
    /// Text of the beginning-of-sequence token.
    #[serde(default)]
    pub bos_token: String,
    /// Text of the end-of-sequence token.
    #[serde(default)]
    pub eos_token: String,
    /// Ids of end tokens for which the image's description has no room.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub end_tokens: Vec<u32>,
}

impl Template {
    /// Whether the model has no template, so that it can only continue plain text.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }
}

/// What a template can use besides the messages: tools, documents, `enable_thinking` and the like, by their names.
pub type Variables = Map<String, Json>;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// "system", "user", "assistant", "tool" or another role that the template knows.
    pub role: String,
    /// Its text.
    pub content: String,
    /// Its other fields, such as `tool_calls`; a `content` among them takes the place of the text.
    pub more: Map<String, Json>,
}

impl Message {
    /// A message of nothing but a text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into(), more: Map::new() }
    }

    /// A message as chat programs write it: `{"role": "tool", "content": "...", "name": "..."}`.
    ///
    /// # Errors
    /// When it is not a JSON object, or has no role.
    pub fn from_json(json: &str) -> Result<Self> {
        let bad =
            |why: &str| Error::Usage(format!("a message is a JSON object with a role and a content, and this {why}"));
        let message: Json = serde_json::from_str(json).map_err(|e| bad(&format!("is not JSON: {e}")))?;
        let Json::Object(mut more) = message else { return Err(bad("is not an object")) };
        let Some(Json::String(role)) = more.shift_remove("role") else { return Err(bad("has no role")) };
        let content = match more.get("content") {
            Some(Json::String(text)) => text.clone(),
            _ => return Ok(Message { role, content: String::new(), more }),
        };
        more.shift_remove("content");
        Ok(Message { role, content, more })
    }

    /// The object that [`Message::from_json`] reads.
    pub fn to_json(&self) -> Json {
        let mut fields = Map::new();
        fields.insert("role".into(), self.role.clone().into());
        fields.insert("content".into(), self.content.clone().into());
        fields.extend(self.more.clone());
        Json::Object(fields)
    }

    /// As templates see it.
    fn value(&self) -> Value {
        template_value(&self.to_json())
    }
}

/// A value of JSON as templates see it; maps keep their order.
fn template_value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(list) => list.iter().map(template_value).collect(),
        Json::Object(map) => Value::from_pairs(map.iter().map(|(name, value)| (name.as_str(), template_value(value)))),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (_, Some(number)) => Value::from(number),
            _ => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
    }
}

/// Names that templates find without being given them.
const OWN: [&str; 1] = ["messages"];
/// Bytes of a variable at most.
const LONGEST: usize = 4 << 20;

/// Sets a variable from JSON.
///
/// # Errors
/// When the name is no variable's or is taken, or the value is not JSON.
pub fn set_variable(variables: &mut Variables, name: &str, json: &str) -> Result<()> {
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(letters) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Error::Usage(format!("{name:?} is no name of a template's variable: use letters, digits and _")));
    }
    if OWN.contains(&name) {
        return Err(Error::Usage(format!("the template's variable {name} is the conversation itself")));
    }
    if json.len() > LONGEST {
        return Err(Error::Usage(format!("the template's variable {name} has more than {LONGEST} bytes")));
    }
    let value = serde_json::from_str(json)
        .map_err(|e| Error::Usage(format!("the template's variable {name} is not JSON (a text needs quotes): {e}")))?;
    variables.insert(name.to_owned(), value);
    Ok(())
}

type Answer<T = Value> = std::result::Result<T, minijinja::Error>;

/// The prompt of a conversation by the model's chat template, up to the beginning of the assistant's answer.
///
/// # Errors
/// When the model has no template, the template refuses the messages, or uses more time or memory than any template
/// needs; [`shadowllm_core::Error::Cancelled`] inside [`cancelled_by`].
pub fn render(template: &Template, messages: &[Message]) -> Result<String> {
    render_with(template, messages, &Variables::new())
}

/// [`render`] with variables, which may also take the place of what the template is given otherwise.
///
/// # Errors
/// As [`render`].
pub fn render_with(template: &Template, messages: &[Message], variables: &Variables) -> Result<String> {
    if template.source.is_empty() {
        return Err(Error::Other("the model has no chat template; use --raw to continue plain text".into()));
    }
    let refused = |why: &dyn Display| Error::Other(format!("the model's chat template does not take this: {why}"));
    match caught(|| rendered(template, messages, variables)) {
        Some(Ok(text)) => Ok(text),
        Some(Err(_)) if is_cancelled() => Err(shadowllm_core::Error::Cancelled.into()),
        Some(Err(why)) => Err(refused(&why)),
        None => Err(refused(&"it makes the library that runs templates fail")),
    }
}

fn rendered(template: &Template, messages: &[Message], variables: &Variables) -> Answer<String> {
    if template.source.len() > budget::SOURCE {
        return Err(refused("is longer than any model's"));
    }
    // The settings of the Hugging Face library, for which templates are written.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    // Jinja reads all line ends as `\n`.
    let source = template.source.replace("\r\n", "\n").replace('\r', "\n");
    let source = watch::prepared(&source, syntax.clone())?;
    let (steps, blocks) = watch::compile(&source, syntax)?;
    let mut values = BTreeMap::from([
        ("messages", messages.iter().map(Message::value).collect::<Value>()),
        ("tools", Value::from(())),
        ("documents", Value::from(())),
        ("add_generation_prompt", Value::from(true)),
        ("bos_token", Value::from(template.bos_token.as_str())),
        ("eos_token", Value::from(template.eos_token.as_str())),
    ]);
    values.extend(variables.iter().map(|(name, value)| (name.as_str(), template_value(value))));
    let values = Value::from_pairs(values);
    let env = environment(Budget::of(&values)?);
    let mut text = String::new();
    eval(&env, &steps, values, &blocks, &mut make_string_output(&mut text), AutoEscape::None)?;
    Ok(text)
}

/// A new environment with a budget.
fn environment(budget: Budget) -> Environment<'static> {
    let mut env = Environment::new();
    let budget = Arc::new(budget);
    filters::add(&mut env, &budget);
    // It writes all variables.
    env.remove_global("debug");
    env.set_fuel(Some(budget::STEPS));
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.add_global(watch::ONE, 1);
    env.add_function("raise_exception", |message: String| -> Answer<String> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", |format: &str| dates::strftime_now(format));
    env.add_function("joiner", minijinja_contrib::globals::joiner);
    // What has a length and items: also texts, maps, and what is not defined.
    env.add_test("sequence", |value: &Value| {
        value.is_undefined() || matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    // None is not iterable in Python.
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    let counted = Arc::clone(&budget);
    env.set_formatter(move |out, _, value| {
        let text = python::text(value)?;
        counted.spend(text.len())?;
        Ok(out.write_str(&text)?)
    });
    env.add_function(watch::LOOK, move |value: Value| budget.admitted(value));
    env.add_function(watch::MULTIPLY, |a: Value, b: Value| multiply(&a, &b));
    env.add_function(watch::REMAINDER, remainder);
    env.add_function(watch::SLICE, python::slice);
    env.set_unknown_method_callback(|state, value, method, arguments| {
        let all: Vec<Value> = std::iter::once(value).chain(arguments).cloned().collect();
        match method {
            // Here the separator is the first argument.
            "join" if all.len() == 2 => grows("join", &[all[1].clone(), all[0].clone()])?,
            "replace" | "format" | "zfill" | "ljust" | "rjust" | "center" => grows(method, &all)?,
            _ => {}
        }
        match python::method(value, method, arguments) {
            Some(result) => result,
            None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments),
        }
    });
    env
}

/// `a * b`: a product of numbers, or a text or list repeated.
fn multiply(a: &Value, b: &Value) -> Answer {
    let bad = || {
        let message = format!("{} and {} cannot be multiplied", a.kind(), b.kind());
        minijinja::Error::new(ErrorKind::InvalidOperation, message)
    };
    let (many, times) = if matches!(a.kind(), ValueKind::Number | ValueKind::Bool) { (b, a) } else { (a, b) };
    if matches!(many.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Iterable) {
        let times = i64::try_from(times.clone()).map_err(|_| bad())?.max(0) as usize;
        let weight = Weight::of(many)?;
        let elements = if many.as_str().is_some() { 0 } else { weight.elements.saturating_mul(times) };
        if weight.bytes.saturating_mul(times) > largest() || elements > ELEMENTS {
            return Err(refused("makes too much text"));
        }
        return match many.as_str() {
            Some(text) => Ok(Value::from(text.repeat(times))),
            None => {
                Ok((0..times).map(|_| many.try_iter()).collect::<Answer<Vec<_>>>()?.into_iter().flatten().collect())
            }
        };
    }
    if a.is_integer() && b.is_integer() {
        let (a, b) = (i64::try_from(a.clone())?, i64::try_from(b.clone())?);
        return a.checked_mul(b).map(Value::from).ok_or_else(bad);
    }
    Ok(Value::from(f64::try_from(a.clone())? * f64::try_from(b.clone())?))
}

/// `a % b`: the remainder of numbers, with the sign of `b` as in Python, or a text with values inserted.
fn remainder(state: &mut State, a: Value, b: Value) -> Answer {
    if a.as_str().is_some() {
        let values = if b.is_tuple() { b.try_iter()?.collect() } else { vec![b] };
        let all: Vec<Value> = std::iter::once(a).chain(values).collect();
        grows("format", &all)?;
        return state.apply_filter("format", &all);
    }
    let bad = || minijinja::Error::new(ErrorKind::InvalidOperation, format!("{a} % {b} cannot be computed"));
    if a.is_integer() && b.is_integer() {
        let (a, b) = (i64::try_from(a.clone())?, i64::try_from(b.clone())?);
        let rest = a.checked_rem(b).ok_or_else(bad)?;
        return Ok(Value::from(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }));
    }
    let (x, y) = (f64::try_from(a.clone())?, f64::try_from(b.clone())?);
    if y == 0.0 { Err(bad()) } else { Ok(Value::from(x - y * (x / y).floor())) }
}
