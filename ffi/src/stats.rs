//! Statistics of a session.

use crate::args::Out;
use crate::message::boundary;
use crate::object::check;
use crate::session::{run, sllm_session};
use crate::structs::sllm_stats;

fn per_second(tokens: u64, nanoseconds: u64) -> f64 {
    if nanoseconds == 0 { 0.0 } else { tokens as f64 * 1e9 / nanoseconds as f64 }
}

/// Tokens per second of decoding so far.
#[cfg(feature = "tokenizer")]
pub fn decode_speed(totals: &shadowllm_core::Totals) -> f64 {
    per_second(totals.decoded_tokens, totals.decode_nanoseconds)
}

/// Peak memory of the process in bytes; 0 if the system does not report it.
fn peak_memory() -> u64 {
    #[cfg(feature = "std")]
    return shadowllm_host::generate::peak_memory().unwrap_or(0);
    #[cfg(not(feature = "std"))]
    0
}

/// Sums of a session.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_get_stats(session: *const sllm_session, stats: *mut sllm_stats) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and structures as large as their struct_size, by the header's rules.
        let (session, out) = unsafe { (check(session)?, Out::new(stats)?) };
        let (t, bytes) = session.with(|s| Ok((*s.session.totals(), s.bytes)))?;
        out.write(sllm_stats {
            struct_size: 0,
            reserved: 0,
            prompt_tokens: t.prompt_tokens,
            decoded_tokens: t.decoded_tokens,
            prefill_nanoseconds: t.prefill_nanoseconds,
            decode_nanoseconds: t.decode_nanoseconds,
            first_token_nanoseconds: t.last_prefill_nanoseconds,
            weight_bytes: t.weights,
            predictor_bytes: t.predictor,
            predictor_nanoseconds: t.predictor_nanoseconds,
            kv_bytes: t.kv,
            session_bytes: bytes as u64,
            peak_memory_bytes: peak_memory(),
            density: t.density(),
            prefill_tokens_per_second: per_second(t.prompt_tokens, t.prefill_nanoseconds),
            decode_tokens_per_second: per_second(t.decoded_tokens, t.decode_nanoseconds),
        });
        Ok(())
    })
}

/// Sets all sums to 0.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_reset_stats(session: *mut sllm_session) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        run(unsafe { check(session) }?, |s| {
            s.session.reset_totals();
            Ok(())
        })
    })
}
