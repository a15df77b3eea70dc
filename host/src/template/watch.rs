//! A compiled template with a check of every value that it makes: minijinja only counts steps, and one step can double
//! a text.

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, Span, Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, Value};
use std::collections::BTreeMap;

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

/// The source, with two replacements. minijinja does not know `{% generation %}`, which marks the assistant's text for
/// training and has no effect here. And minijinja would compute a product of constants during compilation, before it
/// can be checked.
pub fn prepared(source: &str, syntax: SyntaxConfig) -> Result<String, Error> {
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
