//! The header against the library: layouts and constants, by the C compiler. Prototypes and exported names are
//! compared by `.ci/run capi`.

use crate::status::CODES;
use crate::structs;
use shadowllm_core::sparsity::{Allocation, Policy};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Every assertion as a line of C.
fn assertions() -> String {
    let mut c = String::from("#include \"shadowllm.h\"\n");
    let mut equal = |what: &str, value: i64| {
        writeln!(c, "_Static_assert({what} == {value}, \"{}\");", what.replace('"', "'")).unwrap();
    };
    for (number, name, _) in CODES {
        equal(name.trim_end_matches('\0'), i64::from(*number));
    }
    for policy in Policy::ALL.into_iter().filter(|p| *p != Policy::Given) {
        let name = policy.name().to_uppercase().replace('-', "_");
        equal(&format!("SLLM_POLICY_{name}"), policy as i64);
    }
    let allocations = [("GLOBAL", Allocation::Global), ("LOCAL", Allocation::Local), ("HYBRID", Allocation::Hybrid)];
    for (name, allocation) in allocations {
        equal(&format!("SLLM_ALLOCATION_{name}"), allocation as i64);
    }
    equal("SLLM_VERSION", i64::from(crate::sllm_version()));
    for (name, size, fields) in structs::ALL.iter().chain(structs::hosted::ALL) {
        equal(&format!("sizeof({name})"), *size as i64);
        for (field, offset, len) in *fields {
            equal(&format!("offsetof({name}, {field})"), *offset as i64);
            equal(&format!("sizeof((({name} *)0)->{field})"), *len as i64);
        }
    }
    c
}

fn compiles(source: &str, complaints: Stdio) -> bool {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include");
    let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.args(["-std=c11", "-fsyntax-only", "-x", "c", "-"])
        .arg("-I")
        .arg(include)
        .stdin(Stdio::piped())
        .stderr(complaints);
    let mut cc = cc.spawn().expect("a C compiler, named by CC or as cc");
    cc.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    cc.wait().unwrap().success()
}

#[test]
fn the_header_says_what_the_library_does() {
    let source = assertions();
    assert!(source.lines().count() > 150);
    assert!(compiles(&source, Stdio::inherit()), "the header and the library differ");
    // The comparison notices.
    let wrong = source.replacen("SLLM_STATUS_BUSY == 3", "SLLM_STATUS_BUSY == 4", 1);
    assert!(wrong != source && !compiles(&wrong, Stdio::null()));
}

#[test]
fn the_header_has_no_codes_beyond_the_librarys() {
    let header = include_str!("../../include/shadowllm.h");
    let defined = header.lines().filter(|l| l.starts_with("#define SLLM_STATUS_")).count();
    assert_eq!(defined, CODES.len());
}
