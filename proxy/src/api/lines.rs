//! Which line each field of a document was written on.
//!
//! A tree in the shape of the document, without its values; asked only when there is something to
//! say about a field.

/// The lines of one value and of what is in it. Lines count from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Where the value begins; for a field of a mapping, where its name stands.
    pub line: u32,
    children: Children,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Children {
    #[default]
    None,
    Items(Vec<Lines>),
    Fields(Vec<(Box<str>, Lines)>),
}

impl Lines {
    /// A value without parts.
    pub fn leaf(line: u32) -> Self {
        Self {
            line,
            children: Children::None,
        }
    }

    /// A sequence.
    pub fn items(line: u32, items: Vec<Self>) -> Self {
        Self {
            line,
            children: Children::Items(items),
        }
    }

    /// A mapping.
    pub fn fields(line: u32, fields: Vec<(Box<str>, Self)>) -> Self {
        Self {
            line,
            children: Children::Fields(fields),
        }
    }

    /// The line of the field at `path` (`spec.http[0].match`), or of the innermost thing around it
    /// that was written down.
    pub fn find(&self, path: &str) -> u32 {
        if path.is_empty() {
            return self.line;
        }
        match &self.children {
            Children::None => self.line,
            Children::Items(items) => {
                let inner = path.strip_prefix('[').and_then(|rest| rest.split_once(']'));
                let item = inner.and_then(|(index, rest)| {
                    Some((items.get(index.parse::<usize>().ok()?)?, rest))
                });
                item.map_or(self.line, |(item, rest)| {
                    item.find(rest.strip_prefix('.').unwrap_or(rest))
                })
            }
            // Names may hold dots (labels do), so the path can't be cut at them: the longest name
            // that the path begins with is the one.
            Children::Fields(fields) => fields
                .iter()
                .filter_map(|(name, lines)| {
                    let rest = path.strip_prefix(&**name)?;
                    match rest.as_bytes().first() {
                        None | Some(b'[') => Some((name.len(), lines, rest)),
                        Some(b'.') => Some((name.len(), lines, &rest[1..])),
                        Some(_) => None,
                    }
                })
                .max_by_key(|(len, ..)| *len)
                .map_or(self.line, |(_, lines, rest)| lines.find(rest)),
        }
    }

    /// The lines of item `index` of the field `name`, as a `List` has them.
    pub fn item(&self, name: &str, index: usize) -> Option<&Self> {
        let Children::Fields(fields) = &self.children else {
            return None;
        };
        let (_, lines) = fields.iter().find(|(field, _)| &**field == name)?;
        match &lines.children {
            Children::Items(items) => items.get(index),
            Children::None | Children::Fields(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_finds_its_line_or_the_nearest() {
        let tree = Lines::fields(
            1,
            vec![
                (
                    "a".into(),
                    Lines::items(
                        2,
                        vec![
                            Lines::leaf(3),
                            Lines::fields(4, vec![("b".into(), Lines::leaf(5))]),
                        ],
                    ),
                ),
                ("x.y".into(), Lines::leaf(6)),
                (
                    "x".into(),
                    Lines::fields(7, vec![("z".into(), Lines::leaf(8))]),
                ),
            ],
        );
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
            ("x.z", 8),
            ("x", 7),
            ("missing", 1),
        ] {
            assert_eq!(tree.find(path), line, "{path}");
        }
    }
}
