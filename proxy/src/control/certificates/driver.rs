//! The loop that fetches, renews and drops, and hears of changes of trust.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::account::{Account, Answer, Asked, fetch};
use super::anchors::{self, Found};
use super::status::{Report, Row, State, Status};
use super::{Anchors, Authority, Failure, News, Signed};
use crate::clock;
use crate::mesh::{Snapshot, Workload};
use crate::policy::renewal::{Lifetime, Now, Step};
use crate::tls::{Credential, Key, Secrets, Trust};
use crate::types::{Identity, Timestamp};

/// How many certificates are asked for at once: a node that starts with 110 pods is one of many that
/// may do so.
const AT_ONCE: usize = 8;
/// The longest sleep. A wall clock that was set is noticed after so long.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// Follows the snapshots and keeps a certificate for each local identity.
pub struct Driver {
    authority: Arc<dyn Authority>,
    anchors: Anchors,
    /// The roots that the authority named last.
    named: Vec<CertificateDer<'static>>,
    /// Those among them that this node was told to trust no more.
    withdrawn: Vec<CertificateDer<'static>>,
    /// How often anything of this has changed.
    era: u64,
    secrets: Secrets,
    accounts: BTreeMap<Identity, Account>,
    asked: JoinSet<Asked>,
    room: Arc<Semaphore>,
    report: watch::Sender<Arc<Report>>,
    fetched: u64,
    failed: BTreeMap<&'static str, u64>,
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
            named: Vec::new(),
            withdrawn: Vec::new(),
            era: 0,
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
        let (finds, mut found) = mpsc::channel(1);
        let authority = Arc::clone(&self.authority);
        let following = anchors::follow(authority, self.anchors.roots.clone(), finds);
        let mut following = tokio::spawn(following);
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
                    Ok((identity, asked, answer)) => self.take(&identity, asked, answer),
                    Err(error) if error.is_panic() => {
                        std::panic::resume_unwind(error.into_panic());
                    }
                    Err(_) => {}
                },
                Some(found) = found.recv() => self.hear(found),
                ended = &mut following => match ended {
                    Err(error) if error.is_panic() => {
                        std::panic::resume_unwind(error.into_panic());
                    }
                    _ => return,
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

    /// Takes what files have come to say.
    fn hear(&mut self, found: Found) {
        // Whatever is asked for already may be answered by what was true before.
        self.era = self.era.wrapping_add(1);
        let mut ask = false;
        if let Some(roots) = found.roots {
            self.anchors.roots = roots;
        }
        match found.authority {
            Some(News::Roots(roots)) => self.named = roots,
            Some(News::Others { withdrawn }) => {
                self.withdrawn = withdrawn;
                ask = true;
            }
            None => {}
        }
        let trust = self.trust(&self.named);
        if let Err(error) = trust.and_then(|trust| self.adopt(trust)) {
            tracing::error!(%error, "whom to trust stays as it was");
        }
        // One answer tells what all would.
        if ask && let Some(account) = self.accounts.values_mut().next() {
            account.hurry();
        }
    }

    /// Whom to trust where the authority names these roots.
    fn trust(&self, named: &[CertificateDer<'static>]) -> Result<Trust, crate::tls::Error> {
        let taken = |root: &&CertificateDer<'static>| !self.withdrawn.contains(root);
        self.anchors.trust(named.iter().filter(taken))
    }

    /// Trusts these from now on. Whoever shows what they would not accept gets something else.
    fn adopt(&mut self, trust: Trust) -> Result<(), crate::tls::Error> {
        if trust.is_same(&self.secrets.trust()) {
            return Ok(());
        }
        tracing::info!(?trust, "the roots of the mesh have changed");
        self.secrets.set_trust(trust.clone())?;
        self.era = self.era.wrapping_add(1);
        let now = now();
        for (identity, account) in &mut self.accounts {
            let held = self.secrets.credential(identity);
            if held.is_some_and(|held| held.verify(&trust, now.wall).is_err()) {
                account.hurry();
            }
        }
        Ok(())
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
                        let asked = fetch(authority, room, identity.clone(), self.era);
                        self.asked.spawn(asked);
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
    fn take(&mut self, identity: &Identity, asked: u64, answer: Answer) {
        let Some(account) = self.accounts.get_mut(identity) else {
            // Its last pod went meanwhile.
            return;
        };
        account.in_flight = false;
        let again = std::mem::take(&mut account.again);
        let now = now();
        let used = answer.and_then(|(key, signed)| self.use_it(identity, asked, &key, signed, now));
        let Some(account) = self.accounts.get_mut(identity) else {
            return;
        };
        match used {
            Ok((lifetime, current)) => {
                account.renewal.succeeded(now, lifetime, rand::random());
                if again || !current {
                    account.hurry();
                }
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

    /// Checks an answer as a peer would, and puts it in force: first whom to trust, then what to show,
    /// so that nobody is shown a certificate by one who would not accept it. Says also whether what it
    /// names as roots counted: an answer that was asked for before these last changed may be older than
    /// the change, and brings no root back that was taken away.
    fn use_it(
        &mut self,
        identity: &Identity,
        asked: u64,
        key: &Key,
        signed: Signed,
        now: Now,
    ) -> Result<(Lifetime, bool), Failure> {
        if signed.roots.is_empty() {
            return Err(Failure::Nonsense("it names no root".into()));
        }
        let credential = Credential::new(identity, key, signed.chain)?;
        let named = self.trust(&signed.roots)?;
        let in_force = self.secrets.trust();
        let current = asked == self.era || named.is_same(&in_force);
        let trust = if current { named } else { in_force };
        credential.verify(&trust, now.wall)?;
        let lifetime = Lifetime {
            from: credential.certificate.not_before,
            until: credential.certificate.not_after,
        };
        if current {
            self.adopt(trust)?;
            self.named = signed.roots;
        }
        self.secrets.put(credential)?;
        Ok((lifetime, current))
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

fn now() -> Now {
    Now {
        instant: clock::now(),
        wall: clock::wall(),
    }
}
