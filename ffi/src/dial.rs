//! The dial: how much of the weights a session skips, and by which policy.

use crate::args::{Out, defaults, read, wanted};
use crate::message::boundary;
use crate::object::check;
use crate::session::{run, sllm_session};
use crate::status::{Result, invalid};
use crate::structs::sllm_dial;
use shadowllm_core::sparsity::{Allocation, Dial, Policy};

/// Densities of SLLM_SPARSITY_LIGHT, MEDIUM and STRONG.
const LEVELS: [f32; 3] = [0.9, 0.8, 0.6];

/// Sets the dial; a pace ends.
fn set(session: &sllm_session, dial: &Dial) -> Result<()> {
    run(session, |s| {
        s.session.set_dial(dial)?;
        #[cfg(feature = "std")]
        {
            s.pace = None;
        }
        Ok(())
    })
}

/// Sets the dial by level.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_set_sparsity(session: *mut sllm_session, level: i32) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let session = unsafe { check(session) }?;
        let dial = match level {
            0 => Dial::default(),
            1..=3 => Dial { policy: Policy::Auto, density: LEVELS[level as usize - 1], ..Dial::default() },
            _ => return Err(invalid("the level is none of SLLM_SPARSITY_OFF to SLLM_SPARSITY_STRONG")),
        };
        set(session, &dial)
    })
}

/// Fills in the defaults.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_dial_defaults(dial: *mut sllm_dial, struct_size: u32) -> i32 {
    // SAFETY: the caller gives `struct_size` bytes.
    boundary(|| unsafe { defaults(dial, struct_size) })
}

/// The engine's dial, checked as far as the engine does not.
fn engine_dial(d: &sllm_dial) -> Result<Dial> {
    let policy = u8::try_from(d.policy).ok().and_then(Policy::from_code).filter(|p| *p != Policy::Given);
    let policy = policy.ok_or(invalid("the policy is none of SLLM_POLICY_..."))?;
    let allocation = match d.allocation {
        0 => Allocation::Global,
        1 => Allocation::Local,
        2 => Allocation::Hybrid,
        _ => return Err(invalid("the allocation is none of SLLM_ALLOCATION_...")),
    };
    if d.reserved != 0 || d.reserved2 != 0 {
        return Err(invalid("a dial's reserved fields must be 0"));
    }
    let (refresh, seed, window) = (d.refresh as usize, d.seed, d.output_window);
    Ok(Dial { policy, density: d.density, refresh, allocation, seed, window, ..Dial::default() })
}

/// Sets the dial in full.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_set_dial(session: *mut sllm_session, dial: *const sllm_dial) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects, by the header's rules.
        let session = unsafe { check(session) }?;
        wanted(dial)?;
        // SAFETY: structures are as large as their struct_size, by the header's rules.
        let dial = engine_dial(&unsafe { read(dial) }?)?;
        set(session, &dial)
    })
}

/// The dial in force.
///
/// # Safety
/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sllm_session_get_dial(session: *const sllm_session, dial: *mut sllm_dial) -> i32 {
    boundary(|| {
        // SAFETY: handles are NULL or live objects and structures as large as their struct_size, by the header's rules.
        let (session, out) = unsafe { (check(session)?, Out::new(dial)?) };
        let (d, policy) = session.with(|s| Ok((s.session.dial(), s.session.policy())))?;
        out.write(sllm_dial {
            struct_size: 0,
            policy: policy as i32,
            density: d.density,
            refresh: u32::try_from(d.refresh).unwrap_or(u32::MAX),
            allocation: d.allocation as i32,
            reserved: 0,
            seed: d.seed,
            output_window: d.window,
            reserved2: 0,
        });
        Ok(())
    })
}
