//! The newest certificate of each local identity, and who is trusted: written by the control plane,
//! read by every worker without waiting.

use std::sync::Arc;

use arc_swap::ArcSwap;
use foldhash::{HashMap, HashMapExt as _};
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use super::{Credential, Error, Trust, config};
use crate::types::Identity;

/// How many client configurations an identity keeps. Beyond that they are made anew: one for each
/// identity that it calls, so that a real one stays far below.
const KEPT: usize = 4096;

/// Shared by everyone who opens or accepts connections of the mesh. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Secrets(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: ArcSwap<State>,
    changes: watch::Sender<u64>,
}

#[derive(Clone, Debug)]
struct State {
    /// Counts up with each change.
    version: u64,
    trust: Trust,
    local: HashMap<Identity, Arc<Local>>,
}

/// What one identity has, under one trust.
#[derive(Debug)]
struct Local {
    credential: Arc<Credential>,
    trust: Trust,
    server: Arc<ServerConfig>,
    clients: ArcSwap<HashMap<Box<[Identity]>, Arc<ClientConfig>>>,
}

impl Local {
    fn new(credential: Arc<Credential>, trust: &Trust) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {
            server: config::server(&credential, trust)?,
            trust: trust.clone(),
            credential,
            clients: ArcSwap::default(),
        }))
    }
}

impl Secrets {
    /// No identity yet.
    pub fn new(trust: Trust) -> Self {
        let state = State {
            version: 0,
            trust,
            local: HashMap::new(),
        };
        Self(Arc::new(Shared {
            state: ArcSwap::from_pointee(state),
            changes: watch::Sender::new(0),
        }))
    }

    /// For accepting HBONE at a pod of `own`: TLS 1.3, a certificate of the mesh is required, ALPN
    /// `h2` or none, no tickets. `None` as long as there is no certificate to show.
    pub fn server(&self, own: &Identity) -> Option<Arc<ServerConfig>> {
        let state = self.0.state.load();
        Some(Arc::clone(&state.local.get(own)?.server))
    }

    /// For HBONE from a pod of `own` to one of `expected`, compared exactly: TLS 1.3, ALPN `h2`, no
    /// server name, no resumption. The same as long as neither the certificate nor the trust
    /// changes. `None` as long as there is no certificate to show.
    pub fn client(&self, own: &Identity, expected: &[Identity]) -> Option<Arc<ClientConfig>> {
        let state = self.0.state.load();
        let local = state.local.get(own)?;
        if let Some(known) = local.clients.load().get(expected) {
            return Some(Arc::clone(known));
        }
        let made = config::client(&local.credential, &local.trust, expected)
            .inspect_err(|error| tracing::error!(%error, "no TLS client for {own}"))
            .ok()?;
        let mut kept = Arc::clone(&made);
        local.clients.rcu(|clients| {
            let mut clients = HashMap::clone(clients);
            if clients.len() >= KEPT {
                clients.clear();
            }
            // Another worker may have been first: everyone takes the same.
            kept = Arc::clone(clients.entry(expected.into()).or_insert(Arc::clone(&made)));
            clients
        });
        Some(kept)
    }

    /// For Istio's own mutual TLS from a pod of `own` to one of `expected`, without HBONE: as
    /// [`Self::client`], with the name and the protocols that are asked for. `None` as long as there
    /// is no certificate to show.
    pub fn sidecar(&self, own: &Identity, expected: &[Identity]) -> Option<Arc<ClientConfig>> {
        let state = self.0.state.load();
        let local = state.local.get(own)?;
        config::sidecar(&local.credential, &local.trust, expected)
            .inspect_err(|error| tracing::error!(%error, "no TLS client for {own}"))
            .ok()
    }

    /// Tells of each change of a certificate or of the trust, by a number that counts up.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Counts up with each change, as [`Self::subscribe`] tells it.
    pub fn version(&self) -> u64 {
        self.0.state.load().version
    }

    /// Who is trusted.
    pub fn trust(&self) -> Trust {
        self.0.state.load().trust.clone()
    }

    /// The certificate that is shown for an identity.
    pub fn credential(&self, own: &Identity) -> Option<Arc<Credential>> {
        let state = self.0.state.load();
        Some(Arc::clone(&state.local.get(own)?.credential))
    }

    /// All certificates in force, sorted by identity.
    pub fn credentials(&self) -> Vec<Arc<Credential>> {
        let state = self.0.state.load();
        let all = state.local.values();
        let mut all: Vec<_> = all.map(|local| Arc::clone(&local.credential)).collect();
        all.sort_by(|one, other| one.identity().cmp(other.identity()));
        all
    }

    /// Puts a certificate in force, in the place of an older one of its identity.
    ///
    /// # Errors
    /// Where rustls does not take it; then the older one stays.
    pub fn put(&self, credential: Credential) -> Result<(), Error> {
        self.change(|state| {
            let local = Local::new(Arc::new(credential), &state.trust)?;
            let identity = local.credential.identity().clone();
            state.local.insert(identity, local);
            Ok(true)
        })
    }

    /// Shows no certificate for an identity any more.
    pub fn remove(&self, own: &Identity) {
        // Taking one away can't fail.
        let _ = self.change(|state| Ok(state.local.remove(own).is_some()));
    }

    /// Trusts these, and no others, from now on.
    ///
    /// # Errors
    /// Where rustls does not take it; then nothing has changed.
    pub fn set_trust(&self, trust: Trust) -> Result<(), Error> {
        self.change(|state| {
            if state.trust.is_same(&trust) {
                return Ok(false);
            }
            for local in state.local.values_mut() {
                *local = Local::new(Arc::clone(&local.credential), &trust)?;
            }
            state.trust = trust;
            Ok(true)
        })
    }

    /// Changes a copy and puts it in force. Writers wait for each other at the channel's own lock.
    fn change(&self, work: impl FnOnce(&mut State) -> Result<bool, Error>) -> Result<(), Error> {
        let mut outcome = Ok(());
        self.0.changes.send_if_modified(|version| {
            let mut state = State::clone(&self.0.state.load());
            match work(&mut state) {
                Ok(false) => false,
                Ok(true) => {
                    *version = version.wrapping_add(1);
                    state.version = *version;
                    self.0.state.store(Arc::new(state));
                    true
                }
                Err(error) => {
                    outcome = Err(error);
                    false
                }
            }
        });
        outcome
    }
}
