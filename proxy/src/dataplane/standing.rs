//! Whether an open connection by TLS still rests on somebody who is trusted.
//!
//! Asked whenever those who are trusted change, and at no other time: nothing on the way of bytes
//! asks. That a certificate has ended since it was verified is no reason to close.

use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use rustls::{CommonState, ConnectionCommon};
use tokio::sync::{oneshot, watch};

use super::pod::LocalPod;
use super::task;
use super::worker::Worker;
use crate::clock;
use crate::mesh::origination::{Credentials, Origination};
use crate::tls::{Peer, Secrets, Trust};
use crate::types::ClusterName;

/// What the peer of an open connection has shown, and who may vouch for it.
pub(super) struct Standing {
    chain: Vec<CertificateDer<'static>>,
    since: SystemTime,
    voucher: Voucher,
    /// The trust by which it was last found to be trusted: what changes beside it is no reason to look
    /// again.
    trusted: Option<Trust>,
    changes: watch::Receiver<u64>,
}

/// Who may vouch for a peer.
enum Voucher {
    /// The mesh's roots.
    Mesh(Secrets, Peer),
    /// The files that a DestinationRule names.
    Files(Rule),
}

/// The rule by which a connection to a server outside the mesh was made.
pub(super) struct Rule {
    pub(super) worker: Rc<Worker>,
    pub(super) pod: Rc<LocalPod>,
    pub(super) cluster: ClusterName,
    /// As it was then.
    pub(super) settings: Arc<Origination>,
}

impl Standing {
    /// For a connection of the mesh, whose handshake has just ended. `changes` tells of what has
    /// changed since before its configuration was chosen.
    pub(super) fn in_mesh<D>(
        (secrets, changes): (&Secrets, watch::Receiver<u64>),
        peer: Peer,
        session: &ConnectionCommon<D>,
    ) -> Self {
        Self::new(Voucher::Mesh(secrets.clone(), peer), changes, session)
    }

    /// The same for a connection to a server outside.
    pub(super) fn outside<D>(
        (rule, changes): (Rule, watch::Receiver<u64>),
        session: &ConnectionCommon<D>,
    ) -> Self {
        Self::new(Voucher::Files(rule), changes, session)
    }

    fn new(voucher: Voucher, changes: watch::Receiver<u64>, session: &CommonState) -> Self {
        Self {
            chain: session.peer_certificates().unwrap_or_default().to_vec(),
            since: clock::wall(),
            voucher,
            trusted: None,
            changes,
        }
    }

    /// The peer's own certificate.
    pub(super) fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// Resolves, with the reason, when nobody who is trusted vouches for the peer any more. Nothing is
    /// lost where it is asked again instead.
    pub(super) async fn withdrawn(&mut self) -> String {
        while self.changes.changed().await.is_ok() {
            if let Err(reason) = self.check() {
                return reason;
            }
        }
        // Nobody changes it any more.
        pending().await
    }

    /// Resolves, with the reason, when nobody who is trusted vouches for the peer any more: a task of
    /// its own waits for changes, so that the connection's events don't touch what workers share.
    pub(super) fn watch(
        mut self,
        worker: &Rc<Worker>,
        pod: &Rc<LocalPod>,
    ) -> impl Future<Output = String> + use<> {
        let (mut tell, told) = oneshot::channel();
        task::spawn(worker, pod, async move {
            let reason = tokio::select! {
                biased;
                () = tell.closed() => return,
                reason = self.withdrawn() => reason,
            };
            // Whoever does not listen has closed it already.
            let _ = tell.send(reason);
        });
        async move {
            match told.await {
                Ok(reason) => reason,
                // The pod has gone, and the connection goes with it.
                Err(_) => pending().await,
            }
        }
    }

    fn check(&mut self) -> Result<(), String> {
        match &self.voucher {
            Voucher::Mesh(secrets, peer) => {
                let now = secrets.trust();
                if !self.trusted.as_ref().is_some_and(|then| then.is_same(&now)) {
                    now.still_trusts(&self.chain, *peer, self.since)
                        .map_err(|refusal| refusal.to_string())?;
                    self.trusted = Some(now);
                }
                Ok(())
            }
            Voucher::Files(rule) => {
                // Where there is no such rule any more, or its files were never read, nobody was taken
                // away.
                let now = rule.now();
                let Some(Ok(loaded)) = rule.worker.outside.known(&now) else {
                    return Ok(());
                };
                loaded
                    .still_vouches(&self.chain, self.since)
                    .map_err(|error| crate::tls::reason(&error))
            }
        }
    }
}

impl Rule {
    /// The rule of the moment, where it names files: it may name others.
    fn now(&self) -> Arc<Origination> {
        let snapshot = self.worker.snapshot();
        let pod = self.pod.pod();
        let cluster = snapshot.cluster_for(&self.cluster, pod.workload.source());
        let now = cluster.and_then(|cluster| cluster.policy.tls.as_ref());
        let now = now.filter(|now| matches!(now.credentials, Credentials::Files(_)));
        Arc::clone(now.unwrap_or(&self.settings))
    }
}
