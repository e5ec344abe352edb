//! What the style of this repository rules out and neither the compiler nor clippy sees: a file
//! without its opening words, one that has grown too long, `unsafe` outside its few places.

use std::{fs, path::Path};

use anyhow::{Result, bail};

use crate::{
    setup,
    source::{self, tokens},
};

/// Lines of product code that a file may have; tests don't count.
const LONGEST: usize = 400;
/// Folders with Rust code.
const FOLDERS: &[&str] = &["common", "ebpf", "proxy", "tests", "xtask"];
/// Files that may have `unsafe` blocks. Elsewhere only `unsafe impl … Pod`.
const UNSAFE: &[&str] = &[
    "proxy/src/memory.rs",
    "proxy/src/net/netns.rs",
    "proxy/src/net/socket.rs",
    "proxy/src/net/splice.rs",
    "ebpf/src/ctx.rs",
    "ebpf/src/maps.rs",
];
/// Module names that hide the missing noun.
const NAMELESS: &[&str] = &[
    "manager", "handler", "helper", "helpers", "util", "utils", "core",
];

/// Checks the tree and fails with all that is found.
pub(crate) fn run() -> Result<()> {
    let root = setup::root();
    let mut complaints = Vec::new();
    for folder in FOLDERS
        .iter()
        .map(|folder| root.join(folder))
        .filter(|path| path.is_dir())
    {
        for path in source::files(&folder)? {
            complaints.extend(check(
                path.strip_prefix(&root)?,
                &fs::read_to_string(&path)?,
            ));
        }
    }
    for complaint in &complaints {
        println!("{complaint}");
    }
    if !complaints.is_empty() {
        bail!("{} things to tidy", complaints.len());
    }
    println!("tidy");
    Ok(())
}

fn check(path: &Path, source: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |line: usize, text: String| {
        complaints.push(format!("{}:{line}: {text}", path.display()));
    };
    if !source.starts_with("//!") {
        complain(
            1,
            "open with `//!`: what this is, and what it does not know".into(),
        );
    }
    let product = source
        .find("\n#[cfg(test)]\nmod ")
        .map_or(source, |end| &source[..end]);
    let is_test = path.ends_with("tests.rs") || path.iter().skip(1).any(|part| part == "tests");
    let lines = product.lines().count();
    if lines > LONGEST && !is_test {
        complain(
            LONGEST,
            format!("{lines} lines of code: split it along a noun"),
        );
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if NAMELESS.contains(&stem.as_ref()) {
        complain(1, format!("`{stem}` hides a noun: name what is in it"));
    }
    // BPF code can't read its context without it; its own lints hold the reasons.
    let unsafe_here = UNSAFE.iter().any(|file| path == Path::new(file)) || path.starts_with("ebpf");
    if !unsafe_here {
        let tokens = tokens(source);
        for (at, token) in tokens
            .iter()
            .enumerate()
            .filter(|(_, token)| token.text == "unsafe")
        {
            let is_pod = tokens[at..].iter().take(8).any(|token| token.text == "Pod");
            if !is_pod {
                complain(
                    token.line,
                    format!("`unsafe` belongs in {}", UNSAFE.join(", ")),
                );
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{LONGEST, check};

    #[test]
    fn each_rule_bites() {
        let long = format!("//! x\n{}", "// y\n".repeat(LONGEST));
        let tests = format!(
            "//! x\n\n#[cfg(test)]\nmod tests {{\n{}}}",
            "// y\n".repeat(LONGEST)
        );
        for (name, path, source, expected) in [
            ("fine", "proxy/src/a.rs", "//! x\n", 0),
            ("no header", "proxy/src/a.rs", "use a;\n", 1),
            ("too long", "proxy/src/a.rs", &long, 1),
            ("long tests", "proxy/src/a.rs", &tests, 0),
            ("a nameless name", "proxy/src/net/util.rs", "//! x\n", 1),
            (
                "unsafe",
                "proxy/src/a.rs",
                "//! x\nfn f() { unsafe { } }",
                1,
            ),
            (
                "unsafe where it belongs",
                "proxy/src/net/netns.rs",
                "//! x\nunsafe { }",
                0,
            ),
            (
                "unsafe for a map's value",
                "common/src/a.rs",
                "//! x\nunsafe impl aya::Pod for A {}",
                0,
            ),
            (
                "the word in a comment",
                "proxy/src/a.rs",
                "//! x\n// unsafe",
                0,
            ),
        ] {
            let complaints = check(Path::new(path), source);
            assert_eq!(complaints.len(), expected, "{name}: {complaints:?}");
        }
    }
}
