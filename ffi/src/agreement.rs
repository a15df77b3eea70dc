//! Whether header and library agree on layouts and constants, by the C compiler. `.ci/run capi` compares prototypes and
//! exported names.

use crate::status::CODES;
use crate::structs;
use shadowllm_core::sparsity::{Allocation, Policy};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// A C program of assertions, one a line.
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
    #[cfg(feature = "tokenizer")]
    {
        equal("SLLM_TOKENIZE_ADD_SPECIAL", crate::text::SLLM_TOKENIZE_ADD_SPECIAL.into());
        equal("SLLM_TOKENIZE_CONTROL", crate::text::SLLM_TOKENIZE_CONTROL.into());
        equal("SLLM_GRAMMAR_JSON_SCHEMA", crate::grammar::SLLM_GRAMMAR_JSON_SCHEMA.into());
        equal("SLLM_GRAMMAR_REGEX", crate::grammar::SLLM_GRAMMAR_REGEX.into());
        equal("SLLM_GRAMMAR_LARK", crate::grammar::SLLM_GRAMMAR_LARK.into());
    }
    equal("SLLM_VERSION", i64::from(crate::sllm_version()));
    for (name, _, size, fields) in structs::ALL.iter().chain(structs::hosted::ALL) {
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

const HEADER: &str = include_str!("../../include/shadowllm.h");

/// C without its comments.
fn without_comments(c: &str) -> String {
    let mut parts = c.split("/*");
    let code = parts.next().unwrap_or_default().to_owned();
    parts.fold(code, |code, part| code + part.split_once("*/").map_or("", |(_, rest)| rest))
}

/// The field above the header's mark in a structure.
fn last_of_first_version(name: &str) -> String {
    let body = HEADER.split(&format!("typedef struct {name} {{")).nth(1).unwrap();
    let fields = body.split(&format!("}} {name};")).next().unwrap();
    let (above, _) = fields.split_once("/* first version ends here */").expect(name);
    let above = without_comments(above);
    let field = above.rsplit_once(';').unwrap().0.rsplit(|c: char| c != '_' && !c.is_alphanumeric()).next();
    field.unwrap().to_owned()
}

#[test]
fn the_header_marks_first_versions() {
    for (name, first, _, fields) in structs::ALL.iter().chain(structs::hosted::ALL) {
        let last = last_of_first_version(name);
        let (_, offset, len) = fields.iter().find(|(field, ..)| *field == last).expect(&last);
        assert_eq!(offset + len, *first, "{name}: the first version ends with {last} in the header");
    }
}

#[test]
fn the_header_agrees_with_the_library() {
    let source = assertions();
    assert!(source.lines().count() > 150);
    assert!(compiles(&source, Stdio::inherit()), "the header and the library differ");
    // A wrong assertion is noticed.
    let wrong = source.replacen("SLLM_STATUS_BUSY == 3", "SLLM_STATUS_BUSY == 4", 1);
    assert!(wrong != source && !compiles(&wrong, Stdio::null()));
}

#[test]
fn the_header_has_no_codes_beyond_the_librarys() {
    let defined = HEADER.lines().filter(|l| l.starts_with("#define SLLM_STATUS_")).count();
    assert_eq!(defined, CODES.len());
}
