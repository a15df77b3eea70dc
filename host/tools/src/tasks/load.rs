//! Readers for the files in which task sets are published.

use super::arrow::{self, Column};
use super::{Choice, Question, Task};
use flate2::bufread::MultiGzDecoder;
use shadowllm_host::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// At most `most` questions of a task from the folder of the unpacked wheel, in the file's order.
///
/// # Errors
/// When the file is missing or damaged; names the file.
pub fn load(task: Task, folder: &Path, most: usize) -> Result<Vec<Question>> {
    let path = folder.join(task.file());
    if !path.is_file() {
        let way = super::by_hand();
        return Err(Error::file(
            &path,
            format!("does not exist: to get the folder of the task sets, {way} and name that folder"),
        ));
    }
    let mut questions = match task {
        Task::Copa => table(&path, ["premise", "question", "choice1", "choice2"], copa)?,
        Task::Rte => table(&path, ["sentence1", "sentence2"], rte)?,
        _ => requests(&path)?,
    };
    if questions.is_empty() {
        return Err(Error::file(&path, "has no questions; unpack the wheel again"));
    }
    questions.truncate(most);
    Ok(questions)
}

/// From this document number on, a file repeats its questions' answers without the question ("Answer:" only). These are
/// needed only for scores relative to the likelihood of an answer alone. Their numbers are the question's plus this
/// (`uncond_docid_offset` in the configuration beside the file).
const WITHOUT_QUESTION: u64 = 1_000_000;

/// Bytes of an unpacked file at most, many times those of the largest task set: a gzip file may stand for a thousand times
/// its own length.
const UNPACKED: u64 = 256 << 20;

/// One line of a file of requests.
#[derive(serde::Deserialize)]
struct Request {
    doc_id: u64,
    idx: usize,
    label: usize,
    request: Texts,
}

#[derive(serde::Deserialize)]
struct Texts {
    context: String,
    continuation: String,
}

/// Questions of a file with a request for each answer; a request that occurs twice counts once.
fn requests(path: &Path) -> Result<Vec<Question>> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let mut documents: BTreeMap<u64, BTreeMap<usize, Request>> = BTreeMap::new();
    let mut reader = BufReader::new(MultiGzDecoder::new(BufReader::new(file)).take(UNPACKED));
    for (i, line) in reader.by_ref().lines().enumerate() {
        let line = line.map_err(|e| damaged(path, &format!("line {} cannot be unpacked: {e}", i + 1)))?;
        if line.trim().is_empty() {
            continue;
        }
        let request: Request = serde_json::from_str(&line)
            .map_err(|e| damaged(path, &format!("line {} is not a request for an answer's likelihood: {e}", i + 1)))?;
        if request.doc_id < WITHOUT_QUESTION {
            documents.entry(request.doc_id).or_default().entry(request.idx).or_insert(request);
        }
    }
    if reader.get_ref().limit() == 0 {
        return Err(damaged(path, &format!("it unpacks to more than {} MB, and no task set does", UNPACKED >> 20)));
    }
    documents.into_iter().map(|(id, requests)| question_of(path, id, requests)).collect()
}

fn question_of(path: &Path, id: u64, requests: BTreeMap<usize, Request>) -> Result<Question> {
    let gold = requests.values().next().map_or(0, |r| r.label);
    if requests.keys().copied().ne(0..requests.len()) || requests.values().any(|r| r.label != gold) {
        return Err(damaged(
            path,
            &format!("document {id} lacks an answer, or its answers disagree about the right one"),
        ));
    }
    let choice = |r: Request| Choice { context: r.request.context, continuation: r.request.continuation };
    question(requests.into_values().map(choice).collect(), gold)
        .ok_or_else(|| damaged(path, &format!("document {id} has no right answer, or only one answer")))
}

fn question(choices: Vec<Choice>, gold: usize) -> Option<Question> {
    (choices.len() > 1 && gold < choices.len()).then_some(Question { choices, gold })
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::file(path, format!("{what}; unpack the wheel again (delete the file's folder if it is in the cache)"))
}

/// Questions of an Arrow stream, a row each, from columns of text and the column `label`.
fn table<const N: usize>(
    path: &Path,
    columns: [&str; N],
    choices: fn([&str; N]) -> Vec<Choice>,
) -> Result<Vec<Question>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let table = arrow::read(&bytes)
        .ok_or_else(|| damaged(path, "is not an Arrow stream of texts and integers, or is cut off"))?;
    let column = |name: &str| table.iter().find(|c| c.0 == name).map(|c| &c.1);
    let Some(Column::Integers(_, labels)) = column("label") else {
        return Err(damaged(path, "has no column 'label' of integers"));
    };
    let mut texts: [&[Option<String>]; N] = [&[]; N];
    for (text, name) in texts.iter_mut().zip(columns) {
        let Some(Column::Texts(column)) = column(name) else {
            return Err(damaged(path, &format!("has no column '{name}' of texts")));
        };
        *text = column;
    }
    let question = |row: usize| {
        let mut cells = [""; N];
        for (cell, column) in cells.iter_mut().zip(texts) {
            *cell = column.get(row)?.as_deref()?;
        }
        question(choices(cells), usize::try_from(labels[row]?).ok()?)
    };
    let bad = |row: usize| damaged(path, &format!("row {} has no right answer, or lacks a text", row + 1));
    (0..labels.len()).map(|row| question(row).ok_or_else(|| bad(row))).collect()
}

/// As in the harness: the premise without its full stop, a connector, and the answer as the rest of the sentence.
fn copa([premise, question, first, second]: [&str; 4]) -> Vec<Choice> {
    let connector = if question == "cause" { "because" } else { "therefore" };
    let mut context = premise.trim().to_owned();
    context.pop();
    let context = format!("{context} {connector}");
    [first, second].map(|c| Choice { context: context.clone(), continuation: format!(" {}", decapitalised(c)) }).into()
}

fn decapitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// As in the harness; label 0 is entailment.
fn rte([text, sentence]: [&str; 2]) -> Vec<Choice> {
    let context = format!("{text}\nQuestion: {sentence} True or False?\nAnswer:");
    [" True", " False"].map(|c| Choice { context: context.clone(), continuation: c.into() }).into()
}
