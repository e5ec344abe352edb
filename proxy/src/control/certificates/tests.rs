//! The driver with authorities that fail, lie and are silent; the embedded authority's folder.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::status::State;
use super::*;
use crate::clock;
use crate::mesh::{Enrolment, FailureMode, Snapshot, Workload};
use crate::tls::{Issuer, Request, Secrets, Trust};
use crate::types::Identity;

/// What the authority does next.
#[derive(Clone, Copy, Debug)]
enum Mood {
    Signs { seconds: u64 },
    Refuses,
    ForAnother,
    NotYet,
    NoRoot,
    ForeignRoot,
    Garbage,
    Silent,
}

struct Moody {
    issuer: Issuer,
    mood: Mutex<Mood>,
    asked: AtomicUsize,
}

impl Moody {
    fn new(mood: Mood) -> Arc<Self> {
        let now = clock::wall();
        let hour = Duration::from_secs(3600);
        Arc::new(Self {
            issuer: Issuer::root("cluster.local", now - hour, now + hour).unwrap(),
            mood: Mutex::new(mood),
            asked: AtomicUsize::new(0),
        })
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }
}

impl Authority for Moody {
    fn sign<'a>(
        &'a self,
        identity: &'a Identity,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Signed, Failure>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let now = clock::wall();
        let second = Duration::from_secs(1);
        let sign = |identity: &Identity, from, seconds: u64| {
            let until = now + second * u32::try_from(seconds).unwrap();
            let chain = self.issuer.sign(&request.der, identity, from, until)?;
            let roots = vec![self.issuer.certificate().clone()];
            Ok(Signed { chain, roots })
        };
        let mood = *self.mood.lock().unwrap();
        let answer = match mood {
            Mood::Signs { seconds } => sign(identity, now - second, seconds),
            Mood::Refuses => Err(Failure::Refused("not today".into())),
            Mood::ForAnother => {
                let other = "spiffe://cluster.local/ns/shop/sa/another".parse().unwrap();
                sign(&other, now - second, 60)
            }
            Mood::NotYet => sign(identity, now + second * 30, 60),
            Mood::NoRoot => sign(identity, now - second, 60).map(|signed| Signed {
                roots: Vec::new(),
                ..signed
            }),
            Mood::ForeignRoot => sign(identity, now - second, 60).map(|signed| Signed {
                roots: vec![Moody::new(mood).issuer.certificate().clone()],
                ..signed
            }),
            Mood::Garbage => Ok(Signed {
                chain: vec![CertificateDer::from(vec![0x30, 0])],
                roots: vec![CertificateDer::from(vec![1])],
            }),
            Mood::Silent => return Box::pin(std::future::pending()),
        };
        Box::pin(std::future::ready(answer))
    }

    fn name(&self) -> String {
        "moody".into()
    }
}

fn pod(name: &str, account: &str) -> Arc<Workload> {
    Arc::new(Workload {
        name: name.into(),
        namespace: "shop".into(),
        labels: Arc::default(),
        service_account: account.into(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        node: None,
        locality: Arc::default(),
        ended: false,
        host_network: false,
        enrolled: true,
        local: Some(Enrolment {
            netns: "/run/netns/a".into(),
            failure_mode: FailureMode::Closed,
            exclude_outbound_ports: Vec::new(),
            exclude_inbound_ports: Vec::new(),
            exclude_outbound_ranges: Vec::new(),
        }),
    })
}

struct Running {
    snapshots: watch::Sender<Arc<Snapshot>>,
    secrets: Secrets,
    status: Status,
}

impl Running {
    fn start(authority: Arc<dyn Authority>) -> Self {
        let anchors = Anchors {
            domain: "cluster.local".into(),
            aliases: Vec::new(),
            roots: Vec::new(),
        };
        let secrets = Secrets::new(Trust::nobody("cluster.local".into()));
        let driver = Driver::new(authority, anchors, secrets.clone());
        let running = Self {
            snapshots: watch::Sender::default(),
            secrets,
            status: driver.status(),
        };
        tokio::spawn(driver.run(running.snapshots.subscribe()));
        running
    }

    fn publish(&self, workloads: Vec<Arc<Workload>>) {
        self.snapshots.send_replace(Arc::new(Snapshot {
            workloads: workloads.into(),
            ..Snapshot::default()
        }));
    }

    async fn until(&mut self, what: &str, fits: impl FnMut(&Report) -> bool) -> Arc<Report> {
        let wait = self.status.wait_for(fits);
        let found = tokio::time::timeout(Duration::from_secs(20), wait).await;
        found.unwrap_or_else(|_| panic!("{what}")).unwrap()
    }
}

fn web() -> Identity {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

fn states(report: &Report) -> Vec<State> {
    report.rows.iter().map(|row| row.state).collect()
}

#[tokio::test]
async fn a_certificate_comes_with_the_first_pod_and_goes_with_the_last() {
    let authority = Moody::new(Mood::Signs { seconds: 600 });
    let mut running = Running::start(Arc::clone(&authority) as _);
    running.publish(vec![pod("a", "web"), pod("b", "web"), pod("c", "api")]);
    let report = running
        .until("two identities", |report| {
            states(report) == [State::Active; 2]
        })
        .await;
    assert_eq!(report.rows[1].identity, web());
    assert_eq!(report.rows[1].pods, 2);
    assert_eq!(
        authority.asked.load(Ordering::Relaxed),
        2,
        "one an identity"
    );
    assert!(running.secrets.server(&web()).is_some());

    running.publish(vec![pod("b", "web")]);
    running
        .until("one left", |report| report.rows.len() == 1)
        .await;
    assert_eq!(running.secrets.credentials().len(), 1);
    assert!(running.secrets.server(&web()).is_some());
    running.publish(Vec::new());
    running
        .until("none left", |report| report.rows.is_empty())
        .await;
    assert!(running.secrets.server(&web()).is_none());
}

#[tokio::test]
async fn what_is_no_answer_is_told_and_a_later_one_taken() {
    for (mood, expected) in [
        (Mood::Refuses, "refuses: not today"),
        (
            Mood::ForAnother,
            "expected was spiffe://cluster.local/ns/shop/sa/web",
        ),
        (Mood::NotYet, "not valid yet"),
        (Mood::NoRoot, "it names no root"),
        (Mood::ForeignRoot, "BadSignature"),
        (Mood::Garbage, "can't be read"),
    ] {
        let authority = Moody::new(mood);
        let mut running = Running::start(Arc::clone(&authority) as _);
        running.publish(vec![pod("a", "web")]);
        let report = running
            .until("a failure", |report| states(report) == [State::Failed])
            .await;
        let error = report.rows[0].error.clone().unwrap();
        assert!(error.contains(expected), "{mood:?}: {error}");
        assert!(running.secrets.server(&web()).is_none(), "{mood:?}");
        assert_eq!(running.secrets.trust().roots().count(), 0, "{mood:?}");
        authority.set(Mood::Signs { seconds: 600 });
        running
            .until("a certificate", |report| states(report) == [State::Active])
            .await;
    }
}

#[tokio::test]
async fn an_outage_is_survived_until_the_certificate_expires() {
    let authority = Moody::new(Mood::Signs { seconds: 4 });
    let mut running = Running::start(Arc::clone(&authority) as _);
    running.publish(vec![pod("a", "web")]);
    running
        .until("a certificate", |report| states(report) == [State::Active])
        .await;
    let serial = |running: &Running| {
        let held = running.secrets.credential(&web());
        held.map(|held| held.certificate.serial.clone())
    };
    let first = serial(&running);
    running.until("renewed", |report| report.fetched == 2).await;
    assert_ne!(serial(&running), first);
    authority.set(Mood::Refuses);
    running
        .until("stale", |report| states(report) == [State::Stale])
        .await;
    assert!(
        running.secrets.server(&web()).is_some(),
        "the old one holds"
    );
    let report = running
        .until("expired", |report| states(report) == [State::Expired])
        .await;
    assert!(running.secrets.server(&web()).is_none());
    assert!(report.rows[0].error.is_some());
    authority.set(Mood::Signs { seconds: 600 });
    running
        .until("back", |report| states(report) == [State::Active])
        .await;
    assert!(running.secrets.server(&web()).is_some());
}

#[tokio::test]
async fn a_silent_authority_holds_up_no_end() {
    let authority = Moody::new(Mood::Signs { seconds: 4 });
    let mut running = Running::start(Arc::clone(&authority) as _);
    running.publish(vec![pod("a", "web")]);
    running
        .until("a certificate", |report| states(report) == [State::Active])
        .await;
    authority.set(Mood::Silent);
    let mut changes = running.secrets.subscribe();
    let gone = async {
        while running.secrets.server(&web()).is_some() {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .unwrap();
}

#[test]
fn the_folder_of_the_embedded_authority_is_made_once_and_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/ca");
    let life = Duration::from_secs(60);
    let open = || Own::open(&path, "cluster.local", life);
    // All at once, as proxies that share a folder start.
    let roots: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
        let roots = all.into_iter().map(|one| one.join().unwrap().unwrap());
        roots
            .map(|own| own.files.issuer.certificate_pem())
            .collect()
    });
    assert!(roots.iter().all(|one| *one == roots[0]), "one root");
    let mode = |name: &str| {
        let metadata = std::fs::metadata(path.join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode("ca-key.pem"), 0o600);
    assert_eq!(open().unwrap().files.issuer.certificate_pem(), roots[0]);

    std::fs::remove_file(path.join("ca-key.pem")).unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains("ca-key.pem: No such file"), "{error}");
    std::fs::write(path.join("ca-key.pem"), "nonsense").unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains("its key can't be read"), "{error}");
}

#[tokio::test]
async fn an_intermediate_from_files_signs_below_its_root() {
    let folder = tempfile::tempdir().unwrap();
    let now = clock::wall();
    let hour = Duration::from_secs(3600);
    let root = Issuer::root("cluster.local", now - hour, now + hour).unwrap();
    let below = root
        .intermediate("cluster.local", now - hour, now + hour)
        .unwrap();
    for (name, content) in [
        ("ca-cert.pem", below.certificate_pem()),
        ("ca-key.pem", below.key_pem().to_string()),
        ("root-cert.pem", root.certificate_pem()),
    ] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let own = Own::open(folder.path(), "cluster.local", hour).unwrap();
    let mut running = Running::start(Arc::new(own));
    running.publish(vec![pod("a", "web")]);
    running
        .until("a certificate", |report| states(report) == [State::Active])
        .await;
    assert_eq!(running.secrets.credential(&web()).unwrap().chain().len(), 2);
    let trust = running.secrets.trust();
    let roots: Vec<_> = trust.roots().collect();
    assert_eq!(roots.len(), 1);
    assert_eq!(roots[0].1, std::slice::from_ref(root.certificate()));
}
