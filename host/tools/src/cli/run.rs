//! `shadowllm run`: one prompt, or a conversation (`chat`).

use crate::answer::{Show, as_json, summary, whole};
use crate::chat::{self, Lines};
use crate::controls::ControlOptions;
use crate::dial::{DialOptions, SKIPPING};
use crate::pace::PaceOptions;
use crate::print;
use crate::setup::{MACHINE, ModelOptions, checked_context, more_positions, pool};
use clap::Args;
use shadowllm_core::sample::Sampler;
use shadowllm_host::text::{Message, Template, Variables, read};
use shadowllm_host::{Answer, Chat, Controls, Dry, Error, Figures, Model, Result, SamplerOptions, Session, Stop};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Options of `run`.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelOptions,
    /// Prompt; without one a chat begins. Standard input that is not a terminal is one prompt if it has empty lines,
    /// else each of its lines is a message.
    #[arg(value_name = "PROMPT", conflicts_with_all = ["prompt", "file"])]
    words: Option<String>,
    /// Prompt, as an option.
    #[arg(short, long, conflicts_with = "file", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// File with the prompt; - is standard input.
    #[arg(short, long, allow_hyphen_values = true)]
    file: Option<PathBuf>,
    /// Tokens to generate at most.
    #[arg(short, long = "max-tokens", aliases = ["predict", "n-predict"], value_parser = tokens, overrides_with = "n",
        default_value_t = shadowllm_host::Options::default().max_tokens)]
    n: usize,
    /// Continue the prompt as plain text, even if the model has a chat template.
    #[arg(long)]
    raw: bool,
    /// System message of a chat.
    #[arg(long, alias = "system-prompt", allow_hyphen_values = true, conflicts_with = "raw")]
    system: Option<String>,
    /// Treat the texts of control tokens ("<|im_end|>") in prompts and messages as control tokens, not as text.
    #[arg(long)]
    control_tokens: bool,
    #[command(flatten)]
    dial: DialOptions,
    #[command(flatten)]
    pace: PaceOptions,
    /// Give the text of the model that skips nothing, bit for bit: tokens are guessed (from the text so far, and by the
    /// model at --density), and several guesses are checked at once. Faster if many are right, as in a summary.
    #[arg(long, help_heading = SKIPPING)]
    exact: bool,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    held: ControlOptions,
    /// Threads; one per core by default.
    #[arg(short, long, help_heading = MACHINE)]
    threads: Option<usize>,
    /// Positions of prompt and answer together; by default the context that the model was trained for, at most 4096.
    #[arg(short = 'c', long, alias = "ctx-size", help_heading = MACHINE)]
    context: Option<usize>,
    /// Give this number of answers to the prompt, which is read once; the seeds are --seed and those after it. The figures
    /// of each answer are those that it would have alone: the time of reading the prompt counts in each.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = samples, conflicts_with = "target")]
    samples: usize,
    /// Text and figures as JSON; in a chat, and with --samples, a line for each answer.
    #[arg(long)]
    json: bool,
}

/// Heading of options about choosing tokens.
const SAMPLING: &str = "Choosing tokens";

/// How tokens are chosen.
#[derive(Args)]
pub struct Sampling {
    /// Always the likeliest token.
    #[arg(long, help_heading = SAMPLING)]
    greedy: bool,
    /// Seed of the random choice; from the clock by default.
    #[arg(short, long, value_parser = seed, help_heading = SAMPLING)]
    seed: Option<u64>,
    /// Divides the logits; 0 is greedy.
    #[arg(long, alias = "temp", default_value_t = SamplerOptions::default().temperature, conflicts_with = "greedy", help_heading = SAMPLING)]
    temperature: f32,
    /// Only the k likeliest tokens; 0 for all.
    #[arg(long, default_value_t = SamplerOptions::default().top_k, help_heading = SAMPLING)]
    top_k: usize,
    /// Only the likeliest tokens that together reach this probability.
    #[arg(long, default_value_t = SamplerOptions::default().top_p, help_heading = SAMPLING)]
    top_p: f32,
    /// Only tokens at least this share as likely as the likeliest.
    #[arg(long, default_value_t = SamplerOptions::default().min_p, help_heading = SAMPLING)]
    min_p: f32,
    /// Makes recent tokens less likely; 1 is off.
    #[arg(long, alias = "repeat-penalty", default_value_t = SamplerOptions::default().repetition_penalty, help_heading = SAMPLING)]
    repetition_penalty: f32,
    /// Subtracted once from the logits of the last 64 tokens.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true, help_heading = SAMPLING)]
    presence_penalty: f32,
    /// Subtracted from a token's logit for each time it is among the last 64.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true, help_heading = SAMPLING)]
    frequency_penalty: f32,
    /// Makes tokens less likely that would lengthen a repetition ("DRY"); 0 is off, 0.8 is usual.
    #[arg(long, default_value_t = Dry::default().multiplier, help_heading = SAMPLING)]
    dry_multiplier: f32,
    /// Factor of that penalty for each further token of the repetition.
    #[arg(long, default_value_t = Dry::default().base, help_heading = SAMPLING)]
    dry_base: f32,
    /// Length of repetitions that are free.
    #[arg(long, default_value_t = Dry::default().allowed_length, help_heading = SAMPLING)]
    dry_allowed_length: usize,
    /// Number of last tokens in which repetitions are looked for; 0 for all.
    #[arg(long, default_value_t = Dry::default().last, help_heading = SAMPLING)]
    dry_penalty_last_n: usize,
}

fn tokens(text: &str) -> std::result::Result<usize, String> {
    text.parse().map_err(|_| "a number of tokens; --context limits them too".into())
}

fn seed(text: &str) -> std::result::Result<u64, String> {
    text.parse().map_err(|_| "a number from 0; leave it out for another one each time".into())
}

fn samples(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| (1..=1000).contains(n)).ok_or_else(|| "a number from 1 to 1000".into())
}

impl Sampling {
    fn dry(&self) -> Dry {
        Dry {
            multiplier: self.dry_multiplier,
            base: self.dry_base,
            allowed_length: self.dry_allowed_length,
            last: self.dry_penalty_last_n,
        }
    }

    /// The sampler's options, which are in range.
    fn options(&self) -> Result<SamplerOptions> {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        let options = SamplerOptions {
            temperature: if self.greedy { 0.0 } else { self.temperature },
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed.unwrap_or_else(clock),
        };
        Sampler::new(options)?;
        Ok(options)
    }
}

/// Runs the command.
pub fn run(o: &Options) -> Result<()> {
    // Cheap checks first.
    let (sampling, pool) = (o.sampling.options()?, pool(o.threads)?);
    let controls = Controls { dry: o.sampling.dry(), ..o.held.controls() };
    controls.check(u32::MAX as usize)?;
    let variables = o.held.variables()?;
    let dials = o.dial.paced(o.pace.skips());
    dials.one()?;
    o.pace.check(o.exact)?;
    let given = match (o.prompt.as_ref().or(o.words.as_ref()), &o.file) {
        (Some(p), _) => Some(p.clone()),
        (None, Some(f)) if f == Path::new("-") => Some(print::standard_input()?),
        (None, Some(f)) => Some(read(f)?),
        (None, None) => None,
    };
    let from_input = o.file.as_deref() == Some(Path::new("-"));
    let rules = o.held.rules(given.is_some() && !from_input)?;
    let model = o.model.open_for(o.pace.skipping(o.dial.skipping()))?;
    let pool = o.model.within(pool, &model)?;
    let mut options = shadowllm_host::Options {
        context: o.context,
        kv: o.model.kv,
        // Users may change the dial in a chat.
        skipping: o.pace.skips() || given.is_none() && std::io::stdin().is_terminal(),
        dial: o.pace.dial(model.model(), dials.one_for(&model)?)?,
        exact: o.exact,
        sampling,
        max_tokens: o.n,
        controls,
        variables,
        system: o.system.clone(),
        control_tokens: o.control_tokens,
        ..Default::default()
    };
    options.controls.check(model.model().config().vocab)?;
    let context = checked_context(&model, options.engine(model.model()).context, "a smaller --context")?;
    let trained = model.model().config().max_positions;
    if context > trained {
        print::note(format_args!(
            "[a context of {context} is beyond the {trained} positions that the image is packed for: text there may be nonsense]"
        ));
    }
    let model = Model::from(model);
    options.controls.grammar = rules.map(|rules| rules.grammar(&model)).transpose()?;
    let (prompt, lines) = match given {
        Some(prompt) => (Some(prompt), None),
        None => Lines::new()?.or_prompt(),
    };
    if o.samples > 1 && prompt.is_none() {
        return Err(Error::Usage("--samples answers one prompt several times: give the prompt with -p or -f".into()));
    }
    let template = &model.language()?.template;
    if template.is_empty() && o.system.is_some() {
        return Err(Error::Usage(
            "the model has no chat template, so --system has no place: put it into the text".into(),
        ));
    }
    used(&options.variables, template)?;
    if prompt.is_none() && (template.is_empty() || o.raw) {
        let why = if o.raw { "--raw continues a text" } else { "the model has no chat template" };
        return Err(Error::Usage(format!("{why}, so give it a text to continue with -p or -f")));
    }
    let mut session = model.session_on(Arc::new(pool), options)?;
    o.pace.set(&mut session, &dials)?;
    match (prompt, lines) {
        (Some(prompt), _) => once(o, session, &prompt),
        (None, Some(lines)) => chat::chat(Chat::new(session)?, lines, o.json),
        (None, None) => Ok(()),
    }
}

/// Refuses variables of a template where none is used, and says which of them a template does not read.
fn used(variables: &Variables, template: &Template) -> Result<()> {
    let names = |source: &str, name: &str| {
        source.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name)
    };
    for name in variables.keys() {
        if template.is_empty() {
            let option = if name == "tools" { "--tools" } else { "--template-var" };
            return Err(Error::Usage(format!("the model has no chat template, so {option} has no place")));
        }
        if !names(&template.source, name) {
            print::note(format_args!("note: the model's chat template does not read {name}, so it changes nothing"));
        }
    }
    Ok(())
}

/// Adds the option that helps if a prompt is longer than the context: room for an answer of `n` tokens, as far as the
/// model has positions for it.
fn longer(model: &shadowllm_core::Model, e: shadowllm_core::Error, n: usize) -> Error {
    let shadowllm_core::Error::ContextFull { needed, context } = e else { return e.into() };
    let (wanted, most) = (needed.saturating_add(n), model.config().most_positions);
    if needed < most {
        return Error::Other(format!("{e}; with room for an answer: --context {}", wanted.min(most)));
    }
    let why = format!("{needed} positions do not fit in the context of {context}, and the model has {most}");
    Error::Other(format!("{why}: shorten the prompt{}", more_positions(model, wanted)))
}

fn once(o: &Options, mut session: Session, prompt: &str) -> Result<()> {
    let model = session.model().clone();
    let language = model.language()?;
    let message = |role: &str, content: &str| Message::new(role, content);
    let system = o.system.iter().map(|s| message("system", s));
    let messages: Vec<Message> = system.chain([message("user", prompt)]).collect();
    let said = (messages.as_slice(), &session.options().variables);
    let ids = language.text.prompt(&language.template, said, o.raw, language.bos, o.control_tokens)?;
    // Checked before the prompt is shown, so that a refused one is not.
    session.engine().admit(&ids).map_err(|e| longer(session.engine().model(), e, o.n))?;
    if !o.json && (o.raw || language.template.is_empty()) {
        print::text(prompt)?;
    }
    let show = if o.json {
        Show::Nothing
    } else if o.raw || language.template.is_empty() {
        Show::Text
    } else {
        Show::Answer
    };
    if o.samples > 1 {
        return several(o, session, &ids, show);
    }
    let reply = whole(begin(o, &mut session, &ids)?, show)?;
    if o.json {
        return print::json(&as_json(&reply, &session));
    }
    print::line("")?;
    print::note(summary(&reply.figures));
    if reply.stop == Stop::Length && session.options().controls.grammar.is_some() {
        print::note(format_args!("[cut off: the grammar needs more tokens than -n {}]", o.n));
    }
    Ok(())
}

/// Continues a plain text, or answers a chat's prompt.
fn begin<'s>(o: &Options, session: &'s mut Session, ids: &[u32]) -> Result<Answer<'s>> {
    let plain = o.raw || session.model().language()?.template.is_empty();
    if plain { session.generate_ids(ids) } else { session.answer_ids(ids) }
}

/// The part of a prompt that was read once for several answers.
struct Shared {
    tokens: usize,
    seconds: f64,
}

impl Shared {
    /// Makes the figures of an answer, which count only the rest of the prompt, those of the whole prompt.
    fn count_in(&self, f: &mut Figures) {
        let rest = f.prompt_tokens as f64 / f.prompt_tokens_per_second.max(1e-9);
        f.prompt_tokens += self.tokens;
        f.prompt_tokens_per_second = f.prompt_tokens as f64 / (self.seconds + rest).max(1e-9);
        // Without a first token it stays 0.
        if f.seconds_to_first_token > 0.0 {
            f.seconds_to_first_token += self.seconds;
        }
    }
}

/// Several answers to one prompt, which is read once: each begins from a fork of the session.
fn several(o: &Options, mut session: Session, ids: &[u32], show: Show) -> Result<()> {
    let Some((last, before)) = ids.split_last() else { return Ok(()) };
    let start = Instant::now();
    if !before.is_empty() {
        session.prefill(before)?;
    }
    let shared = Shared { tokens: before.len(), seconds: start.elapsed().as_secs_f64() };
    let sampling = session.options().sampling;
    for sample in 0..o.samples {
        let mut fork = session.fork()?;
        fork.set_sampling(SamplerOptions { seed: sampling.seed.wrapping_add(sample as u64), ..sampling })?;
        fork.accept(before);
        if !o.json {
            print::note(format_args!("[{} of {}]", sample + 1, o.samples));
        }
        let mut reply = whole(begin(o, &mut fork, &[*last])?, show)?;
        shared.count_in(&mut reply.figures);
        if o.json {
            let mut value = as_json(&reply, &fork);
            (value["shared_prompt_tokens"], value["shared_prompt_seconds"]) =
                (shared.tokens.into(), shared.seconds.into());
            print::line(value)?;
        } else {
            print::line("")?;
            print::note(summary(&reply.figures));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_prompt_counts_as_if_it_were_read_for_each_answer() {
        let alone = Figures {
            prompt_tokens: 1,
            prompt_tokens_per_second: 4.0,
            seconds_to_first_token: 0.5,
            ..Figures::default()
        };
        let mut whole = alone;
        Shared { tokens: 9, seconds: 0.75 }.count_in(&mut whole);
        assert_eq!((whole.prompt_tokens, whole.prompt_tokens_per_second), (10, 10.0));
        assert_eq!(whole.seconds_to_first_token, 1.25);
        let mut none = Figures { seconds_to_first_token: 0.0, ..alone };
        Shared { tokens: 9, seconds: 0.75 }.count_in(&mut none);
        assert_eq!(none.seconds_to_first_token, 0.0);
    }
}
