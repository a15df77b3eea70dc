//! One predictor, run after layer 0, for all later layers (ShadowLLM, arXiv 2406.16635).

use super::{Choice, Chooser, Run, low_rank};
use crate::kernels::Input;
use crate::ops::buffer::Rows;
use crate::sparsity::plan::Decider;
use crate::sparsity::predictor::Predictor;
use crate::sparsity::slot::Slot;
use crate::sparsity::tables::{Table, Tap};

pub struct Shadow;

impl Chooser for Shadow {
    fn before_attention(&self, c: &mut Choice, run: &Run, layer: usize, normed: &Rows, heads: &Rows) {
        let Some(p) = run.predictor else { return };
        if layer == 0 && p.tap().has(Tap::EMBEDDING) {
            c.tap.values[..normed.width].copy_from_slice(&normed.values[..normed.width]);
        }
        if layer == 1 {
            low_rank::timed(c, run, |c| {
                gather(c, p.tap(), normed, heads);
                predict(c, run, p);
            });
        }
    }
}

/// Completes the predictor's input: the embedding, then the heads, then the stream.
fn gather(c: &mut Choice, tap: Tap, normed: &Rows, heads: &Rows) {
    let d = normed.width;
    let heads_at = if tap.has(Tap::EMBEDDING) { d } else { 0 };
    let stream_at = c.tap.width - d;
    if tap.has(Tap::HEADS) {
        c.tap.values[heads_at..heads_at + heads.width].copy_from_slice(&heads.values[..heads.width]);
    }
    if tap.has(Tap::STREAM) {
        c.tap.values[stream_at..stream_at + d].copy_from_slice(&normed.values[..d]);
    }
}

fn predict(c: &mut Choice, run: &Run, p: &Predictor) {
    let Some(first) = p.matrix(Table::ShadowIn, 0) else { return };
    let width = c.tap.width;
    let shared = c.tap.share();
    // SAFETY: no tasks run during this call.
    unsafe { shared.quantize(run.kernels, 0, shared.values(0..width)) };
    // `hidden` borrows the whole choice, of which its input is a part: so the input is taken out first.
    let rows = core::mem::take(&mut c.tap);
    let input = Input { width: first.geometry().input_width(), ..rows.input() };
    low_rank::hidden(c, run, first, p.vector(Table::ShadowInBias, 0), &input);
    c.tap = rows;
    for part in c.plan.parts(Decider::Shadow) {
        let tables = match part {
            Slot::Heads => [Table::ShadowHeads, Table::ShadowHeadBias],
            _ => [Table::ShadowNeurons, Table::ShadowNeuronBias],
        };
        low_rank::choose(c, run, p, part, p.output(tables, 0), 1..c.config.layers);
    }
}
