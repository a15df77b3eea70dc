//! A model's configuration by the names of Hugging Face's `config.json`, whether it was read there or in the metadata of
//! a GGUF file.

use serde_json::{Map, Value};

/// Values that the file calls by other names than Llama's: our name and the file's.
pub type Names = [(&'static str, &'static str)];

/// Values by name.
pub struct Config {
    values: Map<String, Value>,
    /// The names of values in the file, where they differ from ours.
    names: Vec<(String, String)>,
    /// The words before and after the name of a missing value, in a message.
    lacking: [&'static str; 2],
    /// The length in tokens of the longest texts, if one was chosen.
    context: Option<usize>,
}

impl Config {
    /// The values of a `config.json`: those of the text model, if it describes several models.
    ///
    /// # Errors
    /// A sentence for users.
    pub fn from_json(text: &str) -> Result<Config, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| format!("is not JSON: {e}; download it again"))?;
        let Value::Object(mut values) = value else { return Err("is not a JSON object".into()) };
        if let Some(Value::Object(text)) = values.remove("text_config") {
            values.extend(text);
        }
        Ok(Config::new(values, Vec::new(), ["lacks ", "; is it the config.json of a whole language model?"]))
    }

    /// A configuration of these values, with their names in the file.
    pub fn new(values: Map<String, Value>, names: Vec<(String, String)>, lacking: [&'static str; 2]) -> Config {
        Config { values, names, lacking, context: None }
    }

    /// The same configuration, for texts of at most this number of tokens.
    pub fn for_context(self, context: Option<usize>) -> Config {
        Config { context, ..self }
    }

    /// The length in tokens of the longest texts, if one was chosen.
    pub fn context(&self) -> Option<usize> {
        self.context
    }

    /// Sets names by which the file calls values.
    pub fn rename(&mut self, names: &Names) {
        for (ours, theirs) in names {
            if let Some(value) = self.values.remove(*theirs) {
                self.values.insert((*ours).to_owned(), value);
            }
            self.names.push(((*ours).to_owned(), (*theirs).to_owned()));
        }
    }

    /// Sets values that the file leaves out.
    pub fn fill(&mut self, defaults: &[(&str, u64)]) {
        for (name, default) in defaults {
            if self.value(name).is_none() {
                self.values.insert((*name).to_owned(), (*default).into());
            }
        }
    }

    /// A value's name in the file.
    pub fn name<'a>(&'a self, key: &'a str) -> &'a str {
        self.names.iter().find(|(ours, _)| ours == key).map_or(key, |(_, theirs)| theirs)
    }

    /// A value that is present and not null.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|v| !v.is_null())
    }

    /// The message for a value that is missing.
    pub fn lacks(&self, key: &str) -> String {
        format!("{}{}{}", self.lacking[0], self.name(key), self.lacking[1])
    }

    /// The message for a value that is not of the type `kind`.
    fn is_no(&self, key: &str, value: &Value, kind: &str) -> String {
        let mut shown = value.to_string();
        if let Some((at, _)) = shown.char_indices().nth(80) {
            shown.truncate(at);
            shown.push_str("...");
        }
        let several = if value.is_array() { " (a value for each layer is not supported)" } else { "" };
        format!("{} is {shown}, not {kind}{several}", self.name(key))
    }

    /// A count that must be present.
    ///
    /// # Errors
    /// A sentence that names the value.
    pub fn count(&self, key: &str) -> Result<usize, String> {
        self.maybe_count(key)?.ok_or_else(|| self.lacks(key))
    }

    /// A count.
    ///
    /// # Errors
    /// When the value has another type.
    pub fn maybe_count(&self, key: &str) -> Result<Option<usize>, String> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let n = value.as_u64().and_then(|n| usize::try_from(n).ok());
        n.map(Some).ok_or_else(|| self.is_no(key, value, "a count"))
    }

    /// A truth value.
    ///
    /// # Errors
    /// When the value has another type.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        let Some(value) = self.value(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.is_no(key, value, "true or false"))
    }

    /// A number.
    ///
    /// # Errors
    /// When the value has another type.
    pub fn number(&self, key: &str, default: f64) -> Result<f64, String> {
        Ok(self.maybe_number(key)?.unwrap_or(default))
    }

    /// A number that may be missing.
    ///
    /// # Errors
    /// When the value has another type.
    pub fn maybe_number(&self, key: &str) -> Result<Option<f64>, String> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.is_no(key, value, "a number"))
    }

    /// A text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.value(key).and_then(Value::as_str)
    }

    /// An object of values.
    ///
    /// # Errors
    /// When the value has another type.
    pub fn object(&self, key: &str) -> Result<Option<&Map<String, Value>>, String> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_object().map(Some).ok_or_else(|| self.is_no(key, value, "an object"))
    }

    /// A configuration of an object inside this one, with the same names.
    pub fn inner(&self, values: &Map<String, Value>) -> Config {
        Config::new(values.clone(), self.names.clone(), self.lacking)
    }

    /// A list, one entry for each of `layers`.
    ///
    /// # Errors
    /// When the value is not a list, or a shorter one.
    pub fn list(&self, key: &str, layers: usize) -> Result<Option<&[Value]>, String> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let list = value.as_array().ok_or_else(|| self.is_no(key, value, "a list"))?;
        if list.len() < layers {
            return Err(format!(
                "{} has fewer entries than {} ({layers})",
                self.name(key),
                self.name("num_hidden_layers")
            ));
        }
        Ok(Some(list))
    }

    /// Numbers of tokens: none, one or a list.
    pub fn ids(&self, key: &str) -> Vec<u32> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        match self.value(key) {
            Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
            Some(one) => id(one).into_iter().collect(),
            None => Vec::new(),
        }
    }
}
