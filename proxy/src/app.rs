//! The one place where all parts meet: builds the node proxy, runs it, and takes it down.
//!
//! Control plane and admin run on the calling thread's runtime, each data-plane worker on a thread
//! and runtime of its own, so that neither can starve the other.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::admin::node::{self, Node};
use crate::admin::server;
use crate::control::certificates;
use crate::control::{self, enrol, files, issuers};
use crate::dataplane::{self, Parts, Registry};
use crate::kernel::preflight::Outcome;
use crate::kernel::{self, Kernel, Redirects};
use crate::memory;
use crate::mesh::{KeyRing, Store};
use crate::net::Namespace;
use crate::net::descriptors::Descriptors;
use crate::net::pod::Change;
use crate::policy::authorization::TrustDomains;
use crate::settings;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::counters::Counters;
use crate::tls::outside::Limits;
use crate::tls::{Outside, Secrets};

pub mod authority;
mod signing;
use signing::Signing;

/// How long a thread that read a configuration, or the kernel's types, waits for more to do. The
/// pieces that the allocator has at hand for it, up to a few MiB, go back when it ends.
const READER_IDLE: Duration = Duration::from_millis(200);

/// The node proxy, until SIGTERM or SIGINT.
pub fn run(settings: settings::Run) -> anyhow::Result<()> {
    keep_keys_out_of_dumps()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(READER_IDLE)
        .build()
        .context("start the control runtime")?;
    runtime.block_on(node(settings))
}

/// Has the kernel write no image of this process, whatever ends it: keys lie in its memory. A limit on
/// the size of such images would not hold where the kernel pipes them to a program (core(5)). Who may
/// trace it needs `CAP_SYS_PTRACE` from here on, and its files in `/proc` are root's.
fn keep_keys_out_of_dumps() -> anyhow::Result<()> {
    nix::sys::prctl::set_dumpable(false).context("keep keys out of core dumps")
}

async fn node(settings: settings::Run) -> anyhow::Result<()> {
    // First, so that nothing is done for a process that is told to stop meanwhile.
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;

    let bpffs = &settings.bpffs.bpffs;
    for finding in kernel::preflight::check(bpffs, settings.cgroup.as_deref()) {
        match finding.outcome {
            Outcome::Ok => tracing::debug!(check = finding.check, "{}", finding.message),
            Outcome::Note => tracing::warn!(check = finding.check, "{}", finding.message),
            Outcome::Missing => bail!("{}: {}", finding.check, finding.message),
        }
    }
    let cgroup = match &settings.cgroup {
        Some(cgroup) => cgroup.clone(),
        None => kernel::bpffs::cgroup2()?.context("no cgroup2 tree is mounted")?,
    };
    let descriptors = Descriptors::of_process().context("read the limit of descriptors")?;
    // Taken before anything is attached: an address in use must not cost captured pods.
    let readiness = server::bind(settings.readiness)
        .await
        .context("--readiness")?;
    let metrics = server::bind(settings.metrics).await.context("--metrics")?;
    let admin = server::bind(settings.admin.admin)
        .await
        .context("--admin")?;

    let Signing { secrets, driver } = Signing::new(&settings.certificates)?;

    let host = Namespace::current().context("open the host's network namespace")?;
    let options = kernel::Options {
        bpffs: settings.bpffs.bpffs.clone(),
        cgroup,
        host: host.cookie(),
        log: settings.kernel_log,
    };
    // Elsewhere for the reason of READER_IDLE: loading reads the kernel's types, which are large.
    let loading = tokio::task::spawn_blocking(move || Kernel::load(&options));
    let mut kernel = loading.await.context("load the kernel side")??;
    if let Some(records) = kernel.take_records() {
        tokio::spawn(records.follow());
    }
    let probes = kernel::probe::Probes::open(kernel.pins())?;
    enrol::probe::follow(&settings.probe_process, probes).context("--probe-process")?;

    let store = Arc::new(Store::new());
    let redirects = (0..settings.workers.get())
        .map(|_| Redirects::open(kernel.pins()))
        .collect::<Result<Vec<_>, _>>()?;
    let keys = KeyRing::default();
    let outside = Outside::default();
    let crew = Crew::start(
        &settings,
        redirects,
        &store,
        &descriptors,
        (&secrets, &outside, &keys),
    )?;
    let limits = Limits {
        folders: settings.tls_files.clone(),
        system: settings.tls_roots.clone(),
    };
    let issuers = issuers::Driver::new(
        issuers::Fetcher::new(limits.clone()),
        keys,
        settings.tokens.jwks_refresh,
    );
    let originations = control::outside::Driver::new(outside, limits);

    let source = files::Source::new(
        settings.config.clone(),
        files::Settings {
            node: settings.node.clone(),
            cluster_domain: settings.cluster_domain.clone(),
            trust_domains: TrustDomains {
                own: Arc::clone(&settings.certificates.trust_domain),
                aliases: settings.certificates.aliases.clone(),
            },
        },
    );
    let enrol = enrol::Driver::new(kernel, host, crew.changes.clone());
    let node = Arc::new(Node::new(node::Parts {
        name: settings.node.clone(),
        store: Arc::clone(&store),
        sources: source.status(),
        enrolment: enrol.status(),
        counters: crew.counters.clone(),
        clusters: Arc::clone(&crew.clusters),
        descriptors,
        certificates: node::Certificates {
            secrets,
            status: driver.as_ref().map(certificates::Driver::status),
            outside: originations.status(),
        },
        issuers: issuers.status(),
    }));
    tokio::spawn(server::serve(readiness, node.readiness()));
    tokio::spawn(server::serve(metrics, node.metrics()));
    tokio::spawn(server::serve(admin, node.admin()));

    tokio::spawn(memory::follow(store.subscribe()));

    let (loaded, first) = oneshot::channel();
    let mut control = tokio::spawn(control::follow(source, Arc::clone(&store), loaded));
    let mut enrolment = tokio::spawn(enrol.run(store.subscribe()));
    let snapshots = store.subscribe();
    let mut signing = tokio::spawn(async move {
        match driver {
            Some(driver) => driver.run(snapshots).await,
            None => std::future::pending().await,
        }
    });
    let snapshots = store.subscribe();
    let mut issuers = tokio::spawn(issuers.run(store.subscribe()));
    let mut reading = tokio::spawn(originations.run(snapshots));
    tokio::spawn(async move {
        if first.await.is_ok() {
            tracing::info!("the configuration is in force");
        }
    });

    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = &mut control => Err(("configuration", ended)),
        ended = &mut enrolment => Err(("enrolment", ended)),
        ended = &mut signing => Err(("certificates", ended)),
        ended = &mut reading => Err(("files of TLS", ended)),
        ended = &mut issuers => Err(("keys of issuers", ended)),
    };
    node.stopping();
    tracing::info!(drain = ?settings.drain, "stopping: enrolled pods keep their failure mode");
    crew.stop().await;
    match ended {
        Ok(()) => Ok(()),
        // Neither ends by itself: this is a defect, and a restart is better than half a proxy.
        Err((part, Ok(()))) => bail!("the {part} ended"),
        Err((part, Err(error))) => bail!("the {part} failed: {error}"),
    }
}

/// The data-plane workers.
struct Crew {
    changes: Vec<mpsc::UnboundedSender<Change>>,
    counters: Vec<Arc<Counters>>,
    clusters: Arc<Registry>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    stop: watch::Sender<bool>,
}

impl Crew {
    fn start(
        settings: &settings::Run,
        redirects: Vec<Redirects>,
        store: &Arc<Store>,
        descriptors: &Descriptors,
        (secrets, outside, keys): (&Secrets, &Outside, &KeyRing),
    ) -> anyhow::Result<Self> {
        let logs = AccessLog::start(settings.access_log, redirects.len(), io::stdout())
            .context("start the access log")?;
        let mut crew = Self {
            changes: Vec::new(),
            counters: Vec::new(),
            clusters: Arc::default(),
            threads: Vec::new(),
            stop: watch::Sender::new(false),
        };
        for (index, (redirects, log)) in redirects.into_iter().zip(logs).enumerate() {
            let (changes, received) = mpsc::unbounded_channel();
            let counters = Arc::new(Counters::default());
            let parts = Parts {
                store: Arc::clone(store),
                redirects,
                descriptors: descriptors.clone(),
                secrets: secrets.clone(),
                outside: outside.clone(),
                keys: keys.clone(),
                mutual_tls: settings.certificates.ca.is_some(),
                cluster_id: settings.certificates.cluster_name(),
                same_node: settings.same_node,
                clusters: Arc::clone(&crew.clusters),
                counters: Arc::clone(&counters),
                log,
            };
            let (stop, drain) = (crew.stop.subscribe(), settings.drain);
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || dataplane::run(parts, received, stop, drain))
                .context("start a worker")?;
            crew.changes.push(changes);
            crew.counters.push(counters);
            crew.threads.push(thread);
        }
        Ok(crew)
    }

    /// Lets the workers finish what they have, within their deadline.
    async fn stop(self) {
        self.stop.send_replace(true);
        let joined = tokio::task::spawn_blocking(move || {
            for thread in self.threads {
                match thread.join() {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!(%error, "a worker failed"),
                    Err(_) => tracing::error!("a worker panicked"),
                }
            }
        });
        let _ = joined.await;
    }
}
