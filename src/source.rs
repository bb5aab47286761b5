//! The text files that fwc reads (policies, rules files, tests), and positions in them for messages.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// Identifies a file of a [`SourceMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(u32);

/// A range of bytes in a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// The offset of the first byte.
    pub start: u32,
    /// The offset behind the last byte.
    pub end: u32,
}

impl Span {
    /// Returns the span of `range` in `file`. Offsets fit into 32 bits: the loader refuses files of more than 64 MiB.
    pub fn new(file: FileId, range: Range<usize>) -> Self {
        let clamp = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
        Self {
            file,
            start: clamp(range.start),
            end: clamp(range.end),
        }
    }

    /// Returns the span as a range of indices into the text.
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A value with the span of text that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// The span of the text.
    pub span: Span,
}

impl<T> Located<T> {
    /// Returns the value with its span.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }

    /// Converts the value and keeps the span.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Located<U> {
        Located {
            value: convert(self.value),
            span: self.span,
        }
    }

    /// Returns a reference to the value, with the span.
    pub fn as_ref(&self) -> Located<&T> {
        Located {
            value: &self.value,
            span: self.span,
        }
    }
}

/// A source file: its path as shown to people, its text, and the offsets at which its lines begin.
#[derive(Clone, Debug)]
pub struct SourceFile {
    path: PathBuf,
    text: String,
    line_starts: Vec<u32>,
}

impl SourceFile {
    /// Returns the path as messages show it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the line of a byte offset, counted from 0.
    pub fn line_of(&self, offset: u32) -> usize {
        self.line_starts
            .partition_point(|&start| start <= offset)
            .saturating_sub(1)
    }

    /// Returns the line and column of a byte offset as editors count them: from 1, columns in characters.
    pub fn position(&self, offset: u32) -> (usize, usize) {
        let line = self.line_of(offset);
        let start = self.line_starts[line] as usize;
        let before = self.text.get(start..offset as usize).unwrap_or_default();
        (line + 1, before.chars().count() + 1)
    }

    /// Returns the byte range of the lines `first..=last`, counted from 0, with the last newline.
    pub fn lines(&self, first: usize, last: usize) -> Range<usize> {
        let start = self
            .line_starts
            .get(first)
            .map_or(self.text.len(), |&s| s as usize);
        let end = self
            .line_starts
            .get(last + 1)
            .map_or(self.text.len(), |&s| s as usize);
        start..end
    }

    /// Returns the number of lines; an empty file has one.
    pub fn line_count(&self) -> usize {
        self.line_starts.len()
    }
}

/// The files that were read, by [`FileId`], so that messages can show the text of a [`Span`].
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    files: Vec<SourceFile>,
}

impl SourceMap {
    /// Returns an empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file; `path` is what messages show.
    pub fn add(&mut self, path: impl Into<PathBuf>, text: impl Into<String>) -> FileId {
        let text = text.into();
        let mut line_starts = vec![0];
        line_starts.extend(
            text.bytes()
                .zip(1u32..)
                .filter_map(|(byte, next)| (byte == b'\n').then_some(next)),
        );
        self.files.push(SourceFile {
            path: path.into(),
            text,
            line_starts,
        });
        FileId(u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX))
    }

    /// Returns the file of an id. The id must come from this map.
    pub fn file(&self, id: FileId) -> &SourceFile {
        &self.files[id.0 as usize]
    }

    /// Returns the text of a span.
    pub fn text(&self, span: Span) -> &str {
        self.file(span.file)
            .text
            .get(span.range())
            .unwrap_or_default()
    }

    /// Returns the start of a span as `file:line:column`, which editors and terminals can follow.
    pub fn place(&self, span: Span) -> String {
        let file = self.file(span.file);
        let (line, column) = file.position(span.start);
        format!("{}:{line}:{column}", file.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        let mut map = SourceMap::new();
        let id = map.add("a.toml", "é = 1\n\nname = \"x\"\n");
        let file = map.file(id);
        assert_eq!(file.position(0), (1, 1));
        assert_eq!(file.position(3), (1, 3));
        assert_eq!(file.position(7), (2, 1));
        assert_eq!(file.position(8), (3, 1));
        assert_eq!(file.line_count(), 4);
        assert_eq!(&file.text()[file.lines(0, 0)], "é = 1\n");
        assert_eq!(map.place(Span::new(id, 15..18)), "a.toml:3:8");
    }
}
