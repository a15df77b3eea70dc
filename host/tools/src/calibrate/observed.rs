//! Traces made by the engine itself, for models without a differentiable copy (`autograd.rs`).
//!
//! They have no gradients. Their places are filled with numbers that turn a unit's importance, value times gradient,
//! into an estimate without gradients: for a neuron |h| times the norm of its column of the down projection (as Wanda
//! weighs inputs, [arXiv 2306.11695](https://arxiv.org/abs/2306.11695)), for a head the norm of its output.

use super::autograd::Trace;
use super::failure::Result;
use super::parts::{Linear, Reader};
use super::tables::column_norms;
use candle_core::{Device, Tensor};
use shadowllm_core::image::{Config, LayerShape, Role};
use shadowllm_core::sparsity::Source;
use shadowllm_core::{KvFormat, SessionOptions};
use shadowllm_host::Error;
use shadowllm_host::model::{LoadedModel, SessionMemory};
use shadowllm_host::pool::Pool;
use std::sync::{Mutex, PoisonError};

/// Reads windows with the engine and records the inputs of its linear maps.
pub struct Observed<'a> {
    model: &'a LoadedModel,
    config: Config,
    /// Up projections of gated networks, whose outputs the engine does not show because it computes them together with
    /// the gates.
    ups: Vec<Option<Linear>>,
    shapes: Vec<LayerShape>,
    /// Norms of the down projections' columns, `[ffn]` each.
    norms: Vec<Vec<f32>>,
    pool: Pool,
}

impl<'a> Observed<'a> {
    /// A tracer for a model, with this number of threads.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn new(model: &'a LoadedModel, threads: usize) -> Result<Self> {
        let (config, image) = (*model.model().config(), *model.model().image());
        let shapes: Vec<LayerShape> =
            (0..config.layers).map(|layer| LayerShape::of(&image.arch().layer(layer))).collect();
        let up = |(layer, shape): (usize, &LayerShape)| match shape.gated && shape.neurons > 0 {
            true => Reader(&image).linear(Role::Up, Some(Role::UpBias), layer),
            false => Ok(None),
        };
        let norms = |(layer, shape): (usize, &LayerShape)| {
            let mut norms = if shape.neurons > 0 { column_norms(&image, layer) } else { Vec::new() };
            norms.resize(config.ffn, 0.0);
            norms
        };
        Ok(Observed {
            model,
            config,
            ups: shapes.iter().enumerate().map(up).collect::<Result<_>>()?,
            norms: shapes.iter().enumerate().map(norms).collect(),
            shapes,
            pool: Pool::new(threads)?,
        })
    }

    /// Calls `each` with every window's trace, in order.
    ///
    /// # Errors
    /// Errors of the session, and of `each`.
    pub fn trace_each(
        &self,
        windows: &[&[u32]],
        each: &mut dyn FnMut(Trace) -> shadowllm_host::Result<()>,
    ) -> shadowllm_host::Result<()> {
        let longest = windows.iter().map(|w| w.len()).max().unwrap_or(1);
        let kv = if self.model.model().is_f32() { KvFormat::F32 } else { KvFormat::F16 };
        let options = SessionOptions { context: longest, batch: longest, logit_rows: 1, ahead: 0, kv, sparsity: false };
        let mut memory = self.model.memory(&options)?;
        for ids in windows {
            each(self.trace(ids, options, &mut memory)?)?;
        }
        Ok(())
    }

    /// The trace of a window, which is read as one batch.
    fn trace(&self, ids: &[u32], options: SessionOptions, memory: &mut SessionMemory) -> shadowllm_host::Result<Trace> {
        let (c, tokens) = (&self.config, ids.len());
        let seen = Mutex::new(Trace { tokens, heads: c.heads, ..Trace::default() });
        let see = |layer: usize, source: Source, rows: &[f32], width: usize| {
            let trace = &mut *seen.lock().unwrap_or_else(PoisonError::into_inner);
            let (layers, parts, len, slot) = match source {
                Source::Attention => (&mut trace.attention_input, 1, c.d_model, c.d_model),
                Source::FeedForward => (&mut trace.ffn_input, 1, c.d_model, c.d_model),
                Source::Heads => (&mut trace.head_output, c.heads, c.head_dim, self.shapes[layer].head_slot),
                Source::Neurons => (&mut trace.neurons, 1, c.ffn, width),
            };
            // Layers that the engine does not show are filled with zeros.
            layers.resize(layer, vec![0.0; tokens * parts * len]);
            layers.push(compact(rows, width, len, slot, parts));
        };
        {
            let mut session = self.model.session(options, memory)?;
            session.set_observer(Some(&see));
            session.prefill(&self.pool, ids)?;
        }
        let mut trace = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        let inputs = [&mut trace.attention_input, &mut trace.ffn_input].map(|layers| (layers, c.d_model));
        let outputs = [(&mut trace.head_output, c.heads * c.head_dim), (&mut trace.neurons, c.ffn)];
        for (layers, width) in inputs.into_iter().chain(outputs) {
            layers.resize(c.layers, vec![0.0; tokens * width]);
        }
        self.weigh(&mut trace);
        self.add_ups(&mut trace)?;
        Ok(trace)
    }

    /// Fills the places of gradients.
    fn weigh(&self, trace: &mut Trace) {
        let c = &self.config;
        let direction = |values: &Vec<f32>| -> Vec<f32> {
            let heads = values.chunks_exact(c.head_dim);
            let norm = |head: &[f32]| head.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-20);
            heads.flat_map(|head| head.iter().map(move |x| x / norm(head))).collect()
        };
        trace.head_gradient = trace.head_output.iter().map(direction).collect();
        trace.neuron_gradient = self.norms.iter().map(|norms| norms.repeat(trace.tokens)).collect();
    }

    /// Computes the values that gates multiply.
    fn add_ups(&self, trace: &mut Trace) -> shadowllm_host::Result<()> {
        let c = &self.config;
        if !c.gated {
            return Ok(());
        }
        for (input, up) in trace.ffn_input.iter().zip(&self.ups) {
            let values = match up {
                Some(up) => {
                    let product = Tensor::from_slice(input, (trace.tokens, c.d_model), &Device::Cpu)
                        .and_then(|x| up.forward(&x)?.flatten_all()?.to_vec1::<f32>());
                    let rows = product.map_err(|e| Error::Other(format!("candle: {e}")))?;
                    let width = rows.len() / trace.tokens;
                    compact(&rows, width, c.ffn, width, 1)
                }
                None => vec![0.0; trace.tokens * c.ffn],
            };
            trace.up.push(values);
        }
        Ok(())
    }
}

/// From every row of `width`: `parts` parts of `len` numbers, which begin `slot` apart in the row. Padding is removed;
/// parts that the row does not have (in a layer that is smaller than others) are zeros.
fn compact(rows: &[f32], width: usize, len: usize, slot: usize, parts: usize) -> Vec<f32> {
    let row = |row: &[f32]| -> Vec<f32> {
        let number = |part: usize, i: usize| if i < slot { row.get(part * slot + i).copied() } else { None };
        (0..parts).flat_map(|part| (0..len).map(move |i| number(part, i).unwrap_or(0.0))).collect()
    };
    rows.chunks_exact(width.max(1)).flat_map(row).collect()
}
