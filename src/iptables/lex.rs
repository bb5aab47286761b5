//! Splits a line into words as `iptables-restore` does (`add_param_to_argv`), and quotes a word as `iptables-save` does.

use std::borrow::Cow;
use std::ops::Range;

/// A word of a line: one argument of the command.
#[derive(Clone, Debug)]
pub(super) struct Word<'a> {
    /// The text without quotes and escapes.
    pub text: Cow<'a, str>,
    /// The byte range in the file, quotes included.
    pub range: Range<usize>,
    /// `true` if the word had quotes that were closed.
    pub quoted: bool,
}

/// Appends the words of `line`, which begins at `offset` of its file and includes its newline. Returns `true` if a quote
/// was not closed.
///
/// As in the tool, a quote opens anywhere in a word and its end is the end of the word; a backslash escapes inside quotes
/// only; a quote that is never closed takes the rest of the line, newline included.
pub(super) fn split<'a>(line: &'a str, offset: usize, words: &mut Vec<Word<'a>>) -> bool {
    let bytes = line.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if is_blank(bytes[at]) {
            at += 1;
            continue;
        }
        let start = at;
        let end = bytes[at..].iter().position(|&byte| ENDS[byte as usize]);
        at = end.map_or(bytes.len(), |length| start + length);
        if bytes.get(at) != Some(&b'"') {
            words.push(Word {
                text: Cow::Borrowed(&line[start..at]),
                range: offset + start..offset + at,
                quoted: false,
            });
            continue;
        }
        let (text, end, closed) = quoted(line, start, at);
        at = end;
        if closed || !text.is_empty() {
            words.push(Word {
                text,
                range: offset + start..offset + at,
                quoted: closed,
            });
        }
        if !closed {
            return true;
        }
    }
    false
}

/// Returns `true` if a quote in the line is not closed. `iptables-save` prints a comment that holds a line feed like this,
/// and the rule continues in the next line.
pub fn leaves_quote_open(line: &str) -> bool {
    split(line, 0, &mut Vec::new())
}

/// Reads a word that begins at `start` and has its opening quote at `quote`. Returns its text, its end, and `true` if the
/// quote is closed.
fn quoted(line: &str, start: usize, quote: usize) -> (Cow<'_, str>, usize, bool) {
    let bytes = line.as_bytes();
    let mut at = quote + 1;
    while at < bytes.len() && bytes[at] != b'"' && bytes[at] != b'\\' {
        at += 1;
    }
    // Most quoted words are comments without escapes: they need no copy.
    if bytes.get(at) == Some(&b'"') && start == quote {
        return (Cow::Borrowed(&line[quote + 1..at]), at + 1, true);
    }
    let mut text = String::from(&line[start..quote]);
    let mut escaped = false;
    for (index, character) in line[quote + 1..].char_indices() {
        if escaped {
            text.push(character);
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == '"' {
            return (Cow::Owned(text), quote + 1 + index + 1, true);
        } else {
            text.push(character);
        }
    }
    (Cow::Owned(text), line.len(), false)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n')
}

/// The bytes at which a word without quotes ends: a lookup table, for speed.
const ENDS: [bool; 256] = {
    let mut ends = [false; 256];
    ends[b' ' as usize] = true;
    ends[b'\t' as usize] = true;
    ends[b'\n' as usize] = true;
    ends[b'"' as usize] = true;
    ends
};

/// Writes `text` as `iptables-save` does (`xtables_save_string`): in quotes unless all of it is `[A-Za-z0-9_-]`. The tool
/// escapes the single quote too, though it needs no escape.
pub(super) fn write_quoted(out: &mut impl std::fmt::Write, text: &str) -> std::fmt::Result {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !text.is_empty() && text.bytes().all(plain) {
        return out.write_str(text);
    }
    out.write_char('"')?;
    for character in text.chars() {
        if matches!(character, '"' | '\\' | '\'') {
            out.write_char('\\')?;
        }
        out.write_char(character)?;
    }
    out.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        split(line, 0, &mut words);
        words
            .into_iter()
            .map(|word| word.text.into_owned())
            .collect()
    }

    #[test]
    fn splits_as_the_tool() {
        assert_eq!(words("-A  x\t-j y\n"), ["-A", "x", "-j", "y"]);
        assert_eq!(words("a\"b\"c"), ["ab", "c"]);
        assert_eq!(words("\"a \\\"q\\\" b\" c"), ["a \"q\" b", "c"]);
        assert_eq!(words("a\\ b"), ["a\\", "b"]);
        assert_eq!(words("\"\" x"), ["", "x"]);
        assert_eq!(words("a \\\"b -j X\n"), ["a", "\\b -j X\n"]);
        assert_eq!(words("\"back\\nslash\""), ["backnslash"]);
    }

    #[test]
    fn quotes_as_the_tool() {
        let quote = |text: &str| {
            let mut out = String::new();
            write_quoted(&mut out, text).unwrap();
            out
        };
        assert_eq!(quote("a_b-c"), "a_b-c");
        assert_eq!(quote("it's"), "\"it\\'s\"");
        assert_eq!(quote("a.b"), "\"a.b\"");
    }
}
