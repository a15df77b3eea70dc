//! Preparing and measuring models: import, packing, calibration, comparison, evaluation, reports. The command
//! `shadowllm` uses it.
//!
//! Modules, lowest first; each uses only those above it:
//! `output`, `import`, `pack`, `predictor`, `shipped`, `cache`, `decimal`, `eval`, `compare`, `exercises`, `fetch`, `tasks`,
//! `times`, `report`, `calibrate`.

pub mod cache;
#[cfg(feature = "calibrate")]
pub mod calibrate;
pub mod compare;
pub mod decimal;
pub mod eval;
pub mod exercises;
pub mod fetch;
pub mod import;
pub mod output;
pub mod pack;
pub mod predictor;
pub mod report;
pub mod shipped;
#[cfg(feature = "tasks")]
pub mod tasks;
pub mod times;
