//! The buffers of a forward pass.

use super::session::SessionOptions;
use crate::arena::Arena;
use crate::error::Error;
use crate::format::TILE_ROWS;
use crate::image::arch::{Attention, Mlp, Router};
use crate::image::{Config, Image, Role};
use crate::ops::buffer::Rows;
use crate::ops::experts::Routes;

/// The buffers of a forward pass.
pub(super) struct Buffers<'m> {
    /// Residual stream, [batch, d_model rounded up to 32].
    pub x: Rows<'m>,
    /// Input of a product, the same shape (a norm's output).
    pub normed: Rows<'m>,
    /// Input of the output matrix or of the embedding projection, [batch, d_embed]; only where projected.
    pub embed: Rows<'m>,
    /// Head outputs, [batch, heads * head_slot].
    pub heads: Rows<'m>,
    /// Neurons, [batch, ffn].
    pub neurons: Rows<'m>,
    /// Gates before the activation, [batch, ffn]; only where they are not computed together with `up`.
    pub gate: &'m mut [f32],
    /// Numbers of the inputs that are read, for up to three products at once.
    pub inputs: [&'m mut [u32]; 3],
    /// [batch, heads * head_slot].
    pub q: &'m mut [f32],
    /// [batch, kv_heads * head_slot].
    pub k: &'m mut [f32],
    /// [batch, kv_heads * head_slot].
    pub v: &'m mut [f32],
    /// A block's output, [batch, d_model or d_embed rounded up to 32].
    pub out: &'m mut [f32],
    /// The residual stream at the beginning of a layer, with the shape of `x`; only where blocks are parallel.
    pub start: &'m mut [f32],
    /// The experts that tokens use. This field and the next two are filled only for models with experts.
    pub routes: Routes<'m>,
    /// The inputs of the tokens that use an expert, with the shape of `normed`.
    pub gathered: Rows<'m>,
    /// The sum of the experts' outputs so far, with the shape of `out`.
    pub sum: &'m mut [f32],
    /// [tables, batch, head_dim / 2].
    pub cos: &'m mut [f32],
    /// [tables, batch, head_dim / 2].
    pub sin: &'m mut [f32],
    /// [`logit_rows` or `ahead` + 1, vocabulary rounded up to 16].
    pub logits: &'m mut [f32],
    /// The panels of the output matrix that are read; only if it has a sketch.
    pub panels: &'m mut [u32],
}

/// Width of [`Buffers::out`].
pub(super) fn out_width(c: &Config) -> usize {
    c.d_model.max(c.d_embed).next_multiple_of(32)
}

impl<'m> Buffers<'m> {
    /// All of them, zero.
    pub fn new(arena: &mut Arena<'m>, image: &Image, o: &SessionOptions) -> Result<Self, Error> {
        let (arch, c) = (image.arch(), image.config());
        let ropes = arch.globals().ropes;
        let parallel = if arch.kinds().any(|layer| layer.parallel) { o.batch } else { 0 };
        let routers = || arch.kinds().filter_map(|layer| layer.mlp().and_then(|m| m.router));
        let most = |of: fn(&Router) -> usize| routers().map(|r| of(&r)).max().unwrap_or(0);
        let (experts, used, shared) = (most(|r| r.experts), most(|r| r.used), most(|r| r.shared));
        let mixed = if experts > 0 { o.batch } else { 0 };
        let heads = |of: fn(&Attention) -> usize| {
            arch.kinds().filter_map(|layer| layer.attention().map(|a| of(a) * a.head_slot())).max().unwrap_or(0)
        };
        let (q, kv) = (heads(|a| a.heads), heads(|a| a.kv_heads));
        let neurons = arch.kinds().filter_map(|layer| layer.mlp().map(Mlp::width)).max().unwrap_or(0);
        let half = ropes * (c.head_dim / 2);
        let projected = if c.d_embed == c.d_model { 0 } else { o.batch };
        let gates = if !c.gated {
            0
        } else if c.ffn_by_input {
            o.batch
        } else {
            usize::from(o.sparsity)
        };
        let widest = neurons.max(c.d_model.next_multiple_of(32)).max(q);
        Ok(Buffers {
            x: Rows::new(arena, o.batch, c.d_model)?,
            normed: Rows::new(arena, o.batch, c.d_model)?,
            embed: Rows::new(arena, projected, c.d_embed)?,
            heads: Rows::new(arena, o.batch, q)?,
            neurons: Rows::new(arena, o.batch, neurons.max(shared))?,
            gate: arena.rows(gates, c.neuron_width())?,
            inputs: [arena.zeros(widest)?, arena.zeros(widest)?, arena.zeros(widest)?],
            q: arena.rows(o.batch, q)?,
            k: arena.rows(o.batch, kv)?,
            v: arena.rows(o.batch, kv)?,
            out: arena.rows(o.batch, out_width(c))?,
            start: arena.rows(parallel, c.d_model.next_multiple_of(32))?,
            routes: Routes::new(arena, mixed, experts, used)?,
            gathered: Rows::new(arena, mixed, c.d_model)?,
            sum: arena.rows(mixed, out_width(c))?,
            cos: arena.rows(o.batch, half)?,
            sin: arena.rows(o.batch, half)?,
            logits: arena.rows(o.logit_rows.max(o.ahead + 1), c.vocab.next_multiple_of(16))?,
            panels: arena.zeros(if image.matrix(Role::OutputSketch, 0).is_some() && o.sparsity {
                c.vocab.div_ceil(TILE_ROWS)
            } else {
                0
            })?,
        })
    }
}
