//! The reviewer that reads a file: which node has which token.
//!
//! ```yaml
//! nodes:
//! - node: node-1
//!   sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//!   expires: 2027-01-01T00:00:00Z   # optional
//!   namespaces: [shop]              # optional
//! ```
//!
//! The file has no token, but what SHA-256 makes of it: who reads it can't ask. A node may have several
//! rows, so that its token can be replaced without a gap.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use futures_util::future::BoxFuture;

use super::reviewer::{Caller, Reviewer, Unreviewed};
use crate::api::value::{Node, Value};
use crate::api::yaml;
use crate::clock;
use crate::tls::digest;

/// The largest file that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// Nodes by what SHA-256 makes of their tokens. The file is read again when it has changed; where that
/// fails, the last good content stays in force, and the log says so.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` while the file can't be looked at, which was told.
    seen: Option<Seen>,
    rows: HashMap<[u8; 32], Row>,
}

/// As of when the file was looked at: a file that was replaced has another of these.
type Seen = (u64, u64, i64, i64);

#[derive(Clone, Debug)]
struct Row {
    caller: Caller,
    expires: Option<SystemTime>,
}

/// Why the file can't be used. One line that names it.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}", path = path.display())]
pub struct Unusable {
    path: PathBuf,
    problem: String,
}

impl Tokens {
    /// Reads a file.
    ///
    /// # Errors
    /// Where it can't be read, or is not what it should be.
    pub fn open(path: &Path) -> Result<Self, Unusable> {
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(State::read(path)?),
        })
    }

    fn find(&self, token: &str, now: SystemTime) -> Result<Caller, Unreviewed> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match seen(&self.path) {
            Ok(seen) if Some(seen) != state.seen => match State::read(&self.path) {
                Ok(new) => {
                    tracing::info!(file = %self.path.display(), tokens = new.rows.len(), "read anew");
                    *state = new;
                }
                Err(error) => {
                    tracing::error!(%error, "the tokens read before stay in force");
                    // Not told again before it changes again.
                    state.seen = Some(seen);
                }
            },
            Err(error) if state.seen.is_some() => {
                let file = self.path.display();
                tracing::error!(%file, %error, "the tokens read before stay in force");
                state.seen = None;
            }
            Ok(_) | Err(_) => {}
        }
        let row = state.rows.get(&digest(token.as_bytes()));
        let row = row.ok_or(Unreviewed::Unknown)?;
        if row.expires.is_some_and(|end| end <= now) {
            let node = Arc::clone(&row.caller.node);
            return Err(Unreviewed::Expired { node });
        }
        Ok(row.caller.clone())
    }
}

impl Reviewer for Tokens {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Caller, Unreviewed>> {
        let found = self.find(token, clock::wall());
        Box::pin(std::future::ready(found))
    }
}

impl State {
    fn read(path: &Path) -> Result<Self, Unusable> {
        let wrong = |problem: String| Unusable {
            path: path.to_owned(),
            problem,
        };
        let io = |error: std::io::Error| wrong(error.to_string());
        // Looked at before it is read: what is written meanwhile is seen the next time.
        let seen = seen(path).map_err(io)?;
        if seen.1 > LARGEST {
            return Err(wrong(format!("more than {LARGEST} bytes")));
        }
        let text = fs::read_to_string(path).map_err(io)?;
        let documents = yaml::read(&text);
        let documents =
            documents.map_err(|error| wrong(format!("line {}: {error}", error.line())))?;
        let Some(
            [
                Node {
                    value: Value::List(nodes),
                    ..
                },
            ],
        ) = documents
            .first()
            .filter(|_| documents.len() == 1)
            .and_then(|document| fields(document, ["nodes"]))
            .map(|[nodes]| nodes.map(std::slice::from_ref).unwrap_or_default())
        else {
            return Err(wrong(
                "`nodes` with a list is wanted, and nothing else".into(),
            ));
        };
        let mut rows = HashMap::with_capacity(nodes.len());
        for node in nodes {
            let at = |problem: &str| wrong(format!("line {}: {problem}", node.line));
            let (digest, row) = row(node).map_err(at)?;
            if rows.insert(digest, row).is_some() {
                return Err(at("another row has the same token"));
            }
        }
        Ok(Self {
            seen: Some(seen),
            rows,
        })
    }
}

/// These fields of a mapping that has no others.
fn fields<'a, const N: usize>(node: &'a Node, names: [&str; N]) -> Option<[Option<&'a Node>; N]> {
    let Value::Fields(all) = &node.value else {
        return None;
    };
    let known = all.iter().all(|(name, _)| names.contains(&&**name));
    known.then(|| names.map(|name| node.get(name)))
}

fn row(node: &Node) -> Result<([u8; 32], Row), &'static str> {
    let names = ["node", "sha256", "expires", "namespaces"];
    let [node, sha256, expires, namespaces] =
        fields(node, names).ok_or("only `node`, `sha256`, `expires`, `namespaces` are known")?;
    let name = node.and_then(Node::as_str).filter(|name| !name.is_empty());
    let sha256 = sha256.and_then(Node::as_str).and_then(unhex);
    let expires = expires.map(|node| {
        let time = node.as_str().and_then(time);
        time.ok_or("`expires` is no time such as 2027-01-01T00:00:00Z")
    });
    let namespaces = namespaces.map(|node| {
        let Value::List(all) = &node.value else {
            return None;
        };
        all.iter()
            .map(|one| one.as_str().map(str::to_owned))
            .collect::<Option<Arc<[String]>>>()
    });
    let caller = Caller {
        node: name.ok_or("`node` is no name")?.into(),
        namespaces: match namespaces {
            None => None,
            Some(all) => Some(all.ok_or("`namespaces` is no list of names")?),
        },
    };
    let digest = sha256.ok_or("`sha256` is not 64 hexadecimal digits (in quotes)")?;
    let expires = expires.transpose()?;
    Ok((digest, Row { caller, expires }))
}

fn seen(path: &Path) -> std::io::Result<Seen> {
    let one = fs::metadata(path)?;
    Ok((one.ino(), one.size(), one.mtime(), one.mtime_nsec()))
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(out)
}

fn time(text: &str) -> Option<SystemTime> {
    use time::{OffsetDateTime, format_description::well_known::Rfc3339};
    OffsetDateTime::parse(text, &Rfc3339).ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// SHA-256 of `test`.
    const TEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn write(path: &Path, text: &str) {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    #[test]
    fn a_token_is_whose_the_file_says_until_it_expires() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes.yaml");
        let row = format!("nodes:\n- {{node: a, sha256: {TEST}, expires: 2030-01-01T00:00:00Z}}\n");
        write(&path, &row);
        let tokens = Tokens::open(&path).unwrap();
        let end = UNIX_EPOCH + Duration::from_secs(1_893_456_000);
        let second = Duration::from_secs(1);
        let expired = Err(Unreviewed::Expired { node: "a".into() });
        let a = Ok(Caller {
            node: "a".into(),
            namespaces: None,
        });
        for (token, now, expected) in [
            ("test", end - second, &a),
            ("test", end, &expired),
            // A clock that is an hour ahead, or behind.
            ("test", end + 3600 * second, &expired),
            ("test", end - 3600 * second, &a),
            ("Test", end - second, &Err(Unreviewed::Unknown)),
            ("test ", end - second, &Err(Unreviewed::Unknown)),
            ("", end - second, &Err(Unreviewed::Unknown)),
            (TEST, end - second, &Err(Unreviewed::Unknown)),
        ] {
            assert_eq!(tokens.find(token, now), *expected, "{token}");
        }
        let upper = TEST.to_uppercase();
        write(
            &path,
            &format!("nodes: [{{node: b, sha256: {upper}, namespaces: [x]}}]"),
        );
        let found = tokens.find("test", end).unwrap();
        assert_eq!(
            (&*found.node, found.namespaces),
            ("b", Some(["x".to_owned()].into()))
        );
        // What can't be used changes nothing.
        write(&path, "nodes: [");
        assert_eq!(&*tokens.find("test", end).unwrap().node, "b");
        fs::remove_file(&path).unwrap();
        assert_eq!(&*tokens.find("test", end).unwrap().node, "b");
        write(&path, "nodes: []");
        assert_eq!(tokens.find("test", end), Err(Unreviewed::Unknown));
    }

    #[test]
    fn a_file_is_refused_by_name_and_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes.yaml");
        let twice = format!("nodes: [{{node: a, sha256: {TEST}}}, {{node: b, sha256: {TEST}}}]");
        let late = format!("nodes: [{{node: a, sha256: {TEST}, expires: soon}}]");
        let narrow = format!("nodes: [{{node: a, sha256: {TEST}, namespaces: shop}}]");
        for (text, expected) in [
            ("", "nodes.yaml: "),
            ("nodes: [", ": not valid YAML"),
            ("nodes: 1", "`nodes` with a list is wanted"),
            ("nodes:", "`nodes` with a list is wanted"),
            ("[]", "`nodes` with a list is wanted"),
            ("{nodes: [], more: 1}", "`nodes` with a list is wanted"),
            ("nodes: []\n---\nnodes: []", "`nodes` with a list is wanted"),
            ("nodes: [1]", "only `node`, `sha256`"),
            ("nodes: [{node: a}]", "`sha256` is not 64"),
            ("nodes: [{node: a, token: secret}]", "only `node`, `sha256`"),
            (
                "nodes:\n- {node: a, sha256: abc}",
                "line 2: `sha256` is not 64",
            ),
            ("nodes: [{node: 1}]", "`node` is no name"),
            (&twice, "another row has the same token"),
            (&late, "`expires` is no time"),
            (&narrow, "`namespaces` is no list of names"),
        ] {
            fs::write(&path, text).unwrap();
            let error = Tokens::open(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
