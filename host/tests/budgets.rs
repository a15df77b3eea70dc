//! What a chat template or tokenizer of a hostile model can take at most: two seconds, and 64 MB.

use serde_json::{Value, json};
use shadowllm_host::template::{Message, Template, render};
use shadowllm_host::text::Text;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

const LONGEST: Duration = Duration::from_secs(2);
const MOST: usize = 64 << 20;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's memory, with a count of what each thread holds.
struct Counting;

fn count(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both exist while it is moved.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Seconds of the processor that this thread has used: other programs do not count.
fn used() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the system fills in the time.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Runs a call, which must stay within the limits.
fn within<T>(what: &str, call: impl FnOnce() -> T) -> T {
    let (since, before) = (used(), HELD.get());
    PEAK.set(before);
    let result = call();
    let (took, held) = (used() - since, (PEAK.get() - before) as usize);
    let what: String = what.chars().take(120).collect();
    assert!(took < LONGEST, "{what}: {took:?}");
    assert!(held < MOST, "{what}: {} MB", held >> 20);
    if std::env::var_os("SHOW_BUDGETS").is_some() {
        println!("{:5} ms {:3} MB  {what}", took.as_millis(), held >> 20);
    }
    result
}

fn written(source: &str) -> shadowllm_host::Result<String> {
    let template = Template { source: source.into(), ..Template::default() };
    within(source, || render(&template, &[Message::new("user", "What do cows eat?")]))
}

#[test]
fn hostile_templates_are_stopped() {
    let long = format!("{{{{ 1{} }}}}", "+1".repeat(200_000));
    let nested = format!("{}{}", "{% if 1 %}".repeat(100_000), "{% endif %}".repeat(100_000));
    let doubled = "{% set l = [1] %}{% for i in range(60) %}{% set l = [l, l] %}{% endfor %}";
    let shared = "{% set l = namespace(a=1) %}";
    let spaces = (0..60).map(|i| {
        format!("{{% set n{} = namespace() %}}{{% set n{}.a = n{i} %}}{{% set n{}.b = n{i} %}}", i + 1, i + 1, i + 1)
    });
    let spaces: String = std::iter::once("{% set n0 = namespace(a=1) %}".to_owned()).chain(spaces).collect();
    let macros: String =
        (0..60).map(|i| format!("{{% macro m{}(x) %}}{{{{ m{i}(x ~ x) }}}}{{% endmacro %}}", i + 1)).collect();
    let macros = format!("{{% macro m0(x) %}}{{{{ x }}}}{{% endmacro %}}{macros}{{{{ m60('ab') }}}}");
    let sources = [
        // Time.
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{{ 'abc'|replace('a', 'b') }}{% endfor %}{% endfor %}",
        "{% set s = 'x' * 1000000 %}{% for i in range(100000) %}{% for j in range(99) %}{% set t = s|upper %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        // Bytes.
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s|length }}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s|length }}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s|replace('x', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s.replace('x', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s]|join(ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s.join([ns.s, ns.s]) %}{% endfor %}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l }}",
        "{{ '%999999999d'|format(1) }}",
        "{{ '%*d'|format(999999999, 1) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 999999999) }}",
        "{{ 'x\ny'|indent(2000000000) }}",
        "{{ 'x\ny'|indent(width=2000000000) }}",
        "{{ [1]|batch(1000000000, 0) }}",
        "{{ [1]|slice(1000000000) }}",
        "{{ 'x' * 100000000 }}",
        "{{ ['x' * 90000000, 'x' * 90000000, 'x' * 90000000, 'x' * 90000000]|length }}",
        "{{ (1,) * 100000000 }}",
        "{{ [1] * 100000000 }}",
        "{{ messages|tojson(indent=2000000000) }}",
        "{% for i in range(100000) %}{% set x = range(100000)|list %}{% endfor %}",
        // Depth.
        "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns|tojson }}{{ ns|string }}{{ ns ~ 'x' }}{{ ns|upper }}",
        // What a filter makes of each element, and sequences that are computed when they are used.
        "{{ ['x\ny']|map('indent', 2000000000)|list }}",
        "{{ range(100000)|map('replace', '0', 'x' * 100000)|list }}",
        "{{ ['%999999999d']|map('format', 1)|list }}",
        "{{ range(100000)|map('string')|sum(start='') }}",
        "{{ [1] * 60000000 }}",
        "{% set ns = namespace(c=range(3)) %}{% for i in range(60) %}{% set ns.c = ns.c + ns.c %}{% endfor %}{{ ns.c|list }}",
        "{% set ns = namespace(c=[1]|map('string')) %}{% for i in range(60) %}{% set ns.c = ns.c|chain(ns.c) %}{% endfor %}{{ ns.c|list|length }}",
        "{% set ns = namespace(c={1: 2}.items()) %}{% for i in range(60) %}{% set ns.c = ns.c|chain(ns.c|reverse) %}{% endfor %}{{ 3 in ns.c }}",
        "{% set ns = namespace(c=range(9)) %}{% for i in range(60) %}{% set ns.c = ns.c|zip(ns.c)|chain(ns.c) %}{% endfor %}{{ ns.c|length }}",
        "{{ ('x' * 500000)|list|length }}",
        "{{ debug() }}",
        // Steps that are slow on long texts.
        "{% set s = 'x' * 500000 %}{% set t = 'x' * 500000 %}{% for i in range(100000) %}{% for j in range(99) %}{% if s == t %}{% endif %}{% endfor %}{% endfor %}",
        "{% set s = 'é' * 200000 %}{% for i in range(100000) %}{% for j in range(99) %}{% if s[199999] %}{% endif %}{% endfor %}{% endfor %}",
        "{% set s = 'x' * 500000 %}{% set t = 'x' * 400000 ~ 'y' %}{% for i in range(100000) %}{% for j in range(99) %}{% if t in s %}{% endif %}{% endfor %}{% endfor %}",
        "{% set l = range(100000)|list %}{% for i in range(100000) %}{% for j in range(99) %}{% if l is eq(l) %}{% endif %}{% endfor %}{% endfor %}",
        &long,
        &nested,
        &format!("{doubled}{{{{ l }}}}").replace("set l =", "set ns.l =").replace("[l, l]", "[ns.l, ns.l]").replacen(
            "{% set ns.l = [1] %}",
            "{% set ns = namespace(l=[1]) %}",
            1,
        ),
        &format!("{shared}{spaces}{{{{ n60|string }}}}"),
        &format!("{spaces}{{{{ n60 }}}}"),
        &macros,
    ];
    for source in sources {
        let result = written(source);
        assert!(result.is_err(), "{}: {} bytes", &source[..source.len().min(120)], result.unwrap().len());
    }
}

/// What may be written, but not without an end: parsers recurse, and so does what frees their trees.
#[test]
fn odd_templates_stay_within_the_limits() {
    let repeated = |part: &str, times: usize| part.repeat(times);
    let sources = [
        format!("{{{{ {}1 }}}}", repeated("not ", 1990)),
        format!("{{{{ {}1 }}}}", repeated("-", 1990)),
        format!("{{{{ {}1{} }}}}", repeated("(", 990), repeated(")", 990)),
        format!("{{{{ {}{} }}}}", repeated("[", 990), repeated("]", 990)),
        format!("{{{{ {}1{} }}}}", repeated("{1:", 600), repeated("}", 600)),
        format!("{{{{ messages{} }}}}", repeated(".a", 990)),
        format!("{{{{ messages{} }}}}", repeated("[0]", 660)),
        format!("{{{{ 'x'{} }}}}", repeated("|upper", 990)),
        format!("{{{{ 'x'{} }}}}", repeated("~'x'", 990)),
        format!("{{{{ {}1 }}}}", repeated("1 if 0 else ", 490)),
        format!("{{{{ f{} }}}}", repeated("()", 990)),
        repeated("{{ 'a' }}", 25_000),
        repeated("{{a}}", 50_000),
        repeated("{%set a=1%}", 20_000),
        format!("{}x{}", repeated("{% for i in [1] %}", 6000), repeated("{% endfor %}", 6000)),
        format!("{}x{}", repeated("{% if 1 %}", 10_000), repeated("{% endif %}", 10_000)),
        repeated("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", 5000),
        repeated("{#", 100_000),
        repeated("{% raw %}", 20_000),
        "x".repeat(300_000),
        "{% include 'chat' %}".into(),
        "{% extends 'chat' %}".into(),
        "{% import 'chat' as c %}{{ c }}".into(),
        "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{% call m() %}{{ m }}{% endcall %}{% endcall %}"
            .into(),
        "{{ 'a' in self }}{{ self }}{{ loop }}{{ super() }}".into(),
        "{{ messages|tojson(indent=64)|tojson|tojson|tojson|tojson|tojson|tojson|tojson|tojson|tojson|tojson }}".into(),
        "{{ [[[]] * 500] * 500 }}".into(),
        "{{ ('a,' * 200000).split(',')|length }} {{ ('a\n' * 200000).splitlines()|sort|unique|list|length }}".into(),
        "{{ range(100000)|batch(1)|list|length }}{{ range(100000)|groupby('x')|length }}".into(),
    ];
    for source in sources {
        let _ = written(&source);
    }
}

/// A tokenizer of a model, a part of it changed.
fn tokenizer(parts: Value) -> String {
    let mut all = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "<unk>": 2}, "unk_token": "<unk>"},
    });
    parts.as_object().unwrap().iter().for_each(|(name, part)| all[name] = part.clone());
    all.to_string()
}

fn unigram(pieces: &[&str]) -> Value {
    let vocab: Vec<Value> = ["<unk>"].iter().chain(pieces).map(|piece| json!([piece, -1.0])).collect();
    json!({"model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false}})
}

/// Tokenizers that a text of 16 KB makes slow or large, or that are so themselves. All end: with tokens or with an error.
#[test]
fn hostile_tokenizers_stay_within_the_limits() {
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let replace = |pattern: Value, content: String| json!({"type": "Replace", "pattern": pattern, "content": content});
    let text = |from: &str| json!({"String": from});
    let regex = |pattern: &str| json!({"Regex": pattern});
    let all = |parts: Vec<Value>| json!({"normalizer": {"type": "Sequence", "normalizers": parts}});
    let slow = format!("(?={}(?=a)(?!a))x|.", "a?".repeat(15));
    let words = |letters: u64| {
        json!({"model": {"type": "WordPiece", "vocab": {"a": 0, "[UNK]": 1, "##b": 2}, "unk_token": "[UNK]",
        "continuing_subword_prefix": "##", "max_input_chars_per_word": letters}})
    };
    let long = ["a".repeat(1 << 10), "a".repeat(1 << 14)];
    let cases = [
        json!({"pre_tokenizer": split(&slow)}),
        json!({"pre_tokenizer": split("(a*)*b")}),
        json!({"pre_tokenizer": split("(a|a)*$")}),
        json!({"pre_tokenizer": split("(?:(?:a{0,9}){0,9}){0,9}b")}),
        json!({"pre_tokenizer": split(r"\pL{1000}")}),
        json!({"pre_tokenizer": split(r"(\pL{100}){100}")}),
        json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": vec![split(r"\pL{100}"); 1000]}}),
        json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": vec![split("a"); 16]}}),
        json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": vec![json!({"type": "Whitespace"}); 20_000]}}),
        all(vec![replace(regex("a"), "a".repeat(200))]),
        all(vec![replace(regex("a"), "a".repeat(15)), replace(regex("a"), "a".repeat(15))]),
        all(vec![replace(text("a"), "a".repeat(16)); 2]),
        all(vec![replace(text("a"), "a".repeat(200))]),
        all(vec![replace(text("a"), "aa".into()); 8]),
        all(vec![replace(text("a"), "b".into()); 10_000]),
        all(vec![replace(regex("$|^|"), "b".repeat(200))]),
        all(vec![json!({"type": "NFKD"}), json!({"type": "NFKC"})]),
        all(vec![json!({"type": "NFC"}); 20_000]),
        all(vec![json!({"type": "Lowercase"}); 20_000]),
        json!({"padding": {"strategy": {"Fixed": 4_000_000_000u64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                           "pad_type_id": 0, "pad_token": "a"}}),
        unigram(&[&long[0], "a", "aa"]),
        unigram(&[&long[1], "a", "aa"]),
        words(200),
        words(1_000_000_000),
        json!({"model": {"type": "WordLevel", "vocab": {"a": 4_294_967_295u32}, "unk_token": "a"}}),
        json!({"model": {"type": "BPE", "vocab": {"a": 0, "aa": 1}, "merges": [["a", "a"]], "dropout": 0.5}}),
        json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": vec![["a", "a"]; 20_000]}}),
    ];
    let prompts = ["a".repeat(16 << 10), "ab ".repeat(5000), "ﷺ".repeat(5000), "a".repeat(199)];
    for parts in cases {
        let json = tokenizer(parts.clone());
        let shown = parts.to_string();
        let Ok(text) = within(&shown, || Text::from_json(&json)) else { continue };
        for prompt in &prompts {
            let Ok(ids) = within(&shown, || text.encode(prompt, true)) else { continue };
            let _ = within(&shown, || text.decode(&ids));
        }
    }
}

/// Patterns of which each try reads the whole text; the text is what a person may paste.
#[test]
fn patterns_that_read_a_long_text_at_each_letter() {
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let text = "a".repeat(100_000);
    for pattern in ["a*+c", "(?=.*b)a", "(?>a*)c|(?>a*)d|(?>a*)e", "(?<=a)a*b", r"(?=(\pL+))\1c"] {
        let tokenizer = Text::from_json(&tokenizer(json!({"pre_tokenizer": split(pattern)}))).unwrap();
        let said = within(pattern, || tokenizer.encode(&text, true)).unwrap_err().to_string();
        assert!(said.contains("takes longer than any model's"), "{pattern}: {said}");
    }
}

/// What looks ahead gives up at each letter without a match: a long text without digits is no reason to refuse it.
#[test]
fn long_stretches_without_a_match_are_tokenized() {
    let digits = json!({"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}(?=(?:\p{N}{3})*\b)"}, "behavior": "Isolated", "invert": false});
    let model = json!({"type": "WordLevel", "vocab": {"<unk>": 0, "1": 1, "234": 2, "567": 3}, "unk_token": "<unk>"});
    let tokenizer = Text::from_json(&tokenizer(json!({"pre_tokenizer": digits, "model": model}))).unwrap();
    let letters = "é".repeat(200_000);
    let text = format!("{letters} 1234567 {letters}");
    assert_eq!(within("digits", || tokenizer.encode(&text, false)).unwrap(), [0, 1, 2, 3, 0]);
}

/// Control tokens are looked for at every letter of a message, however many a tokenizer has.
#[test]
fn many_control_tokens_take_no_time() {
    let token = |id: usize, content: String| {
        json!({"id": id, "content": content, "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
    };
    let tokens: Vec<Value> = (0..20_000).map(|i| token(i + 3, format!("a{i:05}"))).collect();
    let tokenizer = Text::from_json(&tokenizer(json!({"added_tokens": tokens}))).unwrap();
    let text = "a".repeat(200_000) + "a00042";
    assert_eq!(within("control", || tokenizer.encode(&text, false)).unwrap().last(), Some(&45));
    assert_ne!(within("plain", || tokenizer.encode_plain(&text, false)).unwrap().last(), Some(&45));
}

/// Normalizers are used already when a tokenizer is read: for the texts of added tokens.
#[test]
fn reading_a_tokenizer_has_a_limit() {
    let token = |id: usize, content: String| {
        json!({"id": id, "content": content, "special": false,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": true})
    };
    let tokens: Vec<Value> = (0..300).map(|i| token(i + 3, format!("{}{i}", "a".repeat(1000)))).collect();
    let replace = json!({"type": "Replace", "pattern": {"Regex": "(?>a*)c|(?>a*)d"}, "content": ""});
    let normalizer = json!({"type": "Sequence", "normalizers": vec![replace; 16]});
    let json = tokenizer(json!({"added_tokens": tokens, "normalizer": normalizer}));
    let said = within("reading", || Text::from_json(&json)).map(drop).unwrap_err();
    assert!(said.contains("takes longer than any model's"), "{said}");
}
