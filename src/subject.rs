//! Subjects of messages, and patterns for them: which ones are valid, and which match. Pure.
//!
//! A subject is a row of tokens with dots between them. In a pattern the token `*` stands for any one token, and `>` at the
//! end stands for one or more. These are the rules of NATS, but for one: a token that has `*` or `>` beside other characters
//! is refused here. NATS takes it as it is, and who writes it mostly means something else.

#[cfg(test)]
mod tests;
mod trie;

pub use trie::Trie;

/// The longest subject, and the longest pattern, in bytes.
pub const SUBJECT_BYTES_MAX: usize = 255;
/// The most tokens of a subject or a pattern.
pub const TOKENS_MAX: usize = 32;

/// A token that stands for any one token.
const ANY: &str = "*";
/// A last token that stands for one or more.
const REST: &str = ">";

/// Checks the subject of a message. The error says what is wrong.
pub fn check_subject(subject: &str) -> Result<(), &'static str> {
    check_tokens(subject, |_| Err("a subject has no `*` and no `>`: they are for patterns"))
}

/// Checks a pattern. The error says what is wrong.
pub fn check_pattern(pattern: &str) -> Result<(), &'static str> {
    let is_last = |token: &str| pattern.rsplit('.').next().is_some_and(|last| same(last, token));
    check_tokens(pattern, |token| match token {
        ANY => Ok(()),
        REST if is_last(token) => Ok(()),
        REST => Err("`>` stands for the rest, so it is the last token"),
        _ => Err("`*` and `>` are tokens of their own: they stand alone between dots"),
    })
}

/// Whether two tokens are one and the same place.
fn same(a: &str, b: &str) -> bool {
    a.as_ptr() == b.as_ptr()
}

/// `wild` judges tokens that have a `*` or a `>`.
fn check_tokens(
    text: &str,
    wild: impl Fn(&str) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > SUBJECT_BYTES_MAX {
        return Err("it has 1 to 255 bytes");
    }
    if text.split('.').count() > TOKENS_MAX {
        return Err("it has at most 32 tokens");
    }
    for token in text.split('.') {
        if token.is_empty() {
            return Err(
                "an empty token: between two dots, and at both ends, stands at least one character",
            );
        }
        if token.chars().any(|it| it.is_whitespace() || it.is_control()) {
            return Err("a token has no space and no control character");
        }
        if token.contains(['*', '>']) {
            wild(token)?;
        }
    }
    Ok(())
}
