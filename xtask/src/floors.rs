//! The floors of `proxy/src`: a module imports from floors below its own, never from above and
//! never from a neighbour. Cargo forbids cycles between crates; this forbids them between modules.
//!
//! It reads every path that starts with `crate::` or climbs by `super::`, in `use` lines and
//! elsewhere, tests included. It knows no types: what two modules share by a value handed in is
//! exactly what is allowed.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::{
    setup,
    source::{self, Token, tokens},
};

/// Bottom first. The name is how ARCHITECTURE.md calls the floor.
const FLOORS: &[(&str, &[&str])] = &[
    ("1a", &["types", "clock"]),
    ("1b", &["api", "proto"]),
    ("2", &["policy", "wire"]),
    ("3", &["mesh"]),
    ("4", &["net", "tls", "kernel", "telemetry"]),
    ("5", &["dataplane", "control", "ca"]),
    ("6", &["settings", "admin", "memory"]),
    ("7", &["app", "cli"]),
];

/// Checks the tree and fails with every import that is not downward.
pub(crate) fn run() -> Result<()> {
    let root = setup::root();
    let folder = root.join("proxy/src");
    let (mut complaints, mut modules) = (Vec::new(), 0);
    for path in source::files(&folder)? {
        let source =
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let inside = path.strip_prefix(&folder)?;
        modules += 1;
        complaints.extend(check(inside, &source));
    }
    if complaints.is_empty() {
        println!("floors: {modules} files, every import runs down");
        return Ok(());
    }
    for complaint in &complaints {
        println!("proxy/src/{complaint}");
    }
    bail!("{} imports do not run down the floors", complaints.len());
}

/// The complaints about one file, `path` being relative to `proxy/src`.
fn check(path: &Path, source: &str) -> Vec<String> {
    let module = module(path);
    let Some(own) = module.first().cloned() else {
        // lib.rs and main.rs stand above all floors.
        return Vec::new();
    };
    let complain = |line: usize, text: String| format!("{}:{line}: {text}", path.display());
    let Some(floor) = floor(&own) else {
        let text = format!("module `{own}` has no floor: give it one in xtask/src/floors.rs");
        return vec![complain(1, text)];
    };
    let mut complaints = Vec::new();
    for import in imports(&module, source) {
        let text = match import.target.as_str() {
            "*" => "a glob over the whole crate hides what is imported: name it".to_owned(),
            target if target == own => continue,
            target => match self::floor(target) {
                None => format!(
                    "`crate::{target}` lies on no floor: use the module that defines it, or give \
                     it a floor in xtask/src/floors.rs"
                ),
                Some(other) if other < floor => continue,
                Some(other) => {
                    let (here, there) = (FLOORS[floor].0, FLOORS[other].0);
                    let way = if other == floor { "sideways" } else { "up" };
                    format!(
                        "{own} (floor {here}) imports crate::{target} (floor {there}), {way}: move \
                         what both need below floor {here}, or have a floor above hand it in"
                    )
                }
            },
        };
        complaints.push(complain(import.line, text));
    }
    complaints
}

fn floor(module: &str) -> Option<usize> {
    FLOORS
        .iter()
        .position(|(_, modules)| modules.contains(&module))
}

/// The path of the module that a file holds; empty for the crate's root files.
fn module(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = path
        .with_extension("")
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    if names
        .last()
        .is_some_and(|name| ["mod", "lib", "main"].contains(&name.as_str()))
    {
        names.pop();
    }
    names
}

/// The top module that some path leads to.
#[derive(Debug, PartialEq, Eq)]
struct Import {
    target: String,
    line: usize,
}

/// Finds every path of `source` that goes through the root of the crate.
fn imports(module: &[String], source: &str) -> Vec<Import> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    // Inline modules around the present place, each with the depth of braces it was opened at.
    let mut inline: Vec<(usize, String)> = Vec::new();
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token.text {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if inline.last().is_some_and(|(opened, _)| *opened == depth) {
                    inline.pop();
                }
            }
            "mod" if text(&tokens, at + 2) == "{" => {
                inline.push((depth, text(&tokens, at + 1).to_owned()));
            }
            "crate" | "super" | "self"
                if text(&tokens, at + 1) == "::" && starts_path(&tokens, at) =>
            {
                let inner = inline.iter().map(|(_, name)| name.clone());
                let here: Vec<_> = module.iter().cloned().chain(inner).collect();
                at = tree(&tokens, at, &here, &mut found);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// False for the path of a visibility, `pub(in crate::a)`, and for a later segment.
fn starts_path(tokens: &[Token<'_>], at: usize) -> bool {
    let before = at.checked_sub(1).map_or("", |before| text(tokens, before));
    before != "in" && before != "::"
}

/// Follows one tree of a path from `at`, standing in the module `base`; gives where it ends.
fn tree(tokens: &[Token<'_>], at: usize, base: &[String], found: &mut Vec<Import>) -> usize {
    let mut base = base.to_vec();
    let mut at = at;
    loop {
        let Some(token) = tokens.get(at) else {
            return at;
        };
        match token.text {
            "crate" => base.clear(),
            "super" => {
                base.pop();
            }
            "self" => {}
            "{" => {
                at += 1;
                while !["}", ""].contains(&text(tokens, at)) {
                    at = tree(tokens, at, &base, found);
                    // An alias and whatever else stands before the next branch.
                    while ![",", "}", ""].contains(&text(tokens, at)) {
                        at += 1;
                    }
                    at += usize::from(text(tokens, at) == ",");
                }
                return at + 1;
            }
            name => {
                // The first name below the root is where the path leads; one below any other
                // module stays inside it.
                if base.is_empty() {
                    found.push(Import {
                        target: name.to_owned(),
                        line: token.line,
                    });
                }
                return skip_path(tokens, at);
            }
        }
        if text(tokens, at + 1) != "::" {
            return at + 1;
        }
        at += 2;
    }
}

/// Past the path whose present segment is at `at`, with the group it may end in.
fn skip_path(tokens: &[Token<'_>], mut at: usize) -> usize {
    while text(tokens, at + 1) == "::" {
        at += 2;
        if text(tokens, at) == "{" {
            return skip_group(tokens, at);
        }
    }
    at + 1
}

/// Past a group in braces.
fn skip_group(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0;
    let mut at = open;
    while let Some(token) = tokens.get(at) {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
    }
    at
}

fn text<'a>(tokens: &[Token<'a>], at: usize) -> &'a str {
    tokens.get(at).map_or("", |token| token.text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::check;

    #[test]
    fn only_downward_imports_pass() {
        // Path below proxy/src, source, and the beginnings of the complaints.
        let table: &[(&str, &str, &str, &[&str])] = &[
            (
                "down",
                "mesh/route.rs",
                "use crate::policy::matcher::Match;",
                &[],
            ),
            (
                "own module",
                "mesh/route.rs",
                "use crate::mesh::Cluster;",
                &[],
            ),
            (
                "within by super",
                "mesh/route.rs",
                "use super::Cluster;",
                &[],
            ),
            (
                "up",
                "policy/a.rs",
                "use crate::mesh::Route;",
                &["policy/a.rs:1: policy (floor 2)"],
            ),
            (
                "sideways",
                "net/a.rs",
                "\nuse crate::kernel::Maps;",
                &["net/a.rs:2: net (floor 4)"],
            ),
            (
                "between 1a and 1b",
                "types/a.rs",
                "use crate::api::Pod;",
                &["types/a.rs:1: "],
            ),
            ("from 1b to 1a", "api/a.rs", "use crate::types::Name;", &[]),
            (
                "each of a group",
                "mesh/a.rs",
                "use crate::{\n  types::{Name, Protocol as P},\n  net as n,\n  dataplane::x,\n};",
                &["mesh/a.rs:3: ", "mesh/a.rs:4: "],
            ),
            (
                "a path in code",
                "wire/a.rs",
                "fn f() -> crate::tls::X { }",
                &["wire/a.rs:1: "],
            ),
            (
                "super to the root",
                "wire/a.rs",
                "use super::super::app::X;",
                &["wire/a.rs:1: "],
            ),
            (
                "super, one file a module",
                "clock.rs",
                "use super::mesh::X;",
                &["clock.rs:1: "],
            ),
            (
                "super in a group",
                "wire/a.rs",
                "use super::{b, super::mesh};",
                &["wire/a.rs:1: "],
            ),
            (
                "from an inline module",
                "wire/a.rs",
                "mod t { use super::super::b; }",
                &[],
            ),
            (
                "out of an inline module",
                "wire/a.rs",
                "mod t { use super::super::super::mesh; }",
                &["wire/a.rs:1: "],
            ),
            (
                "after an inline module",
                "wire/a.rs",
                "mod t { fn f() { } } use super::super::mesh;",
                &["wire/a.rs:1: "],
            ),
            (
                "visibility",
                "wire/a.rs",
                "pub(in crate::wire) fn f() {} pub(crate) fn g() {}",
                &[],
            ),
            (
                "a module called as one above",
                "wire/a.rs",
                "use crate::wire::{mesh::x, app};",
                &[],
            ),
            (
                "comments and strings",
                "wire/a.rs",
                "// crate::mesh\nconst A: &str = \"crate::app\";",
                &[],
            ),
            (
                "glob",
                "mesh/a.rs",
                "use crate::*;",
                &["mesh/a.rs:1: a glob"],
            ),
            (
                "macro",
                "mesh/a.rs",
                "$crate::app::x!()",
                &["mesh/a.rs:1: "],
            ),
            (
                "unknown target",
                "mesh/a.rs",
                "use crate::Thing;",
                &["mesh/a.rs:1: `crate::Thing` lies"],
            ),
            (
                "unknown module",
                "misc/a.rs",
                "",
                &["misc/a.rs:1: module `misc` has no floor"],
            ),
            (
                "cli and app are neighbours",
                "cli/run.rs",
                "use crate::app;",
                &["cli/run.rs:1: "],
            ),
            ("the root is above", "main.rs", "use crate::app;", &[]),
        ];
        for (name, path, source, expected) in table {
            let complaints = check(Path::new(path), source);
            assert_eq!(complaints.len(), expected.len(), "{name}: {complaints:?}");
            for (complaint, start) in complaints.iter().zip(*expected) {
                assert!(complaint.starts_with(start), "{name}: {complaint}");
            }
        }
    }
}
