//! Chat templates: the parts of Python and Jinja that they use, and what a hostile template cannot do.

use shadowllm_host::template::{Message, Template, Variables, cancelled_by, render, render_with, set_variable};
use std::path::Path;
use std::sync::atomic::AtomicBool;

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

fn template(source: &str) -> Template {
    Template { source: source.into(), bos_token: "<s>".into(), eos_token: "</s>".into(), ..Template::default() }
}

fn rendered(source: &str) -> String {
    render(&template(source), &[message("user", "hi")]).unwrap_or_else(|e| panic!("{source}: {e}"))
}

/// The expected texts are from `transformers` 4.57 (`apply_chat_template`, without tools and documents).
#[test]
fn templates_find_the_hugging_face_librarys_functions() {
    let cases = [
        // Marks for training.
        ("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}", "hi"),
        ("a {%- generation -%} b {%- endgeneration %} c", "ab c"),
        ("{% set generation = 1 %}{{ generation }}", "1"),
        // Maps keep their order.
        ("{% for key in {'Z': 1, 'M': 2, 'A': 3} %}{{ key }}{% endfor %}", "ZMA"),
        ("{{ messages[0]|tojson }}", r#"{"role": "user", "content": "hi"}"#),
        ("{{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }}", r#"{"a": 2, "b": 1}"#),
        // json.dumps, not the one for web pages.
        ("{{ \"<a> & 'é'\"|tojson }}", "\"<a> & 'é'\""),
        ("{{ 'é\n\"'|tojson(ensure_ascii=true) }}", r#""\u00e9\n\"""#),
        (
            "{{ {'a': [1, 2.5, none, true], 'b': {}}|tojson(indent=2) }}",
            "{\n  \"a\": [\n    1,\n    2.5,\n    null,\n    true\n  ],\n  \"b\": {}\n}",
        ),
        ("{{ {'a': [1, 2]}|tojson(separators=(',', ':')) }}", r#"{"a":[1,2]}"#),
        // None, and undefined names.
        ("{{ none }} {{ true }} {{ false }} {{ nothing }}|", "None True False |"),
        (
            "{{ [1, 'a', none, \"it's\"] }} {{ {'k': 'v'} }} {{ 'x' ~ none }}",
            "[1, 'a', None, \"it's\"] {'k': 'v'} xNone",
        ),
        ("{% if messages[0].tool_calls|length > 0 %}T{% else %}F{% endif %}", "F"),
        ("{% if tools is iterable and tools|length > 0 %}T{% else %}F{% endif %}", "F"),
        ("{% if tools is not none %}T{% else %}F{% endif %}{% if documents is not none %}T{% endif %}", "F"),
        ("{% if tools %}T{% else %}F{% endif %}{{ tools is defined }}", "FTrue"),
        // Functions.
        ("{{ strftime_now('%Y')|length }}", "4"),
        ("{% if strftime_now is defined %}{{ strftime_now('%d %b %Y')|length }}{% endif %}", "11"),
        // Arithmetic is not affected by the watched operators.
        ("{{ 3 * 4 }} {{ 1.5 * 2 }} {{ '-' * 3 }} {{ [1, 2] * 2 }} {{ 2 + 3 * 4 }}", "12 3.0 --- [1, 2, 1, 2] 14"),
        ("{{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 % 2 }}", "1 2 -2 1.5"),
        ("{{ '%s: %03d' % ('a', 7) }} {{ 'x%sx' % messages[0].content }}", "a: 007 xhix"),
        (
            "{{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'a-b-c'.rsplit('-', 1) }}",
            "bc ab ['a-b', 'c']",
        ),
        (
            "{{ 'a-b-c'.partition('-')[2] }} {{ 'a-b-c'.rpartition('-')[0] }} {{ 'abc'.partition('-') }}",
            "b-c a-b ('abc', '', '')",
        ),
        // Loops, macros and blocks, whose steps are watched.
        (
            "{% macro f(x) %}[{{ x }}]{% endmacro %}{% for i in range(3) %}{% if loop.last %}{{ f(i) }}{% else %}{{ i }},{% endif %}{% endfor %}",
            "0,1,[2]",
        ),
        (
            "{% for i in [1, [2, [3]]] recursive %}{% if i is iterable %}({{ loop(i) }}){% else %}{{ i }}{% endif %}{% endfor %}",
            "1(2(3))",
        ),
        (
            "{% set ns = namespace(s='') %}{% for i in range(3) %}{% set ns.s = ns.s + 'ab' %}{% endfor %}{{ ns.s|replace('b', '') }}",
            "aaa",
        ),
        ("{% block a %}{% for i in range(2) %}{{ i }}{% endfor %}{% endblock %}", "01"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x|upper }}{% for i in [] %}{% else %}none{% endfor %}", "A1none"),
        (
            "{{ ['a', 'b']|join('-') }} {{ '-'.join(['a', 'b']) }} {{ 'a b'.split(' ')[1] }} {{ 'aXb'.replace('X', '') }}",
            "a-b a-b b ab",
        ),
        (
            "{{ '%s %05d'|format('a', 42) }}{{ 'x\ny'|indent(2) }} {{ [1, 2, 3]|batch(2)|list }}",
            "a 00042x\n  y [[1, 2], [3]]",
        ),
    ];
    for (source, expected) in cases {
        assert_eq!(rendered(source), expected, "{source}");
    }
}

/// The expected texts are from Jinja 3.1.6 for Python, with the settings of the Hugging Face library.
#[test]
fn templates_do_what_jinja_does() {
    let cases = [
        ("{% for m in messages %}\r\n{{ m.content }}\r\n{% endfor %}\r\nA\r\nB\rC{{ '\r\n' }}|\r\n", "hi\nA\nB\nC\n|"),
        (
            "{{ [1, 2, 3, 4][:0:-1] }}{{ [1, 2, 3, 4][-1:0:-1] }}{{ [1, 2, 3, 4][::-1] }}{{ [1, 2, 3, 4][10:0:-2] }}{{ [1, 2, 3, 4][1::-1] }}",
            "[4, 3, 2][4, 3, 2][4, 3, 2, 1][4, 2][2, 1]",
        ),
        (
            "{{ [1, 2, 3, 4][-10:2] }}{{ [1, 2, 3, 4][2:-10] }}{{ [1, 2, 3, 4][1:9:2] }}{{ [1, 2, 3][none:2] }}{{ (1, 2, 3)[::-1] }}{{ range(5)[1:3]|list }}",
            "[1, 2][][2, 4][1, 2](3, 2, 1)[1, 2]",
        ),
        (
            "{{ 'é日本x'[1:3] }} {{ 'é日本x'[::-1] }} {{ 'abcd'[:0:-1] }} {{ 'abcd'[-2:] }} {{ ''[1:] }} {{ messages[1:]|length }}",
            "日本 x本日é dcb cd  0",
        ),
        (
            "{{ 'a' is sequence }} {{ {} is sequence }} {{ [] is sequence }} {{ nothing is sequence }} {{ none is sequence }} {{ 1 is sequence }}",
            "True True True True False False",
        ),
        (
            "{{ none|default('d', boolean=true) }} {{ x|default(default_value=3) }} {{ ''|default('d') }}{{ ''|d('e', true) }} {{ x|default(none) }} {{ 0|default('z', 1) }}",
            "d 3 e None z",
        ),
        (
            "{{ 'x'|int }} {{ 'x'|int(5) }} {{ 'x'|int(default=7) }} {{ '12'|int + 1 }} {{ '0x1f'|int(0, 16) }} {{ none|int }} {{ '3.7'|int }} {{ []|int }}",
            "0 5 7 13 31 0 3 0",
        ),
        (
            "{{ 'abc'.index('c') }} {{ ['a', 'b'].index('b') }} {{ 'abcabc'.index('b', 2) }} {{ 'abcabc'.find('c', 3) }} {{ 'abc'.find('a', 1) }} {{ 'abcabc'.count('b', 2, 5) }}",
            "2 1 4 5 -1 1",
        ),
        (
            "{{ '-7'.zfill(4) }} {{ '7'.zfill(3) }} {{ 'abcd'.zfill(3) }} [{{ 'a'.center(4) }}] [{{ 'a'.ljust(3, '.') }}] [{{ 'a'.rjust(3) }}]",
            "-007 007 abcd [ a  ] [a..] [  a]",
        ),
        (
            r"{{ 'a b c d'.split(' ', maxsplit=1) }} {{ 'a,b'.split(sep=',') }} {{ ' a  b c '.split(none, 1) }} {{ 'a b c'.rsplit(maxsplit=1) }} {{ 'a-b-c'.rsplit('-', 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ ' a\n b '.split() }}",
            "['a', 'b c d'] ['a', 'b'] ['a', 'b c '] ['a b', 'c'] ['a-b', 'c'] [] [''] ['a', 'b']",
        ),
        (
            "{{ 'abc'.startswith('b', 1) }} {{ 'abc'.endswith('b', 0, 2) }} {{ 'abc'.startswith(('x', 'a'), 0) }} {{ 'abc'.startswith('', 4) }} {{ 'abc'.startswith('c', -1) }}",
            "True True True False True",
        ),
        (
            r"[{{ 'a\nb'|indent('> ') }}] [{{ 'a\nb'|indent('> ', true) }}] [{{ 'a\n\nb\n'|indent(2) }}] [{{ 'a\n\nb'|indent(width=1, blank=true) }}] [{{ 'a'|indent }}] [{{ ''|indent(2, true) }}]",
            "[a\n> b] [> a\n> b] [a\n\n  b\n] [a\n \n b] [a] [  ]",
        ),
        (
            r"{{ 'a\nb\r\nc\n\nd'.splitlines() }} {{ 'a\n'.splitlines() }} {{ ''.splitlines() }}",
            "['a', 'b', 'c', '', 'd'] ['a'] []",
        ),
        ("{% macro m(x, y=x) %}{{ y }}{% endmacro %}{{ m(3) }}{{ m(3, 4) }}{{ m(3, y=5) }}{{ m(y=6, x=1) }}", "3456"),
        (
            "{%- macro m(x=1, y=[x, (x + 1) * 2], z=y[0], w='b') -%}  {{ y }}{{ z }}{{ w }} {%- endmacro -%} {{ m() }}{{ m(2, z=0) }}",
            "[1, 4]1b[2, 6]0b",
        ),
        (
            r#"{{ {true: 1, none: 2, 3: 4}|tojson }} {{ 'a'|float }} {{ 'a'|float(1.5) }} {{ '42'|float }} {{ "they're ok".title() }} {{ "they're ok"|title }}"#,
            r#"{"true": 1, "null": 2, "3": 4} 0.0 1.5 42.0 They'Re Ok They're Ok"#,
        ),
        (
            "{% set j = joiner(', ') %}{% for i in [1, 2, 3] %}{{ j() }}{{ i }}{% endfor %}{{ joiner is defined }}",
            "1, 2, 3True",
        ),
    ];
    for (source, expected) in cases {
        assert_eq!(rendered(source), expected, "{source}");
    }
    for refused in [
        "{{ 'abc'.index('z') }}",
        "{{ ['a'].index('z') }}",
        "{{ 'a'.split('') }}",
        "{{ 'a'.zfill() }}",
        "{{ 'a'[::0] }}",
        "{{ 'a'.center(1000000000) }}",
        "{{ 'a'.ljust(9, 'xy') }}",
        "{{ 'a'.ljust(9, '') }}",
        "{{ 'a'.zfill(3, 'x') }}",
    ] {
        assert!(render(&template(refused), &[]).is_err(), "{refused}");
    }
}

#[test]
fn long_conversations_are_no_hostile_ones() {
    let source = "{% set ns = namespace(all=[]) %}{% for m in messages %}{% if m.role != 'system' %}\
        {% set ns.all = ns.all + [m] %}{% endif %}{% endfor %}\
        {% for m in ns.all %}{{ '<|im_start|>' + m.role + '\n' + m.content|trim + '<|im_end|>\n' }}{% endfor %}";
    let messages: Vec<Message> = (0..1000).map(|i| message("user", &format!("{i} {}", "word ".repeat(200)))).collect();
    assert!(render(&template(source), &messages).unwrap().len() > 1_000_000);
    // Short ones.
    let messages: Vec<Message> = (0..1200).map(|i| message("user", &i.to_string())).collect();
    assert!(render(&template(source), &messages).unwrap().len() > 30_000);
    // A text that grows with every message.
    let source =
        "{% set ns = namespace(s='') %}{% for m in messages %}{% set ns.s = ns.s + m.content %}{% endfor %}{{ ns.s }}";
    let messages: Vec<Message> = (0..200).map(|_| message("user", &"word ".repeat(1000))).collect();
    assert_eq!(render(&template(source), &messages).unwrap().len(), 1_000_000);
}

#[test]
fn a_template_can_be_cancelled() {
    let flag = AtomicBool::new(true);
    let source = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let error = cancelled_by(Some(&flag), || render(&template(source), &[message("user", "hi")])).unwrap_err();
    assert!(matches!(error, shadowllm_host::Error::Engine { source: shadowllm_core::Error::Cancelled, .. }), "{error}");
    assert_eq!(rendered(source), "hi");
}

/// Prompts of `transformers` 5.24 by `tests/vectors/chat/make.py`: tools, their calls and results, documents, parts, variables.
#[test]
fn prompts_are_those_of_the_hugging_face_library() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/chat");
    let compared = compare(&folder);
    assert!(compared.wrong.is_empty(), "{}", compared.wrong.join("\n\n"));
    assert!(compared.same > 50 && compared.refused == 5 && compared.accepted.is_empty(), "{compared:?}");
}

/// The templates of some seventy models; `.ci/run templates` fetches them.
#[test]
#[ignore = "its templates are fetched: .ci/run templates"]
fn prompts_of_real_templates_are_those_of_the_hugging_face_library() {
    let folder = std::env::var("SHADOWLLM_TEMPLATES").expect("SHADOWLLM_TEMPLATES names the folder");
    let Compared { same, refused, accepted, mut wrong } = compare(Path::new(&folder));
    // Its `|safe` makes Python's Jinja escape the text that is added, as for a web page; here `safe` changes nothing.
    wrong.retain(|case| !case.starts_with("meetkai-functionary-medium-v3.1, "));
    let there = accepted.len();
    println!("{same} prompts the same, {refused} refused by both, {there} refused by the library alone");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let known =
        ACCEPTED.iter().flat_map(|(template, names)| names.iter().map(move |name| format!("{template}, {name}")));
    assert_eq!(accepted, known.collect::<Vec<_>>(), "conversations that the library alone refuses");
    assert!(same > 650, "{same}");
}

/// The conversations that the library alone refuses, and why Python does.
const ACCEPTED: [(&str, &[&str]); 6] = [
    // `None` has no items.
    ("Cohere2MoE", &["documents"]),
    ("CohereForAI-c4ai-command-r-plus-tool_use", &["plain", "system", "parts", "documents", "not thinking", "ends"]),
    ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", &["documents"]),
    ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", &["plain", "system", "documents", "not thinking", "ends"]),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", &["plain", "system", "documents", "not thinking", "ends"]),
    // A generator is no JSON.
    ("llama-cpp-deepseek-r1", &["tools", "called", "called, then asked", "documents and tools", "variables"]),
];

#[derive(Debug, Default)]
struct Compared {
    /// Prompts that are the Hugging Face library's.
    same: usize,
    /// Conversations that both refuse.
    refused: usize,
    /// Conversations that the library alone refuses.
    accepted: Vec<String>,
    /// Other prompts than the library's.
    wrong: Vec<String>,
}

fn compare(folder: &Path) -> Compared {
    let cases: Vec<serde_json::Value> =
        serde_json::from_str(&std::fs::read_to_string(folder.join("prompts.json")).unwrap()).unwrap();
    let today = rendered("{{ strftime_now('%d %b %Y') }}");
    let mut compared = Compared::default();
    for case in &cases {
        let text = |name: &str| case[name].as_str().unwrap();
        let source = std::fs::read_to_string(folder.join(format!("{}.jinja", text("template")))).unwrap();
        let messages = case["messages"].as_array().unwrap();
        let messages: Vec<Message> = messages.iter().map(|m| Message::from_json(&m.to_string()).unwrap()).collect();
        let prompt = render_with(&template(&source), &messages, case["variables"].as_object().unwrap());
        let name = format!("{}, {}", text("template"), text("name"));
        match (case["prompt"].as_str().map(|p| p.replace("{TODAY}", &today)), prompt) {
            (None, Err(_)) => compared.refused += 1,
            (None, Ok(_)) => compared.accepted.push(name),
            (Some(expected), Ok(prompt)) if prompt == expected => compared.same += 1,
            (expected, prompt) => compared.wrong.push(format!("{name}: {prompt:?}\ninstead of {expected:?}")),
        }
    }
    compared
}

#[test]
fn variables_and_messages_that_are_none_are_refused_by_name() {
    let mut variables = Variables::new();
    for (name, json, said) in [
        ("", "1", "no name"),
        ("a b", "1", "\"a b\" is no name"),
        ("1a", "1", "no name"),
        ("messages", "[]", "the conversation itself"),
        ("tools", "[1", "variable tools is not JSON"),
        ("x", "text", "needs quotes"),
    ] {
        let error = set_variable(&mut variables, name, json).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    assert!(variables.is_empty());
    for (json, said) in
        [("", "is not JSON"), ("[]", "is not an object"), ("{}", "has no role"), ("{\"role\": 1}", "has no role")]
    {
        let error = Message::from_json(json).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    // What a person or a tool says is text, also in variables and in other fields of messages.
    let model = shadowllm_host::Model::open("models/story.sllm").unwrap();
    let language = model.language().unwrap();
    let source = "{{ messages[0].content }}{{ messages[0].note }}{{ tools[0]['</s>'] }}{{ eos_token }}";
    set_variable(&mut variables, "tools", "[{\"</s>\": \"</s>\"}]").unwrap();
    let message = Message::from_json("{\"role\": \"user\", \"content\": \"</s>\", \"note\": \"</s>\"}").unwrap();
    let end = language.text.id("</s>").unwrap();
    for (control, count) in [(false, 1), (true, 4)] {
        let said = (std::slice::from_ref(&message), &variables);
        let ids = language.text.prompt(&template(source), said, false, None, control).unwrap();
        assert_eq!(ids.iter().filter(|id| **id == end).count(), count, "{ids:?}");
    }
}

#[test]
fn what_makes_the_template_library_fail_is_refused() {
    // Its `format` takes a key byte by byte.
    for source in ["{{ '%(\u{17e})s' % {} }}", "{{ '%(\u{17e})s'|format(1) }}"] {
        let error = render(&template(source), &[]).unwrap_err().to_string();
        assert!(error.contains("chat template does not take this"), "{error}");
    }
}
