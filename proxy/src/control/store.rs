//! The objects in force: every file's objects put together, one of each name.
//!
//! Holds three promises. An object that is not valid keeps its last good version in force for as
//! long as a file still names it; a file that can't be read keeps its objects; of two objects of
//! one name the first in the order of the files counts. Knows no file system: it is handed what was
//! read.

mod objects;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use foldhash::HashMap;
use slab::Slab;

use self::objects::Checked;
pub use self::objects::{Change, Key, Objects, of_namespace};
use super::advice;
use super::compile::rules::Routes;
use crate::api::{Decoded, Lines, Object};
use crate::types::{Finding, ObjectRef, Position, Problem, Severity};

/// One file, as it was found.
#[derive(Debug)]
pub struct File {
    /// Where it is.
    pub path: Arc<Path>,
    /// What is in it.
    pub content: Content,
}

/// What is in a [`File`].
#[derive(Debug)]
pub enum Content {
    /// The same as the last time.
    Unchanged,
    /// Its objects.
    Objects(Vec<Decoded>),
    /// It can't be read; and where, as far as that is known.
    Unreadable {
        /// What is wrong.
        message: String,
        /// From 1; 0 where it is not known.
        line: u32,
    },
}

/// What was read, and what of it is in force.
#[derive(Debug, Default)]
pub struct Store {
    cluster_domain: Arc<str>,
    files: Vec<Loaded>,
    /// Every object that a file names, and where each name is there.
    known: Slab<Known>,
    names: HashMap<ObjectRef, usize>,
    objects: Objects,
    problems: Vec<Problem>,
    /// Counts the updates.
    round: u64,
}

/// An object that a file names.
#[derive(Debug)]
struct Known {
    reference: ObjectRef,
    /// In which update it was met last.
    round: u64,
    /// Its file and its place there.
    at: (usize, usize),
    /// Its last good version, or what stands in for it while there was none.
    good: Option<Checked>,
    /// Whether that stands in.
    stands_in: bool,
}

#[derive(Debug)]
struct Loaded {
    path: Arc<Path>,
    entries: Vec<Entry>,
    error: Option<(String, u32)>,
}

#[derive(Debug)]
struct Entry {
    /// Which of [`Store::known`] it is. `None` where it has no name, or is none of ours.
    known: Option<usize>,
    object: Option<Checked>,
    /// What takes its place while there is no valid version and never was.
    stand_in: Option<Checked>,
    lines: Lines,
    findings: Vec<Finding>,
}

impl Store {
    /// Holds nothing.
    pub fn new(cluster_domain: &str) -> Self {
        Self {
            cluster_domain: cluster_domain.into(),
            ..Self::default()
        }
    }

    /// Takes what was read: all files, in the order in which they count.
    pub fn update(&mut self, files: Vec<File>) {
        let mut before: HashMap<Arc<Path>, Loaded> = std::mem::take(&mut self.files)
            .into_iter()
            .map(|file| (Arc::clone(&file.path), file))
            .collect();
        for file in files {
            let before = before.remove(&file.path);
            let loaded = self.load(file, before);
            self.files.push(loaded);
        }
        self.settle();
    }

    fn load(&mut self, file: File, before: Option<Loaded>) -> Loaded {
        let mut loaded = before.unwrap_or_else(|| Loaded {
            path: Arc::clone(&file.path),
            entries: Vec::new(),
            error: None,
        });
        match file.content {
            Content::Unchanged => {}
            Content::Unreadable { message, line } => loaded.error = Some((message, line)),
            Content::Objects(objects) => {
                loaded.error = None;
                loaded.entries = objects.into_iter().map(|one| self.check(one)).collect();
            }
        }
        loaded
    }

    /// Compiles what can be compiled by itself, and keeps the allocation of what did not change.
    fn check(&mut self, decoded: Decoded) -> Entry {
        let Decoded {
            reference,
            object,
            stand_in,
            lines,
            mut findings,
        } = decoded;
        let known = reference.as_ref().and_then(|name| self.names.get(name));
        let good = known.and_then(|known| self.known[*known].good.as_ref());
        let object = match (object, good) {
            (Some(Object::VirtualService(new)), Some(Checked::Routes(old)))
                if *new == *old.source =>
            {
                Some(Checked::Routes(Arc::clone(old)))
            }
            (Some(Object::VirtualService(new)), _) => {
                match Routes::compile(new, &self.cluster_domain) {
                    Ok(routes) => Some(Checked::Routes(Arc::new(routes))),
                    Err(errors) => {
                        findings.extend(errors);
                        None
                    }
                }
            }
            (Some(new), Some(Checked::Plain(old))) if new == *old => {
                Some(Checked::Plain(old.clone()))
            }
            (Some(new), _) => Some(Checked::Plain(new)),
            (None, _) => None,
        };
        findings.extend(match &object {
            Some(Checked::Routes(one)) => advice::virtual_service(&one.source),
            Some(Checked::Plain(Object::DestinationRule(one))) => advice::destination_rule(one),
            _ => Vec::new(),
        });
        // The same one as before, where it says the same.
        let stand_in = stand_in.map(|new| match good {
            Some(Checked::Plain(old)) if new == *old => Checked::Plain(old.clone()),
            _ => Checked::Plain(new),
        });
        // Nothing to say of an object means: of a kind that is none of ours.
        let ours = object.is_some() || !findings.is_empty();
        Entry {
            known: reference.filter(|_| ours).map(|one| self.know(one)),
            object,
            stand_in,
            lines,
            findings,
        }
    }

    fn know(&mut self, reference: ObjectRef) -> usize {
        if let Some(known) = self.names.get(&reference) {
            return *known;
        }
        let known = self.known.insert(Known {
            reference: reference.clone(),
            round: 0,
            at: (0, 0),
            good: None,
            stands_in: false,
        });
        self.names.insert(reference, known);
        known
    }

    /// Decides what is in force.
    fn settle(&mut self) {
        self.round += 1;
        self.problems.clear();
        for (file_index, file) in self.files.iter().enumerate() {
            let before = self.problems.len();
            if let Some((message, line)) = &file.error {
                self.problems.push(Problem {
                    severity: Severity::Error,
                    object: None,
                    position: Some(position(file, *line)),
                    field: String::new(),
                    message: match file.entries.len() {
                        0 => message.clone(),
                        count => format!("{message} (what it had stays in force: {count} objects)"),
                    },
                });
            }
            for (index, entry) in file.entries.iter().enumerate() {
                let Some(known) = entry.known else {
                    self.problems
                        .extend(entry.findings.iter().map(|finding| Problem {
                            severity: finding.severity,
                            object: None,
                            position: Some(position(file, entry.lines.find(&finding.field))),
                            field: finding.field.clone(),
                            message: finding.message.clone(),
                        }));
                    continue;
                };
                let Some(known) = self.known.get_mut(known) else {
                    continue;
                };
                let reference = &known.reference;
                if known.round == self.round {
                    let first = &self.files[known.at.0];
                    let first = position(first, first.entries[known.at.1].lines.line());
                    let message =
                        format!("given twice: the one in {first} counts, this one has no effect");
                    let at = position(file, entry.lines.line());
                    self.problems
                        .push(Finding::error("", message).of(reference, Some(at)));
                    continue;
                }
                known.round = self.round;
                known.at = (file_index, index);
                let object = match (&entry.object, &entry.stand_in) {
                    (Some(object), _) => {
                        known.stands_in = false;
                        Some(object)
                    }
                    (None, Some(stand_in)) if known.good.is_none() || known.stands_in => {
                        known.stands_in = true;
                        Some(stand_in)
                    }
                    (None, _) => None,
                };
                if let Some(object) = object
                    && !known.good.as_ref().is_some_and(|good| good.is(object))
                {
                    known.good = Some(object.clone());
                    self.objects.put(reference, object);
                }
                let fallback = if known.stands_in {
                    stands_in(&reference.kind)
                } else if known.good.is_some() {
                    "its last good version stays in force"
                } else {
                    "it is not in force"
                };
                for finding in &entry.findings {
                    let mut finding = finding.clone();
                    if finding.severity == Severity::Error {
                        finding.message = format!("{} ({fallback})", finding.message);
                    }
                    let at = position(file, entry.lines.find(&finding.field));
                    self.problems.push(finding.of(reference, Some(at)));
                }
            }
            limit(file, before, &mut self.problems);
        }
        let all = self.known.iter();
        let gone = all.filter(|(_, known)| known.round != self.round);
        let gone: Vec<usize> = gone.map(|(at, _)| at).collect();
        for at in gone {
            let known = self.known.remove(at);
            self.names.remove(&known.reference);
            if let Some(good) = &known.good {
                self.objects.remove(&known.reference, good);
            }
        }
    }

    /// The objects in force.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// What was wrong with what was read.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Where `field` of an object in force was written.
    pub fn locate(&self, object: &ObjectRef, field: &str) -> Option<Position> {
        let (file, index) = self.known.get(*self.names.get(object)?)?.at;
        let file = self.files.get(file)?;
        Some(position(file, file.entries.get(index)?.lines.find(field)))
    }

    /// How many objects of each kind under `folder` are in force.
    pub fn counts(&self, folder: &Path) -> BTreeMap<Arc<str>, usize> {
        let files = self.files.iter();
        let under: Vec<bool> = files.map(|file| file.path.starts_with(folder)).collect();
        let mut counts: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for (_, known) in &self.known {
            let reference = &known.reference;
            if known.good.is_none() || under.get(known.at.0) != Some(&true) {
                continue;
            }
            match counts.get_mut(&reference.kind) {
                Some(count) => *count += 1,
                None => drop(counts.insert(Arc::clone(&reference.kind), 1)),
            }
        }
        counts
    }
}

/// What is in the place of an object of this kind that never was valid.
fn stands_in(kind: &str) -> &'static str {
    match kind {
        "PeerAuthentication" => "until it is valid plain text is refused: what it is for is STRICT",
        "RequestAuthentication" => "until it is valid every token is refused where it is for",
        _ => "until it is valid it allows nothing: what it is for is denied",
    }
}

/// The most that is said about one file.
const MAX_PROBLEMS: usize = 1000;

/// Keeps the first of the problems from `before` on, which are all of `file`.
fn limit(file: &Loaded, before: usize, problems: &mut Vec<Problem>) {
    let count = problems.len() - before;
    if count > MAX_PROBLEMS {
        problems.truncate(before + MAX_PROBLEMS);
        problems.push(Problem {
            severity: Severity::Error,
            object: None,
            position: Some(position(file, 0)),
            field: String::new(),
            message: format!("and {} more problems in this file", count - MAX_PROBLEMS),
        });
    }
}

fn position(file: &Loaded, line: u32) -> Position {
    Position {
        file: Arc::clone(&file.path),
        line,
    }
}
