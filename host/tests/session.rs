//! Sessions and chats that own what they use.

use shadowllm_host::controls::Choose;
use shadowllm_host::engine::sample::Sampler;
use shadowllm_host::engine::{self, Serial, SessionOptions};
use shadowllm_host::generate::Generation;
use shadowllm_host::model::LoadedModel;
use shadowllm_host::text::Message;
use shadowllm_host::{Chat, Dial, Model, Options, Policy, Result, SamplerOptions, Session, Stop};
use std::sync::atomic::{AtomicBool, Ordering};

fn story() -> Model {
    Model::open("models/story.sllm").unwrap()
}

fn greedy(max_tokens: usize) -> Options {
    let sampling = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
    Options { max_tokens, sampling, threads: Some(2), ..Options::default() }
}

const QUESTION: &str = "What color is the sky?";

#[test]
fn a_session_outlives_the_handle_it_came_from_and_moves_between_threads() {
    fn sent<T: Send>(t: T) -> T {
        t
    }
    let mut session: Session = sent(story().session(greedy(8)).unwrap());
    let here = session.generate("A dog").unwrap().complete().unwrap();
    session.rewind(0).unwrap();
    let thread = std::thread::spawn(move || {
        let reply = session.generate("A dog").unwrap().complete().unwrap();
        (reply, session)
    });
    let (there, session) = thread.join().unwrap();
    assert_eq!((&here.text, &here.ids, here.stop), (&there.text, &there.ids, Stop::Length));
    assert_eq!(session.position(), here.figures.prompt_tokens + 7, "the last token is not read");
    assert!(session.bytes() > 0 && session.options().max_tokens == 8);
}

#[test]
fn pieces_add_up_and_an_answer_may_be_left_early() {
    let model = story();
    let mut session = model.session(greedy(24)).unwrap();
    let mut answer = session.generate("A dog found a ball.").unwrap();
    let pieces: Vec<String> = (&mut answer).map(Result::unwrap).collect();
    assert!(pieces.len() > 5 && pieces.iter().all(|piece| !piece.is_empty()));
    assert_eq!((answer.text(), answer.stopped()), (pieces.concat().as_str(), Some(Stop::Length)));
    assert!(answer.figures().tokens_per_second > 0.0 && answer.figures().bytes_per_token > 0);
    let whole = answer.finish().unwrap();
    session.rewind(0).unwrap();
    let mut early = session.generate("A dog found a ball.").unwrap();
    assert_eq!(early.next().unwrap().unwrap(), pieces[0]);
    let early = early.finish().unwrap();
    assert_eq!((early.stop, early.text.as_str()), (Stop::Stopped, pieces[0].as_str()));
    // The continuation begins after the tokens that were read.
    assert!(whole.ids.starts_with(&early.ids));
    let before = session.position();
    session.generate("It was red.").unwrap().complete().unwrap();
    assert!(session.position() > before);
}

/// Tokens that were written beforehand.
struct Written(std::vec::IntoIter<u32>);

impl Choose for Written {
    fn choose(&mut self, _: &mut engine::Session, _: &mut Sampler) -> Result<u32> {
        Ok(self.0.next().unwrap())
    }
}

#[test]
fn the_pass_that_finds_the_end_is_not_a_part_of_the_speed() {
    let model = LoadedModel::open("models/story.sllm".as_ref(), None).unwrap();
    let options = SessionOptions::of(model.model()).within(16);
    let mut memory = model.memory(&options).unwrap();
    let mut session = model.session(options, &mut memory).unwrap();
    let mut sampler = Sampler::new(SamplerOptions::default()).unwrap();
    let mut written = Written(vec![5, 6, model.model().config().eos()[0]].into_iter());
    let mut generation = Generation::begin(&mut session, &Serial, &mut sampler, &[3, 4], 8).unwrap();
    let mut before = generation.figures();
    while generation.next_by(&mut session, &Serial, &mut sampler, &mut written).unwrap().is_some() {
        before = generation.figures();
    }
    let after = generation.figures();
    assert_eq!((generation.stopped(), after.generated_tokens, after.passes), (Some(Stop::EndOfText), 2, 2));
    assert!(before.bytes_per_token > 0 && before.tokens_per_second > 0.0);
    assert_eq!((after.bytes_per_token, after.tokens_per_second), (before.bytes_per_token, before.tokens_per_second));
}

#[test]
fn tokens_by_hand_are_those_of_an_answer() {
    let model = story();
    let mut session = model.session(greedy(5)).unwrap();
    let ids = model.language().unwrap().plain("A dog", false).unwrap();
    let answer = session.generate_ids(&ids).unwrap().complete().unwrap();
    session.rewind(0).unwrap();
    assert_eq!(session.prefill(&ids).unwrap().len(), session.engine().model().config().vocab);
    let mut by_hand = vec![session.sample().unwrap()];
    while by_hand.len() < 5 {
        session.decode(by_hand[by_hand.len() - 1]).unwrap();
        by_hand.push(session.sample().unwrap());
    }
    assert_eq!(by_hand, answer.ids);
    let position = session.with_engine(|engine, pool| {
        engine.decode(pool, by_hand[4]).unwrap();
        engine.position()
    });
    assert_eq!(position, session.position());
}

#[test]
fn a_chat_reads_only_new_tokens() {
    let mut chat = story().chat(greedy(24)).unwrap();
    let first = chat.ask(QUESTION).unwrap().complete().unwrap();
    let second = chat.ask("What do cows eat?").unwrap().complete().unwrap();
    let roles: Vec<&str> = chat.messages().iter().map(|m| m.role.as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    assert_eq!(chat.messages()[1].content, first.text);
    // A new chat that reads everything again gives the same answer.
    let mut anew = story().chat(greedy(24)).unwrap();
    assert_eq!(anew.ask(QUESTION).unwrap().complete().unwrap().text, first.text);
    anew.session_mut().rewind(0).unwrap();
    let again = anew.ask("What do cows eat?").unwrap().complete().unwrap();
    assert_eq!(again.text, second.text);
    assert!(second.figures.prompt_tokens < again.figures.prompt_tokens);
}

#[test]
fn a_dropped_answer_is_kept_as_far_as_it_went_and_a_refused_question_is_not() {
    let mut chat = story().chat(Options { context: Some(64), ..greedy(24) }).unwrap();
    let piece = chat.ask(QUESTION).unwrap().next().unwrap().unwrap();
    assert_eq!(chat.messages().last().unwrap().content, piece);
    assert!(chat.ask(&"too long ".repeat(100)).is_err());
    assert_eq!(chat.messages().len(), 2);
    assert!(!chat.ask("And grass?").unwrap().complete().unwrap().text.is_empty());
    chat.clear();
    let fresh = chat.ask(QUESTION).unwrap().complete().unwrap();
    assert!(fresh.text.starts_with(&piece));
}

#[test]
fn the_first_message_of_every_conversation() {
    let mut chat = story().chat(Options { system: Some("Be brief.".into()), ..greedy(4) }).unwrap();
    let system = |chat: &Chat| (chat.messages()[0].role.clone(), chat.messages()[0].content.clone());
    assert_eq!(system(&chat), ("system".into(), "Be brief.".into()));
    chat.clear();
    assert_eq!((system(&chat).1, chat.messages().len()), ("Be brief.".into(), 1));
}

#[test]
fn options_decide_and_are_checked() {
    let model = story();
    let engine = Options::default().engine(model.file().model());
    assert_eq!((engine.context, engine.batch, engine.sparsity), (512, 128, true));
    let short = Options { context: Some(16), skipping: false, ..Options::default() }.engine(model.file().model());
    assert_eq!((short.context, short.batch, short.sparsity), (16, 16, false));
    assert!(model.session(Options { threads: Some(0), ..Options::default() }).is_err());
    let hot = SamplerOptions { temperature: -1.0, ..SamplerOptions::default() };
    assert!(model.session(Options { sampling: hot, ..Options::default() }).is_err());
    let dial = Dial { policy: Policy::Auto, density: 0.5, ..Dial::default() };
    let mut sparse = model.session(Options { dial, skipping: false, ..greedy(8) }).unwrap();
    let mut dense = model.session(Options { skipping: false, ..greedy(8) }).unwrap();
    let read = |session: &mut Session| session.generate("A dog").unwrap().complete().unwrap().figures.bytes_per_token;
    assert!(read(&mut sparse) < read(&mut dense));
    assert!(dense.set_dial(&dial).is_err(), "made without");
}

/// The second question is read, and the first answer is not read again.
#[test]
fn answers_are_not_read_again() {
    let model = story();
    let mut chat = model.chat(greedy(200)).unwrap();
    let first = chat.ask(QUESTION).unwrap().complete().unwrap();
    assert!(first.ids.len() > 3 && first.stop == Stop::EndOfText, "{first:?}");
    let second = chat.ask(QUESTION).unwrap().complete().unwrap();
    let message = |role: &str, content: &str| Message::new(role, content);
    let whole = [message("user", QUESTION), message("assistant", &first.text), message("user", QUESTION)];
    let whole = model.language().unwrap().prompt(&whole, false).unwrap().len();
    let known = first.figures.prompt_tokens + first.ids.len();
    assert_eq!(second.figures.prompt_tokens, whole - known, "of {whole} tokens");
    // Reading it all again leads to the same answer.
    let mut again = model.chat(greedy(200)).unwrap();
    again.add("user", QUESTION);
    again.add("assistant", &first.text);
    assert_eq!(again.ask(QUESTION).unwrap().complete().unwrap().ids, second.ids);
}

#[test]
fn a_cancelled_answer_stays_in_the_chat() {
    static CANCEL: AtomicBool = AtomicBool::new(false);
    let mut session = story().session(greedy(200)).unwrap();
    session.set_cancel(Some(&CANCEL));
    let mut chat = Chat::new(session).unwrap();
    let mut answer = chat.ask(QUESTION).unwrap();
    let begun = answer.next().unwrap().unwrap();
    CANCEL.store(true, Ordering::Relaxed);
    assert!(answer.next().unwrap().unwrap_err().to_string().contains("cancelled"));
    assert!(answer.next().is_none());
    let reply = answer.finish().unwrap();
    assert_eq!((reply.text.as_str(), reply.stop), (begun.as_str(), Stop::Cancelled));
    assert_eq!(chat.messages().last().unwrap().content, begun);
    // A question that cannot be read is taken back, the next one can.
    assert!(chat.ask(QUESTION).is_err());
    CANCEL.store(false, Ordering::Relaxed);
    assert_eq!(chat.messages().len(), 2);
    chat.ask(QUESTION).unwrap().complete().unwrap();
}

/// A session that continues from another one's state gives the same answers, reads nothing again, and draws the same
/// tokens.
#[test]
fn a_loaded_session_continues_like_the_saved_one() {
    let model = story();
    let sampling = SamplerOptions { temperature: 1.5, repetition_penalty: 1.2, seed: 7, ..SamplerOptions::default() };
    let options = || Options { sampling, ..greedy(12) };
    let mut chat = model.chat(options()).unwrap();
    let first = chat.ask(QUESTION).unwrap().complete().unwrap();
    let state = chat.session().save().unwrap();
    let mut session =
        model.session(Options { sampling: SamplerOptions { seed: 8, ..sampling }, ..greedy(12) }).unwrap();
    assert!(session.load(&state[..state.len() - 1]).is_err());
    session.load(&state).unwrap();
    assert_eq!(session.engine().tokens(), chat.session().engine().tokens());
    let mut loaded = Chat::new(session).unwrap();
    loaded.add("user", QUESTION);
    loaded.add("assistant", &first.text);
    let straight = chat.ask("What do cows eat?").unwrap().complete().unwrap();
    let again = loaded.ask("What do cows eat?").unwrap().complete().unwrap();
    assert_eq!((&again.ids, again.figures.prompt_tokens), (&straight.ids, straight.figures.prompt_tokens));
    assert!(again.figures.prompt_tokens < 16, "{:?}", again.figures);
}

/// The dial and the sampler of a chat can be changed without reading anything again.
#[test]
fn a_chat_is_changed_on_the_way() {
    let mut chat = story().chat(greedy(12)).unwrap();
    chat.ask(QUESTION).unwrap().complete().unwrap();
    chat.set_dial(&Dial { policy: Policy::Auto, density: 0.5, ..Dial::default() }).unwrap();
    chat.set_sampling(SamplerOptions { temperature: 0.5, ..SamplerOptions::default() }).unwrap();
    let next = chat.ask("And grass?").unwrap().complete().unwrap();
    assert!(next.figures.prompt_tokens < 16, "{:?}", next.figures);
    chat.set_system(Some("Be brief.".into()));
    assert_eq!((chat.messages().len(), chat.messages()[0].content.as_str()), (1, "Be brief."));
}

#[test]
fn a_fork_goes_on_as_its_session_would() {
    let model = story();
    let warm = SamplerOptions { seed: 7, ..SamplerOptions::default() };
    let mut session = model.session(Options { sampling: warm, ..greedy(16) }).unwrap();
    session.generate("A dog").unwrap().complete().unwrap();
    let mut fork = session.fork().unwrap();
    assert_eq!(fork.position(), session.position());
    let here = session.generate(" and a cat").unwrap().complete().unwrap();
    let there = fork.generate(" and a cat").unwrap().complete().unwrap();
    assert_eq!((&here.text, &here.ids), (&there.text, &there.ids));
    // Neither is the other's any more.
    fork.rewind(0).unwrap();
    assert!(session.position() > 16);
}

#[test]
fn a_saved_chat_goes_on_without_reading_anything_again() {
    let model = story();
    let mut chat = model.chat(greedy(16)).unwrap();
    chat.ask(QUESTION).unwrap().complete().unwrap();
    let saved = chat.save().unwrap();
    let mut other = model.chat(greedy(16)).unwrap();
    other.ask("Hello").unwrap().complete().unwrap();
    other.load(&saved).unwrap();
    assert_eq!((other.messages(), other.session().position()), (chat.messages(), chat.session().position()));
    let here = chat.ask("Who saw it?").unwrap().complete().unwrap();
    let there = other.ask("Who saw it?").unwrap().complete().unwrap();
    assert_eq!((&here.text, here.figures.prompt_tokens), (&there.text, there.figures.prompt_tokens));
    for (bytes, said) in
        [(&saved[1..], "begins differently"), (&saved[..20], "cut off"), (&saved[..saved.len() - 1], "")]
    {
        let before = other.messages().to_vec();
        let error = other.load(bytes).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert_eq!(other.messages(), before);
    }
}
