//! The state of an interrupted calibration, with which it can be continued: one file, which is replaced as a whole.

use crate::output::Output;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use shadowllm_host::{Error, Result};
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

/// Named arrays of numbers.
#[derive(Default)]
pub struct Checkpoint {
    arrays: BTreeMap<String, (Dtype, Vec<u8>)>,
}

impl Checkpoint {
    /// Adds floats.
    pub fn put_f32(&mut self, name: String, values: &[f32]) {
        self.arrays.insert(name, (Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
    }

    /// Adds doubles.
    pub fn put_f64(&mut self, name: String, values: &[f64]) {
        self.arrays.insert(name, (Dtype::F64, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
    }

    /// Adds counts.
    pub fn put_u32(&mut self, name: String, values: &[u32]) {
        self.arrays.insert(name, (Dtype::U32, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
    }

    /// Adds large counts.
    pub fn put_u64(&mut self, name: String, values: &[u64]) {
        self.arrays.insert(name, (Dtype::U64, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
    }

    fn get<const N: usize, T>(&self, name: &str, of: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let (_, bytes) = self
            .arrays
            .get(name)
            .ok_or_else(|| Error::Other(format!("the state of the interrupted calibration lacks {name}")))?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|b| of(*b)).collect())
    }

    /// The floats of this name.
    ///
    /// # Errors
    /// When there is no array of this name and type.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>> {
        self.get(name, f32::from_le_bytes)
    }

    /// The doubles of this name.
    ///
    /// # Errors
    /// When there is no array of this name and type.
    pub fn f64(&self, name: &str) -> Result<Vec<f64>> {
        self.get(name, f64::from_le_bytes)
    }

    /// The counts of this name.
    ///
    /// # Errors
    /// When there is no array of this name and type.
    pub fn u32(&self, name: &str) -> Result<Vec<u32>> {
        self.get(name, u32::from_le_bytes)
    }

    /// The large counts of this name.
    ///
    /// # Errors
    /// When there is no array of this name and type.
    pub fn u64(&self, name: &str) -> Result<Vec<u64>> {
        self.get(name, u64::from_le_bytes)
    }

    /// Writes the file; `key` identifies the calibration.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path, key: &str) -> Result<()> {
        let bad = |e: safetensors::SafeTensorError| Error::Other(e.to_string());
        let mut views = Vec::new();
        for (name, (dtype, bytes)) in &self.arrays {
            views.push((
                name.as_str(),
                TensorView::new(*dtype, vec![bytes.len() * 8 / dtype.bitsize()], bytes).map_err(bad)?,
            ));
        }
        let meta = HashMap::from([("calibration".to_owned(), key.to_owned())]);
        let data = safetensors::serialize(views, Some(meta)).map_err(bad)?;
        let mut output = Output::create(path)?;
        output.file().write_all(&data).map_err(|e| Error::io("write to", path, e))?;
        output.finish()
    }

    /// Reads the file, if it exists and belongs to `key`.
    ///
    /// # Errors
    /// When the file exists but cannot be read.
    pub fn read(path: &Path, key: &str) -> Result<Option<Self>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", path, e)),
        };
        let bad = |e: safetensors::SafeTensorError| {
            Error::file(path, format!("is not the state of an interrupted calibration ({e}): remove it to start over"))
        };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(bad)?;
        let found = header.metadata().as_ref().and_then(|m| m.get("calibration"));
        if found.is_none_or(|found| found != key) {
            return Ok(None);
        }
        let all = SafeTensors::deserialize(&bytes).map_err(bad)?;
        let arrays = all.iter().map(|(n, v)| (n.to_owned(), (v.dtype(), v.data().to_vec()))).collect();
        Ok(Some(Checkpoint { arrays }))
    }
}
