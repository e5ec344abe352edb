//! Templates of paths: `{*}` stands for one segment, `{**}` for the rest.

/// A path with templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    /// What stands before the first `{*}`, between two of them, ...; all but the last are followed
    /// by one.
    parts: Vec<Box<str>>,
    /// What stands after `{**}`, where there is one; it follows the last of the parts.
    end: Option<Box<str>>,
}

impl Template {
    /// Reads it; `None` for a path without templates.
    pub(super) fn new(path: &str) -> Option<Self> {
        let (before, end) = match path.split_once("{**}") {
            Some((before, end)) => (before, Some(end.into())),
            None => (path, None),
        };
        let parts: Vec<Box<str>> = before.split("{*}").map(Into::into).collect();
        (parts.len() > 1 || end.is_some()).then_some(Self { parts, end })
    }

    /// Whether `path` is like that.
    pub(super) fn is(&self, path: &str) -> bool {
        let mut rest = path;
        for (index, part) in self.parts.iter().enumerate() {
            if index > 0 {
                // The segment that the template stands for: not empty, and whole.
                let end = rest.find('/').unwrap_or(rest.len());
                if end == 0 {
                    return false;
                }
                rest = &rest[end..];
            }
            match rest.strip_prefix(&**part) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        match &self.end {
            Some(end) => rest.ends_with(&**end),
            None => rest.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_stand_for_segments() {
        for (template, path, expected) in [
            ("/a/{*}", "/a/b", true),
            ("/a/{*}", "/a/", false),
            ("/a/{*}", "/a/b/", false),
            ("/a/{*}", "/a/b/c", false),
            ("/a/{*}/c", "/a/b/c", true),
            ("/a/{*}/c", "/a//c", false),
            ("/a/{*}/c", "/a/b/c/", false),
            ("/a/{*}/{*}", "/a/b/c", true),
            ("/{*}", "/a", true),
            ("/{*}", "/", false),
            ("/{**}", "/", true),
            ("/{**}", "/a/b/c", true),
            ("/a/{**}", "/a/", true),
            ("/a/{**}", "/a", false),
            ("/a/{**}", "/ab", false),
            ("/a/{**}/z", "/a/b/c/z", true),
            ("/a/{**}/z", "/a//z", true),
            ("/a/{**}/z", "/a/z", false),
            ("/a/{*}/{**}", "/a/b/", true),
            ("/a/{*}/{**}", "/a//x", false),
            ("/{*}/b/{**}/z", "/a/b/c/z", true),
        ] {
            let compiled = Template::new(template).expect("a template");
            assert_eq!(compiled.is(path), expected, "{template} on {path}");
        }
        assert_eq!(Template::new("/a/*"), None);
    }
}
