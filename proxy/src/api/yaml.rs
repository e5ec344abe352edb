//! Text into documents.
//!
//! Bounded: a document that is nested too deep, or that grows too large once its aliases are
//! expanded, is refused before it is built. Knows no kind of object, and no file.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Input, Parser, ScalarStyle, Span, StrInput, Tag};

use super::scalar;
use super::value::{Node, Value};

/// The deepest nesting that is read. A Pod's deepest field is at about 15.
pub const MAX_DEPTH: usize = 64;

/// The most values in a text. 16 MiB of ordinary manifests have about 1,300,000.
pub const MAX_VALUES: usize = 1_500_000;

/// The most values in a text that stand in the place of aliases. People use them to repeat a few
/// lines.
pub const MAX_COPIES: usize = 100_000;

/// Why a text is refused, and where (line from 1).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not YAML (nor JSON).
    #[error("not valid YAML: {1}")]
    Syntax(u32, String),
    /// An alias without its anchor, or inside of it.
    #[error("alias of an anchor that is not complete before it")]
    Alias(u32),
    /// More than [`MAX_DEPTH`].
    #[error("nested more than {MAX_DEPTH} levels deep")]
    Depth(u32),
    /// More than [`MAX_VALUES`].
    #[error("more than {MAX_VALUES} values; split the file")]
    Size(u32),
    /// More than [`MAX_COPIES`].
    #[error(
        "its aliases stand for more than {MAX_COPIES} values; write them out or leave them out"
    )]
    Aliases(u32),
    /// The same key twice in a mapping.
    #[error("the field {1:?} is given twice in one mapping")]
    Repeated(u32, String),
    /// A key that is a list or a mapping.
    #[error("a key must be text")]
    Key(u32),
    /// A merge key (`<<`) whose value is no mapping.
    #[error("the value of a merge key (<<) must be a mapping or a list of mappings")]
    Merge(u32),
}

impl Refused {
    /// Where in the text.
    pub fn line(&self) -> u32 {
        match self {
            Self::Syntax(line, _)
            | Self::Alias(line)
            | Self::Depth(line)
            | Self::Size(line)
            | Self::Aliases(line)
            | Self::Repeated(line, _)
            | Self::Key(line)
            | Self::Merge(line) => *line,
        }
    }
}

/// Reads every document of `text`.
///
/// # Errors
/// The first thing that makes the text unreadable.
pub fn read(text: &str) -> Result<Vec<Node>, Refused> {
    documents(text).collect()
}

/// The documents of `text`, one after the other, so that the caller need not hold all at once. After
/// an error there are no more: what follows a mistake may mean anything, and what came before it is
/// better not used either.
pub fn documents(text: &str) -> impl Iterator<Item = Result<Node, Refused>> {
    // Windows editors begin a file with it; the parser takes it for content.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader::new(StrInput::new(text));
    let mut control = find_control(text);
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let next = match control.take() {
            Some(refused) => Err(refused),
            None => reader.document(),
        };
        ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    })
}

/// A character that YAML allows nowhere. The parser takes a NUL for the end of the text, so what
/// follows one would be lost without a word.
fn find_control(text: &str) -> Option<Refused> {
    let is_control =
        |byte: u8| byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r') || byte == 0x7f;
    let bytes = text.as_bytes();
    let at = bytes.iter().position(|byte| is_control(*byte))?;
    let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    Some(Refused::Syntax(
        u32::try_from(line).unwrap_or(0),
        format!("control character {:#04x}; is this a text file?", bytes[at]),
    ))
}

struct Reader<'input, I: Input> {
    parser: Parser<'input, I>,
    /// Complete anchored values of this document, and how many values each is, itself included.
    anchors: HashMap<usize, (Node, usize)>,
    /// Values in the text so far.
    values: usize,
    /// How many of them are copies that aliases made.
    copied: usize,
}

impl<'input, I: Input> Reader<'input, I> {
    fn new(input: I) -> Self {
        Self {
            parser: Parser::new(input),
            anchors: HashMap::new(),
            values: 0,
            copied: 0,
        }
    }

    fn document(&mut self) -> Result<Option<Node>, Refused> {
        while let Some((event, _)) = self.next()? {
            match event {
                Event::DocumentStart(_) => {
                    self.anchors.clear();
                    let (event, span) = self.expect()?;
                    return self.node(event, span, 0).map(Some);
                }
                Event::StreamEnd => return Ok(None),
                _ => {}
            }
        }
        Ok(None)
    }

    fn next(&mut self) -> Result<Option<(Event<'input>, Span)>, Refused> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok(event)) => Ok(Some(event)),
            Some(Err(error)) => Err(Refused::Syntax(
                u32::try_from(error.marker().line()).unwrap_or(0),
                error.info().to_owned(),
            )),
        }
    }

    fn expect(&mut self) -> Result<(Event<'input>, Span), Refused> {
        self.next()?
            .ok_or_else(|| Refused::Syntax(0, "unexpected end of the file".to_owned()))
    }

    fn count(&mut self, weight: usize, line: u32) -> Result<(), Refused> {
        self.values = self.values.saturating_add(weight);
        if self.values > MAX_VALUES {
            return Err(Refused::Size(line));
        }
        Ok(())
    }

    fn copy(&mut self, weight: usize, line: u32) -> Result<(), Refused> {
        self.copied = self.copied.saturating_add(weight);
        if self.copied > MAX_COPIES {
            return Err(Refused::Aliases(line));
        }
        self.count(weight, line)
    }

    fn node(&mut self, event: Event<'input>, span: Span, depth: usize) -> Result<Node, Refused> {
        let line = line(span);
        if depth > MAX_DEPTH {
            return Err(Refused::Depth(line));
        }
        let before = self.values;
        let (anchor, value) = match event {
            Event::Alias(id) => {
                // Counted before it is copied: a bomb is refused by its arithmetic.
                let (_, weight) = *self.anchors.get(&id).ok_or(Refused::Alias(line))?;
                self.copy(weight, line)?;
                let (node, _) = self.anchors.get(&id).ok_or(Refused::Alias(line))?;
                return Ok(Node {
                    line,
                    value: node.value.clone(),
                });
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, line)?;
                let plain = style == ScalarStyle::Plain;
                let tag = tag.as_deref().and_then(schema_tag);
                (anchor, scalar::resolve(&text, plain, tag))
            }
            Event::SequenceStart(anchor, _) => {
                self.count(1, line)?;
                (anchor, self.sequence(depth)?)
            }
            Event::MappingStart(anchor, _) => {
                self.count(1, line)?;
                (anchor, self.mapping(depth)?)
            }
            _ => {
                return Err(Refused::Syntax(
                    line,
                    "unexpected end of a value".to_owned(),
                ));
            }
        };
        let node = Node { line, value };
        if anchor > 0 {
            // The copy that is kept for aliases counts as well.
            let weight = self.values - before;
            self.copy(weight, line)?;
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        Ok(node)
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, Refused> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.expect()?;
            if event == Event::SequenceEnd {
                return Ok(Value::List(items));
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, Refused> {
        let mut fields = Fields::default();
        let mut merges = Vec::new();
        loop {
            let (event, span) = self.expect()?;
            if event == Event::MappingEnd {
                break;
            }
            let (key, key_line) = self.key(event, span, depth)?;
            let (event, span) = self.expect()?;
            let mut node = self.node(event, span, depth + 1)?;
            node.line = key_line;
            if &*key == "<<" {
                merges.push(node);
            } else if let Err(key) = fields.insert(key, node) {
                return Err(Refused::Repeated(key_line, key.into()));
            }
        }
        for merge in merges {
            let at = merge.line;
            match merge.value {
                Value::Fields(merged) => fields.merge(merged, at),
                Value::List(items) => {
                    for item in items {
                        let Value::Fields(merged) = item.value else {
                            return Err(Refused::Merge(at));
                        };
                        fields.merge(merged, at);
                    }
                }
                _ => return Err(Refused::Merge(at)),
            }
        }
        Ok(Value::Fields(fields.all))
    }

    /// A key, as text: `80: web` has the key `80`, as Kubernetes reads it.
    fn key(
        &mut self,
        event: Event<'input>,
        span: Span,
        depth: usize,
    ) -> Result<(Box<str>, u32), Refused> {
        let line = line(span);
        match event {
            Event::Scalar(text, _, 0, _) => {
                self.count(1, line)?;
                Ok((text.into(), line))
            }
            event => match self.node(event, span, depth + 1)?.value {
                Value::Text(text) => Ok((text, line)),
                _ => Err(Refused::Key(line)),
            },
        }
    }
}

/// The fields of a mapping so far.
#[derive(Default)]
struct Fields {
    all: Vec<(Box<str>, Node)>,
    /// Their names, once there are many.
    names: HashSet<Box<str>>,
}

/// Up to so many names are compared one by one, which is quicker than a set.
const FEW: usize = 24;

impl Fields {
    /// Gives the name back where there is such a field already.
    fn insert(&mut self, name: Box<str>, node: Node) -> Result<(), Box<str>> {
        let known = if self.all.len() < FEW {
            self.all.iter().any(|(one, _)| *one == name)
        } else {
            if self.names.is_empty() {
                self.names = self.all.iter().map(|(one, _)| one.clone()).collect();
            }
            !self.names.insert(name.clone())
        };
        if known {
            return Err(name);
        }
        self.all.push((name, node));
        Ok(())
    }

    /// What is given directly wins over what is merged.
    fn merge(&mut self, fields: Vec<(Box<str>, Node)>, line: u32) {
        for (name, mut node) in fields {
            node.line = line;
            // One that is there already stays.
            let _ = self.insert(name, node);
        }
    }
}

fn line(span: Span) -> u32 {
    u32::try_from(span.start.line()).unwrap_or(0)
}

/// The suffix of a tag of the YAML schema (`!!str` → `str`).
fn schema_tag(tag: &Tag) -> Option<&str> {
    tag.is_yaml_core_schema().then_some(&*tag.suffix)
}

#[cfg(test)]
mod tests;
