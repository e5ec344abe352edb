//! Which line each field of a document was written on.
//!
//! The shape of the document without its values, kept for as long as the object is, and asked only
//! when there is something to say about a field: therefore small rather than quick.

use super::value::{Node, Value};

/// The lines of one value and of what is in it. Lines count from 1.
///
/// In one piece: for each value its line with its [`Kind`], and for one with parts how many bytes
/// these take, then the parts, each of a mapping's after its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines(Box<[u8]>);

/// What a value has inside, the two lowest bits of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Leaf = 0,
    Items = 1,
    Fields = 2,
}

impl Lines {
    /// The lines of `node` and of what is in it.
    pub fn of(node: &Node) -> Self {
        let mut bytes = Vec::with_capacity(256);
        write(node, &mut bytes);
        Self(bytes.into())
    }

    /// A value whose parts nobody will ask for.
    pub fn leaf(line: u32) -> Self {
        let mut bytes = Vec::new();
        write_number(u64::from(line) << 2 | Kind::Leaf as u64, &mut bytes);
        Self(bytes.into())
    }

    /// The line of the value itself.
    pub fn line(&self) -> u32 {
        Rest(&self.0).value().map_or(0, |value| value.line)
    }

    /// The line of the field at `path` (`spec.http[0].match`), or of the innermost thing around it
    /// that was written down.
    pub fn find(&self, path: &str) -> u32 {
        let Some(mut value) = Rest(&self.0).value() else {
            return 0;
        };
        let mut path = path;
        while !path.is_empty()
            && let Some((part, rest)) = value.part(path)
        {
            (value, path) = (part, rest);
        }
        value.line
    }
}

fn write(node: &Node, into: &mut Vec<u8>) {
    let kind = match &node.value {
        Value::List(items) if !items.is_empty() => Kind::Items,
        Value::Fields(fields) if !fields.is_empty() => Kind::Fields,
        _ => Kind::Leaf,
    };
    write_number(u64::from(node.line) << 2 | kind as u64, into);
    if kind == Kind::Leaf {
        return;
    }
    let start = into.len() + LENGTH;
    into.extend([0; LENGTH]);
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| write(item, into)),
        Value::Fields(fields) => {
            for (name, field) in fields {
                write_number(name.len() as u64, into);
                into.extend(name.as_bytes());
                write(field, into);
            }
        }
        _ => {}
    }
    let length = (into.len() - start) as u64;
    into[start - LENGTH..start].copy_from_slice(&length.to_le_bytes()[..LENGTH]);
}

/// Bytes of a length. What is longer than five bytes can say doesn't fit into memory.
const LENGTH: usize = 5;

/// Seven bits a byte, the lowest first; the highest bit says that there are more.
fn write_number(mut number: u64, into: &mut Vec<u8>) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

/// One value.
struct Part<'a> {
    line: u32,
    kind: Kind,
    inner: &'a [u8],
}

impl<'a> Rest<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self, count: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }

    fn value(&mut self) -> Option<Part<'a>> {
        let number = self.number()?;
        let kind = match number & 3 {
            1 => Kind::Items,
            2 => Kind::Fields,
            _ => Kind::Leaf,
        };
        let inner = if kind == Kind::Leaf {
            &[]
        } else {
            let mut length = [0; 8];
            length[..LENGTH].copy_from_slice(self.bytes(LENGTH as u64)?);
            self.bytes(u64::from_le_bytes(length))?
        };
        Some(Part {
            line: u32::try_from(number >> 2).ok()?,
            kind,
            inner,
        })
    }
}

impl<'a> Part<'a> {
    /// The part that `path` leads into, and the rest of the path.
    fn part<'p>(&self, path: &'p str) -> Option<(Self, &'p str)> {
        let mut inner = Rest(self.inner);
        match self.kind {
            Kind::Leaf => None,
            Kind::Items => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                for _ in 0..index.parse::<usize>().ok()? {
                    inner.value()?;
                }
                Some((inner.value()?, rest.strip_prefix('.').unwrap_or(rest)))
            }
            // Names may hold dots (labels do), so the path can't be cut at them: the longest name
            // that the path begins with is the one.
            Kind::Fields => {
                let mut best: Option<(usize, Self, &str)> = None;
                while let Some(length) = inner.number() {
                    let name = inner.bytes(length)?;
                    let field = inner.value()?;
                    let after = path.as_bytes().strip_prefix(name);
                    let skipped = match after.map(<[u8]>::first) {
                        Some(None | Some(b'[')) => name.len(),
                        Some(Some(b'.')) => name.len() + 1,
                        _ => continue,
                    };
                    let longest = best.as_ref().is_none_or(|(len, ..)| name.len() > *len);
                    if longest && let Some(rest) = path.get(skipped..) {
                        best = Some((name.len(), field, rest));
                    }
                }
                best.map(|(_, field, rest)| (field, rest))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(line: u32, value: Value) -> Node {
        Node { line, value }
    }

    fn fields<const N: usize>(line: u32, fields: [(&str, Node); N]) -> Node {
        let fields = fields.map(|(name, field)| (name.into(), field));
        node(line, Value::Fields(fields.into()))
    }

    #[test]
    fn a_path_finds_its_line_or_the_nearest() {
        let leaf = |line| node(line, Value::Null);
        let items = vec![leaf(3), fields(4, [("b", leaf(5))])];
        let tree = fields(
            1,
            [
                ("a", node(2, Value::List(items))),
                ("x.y", leaf(6)),
                ("x", fields(7, [("z", leaf(800_000))])),
                ("", leaf(9)),
                ("none", node(10, Value::List(Vec::new()))),
            ],
        );
        let tree = Lines::of(&tree);
        assert_eq!(tree.line(), 1);
        for (path, line) in [
            ("", 1),
            ("a", 2),
            ("a[0]", 3),
            ("a[1]", 4),
            ("a[1].b", 5),
            ("a[1].missing", 4),
            ("a[9]", 2),
            ("a[nonsense", 2),
            ("x.y", 6),
            ("x.z", 800_000),
            ("x", 7),
            ("none[0].x", 10),
            ("missing", 1),
        ] {
            assert_eq!(tree.find(path), line, "{path}");
        }
        assert_eq!(Lines::leaf(7).find("a"), 7);
        assert_eq!(Lines::leaf(u32::MAX).line(), u32::MAX);
        assert_eq!(Lines::default().find("a"), 0);
    }
}
