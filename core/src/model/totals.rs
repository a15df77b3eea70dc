//! What a session has read: bytes of the last call, and sums over all calls.

/// What the last prefill or decode read, in bytes, however the weights are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Of weights in matrices, the output matrix and predictors included.
    pub weights: usize,
    /// Of these, what choosing took (predictors and their tables).
    pub predictor: usize,
    /// What predictors took, in nanoseconds of the executor's clock.
    pub predictor_nanoseconds: u64,
    /// Of the weights, matrices that a policy may skip parts of: those of all layers but the first.
    pub skippable: usize,
}

/// Sums over all prefills and decodes since the session began or [`Session::reset_totals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tokens read by prefills.
    pub prompt_tokens: u64,
    /// Tokens decoded.
    pub decoded_tokens: u64,
    /// What prefills took, in nanoseconds of the executor's clock.
    pub prefill_nanoseconds: u64,
    /// What decoding took.
    pub decode_nanoseconds: u64,
    /// What the last prefill took.
    pub last_prefill_nanoseconds: u64,
    /// What decoding read of weights and predictors, in bytes.
    pub weights: u64,
    /// Of these, of predictors.
    pub predictor: u64,
    /// What predictors took.
    pub predictor_nanoseconds: u64,
    /// What decoding read of the KV cache.
    pub kv: u64,
    /// What decoding read of the matrices that the policy may skip parts of.
    pub skippable_read: u64,
    /// What it would have read of them densely.
    pub skippable: u64,
}

impl Totals {
    /// What came to these sums since they were `before`; the last prefill is the last in both.
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
