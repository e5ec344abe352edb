//! The loop that fetches, renews and drops.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::status::{Report, Row, State, Status};
use super::{Authority, Failure, Signed};
use crate::clock;
use crate::mesh::{Snapshot, Workload};
use crate::policy::renewal::{Lifetime, Now, Renewal, Step};
use crate::tls::{Credential, Key, Secrets, Trust};
use crate::types::{Identity, Timestamp};

/// How long the authority may take for one certificate.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many certificates are asked for at once: a node that starts with 110 pods is one of many that
/// may do so.
const AT_ONCE: usize = 8;
/// The longest sleep. A wall clock that was set is noticed after so long.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// A key and what was signed for it.
type Answer = Result<(Key, Signed), Failure>;

/// Who is trusted beside those whom the authority names.
#[derive(Clone, Debug)]
pub struct Anchors {
    /// The mesh's own trust domain.
    pub domain: Arc<str>,
    /// Its other names.
    pub aliases: Vec<Arc<str>>,
    /// Roots by trust domain, given by whoever runs the mesh.
    pub roots: Vec<(Arc<str>, Vec<CertificateDer<'static>>)>,
}

impl Anchors {
    /// These and the `named` roots of the mesh's own domain.
    ///
    /// # Errors
    /// Where a root can't be read.
    pub fn trust(&self, named: &[CertificateDer<'static>]) -> Result<Trust, crate::tls::Error> {
        let mut roots: BTreeMap<Arc<str>, Vec<CertificateDer<'static>>> = BTreeMap::new();
        for (domain, given) in &self.roots {
            let of = roots.entry(Arc::clone(domain)).or_default();
            of.extend(given.iter().cloned());
        }
        let own = roots.entry(Arc::clone(&self.domain)).or_default();
        own.extend(named.iter().cloned());
        Trust::new(
            Arc::clone(&self.domain),
            self.aliases.iter().cloned(),
            roots,
        )
    }
}

/// Follows the snapshots and keeps a certificate for each local identity.
pub struct Driver {
    authority: Arc<dyn Authority>,
    anchors: Anchors,
    secrets: Secrets,
    accounts: BTreeMap<Identity, Account>,
    asked: JoinSet<(Identity, Answer)>,
    room: Arc<Semaphore>,
    report: watch::Sender<Arc<Report>>,
    fetched: u64,
    failed: BTreeMap<&'static str, u64>,
}

#[derive(Default)]
struct Account {
    pods: usize,
    renewal: Renewal,
    in_flight: bool,
    expired: bool,
    error: Option<String>,
}

impl Driver {
    /// Has `authority` sign, and puts what comes into `secrets`.
    pub fn new(authority: Arc<dyn Authority>, anchors: Anchors, secrets: Secrets) -> Self {
        let report = Report {
            authority: authority.name(),
            ..Report::default()
        };
        Self {
            authority,
            anchors,
            secrets,
            accounts: BTreeMap::new(),
            asked: JoinSet::new(),
            room: Arc::new(Semaphore::new(AT_ONCE)),
            report: watch::Sender::new(Arc::new(report)),
            fetched: 0,
            failed: BTreeMap::new(),
        }
    }

    /// What there is; follows every change.
    pub fn status(&self) -> Status {
        Status(self.report.subscribe())
    }

    /// Works until the snapshots end.
    pub async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.follow(&snapshot.workloads);
            let wait = self.act();
            self.publish();
            tokio::select! {
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                Some(answer) = self.asked.join_next() => match answer {
                    Ok((identity, answer)) => self.take(&identity, answer),
                    Err(error) if error.is_panic() => {
                        std::panic::resume_unwind(error.into_panic());
                    }
                    Err(_) => {}
                },
                () = sleep(wait) => {}
            }
        }
    }

    /// Learns which identities there are.
    fn follow(&mut self, workloads: &[Arc<Workload>]) {
        let mut wanted: BTreeMap<Identity, usize> = BTreeMap::new();
        for workload in workloads.iter().filter(|one| one.local.is_some()) {
            match workload.identity(&self.anchors.domain) {
                Ok(identity) => *wanted.entry(identity).or_default() += 1,
                // No Kubernetes has such names. Without a certificate nobody will talk to it.
                Err(error) => tracing::debug!(%error, "{}: no identity", workload.name),
            }
        }
        self.accounts.retain(|identity, _| {
            let kept = wanted.contains_key(identity);
            if !kept {
                tracing::info!(%identity, "no pod of it runs here any more: certificate dropped");
                self.secrets.remove(identity);
            }
            kept
        });
        for (identity, pods) in wanted {
            self.accounts.entry(identity).or_default().pods = pods;
        }
    }

    /// Does what is due, and says how long nothing will be.
    fn act(&mut self) -> Duration {
        let now = now();
        let mut wait = LONGEST_SLEEP;
        for (identity, account) in &mut self.accounts {
            loop {
                let step = if account.in_flight {
                    // The end comes also while an answer is awaited.
                    let expired = account.renewal.expire(now);
                    if expired {
                        Step::Expire
                    } else {
                        Step::Wait(wait)
                    }
                } else {
                    account.renewal.step(now)
                };
                match step {
                    Step::Wait(time) => {
                        wait = wait.min(time.max(Duration::from_millis(1)));
                        break;
                    }
                    Step::Expire => {
                        account.expired = true;
                        self.secrets.remove(identity);
                        tracing::error!(
                            %identity,
                            error = account.error,
                            "its certificate has expired: its connections in the mesh fail until there is another"
                        );
                    }
                    Step::Fetch => {
                        account.in_flight = true;
                        let authority = Arc::clone(&self.authority);
                        let room = Arc::clone(&self.room);
                        self.asked.spawn(fetch(authority, room, identity.clone()));
                    }
                }
            }
            // The end of a certificate is not to be slept over while an answer is awaited.
            if account.in_flight
                && let Some(held) = self.secrets.credential(identity)
            {
                let left = held.certificate.not_after.duration_since(now.wall);
                wait = wait.min(left.unwrap_or_default().max(Duration::from_millis(1)));
            }
        }
        wait
    }

    /// Takes an answer.
    fn take(&mut self, identity: &Identity, answer: Answer) {
        let Some(account) = self.accounts.get_mut(identity) else {
            // Its last pod went meanwhile.
            return;
        };
        account.in_flight = false;
        let now = now();
        let used = answer.and_then(|(key, signed)| {
            use_it(&self.anchors, &self.secrets, identity, &key, signed, now)
        });
        match used {
            Ok(lifetime) => {
                account.renewal.succeeded(now, lifetime, rand::random());
                account.error = None;
                account.expired = false;
                self.fetched = self.fetched.saturating_add(1);
                tracing::info!(
                    %identity,
                    until = %Timestamp(lifetime.until),
                    "certificate in force"
                );
            }
            Err(failure) => {
                let count = self.failed.entry(failure.reason()).or_default();
                *count = count.saturating_add(1);
                let again = account.renewal.failed(now, rand::random());
                let error = failure.to_string();
                let held = self.secrets.credential(identity);
                let until = held.map(|held| Timestamp(held.certificate.not_after).to_string());
                match until {
                    Some(until) => tracing::warn!(
                        %identity, %error, ?again, until,
                        "its certificate could not be renewed; the old one holds"
                    ),
                    None => tracing::error!(
                        %identity, %error, ?again,
                        "it has no certificate: its connections in the mesh fail"
                    ),
                }
                account.error = Some(error);
            }
        }
    }

    fn publish(&self) {
        let rows = self.accounts.iter().map(|(identity, account)| {
            let held = account.renewal.renew().is_some();
            let failing = account.renewal.failures() > 0;
            Row {
                identity: identity.clone(),
                pods: account.pods,
                state: match (held, failing) {
                    (true, false) => State::Active,
                    (true, true) => State::Stale,
                    (false, _) if account.expired => State::Expired,
                    (false, true) => State::Failed,
                    (false, false) => State::Pending,
                },
                renew: account.renewal.renew(),
                failures: account.renewal.failures(),
                error: account.error.clone(),
            }
        });
        let report = Report {
            authority: self.authority.name(),
            rows: rows.collect(),
            fetched: self.fetched,
            failed: self.failed.clone(),
        };
        self.report.send_if_modified(|current| {
            let changed = **current != report;
            if changed {
                *current = Arc::new(report);
            }
            changed
        });
    }
}

/// Makes a key and has it signed.
async fn fetch(
    authority: Arc<dyn Authority>,
    room: Arc<Semaphore>,
    identity: Identity,
) -> (Identity, Answer) {
    let work = async {
        // Closed by nobody.
        let _permit = room.acquire().await;
        let key = Key::generate()?;
        let request = key.request(&identity)?;
        let signed = timeout(PATIENCE, authority.sign(&identity, &request)).await;
        Ok((key, signed.map_err(|_| Failure::Silent(PATIENCE))??))
    };
    let answer = work.await;
    (identity, answer)
}

/// Checks an answer as a peer would, and puts it in force: first whom to trust, then what to show,
/// so that nobody is shown a certificate by one who would not accept it.
fn use_it(
    anchors: &Anchors,
    secrets: &Secrets,
    identity: &Identity,
    key: &Key,
    signed: Signed,
    now: Now,
) -> Result<Lifetime, Failure> {
    if signed.roots.is_empty() {
        return Err(Failure::Nonsense("it names no root".into()));
    }
    let credential = Credential::new(identity, key, signed.chain)?;
    let trust = anchors.trust(&signed.roots)?;
    credential.verify(&trust, now.wall)?;
    let lifetime = Lifetime {
        from: credential.certificate.not_before,
        until: credential.certificate.not_after,
    };
    if !trust.is_same(&secrets.trust()) {
        tracing::info!(?trust, "the roots of the mesh have changed");
    }
    secrets.set_trust(trust)?;
    secrets.put(credential)?;
    Ok(lifetime)
}

fn now() -> Now {
    Now {
        instant: clock::now(),
        wall: clock::wall(),
    }
}
