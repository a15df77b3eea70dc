//! Streaming text and chat templates.

use shadowllm_host::model::LoadedModel;
use shadowllm_host::text::{Message, Template, Text, render};
use shadowllm_host::{Model, Options};
use shadowllm_tests::program::Place;
use shadowllm_tests::{pack_to, smollm2, vectors};
use shadowllm_tools::import::gguf::{Gguf, tokenizer_json};

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

fn brown_opt() -> Text {
    Text::from_json(&std::fs::read_to_string(vectors("brown-opt/tokenizer.json")).unwrap()).unwrap()
}

/// The model that ships with the program.
fn story() -> LoadedModel {
    LoadedModel::open(&vectors("../../host/models/story.sllm"), None).unwrap()
}

/// Streams `ids` and returns the pieces; every piece is complete UTF-8 by type, so what is checked is that
/// none shows a replacement character and that they add up.
fn check_stream(text: &Text, sample: &str) {
    let ids = text.encode(sample, false).unwrap();
    let mut stream = text.stream();
    let mut all = String::new();
    for id in &ids {
        let piece = stream.push(*id).unwrap();
        assert!(!piece.contains(char::REPLACEMENT_CHARACTER), "{sample}: {piece:?}");
        all.push_str(&piece);
    }
    all.push_str(&stream.finish().unwrap());
    assert_eq!(all, text.decode(&ids).unwrap());
}

const SAMPLES: [&str; 5] = [
    "Plain words, and more.",
    "naïve café — “quoted”",
    "日本語のテキスト",
    "👩‍👩‍👧‍👦 family, 🇫🇷 flag",
    " leading\n\n  and trailing ",
];

/// Bytes of the tokens, added up.
fn bytes(text: &Text, ids: &[u32]) -> Vec<u8> {
    ids.iter().enumerate().flat_map(|(i, id)| text.bytes(*id, i == 0)).collect()
}

#[test]
fn bytes_of_tokens_add_up_to_the_text() {
    let mut texts = vec![("brown-opt".to_owned(), brown_opt()), ("story".to_owned(), Text::of(&story()).unwrap())];
    // Vocabularies of other kinds, if their files are present.
    let gguf = |path: &std::path::Path| {
        let parsed = Gguf::parse(&std::fs::read(path).unwrap()).unwrap();
        Text::from_json(&tokenizer_json(&parsed).unwrap()).unwrap()
    };
    texts.extend(smollm2().map(|path| ("smollm2".to_owned(), gguf(&path))));
    match std::env::var_os("LLAMA_CPP_MODELS") {
        Some(folder) => {
            for name in ["gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "falcon", "starcoder"] {
                let path = std::path::Path::new(&folder).join(format!("ggml-vocab-{name}.gguf"));
                texts.push((name.to_owned(), gguf(&path)));
            }
        }
        None => shadowllm_tests::skipped("LLAMA_CPP_MODELS is not set: bytes of SentencePiece's tokens"),
    }
    for (name, text) in texts {
        for sample in SAMPLES {
            let ids = text.encode(sample, false).unwrap();
            assert_eq!(
                String::from_utf8(bytes(&text, &ids)).unwrap(),
                text.decode(&ids).unwrap(),
                "{name}: {sample:?}"
            );
        }
    }
}

#[test]
fn streams_are_complete_utf8_and_add_up() {
    let text = brown_opt();
    SAMPLES.iter().for_each(|s| check_stream(&text, s));
    // A token stream that ends inside a character shows the incomplete part at the end.
    let ids = text.encode("é", false).unwrap();
    let mut stream = text.stream();
    assert_eq!(stream.push(ids[0]).unwrap().contains('é'), ids.len() == 1);
    assert!(!stream.finish().unwrap().is_empty() || ids.len() == 1);
}

#[test]
fn streams_of_the_real_model_too() {
    let Some(path) = smollm2() else { return };
    let source = shadowllm_tools::import::open(&path).unwrap();
    let text = Text::from_json(&source.tokenizer().unwrap().unwrap()).unwrap();
    SAMPLES.iter().for_each(|s| check_stream(&text, s));
    // The prompt in ChatML with the model's default system message.
    let chat = source.chat().unwrap();
    let prompt = render(&chat, &[message("user", "Hi")]).unwrap();
    assert_eq!(
        prompt,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
    let ids = text.encode(&prompt, false).unwrap();
    assert_eq!((ids[0], ids.len()), (1, text.encode(&prompt, true).unwrap().len()));
}

/// Templates of other models use methods and functions of Python.
#[test]
fn templates_may_use_pythons_methods() {
    let template = "{% for m in messages %}{% if m['role'] not in ['user', 'assistant'] %}\
        {{ raise_exception('no ' + m['role']) }}{% endif %}\
        {{ bos_token + '[' + m['role'].upper() + ']' + m['content'].strip() + eos_token }}\n{% endfor %}\
        {% if add_generation_prompt %}{{ '[A]' }}{% endif %}";
    let chat =
        Template { source: template.into(), bos_token: "<s>".into(), eos_token: "</s>".into(), ..Template::default() };
    assert_eq!(render(&chat, &[message("user", "  hi ")]).unwrap(), "<s>[USER]hi</s>\n[A]");
    let refused = render(&chat, &[message("system", "x")]).unwrap_err().to_string();
    assert!(refused.contains("no system"), "{refused}");
    assert!(render(&Template::default(), &[]).is_err());
}

/// A template may end with the mark of a thought; it counts also if the session has read it before the rest of the prompt.
#[test]
fn a_thought_is_one_whatever_was_read_before() {
    let place = Place::new();
    place.copy(&vectors("brown-opt"), "model");
    let tokenizer = String::from_utf8(place.read("model/tokenizer.json")).unwrap();
    place.write("model/tokenizer.json", tokenizer.replace("<pad>", "<think>").replace("</s>", "</think>"));
    pack_to(&place.path("model"), shadowllm_core::Format::F32, &place.path("model.sllm"));
    let model = Model::open(place.path("model.sllm")).unwrap();
    let prompt = [100, 0, 50];
    for known in 0..prompt.len() {
        let mut session = model.session(Options { max_tokens: 3, threads: Some(1), ..Options::default() }).unwrap();
        if known > 0 {
            session.prefill(&prompt[..known]).unwrap();
        }
        let reply = session.generate_ids(&prompt[known..]).unwrap().complete().unwrap();
        assert!(!reply.text.is_empty() && reply.answer.is_empty(), "{known}: {reply:?}");
        assert_eq!(reply.thoughts, reply.text, "{known} tokens were read before");
    }
}
