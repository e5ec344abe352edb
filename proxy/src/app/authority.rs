//! `aquifer ca`, put together: the pods from manifests, the tokens from a file, the root from a folder.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::admin::{authority::Answers, server};
use crate::ca::{self, Counters, Keeper, Lives, Places, Server, Service, Tokens};
use crate::control::{self, files};
use crate::mesh::Store;
use crate::net;
use crate::policy::authorization::TrustDomains;
use crate::settings;

/// The certificate authority, until SIGTERM or SIGINT.
pub fn run(settings: settings::Authority) -> anyhow::Result<()> {
    super::keep_keys_out_of_dumps()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(authority(settings))
}

async fn authority(settings: settings::Authority) -> anyhow::Result<()> {
    // First, so that nothing is done for a process that is told to stop meanwhile.
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;

    let metrics = server::bind(settings.metrics).await.context("--metrics")?;
    let listener = ca::bind(settings.listen).await.context("--listen")?;
    let reviewer = Tokens::open(&settings.nodes).context("--nodes")?;
    let names = match &settings.names[..] {
        [] => vec![net::hostname()],
        names => names.to_vec(),
    };
    let lives = Lives {
        workload: settings.certificate_life,
        intermediate: settings.intermediate_life,
    };
    let domain = Arc::clone(&settings.trust_domain);
    let keeper = Keeper::open(settings.ca_dir.clone(), Arc::clone(&domain), names, lives);
    let keeper = Arc::new(keeper.context("--ca-dir")?);

    let store = Arc::new(Store::new());
    let source = files::Source::new(
        settings.config.clone(),
        files::Settings {
            // No node: nothing is local to an authority.
            node: String::new(),
            cluster_domain: "cluster.local".to_owned(),
            trust_domains: TrustDomains {
                own: Arc::clone(&domain),
                aliases: Vec::new(),
            },
        },
    );
    let counters = Arc::new(Counters::default());
    let (loaded, first) = oneshot::channel();
    let answers = Arc::new(Answers::new(Arc::clone(&counters), Arc::clone(&keeper)));
    tokio::spawn(server::serve(metrics, Arc::clone(&answers)));
    let mut control = tokio::spawn(control::follow(source, Arc::clone(&store), loaded));
    let mut keeping = tokio::spawn(Arc::clone(&keeper).run());
    let stop = watch::Sender::new(false);
    let server = Server {
        service: Arc::new(Service::new(
            Arc::clone(&keeper),
            Box::new(reviewer),
            Places::new(store),
            domain,
            Arc::clone(&counters),
        )),
        keeper,
        counters,
    };
    let (stopped, drain) = (stop.subscribe(), settings.drain);
    let ready = Arc::clone(&answers);
    // Whoever asks before the pods are known waits in the listener's queue: no is not the answer.
    let mut serving = tokio::spawn(async move {
        if first.await.is_err() {
            return;
        }
        ready.set_ready(true);
        tracing::info!("certificates are signed");
        server.run(listener, stopped, drain).await;
    });

    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        _ = &mut control => Some("configuration"),
        _ = &mut keeping => Some("root"),
        _ = &mut serving => Some("server"),
    };
    if let Some(part) = ended {
        // None ends by itself: this is a defect, and a restart is better than half a server.
        bail!("the {part} ended");
    }
    answers.set_ready(false);
    tracing::info!(?drain, "stopping");
    stop.send_replace(true);
    // Its own deadline bounds it.
    let _ = serving.await;
    Ok(())
}
