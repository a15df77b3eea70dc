//! A differentiable copy of a packed model, by candle's automatic differentiation.
//!
//! A probe of zeros is added to every head output a and neuron h: the gradient of the loss with respect to the probe is
//! that with respect to the value. This is equivalent to ShadowLLM's mask ([arXiv
//! 2406.16635](https://arxiv.org/abs/2406.16635)): with values a * m, dL/dm at m = 1 is a * dL/da.
//!
//! The graph is cut at every layer's input, and the chain rule is continued across the cuts, so that a layer's part is
//! freed as soon as its gradients are computed. Otherwise candle would compute a gradient for every weight, whether
//! needed or not, and keep it until the whole graph is done.

use super::dense::dense_vector;
use super::failure::Result;
use super::loss::{self, chain, take};
use super::parts::{Layer, Linear, Normalise, Reader, Tensors, need};
use candle_core::{D, DType, Device, Tensor, Var};
use shadowllm_core::Model;
use shadowllm_core::image::arch::{Attention, HeadNorm};
use shadowllm_core::image::{Config, LayerShape, Positions, Role};
use shadowllm_core::kernels::Activation;
use shadowllm_host::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

/// A model in f32 whose loss can be differentiated.
pub struct Differentiable {
    config: Config,
    /// [vocab, d_embed].
    embed: Tensor,
    /// [positions, d_model].
    positions: Option<Tensor>,
    project_in: Option<Linear>,
    layers: Vec<Layer>,
    final_norm: Option<Normalise>,
    project_out: Option<Linear>,
    /// [vocab, d_embed]; the embedding if tied.
    output: Tensor,
    /// [tables, head_dim / 2].
    frequencies: Vec<Vec<f32>>,
    /// The attention of every layer.
    attentions: Vec<Attention>,
}

/// The values of one window of tokens: row-major numbers, with an entry for each layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Tokens of the window.
    pub tokens: usize,
    /// Query heads of a layer.
    pub heads: usize,
    /// Mean next-token cross-entropy, in nats.
    pub loss: f32,
    /// Input of attention's projections, after the input norm if there is one: [tokens, d_model].
    pub attention_input: Vec<Vec<f32>>,
    /// Input of the feed-forward network's projections, in the same way: [tokens, d_model].
    pub ffn_input: Vec<Vec<f32>>,
    /// Head outputs a before the output projection: [tokens, heads * head_dim].
    pub head_output: Vec<Vec<f32>>,
    /// dL/da; empty without gradients.
    pub head_gradient: Vec<Vec<f32>>,
    /// Neurons h before the down projection, act(gate) * up or act(up): [tokens, ffn].
    pub neurons: Vec<Vec<f32>>,
    /// The values that gates multiply, [tokens, ffn]; empty for networks without gates.
    pub up: Vec<Vec<f32>>,
    /// dL/dh; empty without gradients.
    pub neuron_gradient: Vec<Vec<f32>>,
}

/// The data of a window that all layers share.
struct Window {
    tokens: usize,
    /// A mask for each window size of the layers: 0 where a query sees a key, else minus infinity, [heads / kv_heads *
    /// tokens, tokens].
    masks: Vec<(usize, Tensor)>,
    /// Rotations of query and key heads, for each table of frequencies.
    ropes: Vec<[Rotation; 2]>,
}

/// RoPE of rows that are the heads of one token after the other: x * cos + (x turn) * sin.
struct Rotation {
    /// [tokens * heads, head_dim].
    cos: Tensor,
    /// [tokens * heads, head_dim].
    sin: Tensor,
    /// [head_dim, head_dim]: (low, high) to (-high, low).
    turn: Tensor,
}

impl Rotation {
    fn new(tokens: usize, heads: usize, frequencies: &[f32]) -> Tensors<Self> {
        let half = frequencies.len();
        let dim = 2 * half;
        let mut turn = vec![0f32; dim * dim];
        for i in 0..half {
            turn[(i + half) * dim + i] = -1.0;
            turn[i * dim + i + half] = 1.0;
        }
        let rows = |f: fn(f32) -> f32| -> Tensors<Tensor> {
            let angle = |i: usize| (i / dim / heads) as f32 * frequencies[i % half];
            let rows = (0..tokens * heads * dim).map(|i| f(angle(i))).collect();
            Tensor::from_vec(rows, (tokens * heads, dim), &Device::Cpu)
        };
        let turn = Tensor::from_vec(turn, (dim, dim), &Device::Cpu)?;
        Ok(Rotation { cos: rows(f32::cos)?, sin: rows(f32::sin)?, turn })
    }

    fn forward(&self, x: &Tensor) -> Tensors<Tensor> {
        (x * &self.cos)? + (x.matmul(&self.turn)? * &self.sin)?
    }
}

/// The keys that a query sees: its own and the `window` - 1 before it; `copies` of [tokens, tokens].
fn mask(tokens: usize, copies: usize, window: usize) -> Tensors<Tensor> {
    let seen = |t: usize, s: usize| s <= t && t - s < window;
    let row = |t: usize| (0..tokens).map(move |s| if seen(t, s) { 0.0 } else { f32::NEG_INFINITY });
    let all = (0..copies).flat_map(|_| (0..tokens).flat_map(row)).collect();
    Tensor::from_vec(all, (copies * tokens, tokens), &Device::Cpu)
}

/// The tensors of a layer's pass, with their graph if there were probes.
struct Pass {
    attention_input: Tensor,
    ffn_input: Tensor,
    /// Head outputs, with the probe.
    heads: Tensor,
    /// Neurons, with the probe.
    neurons: Tensor,
    up: Option<Tensor>,
    output: Tensor,
}

/// Where a layer's graph begins.
struct Leaves {
    x: Var,
    heads: Var,
    neurons: Var,
}

/// The first property of a model that the differentiable copy does not support, in words.
pub fn obstacle(model: &Model) -> Option<&'static str> {
    let (arch, mut missing) = (model.image().arch(), None);
    let mut want = |has: bool, what: &'static str| missing = missing.or(has.then_some(what));
    let g = arch.globals();
    want(g.embed_scale != 1.0, "scaled embeddings");
    want((g.logit_scale, g.logit_cap) != (1.0, 0.0), "scaled or capped logits");
    want(model.image().vector(Role::OutputBias, 0).is_some(), "a bias of the output matrix");
    let shape = LayerShape::of(&arch.layer(0));
    for layer in arch.kinds() {
        want(LayerShape::of(&layer) != shape, "layers of different shapes");
        want(layer.parallel, "parallel blocks");
        if let Some(a) = layer.attention() {
            want(a.cap != 0.0, "capped scores");
            want(a.sinks, "attention sinks");
            want(a.head_norm == HeadNorm::Whole, "a norm of all heads together");
        }
        if let Some(m) = layer.mlp() {
            want(m.router.is_some(), "experts");
            want(m.activation == Activation::ClampedSwiglu, "its activation");
        }
    }
    missing
}

impl Differentiable {
    /// Dequantises a packed model: 4 bytes per weight.
    ///
    /// # Errors
    /// When the image lacks a tensor, or this copy does not support the model.
    pub fn new(model: &Model) -> Result<Self> {
        if let Some(what) = obstacle(model) {
            let message = format!("gradients are not available for models with {what}");
            return Err(Error::Other(message).into());
        }
        let read = Reader(model.image());
        let (config, arch) = (*model.config(), model.image().arch());
        let globals = arch.globals();
        let embed = need(read.matrix(Role::Embed, 0)?, Role::Embed)?;
        let positions = read.vector(Role::EmbedPositions, 0)?;
        Ok(Differentiable {
            config,
            positions: positions.map(|p| p.reshape(((), config.d_model))).transpose()?,
            project_in: read.linear(Role::ProjectIn, None, 0)?,
            layers: (0..config.layers).map(|layer| read.layer(layer)).collect::<Result<_>>()?,
            final_norm: read.norm(globals.final_norm, [Role::FinalNorm, Role::FinalNormBias], 0)?,
            project_out: read.linear(Role::ProjectOut, None, 0)?,
            output: read.matrix(Role::Output, 0)?.unwrap_or_else(|| embed.clone()),
            frequencies: (0..globals.ropes)
                .filter_map(|table| dense_vector(model.image(), Role::RopeFrequencies, table))
                .collect(),
            attentions: (0..config.layers).filter_map(|layer| arch.layer(layer).attention().copied()).collect(),
            embed,
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Runs a window of tokens from position 0, and if `gradients` also the backward pass.
    ///
    /// # Errors
    /// Fewer than two tokens, tokens outside the vocabulary, or more tokens than learned positions.
    pub fn trace(&self, ids: &[u32], gradients: bool) -> Result<Trace> {
        self.admit(ids)?;
        let window = self.window(ids.len())?;
        let mut trace = Trace { tokens: ids.len(), heads: self.config.heads, ..Trace::default() };
        let mut x = self.embed(ids)?;
        let mut inputs = Vec::with_capacity(self.layers.len());
        for i in 0..self.layers.len() {
            let pass = self.layer(i, &x, None, &window)?;
            trace.record(&pass)?;
            inputs.push(std::mem::replace(&mut x, pass.output));
        }
        if gradients {
            self.back(&mut trace, &inputs, &x, ids, &window)?;
        } else {
            trace.loss = loss::cross_entropy(&self.output_input(&x)?, &self.output, &ids[1..])?;
        }
        Ok(trace)
    }

    /// Traces windows of a text on `workers` threads and calls `each(index, trace)` on this thread, in the order in
    /// which traces are finished. Each worker needs memory for its own window.
    ///
    /// Workers are threads only if `CANDLE_NUM_THREADS=1` is in the environment before candle is first used. Otherwise
    /// candle divides elementwise work among its own pool, which serves one caller at a time and spins while it waits.
    /// Windows are then traced one after the other on candle's threads, which is slower, and several times slower on a
    /// machine with other work.
    ///
    /// # Errors
    /// As [`Differentiable::trace`]; an error of `each`, which ends the work.
    pub fn trace_each(
        &self,
        windows: &[&[u32]],
        gradients: bool,
        workers: usize,
        each: &mut dyn FnMut(usize, Trace) -> Result<()>,
    ) -> Result<()> {
        if workers < 2 || candle_core::utils::barrier_pool().n_workers() > 0 {
            return windows.iter().enumerate().try_for_each(|(i, ids)| each(i, self.trace(ids, gradients)?));
        }
        let next = AtomicUsize::new(0);
        // A channel without a queue, because traces are large.
        let (sender, receiver) = sync_channel(0);
        std::thread::scope(|scope| {
            for _ in 0..workers.min(windows.len()) {
                let (next, sender) = (&next, sender.clone());
                scope.spawn(move || self.work(windows, gradients, next, &sender));
            }
            drop(sender);
            let done = receiver.iter().try_for_each(|(i, trace): (usize, Result<Trace>)| each(i, trace?));
            // Otherwise workers that still have a trace to send would wait forever.
            drop(receiver);
            done
        })
    }

    /// A worker of [`Differentiable::trace_each`].
    fn work(&self, windows: &[&[u32]], gradients: bool, next: &AtomicUsize, done: &SyncSender<(usize, Result<Trace>)>) {
        // Matrix products use the rayon pool in which they are called.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let pool = pool.map_err(|e| Error::Other(format!("a thread for tracing cannot be started: {e}")));
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(ids) = windows.get(i) else { return };
            let trace = match &pool {
                Ok(pool) => pool.install(|| self.trace(ids, gradients)),
                Err(e) => Err(Error::Other(e.to_string()).into()),
            };
            if done.send((i, trace)).is_err() {
                return;
            }
        }
    }

    /// The backward pass through the layers. Each layer is computed a second time from its input, because keeping all
    /// graphs would take gigabytes.
    fn back(&self, trace: &mut Trace, inputs: &[Tensor], output: &Tensor, ids: &[u32], window: &Window) -> Result<()> {
        let (loss, mut gradient) = self.loss_and_gradient(output, ids)?;
        trace.loss = loss;
        for (i, x) in inputs.iter().enumerate().rev() {
            let leaves = self.leaves(x)?;
            let pass = self.layer(i, &leaves.x, Some(&leaves), window)?;
            let mut found = chain(&pass.output, &gradient)?;
            trace.head_gradient.push(numbers(&take(&mut found, &leaves.heads)?)?);
            trace.neuron_gradient.push(numbers(&take(&mut found, &leaves.neurons)?)?);
            gradient = take(&mut found, &leaves.x)?;
        }
        trace.head_gradient.reverse();
        trace.neuron_gradient.reverse();
        Ok(())
    }

    fn admit(&self, ids: &[u32]) -> Result<()> {
        let (c, vocab) = (&self.config, self.config.vocab as u32);
        if ids.len() < 2 {
            return Err(Error::Usage("a window needs at least two tokens: the first is not predicted".into()).into());
        }
        if let Some(&id) = ids.iter().find(|id| **id >= vocab) {
            return Err(shadowllm_core::Error::TokenOutOfRange { id, vocab }.into());
        }
        if c.positions == Positions::Learned && ids.len() > c.max_positions {
            return Err(shadowllm_core::Error::ContextFull { needed: ids.len(), context: c.max_positions }.into());
        }
        Ok(())
    }

    fn window(&self, tokens: usize) -> Tensors<Window> {
        let c = &self.config;
        let copies = c.heads / c.kv_heads;
        let mut masks: Vec<(usize, Tensor)> = Vec::new();
        for attention in &self.attentions {
            if masks.iter().all(|(window, _)| *window != attention.window) {
                let sees = if attention.window == 0 { usize::MAX } else { attention.window };
                masks.push((attention.window, mask(tokens, copies, sees)?));
            }
        }
        let rotations =
            |table: &Vec<f32>| Ok([Rotation::new(tokens, c.heads, table)?, Rotation::new(tokens, c.kv_heads, table)?]);
        Ok(Window { tokens, masks, ropes: self.frequencies.iter().map(rotations).collect::<Tensors<_>>()? })
    }

    /// [tokens, d_model].
    fn embed(&self, ids: &[u32]) -> Tensors<Tensor> {
        let x = self.embed.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        let x = match &self.project_in {
            Some(projection) => projection.forward(&x)?,
            None => x,
        };
        match &self.positions {
            Some(positions) => x + positions.narrow(0, 0, ids.len())?,
            None => Ok(x),
        }
    }

    fn leaves(&self, x: &Tensor) -> Tensors<Leaves> {
        let (c, tokens) = (&self.config, x.dim(0)?);
        let zeros = |width| Var::zeros((tokens, width), DType::F32, &Device::Cpu);
        Ok(Leaves { x: Var::from_tensor(x)?, heads: zeros(c.heads * c.head_dim)?, neurons: zeros(c.ffn)? })
    }

    fn layer(&self, i: usize, x: &Tensor, leaves: Option<&Leaves>, window: &Window) -> Tensors<Pass> {
        let (c, layer) = (&self.config, &self.layers[i]);
        let attention_input = layer.attention_norms.before(x)?;
        let heads = self.attention(layer, &self.attentions[i], &attention_input, window)?;
        let heads = probed(heads, leaves.map(|leaves| &leaves.heads))?;
        let x = layer.attention_norms.after(x, &layer.o.forward(&heads)?)?;
        let ffn_input = layer.ffn_norms.before(&x)?;
        let (neurons, up) = layer.neurons(&ffn_input, c.activation)?;
        let neurons = probed(neurons, leaves.map(|leaves| &leaves.neurons))?;
        let output = layer.ffn_norms.after(&x, &layer.down.forward(&neurons)?)?;
        Ok(Pass { attention_input, ffn_input, heads, neurons, up, output })
    }

    /// Outputs of the heads, side by side: [tokens, heads * head_dim].
    fn attention(&self, layer: &Layer, a: &Attention, x: &Tensor, window: &Window) -> Tensors<Tensor> {
        let (c, tokens) = (&self.config, window.tokens);
        let (dim, group) = (c.head_dim, c.heads / c.kv_heads);
        let turned = |x: Tensor, norm: Option<&Normalise>, rotation: Option<&Rotation>| {
            let x = x.reshape(((), dim))?;
            let x = norm.map_or(Ok(x.clone()), |norm| norm.forward(&x))?;
            rotation.map_or(Ok(x.clone()), |rotation| rotation.forward(&x))
        };
        let norms = layer.head_norms.as_ref();
        let rope = a.rope.map(|table| &window.ropes[table]);
        let mask = window.masks.iter().find(|(sees, _)| *sees == a.window).map(|(_, mask)| mask);
        let mask = mask.ok_or_else(|| candle_core::Error::Msg("no mask for a layer's window".into()))?;
        let q = turned(layer.q.forward(x)?, norms.map(|n| &n.0), rope.map(|r| &r[0]))?;
        let k = turned(layer.k.forward(x)?, norms.map(|n| &n.1), rope.map(|r| &r[1]))?;
        let v = layer.v.forward(x)?.reshape((tokens, c.kv_heads, dim))?.transpose(0, 1)?;
        let k = k.reshape((tokens, c.kv_heads, dim))?.permute((1, 2, 0))?;
        // Query heads that share keys are stacked: [kv_heads, group * tokens, dim].
        let q = q.affine(f64::from(a.scale), 0.0)?.reshape((tokens, c.kv_heads, group, dim))?;
        let q = q.permute((1, 2, 0, 3))?.reshape((c.kv_heads, group * tokens, dim))?;
        let out = attend(&q, &k, &v, mask)?.reshape((c.kv_heads, group, tokens, dim))?;
        out.permute((2, 0, 1, 3))?.reshape((tokens, c.heads * dim))
    }

    /// The input of the output matrix, for all tokens but the last, whose next token is not known.
    fn output_input(&self, x: &Tensor) -> Tensors<Tensor> {
        let mut y = x.narrow(0, 0, x.dim(0)? - 1)?;
        if let Some(norm) = &self.final_norm {
            y = norm.forward(&y)?;
        }
        match &self.project_out {
            Some(projection) => projection.forward(&y),
            None => Ok(y),
        }
    }

    /// Mean next-token cross-entropy of the last layer's output, and its gradient with respect to that output.
    fn loss_and_gradient(&self, x: &Tensor, ids: &[u32]) -> Result<(f32, Tensor)> {
        let leaf = Var::from_tensor(x)?;
        let y = self.output_input(&leaf)?;
        let (loss, gradient) = loss::cross_entropy_and_gradient(&y.detach(), &self.output, &ids[1..])?;
        Ok((loss, take(&mut chain(&y, &gradient)?, &leaf)?))
    }
}

/// `x` plus a probe of zeros.
fn probed(x: Tensor, probe: Option<&Var>) -> Tensors<Tensor> {
    match probe {
        Some(probe) => x + probe.as_tensor(),
        None => Ok(x),
    }
}

/// softmax(q k + mask) v: `q` [kv_heads, rows, dim], `k` [kv_heads, dim, tokens], `v` [kv_heads, tokens, dim],
/// `mask` [rows, tokens].
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, mask: &Tensor) -> Tensors<Tensor> {
    let scores = q.matmul(k)?;
    // Subtracting a row's maximum only keeps exp in range, so it stays outside the graph, combined with the mask.
    let top = scores.detach().broadcast_add(mask)?.max_keepdim(D::Minus1)?;
    let weights = (scores + mask.broadcast_sub(&top)?)?.exp()?;
    weights.matmul(v)?.broadcast_div(&weights.sum_keepdim(D::Minus1)?)
}

fn numbers(x: &Tensor) -> Tensors<Vec<f32>> {
    x.flatten_all()?.to_vec1()
}

impl Trace {
    fn record(&mut self, pass: &Pass) -> Tensors<()> {
        self.attention_input.push(numbers(&pass.attention_input)?);
        self.ffn_input.push(numbers(&pass.ffn_input)?);
        self.head_output.push(numbers(&pass.heads)?);
        self.neurons.push(numbers(&pass.neurons)?);
        if let Some(up) = &pass.up {
            self.up.push(numbers(up)?);
        }
        Ok(())
    }
}
