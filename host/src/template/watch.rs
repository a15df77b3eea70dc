//! A compiled template with a check of every value that it makes: minijinja only counts steps, and one step can double
//! a text.

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, Span, Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, Value};
use std::collections::BTreeMap;
use std::ops::Range;

/// The name of the function that is called with every new value. No template can call it, since its name has a space.
pub const LOOK: &str = "look at";
/// Function in place of `*`.
pub const MULTIPLY: &str = "multiply by";
/// Function in place of `%`.
pub const REMAINDER: &str = "remainder of";
/// Function in place of `[from:to:step]`.
pub const SLICE: &str = "slice of";
/// A variable that is 1.
pub const ONE: &str = "__one";
/// Tokens in one `{{ ... }}` or `{% ... %}`: a long chain of operators would be processed by recursion.
const TOKENS: usize = 2000;

/// A variable that nothing sets.
const UNSET: &str = "__unset";

/// The source, with other defaults of macros. minijinja computes them from the last to the first, before an argument has its
/// value: a default that names an argument before it becomes a statement at the beginning of the macro.
fn with_defaults(source: &str, syntax: SyntaxConfig) -> Result<String, Error> {
    let place = |span: Span| span.start_offset as usize..span.end_offset as usize;
    let all = tokenize(source, false, syntax).map(|token| token.map(|(token, span)| (token, place(span))));
    let all: Vec<(Token, Range<usize>)> = all.collect::<Result<_, _>>()?;
    let (mut text, mut done) = (String::with_capacity(source.len()), 0);
    for at in 1..all.len() {
        if !matches!((&all[at - 1].0, &all[at].0), (Token::BlockStart, Token::Ident("macro"))) {
            continue;
        }
        let header = all[at..].iter().take_while(|(token, _)| !matches!(token, Token::BlockEnd));
        // Without `macro` and the name.
        let moved = moved_defaults(source, header.clone().skip(2));
        let Some((_, end)) = all.get(at + header.count()) else { break };
        if let Some((last, _)) = moved.last() {
            let last = *last;
            for (_, place) in &moved {
                text = text + &source[done..place.start] + UNSET;
                done = place.end;
            }
            text = text + &source[done..end.start] + "%}";
            for (name, place) in moved {
                let default = &source[place];
                text += &format!("{{% if {name} is undefined %}}{{% set {name} = {default} %}}{{% endif ");
                // The last one ends as the macro's first line does, which says what becomes of the spaces after it.
                text += if name == last { &source[end.clone()] } else { "%}" };
            }
            done = end.end;
        }
    }
    Ok(text + &source[done..])
}

/// The arguments of a macro whose defaults name an argument before them, and the places of these defaults.
fn moved_defaults<'s, 't>(
    source: &'s str,
    header: impl Iterator<Item = &'t (Token<'s>, Range<usize>)>,
) -> Vec<(&'s str, Range<usize>)>
where
    's: 't,
{
    let (mut depth, mut names, mut moved) = (0, Vec::new(), Vec::new());
    // Where the default begins, and whether it names an argument.
    let mut default = None;
    for (token, place) in header {
        if depth == 1
            && matches!(token, Token::Comma | Token::ParenClose)
            && let (Some((from, true)), Some(name)) = (default.take(), names.last())
        {
            moved.push((*name, from..place.start));
        }
        match token {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => depth += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => depth -= 1,
            Token::Assign if depth == 1 => default = Some((place.end, false)),
            Token::Ident(_) => match &mut default {
                None => names.push(&source[place.clone()]),
                Some((_, named)) => *named |= names.iter().rev().skip(1).any(|name| *name == &source[place.clone()]),
            },
            _ => {}
        }
    }
    moved
}

/// The source, with three replacements. minijinja does not know `{% generation %}`, which marks the assistant's text for
/// training and has no effect here. It takes other defaults of macros ([`with_defaults`]). And it would compute a product of constants during compilation, before it
/// can be checked.
pub fn prepared(source: &str, syntax: SyntaxConfig) -> Result<String, Error> {
    let source = &with_defaults(source, syntax.clone())?;
    let mut text = String::with_capacity(source.len() + 64);
    let (mut done, mut tokens, mut in_block) = (0, 0, false);
    for token in tokenize(source, false, syntax) {
        let (token, Span { start_offset, end_offset, .. }) = token?;
        let (start, end) = (start_offset as usize, end_offset as usize);
        tokens = if matches!(token, Token::TemplateData(_)) { 0 } else { tokens + 1 };
        if matches!(token, Token::VariableStart | Token::BlockStart) {
            tokens = 0;
        }
        if tokens > TOKENS {
            return Err(super::budget::refused("has an expression that is too long"));
        }
        let new = match token {
            Token::Ident("generation") if in_block => "if true",
            Token::Ident("endgeneration") if in_block => "endif",
            Token::Mul => "* __one *",
            _ => "",
        };
        in_block = matches!(token, Token::BlockStart);
        if !new.is_empty() {
            text.push_str(&source[done..start]);
            text.push_str(new);
            done = end;
        }
    }
    text.push_str(&source[done..]);
    Ok(text)
}

/// The instructions of a template, and those of its blocks.
pub type Compiled<'s> = (Instructions<'s>, BTreeMap<&'s str, Instructions<'s>>);

/// The instructions of a template, with a check of every value that they make.
pub fn compile(source: &str, syntax: SyntaxConfig) -> Result<Compiled<'_>, Error> {
    let tree = parse(source, "chat", syntax)?;
    let mut code = CodeGenerator::new("chat", source);
    code.compile_stmt(&tree);
    let (steps, blocks) = code.finish();
    Ok((watched(&steps), blocks.iter().map(|(name, steps)| (*name, watched(steps))).collect()))
}

/// The instructions that replace one instruction.
fn steps<'s>(step: &Instruction<'s>) -> Vec<Instruction<'s>> {
    use Instruction as I;
    let look = || I::CallFunction(LOOK, Some(1));
    match step {
        // Emitted through the formatter, which counts bytes.
        I::EmitRaw(text) => vec![I::LoadConst(Value::from(*text)), I::Emit],
        I::Mul => vec![I::CallFunction(MULTIPLY, Some(2)), look()],
        I::Rem => vec![I::CallFunction(REMAINDER, Some(2)), look()],
        I::Slice => vec![I::CallFunction(SLICE, Some(4)), look()],
        I::Add
        | I::StringConcat
        | I::BuildMap(_)
        | I::BuildList(_)
        | I::BuildTuple(_)
        | I::CallFunction(..)
        | I::CallMethod(..)
        | I::CallObject(_)
        | I::EndCapture
        // Long texts take long to be compared, and their letters to be found.
        | I::GetItem
        | I::PerformTest(..)
        | I::In
        | I::Eq
        | I::Ne
        | I::Gt
        | I::Gte
        | I::Lt
        | I::Lte => vec![step.clone(), look()],
        // A value that is set in a namespace makes the namespace larger.
        I::SetAttr(_) => vec![look(), step.clone()],
        _ => vec![step.clone()],
    }
}

/// The instructions with the inserted ones, and with adjusted targets of jumps.
fn watched<'s>(plain: &Instructions<'s>) -> Instructions<'s> {
    let old: Vec<&Instruction> = (0..).map_while(|i| plain.get(i)).collect();
    let new: Vec<Vec<Instruction>> = old.iter().map(|step| steps(step)).collect();
    let mut at = vec![0u32];
    for steps in &new {
        at.push(at[at.len() - 1] + steps.len() as u32);
    }
    let moved = |target: u32| at.get(target as usize).copied().unwrap_or(target);
    let mut code = Instructions::new(plain.name(), plain.source());
    for (i, steps) in new.into_iter().enumerate() {
        let line = plain.get_line(i as u32).unwrap_or(0) as u16;
        for step in steps {
            use Instruction as I;
            let step = match step {
                I::Iterate(t) => I::Iterate(moved(t)),
                I::Jump(t) => I::Jump(moved(t)),
                I::JumpIfFalse(t) => I::JumpIfFalse(moved(t)),
                I::JumpIfFalseOrPop(t) => I::JumpIfFalseOrPop(moved(t)),
                I::JumpIfTrueOrPop(t) => I::JumpIfTrueOrPop(moved(t)),
                I::BuildMacro(name, t, flags) => I::BuildMacro(name, moved(t), flags),
                other => other,
            };
            code.add_with_line(step, line);
        }
    }
    code
}
