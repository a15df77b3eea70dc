//! Answers that follow a grammar, and grammars that nothing follows.

use shadowllm_host::grammar::Vocabulary;
use shadowllm_host::text::{Language, Template, Text};
use shadowllm_host::{Controls, Error, Grammar, Model, Options, Rules, SamplerOptions, Stop};
use std::time::{Duration, Instant};

fn story() -> Model {
    Model::open("models/story.sllm").unwrap()
}

fn held(grammar: Option<Grammar>, seed: u64) -> Options {
    let sampling = SamplerOptions { temperature: 1.5, seed, ..SamplerOptions::default() };
    let controls = Controls { grammar, ..Controls::default() };
    Options { max_tokens: 200, sampling, controls, threads: Some(2), ..Options::default() }
}

const PERSON: &str = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 12},
    "age": {"type": "integer", "minimum": 1, "maximum": 99}, "likes": {"type": "array", "maxItems": 3, "items":
    {"enum": ["red", "green", "blue"]}}}, "required": ["name", "age", "likes"], "additionalProperties": false}"#;

#[test]
fn answers_are_what_the_schema_says() {
    let model = story();
    let grammar = model.grammar(Rules::JsonSchema(PERSON)).unwrap();
    let mut texts = Vec::new();
    for seed in 0..20 {
        let mut chat = model.chat(held(Some(grammar.clone()), seed)).unwrap();
        let reply = chat.ask("Tell me a story about a dog.").unwrap().complete().unwrap();
        assert_eq!(reply.stop, Stop::EndOfText);
        let person: serde_json::Value = serde_json::from_str(&reply.text).unwrap();
        let age = person["age"].as_u64().unwrap();
        assert!(person["name"].as_str().unwrap().chars().count() <= 12 && (1..100).contains(&age), "{person}");
        let likes = person["likes"].as_array().unwrap();
        assert!(likes.len() <= 3 && likes.iter().all(|l| ["red", "green", "blue"].contains(&l.as_str().unwrap())));
        assert_eq!(person.as_object().unwrap().len(), 3);
        assert!(reply.figures.forced_tokens > 8, "{:?} in {}", reply.figures, reply.text);
        texts.push(reply.text);
    }
    texts.sort();
    texts.dedup();
    assert!(texts.len() > 10, "{texts:?}");
}

#[test]
fn expressions_and_lark_too_and_the_answer_after_is_free() {
    let model = story();
    let regex = model.grammar(Rules::Regex(r"(yes|no), [a-z]{2,6}\.")).unwrap();
    let lark = model.grammar(Rules::Lark("start: \"- \" line \"\\n- \" line\nline: /[a-z ]{3,10}/")).unwrap();
    let mut session = model.session(held(Some(regex), 1)).unwrap();
    let said = session.generate("A dog found a ball.").unwrap().complete().unwrap();
    let (head, rest) = said.text.split_once(", ").unwrap();
    assert!(["yes", "no"].contains(&head) && rest.ends_with('.') && (3..=7).contains(&rest.len()), "{said:?}");
    let mut session = model.session(held(Some(lark), 1)).unwrap();
    let said = session.generate("A dog found a ball.").unwrap().complete().unwrap();
    let lines: Vec<&str> = said.text.lines().collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| line.starts_with("- ")), "{said:?}");
}

/// Forced tokens are read together, and what follows them is what follows when they are read one by one.
#[test]
fn forced_tokens_change_no_bit() {
    let model = story();
    let grammar = model.grammar(Rules::JsonSchema(PERSON)).unwrap();
    let mut session = model.session(held(Some(grammar), 3)).unwrap();
    let reply = session.generate("A dog found a ball.").unwrap().complete().unwrap();
    let read = session.engine().tokens().to_vec();
    let together = session.engine().logits().to_vec();
    let mut single = model.session(held(None, 3)).unwrap();
    single.prefill(&read[..read.len() - reply.ids.len() + 1]).unwrap();
    for id in &read[read.len() - reply.ids.len() + 1..] {
        single.decode(*id).unwrap();
    }
    assert!(reply.ids.starts_with(&read[read.len() - reply.ids.len() + 1..]) || reply.ids.len() > 20);
    assert!(together.iter().zip(single.engine().logits()).all(|(a, b)| a.to_bits() == b.to_bits()));
}

/// A vocabulary of SentencePiece's kind, with what is done to a text before it becomes tokens.
fn sentence_piece(steps: &str) -> Vocabulary {
    let bytes = (0..=255u8).map(|b| format!("<0x{b:02X}>"));
    let all = ["<unk>", "</s>", "▁"].map(String::from).into_iter().chain(bytes);
    let vocab: serde_json::Map<String, serde_json::Value> = all.enumerate().map(|(i, t)| (t, i.into())).collect();
    let count = vocab.len();
    let json = format!(
        r#"{{"version": "1.0", "added_tokens": [{{"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}}], "normalizer": {{"type": "Sequence", "normalizers": [{steps}
            {{"type": "Replace", "pattern": {{"String": " "}}, "content": "▁"}}]}}, "decoder": {{"type": "Sequence", "decoders": [
            {{"type": "Replace", "pattern": {{"String": "▁"}}, "content": " "}}, {{"type": "ByteFallback"}}, {{"type": "Fuse"}}]}},
            "model": {{"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "merges": [], "vocab": {}}}}}"#,
        serde_json::Value::Object(vocab)
    );
    let text = Text::from_json(&json).unwrap();
    Vocabulary::of(&Language { text, template: Template::default(), bos: None, ends: vec![1], vocab: count }).unwrap()
}

#[test]
fn tokenizers_that_change_the_beginning_or_more_of_a_text_follow_too() {
    let prefix = r#"{"type": "Prepend", "prepend": "▁"},"#;
    // Not even the space of a key's separator would come back.
    let fewer = r#"{"type": "Replace", "pattern": {"String": " "}, "content": ""},"#;
    for (steps, forced) in [("", true), (prefix, true), (fewer, false)] {
        let vocabulary = sentence_piece(steps);
        Grammar::new(&vocabulary, Rules::Regex("[a-z ]+")).unwrap();
        let grammar = Grammar::new(&vocabulary, Rules::JsonSchema(PERSON)).unwrap();
        let mut following = grammar.follow();
        let ids: Vec<u32> = std::iter::from_fn(|| following.forced()).collect();
        let expected: Vec<u32> =
            "{\"name\": \"".bytes().map(|b| if b == b' ' { 2 } else { 3 + u32::from(b) }).collect();
        assert!(if forced { ids.len() > 8 && expected.starts_with(&ids) } else { ids.is_empty() }, "{steps} {ids:?}");
        // The first token that is not forced.
        let next = expected.get(ids.len()).copied().unwrap_or(3 + u32::from(b'a'));
        following.look().unwrap();
        assert!(following.allows(next) && !following.allows(1), "{steps}");
    }
}

#[test]
fn a_cut_answer_says_so_and_biases_cannot_break_a_grammar() {
    let model = story();
    let grammar = model.grammar(Rules::JsonSchema(PERSON)).unwrap();
    let mut session = model.session(Options { max_tokens: 6, ..held(Some(grammar), 1) }).unwrap();
    let reply = session.generate("A dog").unwrap().complete().unwrap();
    assert_eq!((reply.stop, reply.ids.len()), (Stop::Length, 6));
    let mut options = held(Some(model.grammar(Rules::Regex("[ab]")).unwrap()), 1);
    options.controls.bias = (0..2048).map(|id| (id, f32::NEG_INFINITY)).collect();
    let refused = model.session(options).unwrap().generate("A dog").unwrap().complete().unwrap_err();
    assert!(matches!(&refused, Error::Usage(said) if said.contains("biases rule out")), "{refused}");
}

#[test]
fn what_cannot_be_followed_is_refused_soon_and_by_name() {
    let model = story();
    model.grammar(Rules::Regex("a")).unwrap();
    let deep = "[".repeat(5000) + &"]".repeat(5000);
    let long = format!("start: \"{}\"", "a".repeat(2 << 20));
    let nested = |open: &str, close: &str| open.repeat(90) + "{}" + &close.repeat(90);
    let items = nested(r#"{"items":"#, "}");
    let wide =
        format!(r#"{{"enum": [{}]}}"#, (0..20000).map(|i| format!("\"{i:x>40}\"")).collect::<Vec<_>>().join(","));
    let many = (0..30000).map(|i| format!("r{i}: \"a\" r{}\n", i + 1)).collect::<String>();
    for (rules, said) in [
        (Rules::JsonSchema("{"), "JSON schema cannot be followed: it is not JSON"),
        (Rules::JsonSchema("[1]"), "a schema is a JSON object"),
        (Rules::JsonSchema(r#"{"type": "number", "minimum": 3, "maximum": 1}"#), "JSON schema"),
        (Rules::JsonSchema(r##"{"$ref": "#/nowhere"}"##), "JSON schema"),
        (Rules::JsonSchema(r#"{"type": "thing"}"#), "JSON schema"),
        (Rules::JsonSchema(&deep), "JSON schema"),
        (Rules::Regex("("), "regular expression"),
        (Rules::Regex(" "), "empty"),
        (Rules::Regex(&"(".repeat(3000)), "brackets"),
        (Rules::Lark("start: nothing"), "grammar"),
        (Rules::Lark("begin: \"a\""), "grammar"),
        (Rules::Lark("start: start"), "grammar"),
        (Rules::Lark(&long), "bytes"),
        (Rules::Lark(&many), "grammar"),
    ] {
        let begun = Instant::now();
        match model.grammar(rules).err() {
            Some(Error::Usage(message)) => assert!(message.contains(said) && message.len() < 500, "{message}"),
            other => panic!("{rules:.60?}: {other:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{rules:.60?}: {:?}", begun.elapsed());
    }
    // Large, and taken in bounded time.
    for rules in [Rules::JsonSchema(&items), Rules::JsonSchema(&wide), Rules::Regex("(a{1,1000}){1,1000}{1,1000}")] {
        let begun = Instant::now();
        let _ = model.grammar(rules);
        assert!(begun.elapsed() < Duration::from_secs(20), "{rules:.60?}: {:?}", begun.elapsed());
    }
}
