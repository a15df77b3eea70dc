//! What a session has read: the bytes of the last call, and sums over all calls.

/// The bytes that the last prefill or decode read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of weights in matrices, including the output matrix and predictors.
    pub weights: usize,
    /// Of these, the bytes of predictors and their tables, which choosing read.
    pub predictor: usize,
    /// The time that predictors took, in nanoseconds of the executor's clock.
    pub predictor_nanoseconds: u64,
    /// Of the weights, the bytes of matrices of which a policy can skip parts: those of all layers but the first.
    pub skippable: usize,
}

/// Sums over all prefills and decodes since the session began or [`Session::reset_totals`](crate::Session::reset_totals).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tokens read by prefills.
    pub prompt_tokens: u64,
    /// Tokens decoded.
    pub decoded_tokens: u64,
    /// The time that prefills took, in nanoseconds of the executor's clock.
    pub prefill_nanoseconds: u64,
    /// The time that decoding took.
    pub decode_nanoseconds: u64,
    /// The time that the last prefill took.
    pub last_prefill_nanoseconds: u64,
    /// Bytes of weights and predictors that decoding read.
    pub weights: u64,
    /// Of these, the bytes of predictors.
    pub predictor: u64,
    /// The time that predictors took.
    pub predictor_nanoseconds: u64,
    /// Bytes of the KV cache that decoding read.
    pub kv: u64,
    /// Bytes that decoding read of the matrices of which the policy can skip parts.
    pub skippable_read: u64,
    /// Bytes that it would have read of these matrices densely.
    pub skippable: u64,
}

impl Totals {
    /// The increase of these sums since they were `before`; `last_prefill_nanoseconds` is not a difference.
    pub fn since(&self, before: &Totals) -> Totals {
        Totals {
            prompt_tokens: self.prompt_tokens - before.prompt_tokens,
            decoded_tokens: self.decoded_tokens - before.decoded_tokens,
            prefill_nanoseconds: self.prefill_nanoseconds - before.prefill_nanoseconds,
            decode_nanoseconds: self.decode_nanoseconds - before.decode_nanoseconds,
            last_prefill_nanoseconds: self.last_prefill_nanoseconds,
            weights: self.weights - before.weights,
            predictor: self.predictor - before.predictor,
            predictor_nanoseconds: self.predictor_nanoseconds - before.predictor_nanoseconds,
            kv: self.kv - before.kv,
            skippable_read: self.skippable_read - before.skippable_read,
            skippable: self.skippable - before.skippable,
        }
    }

    /// Share of the skippable bytes that decoding read; 1 before the first token.
    pub fn density(&self) -> f64 {
        if self.skippable == 0 { 1.0 } else { self.skippable_read as f64 / self.skippable as f64 }
    }
}
