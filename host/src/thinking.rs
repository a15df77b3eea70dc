//! Blocks in which a model thinks before it answers, told apart from the answer by the tokens around them.

use crate::text::Text;

/// The tokens around a block of thinking, by family: Qwen, DeepSeek, SmolLM3, Phi; Mistral; Cohere.
const MARKS: [(&str, &str); 3] =
    [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>")];
/// The beginning of an answer that a template writes itself has its mark among this number of tokens.
const NEAR: usize = 4;

/// Tells thoughts from the answer, token by token. A model without such tokens only answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Thinking {
    /// Ids of the tokens that begin and end a block.
    marks: Option<(u32, u32)>,
    inside: bool,
}

impl Thinking {
    /// At the beginning of an answer after the tokens `read`: the template may have begun a block already.
    pub fn new(text: &Text, read: &[u32]) -> Self {
        let marks = MARKS.iter().find_map(|(begin, end)| text.id(begin).zip(text.id(end)));
        let mut thinking = Thinking { marks, inside: false };
        for id in &read[read.len().saturating_sub(NEAR)..] {
            thinking.push(*id);
        }
        thinking
    }

    /// Whether the next token belongs to a block; its marks do.
    pub fn push(&mut self, id: u32) -> bool {
        let was = self.inside;
        if let Some((begin, end)) = self.marks {
            self.inside = id == begin || (self.inside && id != end);
        }
        was || self.inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_their_marks() {
        let mut thinking = Thinking { marks: Some((1, 2)), inside: false };
        let kinds: Vec<bool> = [5, 1, 6, 2, 7, 2, 1, 8].iter().map(|id| thinking.push(*id)).collect();
        assert_eq!(kinds, [false, true, true, true, false, false, true, true]);
        let mut none = Thinking::default();
        assert!(!none.push(1) && !none.push(2));
    }
}
