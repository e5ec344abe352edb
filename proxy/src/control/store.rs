//! The objects in force: every file's objects put together, one of each name.
//!
//! Holds three promises. An object that is not valid keeps its last good version in force for as
//! long as a file still names it; a file that can't be read keeps its objects; of two objects of
//! one name the first in the order of the files counts. Knows no file system: it is handed what was
//! read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::advice;
use super::compile::rules::Routes;
use crate::api::{
    Decoded, DestinationRule, EndpointSlice, Lines, Namespace, Node, Object, Pod, Service,
};
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

/// A namespace and a name.
pub type Key = (Arc<str>, Arc<str>);

/// The objects in force, by kind.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// By name.
    pub namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    /// By name.
    pub nodes: BTreeMap<Arc<str>, Arc<Node>>,
    /// By namespace and name, as all that follow.
    pub pods: BTreeMap<Key, Arc<Pod>>,
    /// Services.
    pub services: BTreeMap<Key, Arc<Service>>,
    /// EndpointSlices.
    pub slices: BTreeMap<Key, Arc<EndpointSlice>>,
    /// VirtualServices, with their rules compiled.
    pub virtual_services: BTreeMap<Key, Arc<Routes>>,
    /// DestinationRules.
    pub destination_rules: BTreeMap<Key, Arc<DestinationRule>>,
}

/// An object, checked as far as that can be done without the others.
#[derive(Clone, Debug)]
enum Checked {
    Plain(Object),
    Routes(Arc<Routes>),
}

/// What was read, and what of it is in force.
#[derive(Debug, Default)]
pub struct Store {
    cluster_domain: Arc<str>,
    files: Vec<Loaded>,
    good: HashMap<ObjectRef, Checked>,
    /// Where each object in force was written, for later messages.
    sources: HashMap<ObjectRef, (usize, usize)>,
    problems: Vec<Problem>,
}

#[derive(Debug)]
struct Loaded {
    path: Arc<Path>,
    entries: Vec<Entry>,
    error: Option<(String, u32)>,
}

#[derive(Debug)]
struct Entry {
    reference: Option<ObjectRef>,
    object: Option<Checked>,
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
        self.files = files
            .into_iter()
            .map(|file| {
                let before = before.remove(&file.path);
                self.load(file, before)
            })
            .collect();
        self.settle();
    }

    fn load(&self, file: File, before: Option<Loaded>) -> Loaded {
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
    fn check(&self, decoded: Decoded) -> Entry {
        let Decoded {
            reference,
            object,
            mut lines,
            mut findings,
        } = decoded;
        let good = reference.as_ref().and_then(|name| self.good.get(name));
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
        // Core objects come by the ten thousand, and later messages are hardly ever about one of
        // their fields: for them the object's own line is enough.
        if matches!(
            object,
            Some(Checked::Plain(
                Object::Service(_) | Object::EndpointSlice(_) | Object::Node(_)
            ))
        ) && findings.is_empty()
        {
            lines = Lines::leaf(lines.line);
        }
        Entry {
            reference,
            object,
            lines,
            findings,
        }
    }

    /// Decides what is in force.
    fn settle(&mut self) {
        let mut good = std::mem::take(&mut self.good);
        let mut seen: HashSet<&ObjectRef> = HashSet::new();
        self.sources.clear();
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
                let Some(reference) = &entry.reference else {
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
                let ours = entry.object.is_some() || !entry.findings.is_empty();
                if ours && !seen.insert(reference) {
                    let first = self.sources.get(reference).map(|(file, index)| {
                        let file = &self.files[*file];
                        position(file, file.entries[*index].lines.line).to_string()
                    });
                    let message = format!(
                        "given twice: the one in {} counts, this one has no effect",
                        first.unwrap_or_default()
                    );
                    let at = position(file, entry.lines.line);
                    self.problems
                        .push(Finding::error("", message).of(reference, Some(at)));
                    continue;
                }
                self.sources.insert(reference.clone(), (file_index, index));
                if let Some(object) = &entry.object {
                    good.insert(reference.clone(), object.clone());
                }
                let fallback = if good.contains_key(reference) {
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
        good.retain(|reference, _| seen.contains(reference));
        self.good = good;
    }

    /// The objects in force.
    pub fn objects(&self) -> Objects {
        let mut objects = Objects::default();
        for (reference, checked) in &self.good {
            let name = Arc::clone(&reference.name);
            let key = (Arc::clone(&reference.namespace), Arc::clone(&name));
            match checked {
                Checked::Routes(one) => {
                    objects.virtual_services.insert(key, Arc::clone(one));
                }
                Checked::Plain(object) => match object {
                    Object::Namespace(one) => {
                        drop(objects.namespaces.insert(name, Arc::clone(one)))
                    }
                    Object::Node(one) => drop(objects.nodes.insert(name, Arc::clone(one))),
                    Object::Pod(one) => drop(objects.pods.insert(key, Arc::clone(one))),
                    Object::Service(one) => drop(objects.services.insert(key, Arc::clone(one))),
                    Object::EndpointSlice(one) => drop(objects.slices.insert(key, Arc::clone(one))),
                    Object::DestinationRule(one) => {
                        drop(objects.destination_rules.insert(key, Arc::clone(one)));
                    }
                    // Kept as `Checked::Routes`.
                    Object::VirtualService(_) => {}
                },
            }
        }
        objects
    }

    /// What was wrong with what was read.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Where `field` of an object in force was written.
    pub fn locate(&self, object: &ObjectRef, field: &str) -> Option<Position> {
        let (file, index) = self.sources.get(object)?;
        let file = self.files.get(*file)?;
        Some(position(file, file.entries.get(*index)?.lines.find(field)))
    }

    /// How many objects of each kind under `folder` are in force.
    pub fn counts(&self, folder: &Path) -> BTreeMap<Arc<str>, usize> {
        let mut counts = BTreeMap::new();
        for reference in self.good.keys() {
            let file = self
                .sources
                .get(reference)
                .and_then(|(file, _)| self.files.get(*file));
            if file.is_some_and(|file| file.path.starts_with(folder)) {
                *counts.entry(Arc::clone(&reference.kind)).or_default() += 1;
            }
        }
        counts
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
