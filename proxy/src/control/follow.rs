//! The loop that keeps the snapshot in force up to date with its source.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::compile::Compiler;
use super::files::{Source, Watch};
use super::store::{Content, Store};
use crate::clock;
use crate::mesh;
use crate::types::{Position, Problem, Severity};

/// How often a source that can't be watched is read.
const UNWATCHED: Duration = Duration::from_secs(5);

/// Reads `source` and puts snapshots into `store`, for ever. `ready` is told once the first one is
/// in force. Parsing and compiling run beside the calling runtime, not on it.
pub async fn follow(source: Source, store: Arc<mesh::Store>, ready: oneshot::Sender<()>) {
    let mut ready = Some(ready);
    let mut watch = Watch::new().map_err(|error| {
        warn!("configuration can't be watched and is read every {UNWATCHED:?} instead: {error}");
    });
    let mut pipeline = Pipeline::new(source, store);
    loop {
        let mut unread = true;
        while unread {
            if let Ok(watch) = &mut watch {
                let (_, result) =
                    watch.set(&pipeline.source.paths(), &pipeline.source.link_targets());
                if let Err(error) = result {
                    warn!(
                        "a folder of the configuration can't be watched, its changes may go unseen: {error}"
                    );
                }
            }
            pipeline = pipeline.step().await;
            // What was read may lead to further folders. They are watched from now on, and what
            // changed there before that is read now.
            unread = match &mut watch {
                Ok(watch) => {
                    watch
                        .set(&pipeline.source.paths(), &pipeline.source.link_targets())
                        .0
                }
                Err(()) => false,
            };
        }
        if let Some(ready) = ready.take() {
            // Nobody has to wait for it.
            let _ = ready.send(());
        }
        match &watch {
            Ok(watch) => watch.changed().await,
            Err(()) => tokio::time::sleep(UNWATCHED).await,
        }
    }
}

/// From files to a snapshot.
struct Pipeline {
    source: Source,
    objects: Store,
    compiler: Compiler,
    store: Arc<mesh::Store>,
    /// What was wrong the last time, places aside.
    told: HashSet<Problem>,
    loaded: bool,
    /// What the last compilation found.
    found: Vec<Problem>,
}

impl Pipeline {
    fn new(source: Source, store: Arc<mesh::Store>) -> Self {
        let settings = &source.settings;
        Self {
            objects: Store::new(&settings.cluster_domain),
            compiler: Compiler::new(&settings.node, &settings.cluster_domain)
                .with_trust_domains(settings.trust_domains.clone()),
            store,
            told: HashSet::new(),
            loaded: false,
            found: Vec::new(),
            source,
        }
    }

    async fn step(mut self) -> Self {
        let task = tokio::task::spawn_blocking(move || {
            self.load();
            self
        });
        match task.await {
            Ok(pipeline) => pipeline,
            // Nothing that is read may lead here; if it does, it is a bug, and not to be hidden.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Reads everything, and puts in force what changed.
    fn load(&mut self) {
        let started = clock::now();
        let (files, moved) = self.source.read();
        // A file that became unreadable keeps its objects: nothing to compile.
        let same = |content: &Content| match content {
            Content::Unchanged | Content::Unreadable { .. } => true,
            Content::Objects(_) => false,
        };
        let same = !moved && files.iter().all(|one| same(&one.content));
        self.objects.update(files);
        self.source.tell(|folder| self.objects.counts(folder));
        let first = !std::mem::replace(&mut self.loaded, true);
        if same && !first {
            let problems = self.problems();
            self.tell(&problems);
            self.store.report(problems);
            return;
        }
        let compiled = self.compiler.compile(self.objects.objects(), clock::wall());
        let found = compiled.findings.iter().map(|(object, finding)| {
            let position = self.objects.locate(object, &finding.field);
            finding.clone().of(object, position)
        });
        self.found = found.collect();
        let problems = self.problems();
        self.tell(&problems);
        let snapshot = compiled.snapshot;
        info!(
            version = snapshot.version,
            services = snapshot.services.len(),
            pods = snapshot.workloads.len(),
            took = ?started.elapsed(),
            "configuration in force"
        );
        self.store.publish(snapshot, problems);
    }

    /// All that is wrong, errors first, then in the order of the files.
    fn problems(&self) -> Vec<Problem> {
        let read = self.objects.problems().iter().chain(&self.found).cloned();
        let mut problems: Vec<Problem> = self.source.problems().chain(read).collect();
        problems.sort_by(|one, other| {
            let order = |one: &Problem| (one.severity, one.position.clone());
            order(one).cmp(&order(other))
        });
        problems.dedup();
        problems
    }

    /// Logs what is new, once, and what is over.
    fn tell(&mut self, problems: &[Problem]) {
        // A line more above it doesn't make a problem a new one.
        let key = |problem: &Problem| Problem {
            position: problem.position.as_ref().map(|at| Position {
                line: 0,
                ..at.clone()
            }),
            ..problem.clone()
        };
        let now: HashSet<Problem> = problems.iter().map(key).collect();
        for problem in problems.iter().filter(|one| !self.told.contains(&key(one))) {
            match problem.severity {
                Severity::Error => error!("{problem}"),
                Severity::Warning => warn!("{problem}"),
                Severity::Info => info!("{problem}"),
            }
        }
        for over in self.told.difference(&now) {
            info!("resolved: {over}");
        }
        self.told = now;
    }
}

#[cfg(test)]
mod tests;
