//! Constraints of answers: stop strings, biases, penalties; and the likelihoods of tokens.

use shadowllm_host::dry::{BREAKERS, Dry};
use shadowllm_host::{Controls, Error, Model, Options, SamplerOptions, Stop};

fn story() -> Model {
    Model::open("models/story.sllm").unwrap()
}

fn held(max_tokens: usize, controls: Controls) -> Options {
    let sampling = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
    Options { max_tokens, sampling, controls, threads: Some(2), ..Options::default() }
}

fn stops(stop: &[&str]) -> Controls {
    Controls { stop: stop.iter().map(ToString::to_string).collect(), ..Controls::default() }
}

const PROMPT: &str = "A dog found a ball.";

/// The pieces of a free answer.
fn pieces(model: &Model, max_tokens: usize) -> Vec<String> {
    let mut session = model.session(held(max_tokens, Controls::default())).unwrap();
    session.generate(PROMPT).unwrap().map(Result::unwrap).collect()
}

#[test]
fn an_answer_ends_before_a_stop_string_wherever_tokens_meet_in_it() {
    let model = story();
    let free = pieces(&model, 32);
    let text = free.concat();
    let mut tried = 0;
    for pair in free.windows(2) {
        let (Some(end), Some(begin)) = (pair[0].chars().last(), pair[1].chars().next()) else { continue };
        let stop = format!("{end}{begin}");
        let at = text.find(&stop).unwrap();
        let mut session = model.session(held(32, stops(&["never there", &stop]))).unwrap();
        let mut answer = session.generate(PROMPT).unwrap();
        let shown: String = (&mut answer).map(Result::unwrap).collect();
        assert_eq!(answer.stopped(), Some(Stop::StopString));
        let reply = answer.finish().unwrap();
        assert_eq!((shown.as_str(), reply.text.as_str()), (&text[..at], &text[..at]), "{stop:?}");
        assert_eq!((reply.stop, reply.stop_string), (Stop::StopString, Some(1)));
        // The session continues after that.
        session.generate(" It was").unwrap().complete().unwrap();
        tried += 1;
    }
    assert!(tried > 20);
}

#[test]
fn text_that_is_no_stop_string_after_all_comes_out() {
    let model = story();
    let text = pieces(&model, 32).concat();
    let end = text.chars().last().unwrap();
    for max_tokens in [32, 8] {
        let mut session = model.session(held(max_tokens, stops(&[&format!("{end}~never"), "a~", " ~"]))).unwrap();
        let mut answer = session.generate(PROMPT).unwrap();
        let shown: String = (&mut answer).map(Result::unwrap).collect();
        let reply = answer.finish().unwrap();
        assert!(text.starts_with(&shown) && reply.text == shown && (max_tokens == 8 || shown == text));
        assert_eq!((reply.stop, reply.stop_string), (Stop::Length, None));
    }
    // An answer that is dropped early keeps the text that was held back.
    let mut session = model.session(held(32, stops(&[&format!("{text}~")]))).unwrap();
    let mut answer = session.generate(PROMPT).unwrap();
    assert!(answer.by_ref().map(Result::unwrap).collect::<String>() == text);
    let mut chat = model.chat(held(32, stops(&[" "]))).unwrap();
    let reply = chat.ask("What color is the sky?").unwrap().complete().unwrap();
    assert_eq!(reply.stop, Stop::StopString);
    assert!(!reply.text.contains(' ') && chat.messages()[1].content == reply.text);
}

#[test]
fn biases_rule_tokens_out_or_in() {
    let model = story();
    let ids = |controls: Controls| {
        model.session(held(12, controls)).unwrap().generate(PROMPT).unwrap().complete().unwrap().ids
    };
    let free = ids(Controls::default());
    let bias = |bias: Vec<(u32, f32)>| Controls { bias, ..Controls::default() };
    let without = ids(bias(vec![(free[0], f32::NEG_INFINITY), (free[1], f32::NEG_INFINITY)]));
    assert!(!without.contains(&free[0]) && !without.contains(&free[1]));
    assert_eq!(ids(bias(vec![(77, 1000.0)])), [77; 12]);
    assert_eq!(ids(bias(vec![(free[0], 0.0)])), free);
    let penalised = SamplerOptions { temperature: 0.0, presence_penalty: 1000.0, ..SamplerOptions::default() };
    let options = Options { sampling: penalised, ..held(32, Controls::default()) };
    let mut once = model.session(options).unwrap().generate(PROMPT).unwrap().complete().unwrap().ids;
    once.sort_unstable();
    assert!(once.len() == 32 && once.windows(2).all(|pair| pair[0] != pair[1]), "{once:?}");
}

/// With a penalty above all logits, no token follows another one for a second time, unless it breaks repetitions.
#[test]
fn repetitions_can_be_ruled_out() {
    let model = story();
    let language = model.language().unwrap();
    let breaks = |id: u32| BREAKERS.iter().any(|breaker| language.text.piece(id).contains(breaker));
    let repeated = |dry: Dry| {
        let controls = Controls { dry, ..Controls::default() };
        let prompt = "The dog and the cat and the dog and the";
        let reply = model.session(held(96, controls)).unwrap().generate(prompt).unwrap().complete().unwrap();
        let mut all = language.plain(prompt, false).unwrap();
        let prompted = all.len();
        all.extend(&reply.ids);
        let pair = |i: usize| (all[i - 1], all[i]);
        let again = |i: &usize| !breaks(all[*i]) && !breaks(all[*i - 1]) && (1..*i).any(|j| pair(j) == pair(*i));
        (prompted..all.len()).filter(again).count()
    };
    assert!(repeated(Dry::default()) > 0, "a small model repeats itself");
    assert_eq!(repeated(Dry { multiplier: 1e6, allowed_length: 1, ..Dry::default() }), 0);
}

#[test]
fn log_probabilities_are_those_of_the_logits() {
    let model = story();
    let controls = Controls { logprobs: Some(3), bias: vec![(9, -50.0)], ..Controls::default() };
    let reply = model.session(held(6, controls)).unwrap().generate(PROMPT).unwrap().complete().unwrap();
    assert_eq!((reply.likely.len(), reply.ids.len()), (6, 6));
    let mut session = model.session(held(6, Controls::default())).unwrap();
    let language = model.language().unwrap();
    let mut logits = session.prefill(&language.plain(PROMPT, false).unwrap()).unwrap().to_vec();
    for (id, likely) in reply.ids.iter().zip(reply.likely.iter().flatten()) {
        let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        let expected = f64::from(logits[*id as usize]) - sum.ln();
        assert!((f64::from(likely.logprob) - expected).abs() < 1e-4, "{likely:?} instead of {expected}");
        assert_eq!((likely.top.len(), likely.top[0]), (3, (*id, likely.logprob)));
        assert!(likely.top.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        logits = session.decode(*id).unwrap().to_vec();
    }
}

#[test]
fn impossible_controls_are_refused_before_anything_is_read() {
    let model = story();
    for (controls, said) in [
        (stops(&["a", ""]), "stop string 2 is empty"),
        (Controls { bias: vec![(1 << 30, 1.0)], ..Controls::default() }, "token 1073741824"),
        (Controls { logprobs: Some(1000), ..Controls::default() }, "1000"),
        (Controls { dry: Dry { base: 0.0, ..Dry::default() }, ..Controls::default() }, "DRY base"),
    ] {
        let mut chat = model.chat(held(4, controls)).unwrap();
        match chat.ask("Hello").err() {
            Some(Error::Usage(message)) => assert!(message.contains(said), "{message}"),
            other => panic!("{other:?}"),
        }
        assert!(chat.messages().is_empty() && chat.session().position() == 0);
    }
}
