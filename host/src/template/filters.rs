//! The filters of templates. minijinja has no limits for what a filter makes, and `map` calls filters by name, so all of them
//! are called here, and what they make is counted.

use super::budget::{Budget, Weight, largest, refused};
use super::python;
use minijinja::filters as built_in;
use minijinja::value::{Kwargs, Rest, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::sync::Arc;

macro_rules! filters {
    ($($name:ident)*) => { [$((stringify!($name), Value::from_function(built_in::$name))),*] };
}

/// Elements of what `pprint` writes, with many spaces before each.
const WRITTEN: usize = 4096;

/// Gives an environment without filters those of Jinja.
pub fn add(env: &mut Environment, budget: &Arc<Budget>) {
    let plain = filters! {
        safe escape lower upper title capitalize replace dictsort items reverse trim join split lines round abs
        attr first last min max sort list bool batch slice sum select reject selectattr rejectattr map
        groupby unique chain zip pprint format
    };
    let own = [
        ("tojson", Value::from_function(python::to_json)),
        ("string", Value::from_function(|value: &Value| python::text(value))),
        ("length", Value::from_function(length)),
        ("count", Value::from_function(length)),
        ("e", Value::from_function(built_in::escape)),
        ("default", Value::from_function(default)),
        ("d", Value::from_function(default)),
        ("int", Value::from_function(int)),
        ("float", Value::from_function(float)),
        ("indent", Value::from_function(python::indent)),
    ];
    for (name, filter) in plain.into_iter().chain(own) {
        let budget = Arc::clone(budget);
        env.add_filter(name, move |state: &mut State, arguments: Rest<ValueOrKwargs>| -> Result<Value, Error> {
            let arguments = arguments.into_values();
            grows(name, &arguments)?;
            budget.admitted(filter.call(state, &arguments)?)
        });
    }
}

/// The filter `length`: undefined values have length 0, as in Jinja.
fn length(value: &Value) -> Result<usize, Error> {
    let none = || Error::new(ErrorKind::InvalidOperation, format!("{} has no length", value.kind()));
    if value.is_undefined() { Ok(0) } else { value.len().ok_or_else(none) }
}

/// The filter `default`: its arguments have names in Jinja.
fn default(value: &Value, Rest(given): Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let of = |at: usize, name: &str| match given.get(at) {
        Some(value) => Ok(Some(value.clone())),
        None if named.has(name) => named.get::<Value>(name).map(Some),
        None => Ok(None),
    };
    let (other, lax) = (of(0, "default_value")?, of(1, "boolean")?.is_some_and(|lax| lax.is_true()));
    named.assert_all_used()?;
    let takes_other = value.is_undefined() || (lax && !value.is_true());
    Ok(if takes_other { other.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

/// The filter `int`: what is no number becomes 0, or the default that is given.
fn int(state: &State, value: &Value, default: Option<Value>, base: Option<u32>, named: Kwargs) -> Result<Value, Error> {
    let default = default.map_or_else(|| named.get::<Option<Value>>("default"), |default| Ok(Some(default)))?;
    built_in::int(state, value, Some(default.unwrap_or_else(|| Value::from(0))), base, named)
}

/// The filter `float`, as [`int`].
fn float(state: &State, value: &Value, default: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let default = default.map_or_else(|| named.get::<Option<Value>>("default"), |default| Ok(Some(default)))?;
    built_in::float(state, value, Some(default.unwrap_or_else(|| Value::from(0.0))), named)
}

/// The largest width or count in a template: prompts need no larger ones.
const WIDEST: u64 = 100_000;

/// Refuses a filter or method whose result would be too large. The first argument is the value that it changes.
pub fn grows(name: &str, arguments: &[Value]) -> Result<(), Error> {
    let text = |i: usize| arguments.get(i).and_then(Value::as_str).unwrap_or_default();
    let named = || arguments.iter().filter(|v| v.is_kwargs());
    let numbers = || {
        let named = named().flat_map(|map| {
            let keys = map.try_iter().into_iter().flatten();
            keys.filter_map(|key| map.get_item(&key).ok()).collect::<Vec<_>>()
        });
        let all = arguments.iter().skip(1).cloned().chain(named);
        all.filter_map(|v| i64::try_from(v).ok()).map(i64::unsigned_abs).max().unwrap_or(0)
    };
    let weight = || arguments.first().map(Weight::of).transpose().map(Option::unwrap_or_default);
    let bytes = match name {
        "replace" => {
            let (whole, from, to) = (text(0), text(1), text(2));
            let times = if from.is_empty() { whole.len() + 1 } else { whole.len() / from.len() };
            whole.len() + times.saturating_mul(to.len())
        }
        "join" => {
            let weight = weight()?;
            weight.bytes + weight.elements.saturating_mul(text(1).len())
        }
        // Texts and lists would be added one by one.
        "sum" => {
            let start =
                arguments.get(2).cloned().into_iter().chain(named().filter_map(|map| map.get_attr("start").ok()));
            if start.into_iter().any(|v| v.as_str().is_some() || v.len().is_some()) { usize::MAX } else { 0 }
        }
        "pprint" if weight()?.elements > WRITTEN => usize::MAX,
        "format" if widths(text(0)) > WIDEST || (text(0).contains(['*', '{']) && numbers() > WIDEST) => usize::MAX,
        "batch" | "slice" | "zfill" | "ljust" | "rjust" | "center" if numbers() > WIDEST => usize::MAX,
        _ => 0,
    };
    if bytes > largest() { Err(refused("makes too much text")) } else { Ok(()) }
}

/// The largest number in a text.
fn widths(text: &str) -> u64 {
    let digits = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    digits.map(|digits| digits.parse().unwrap_or(u64::MAX)).max().unwrap_or(0)
}
