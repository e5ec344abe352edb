//! The driver with authorities that fail, lie and are silent; the embedded authority's folder.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, oneshot, watch};

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
        (Mood::ForeignRoot, "UnknownIssuer"),
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
            .map(|own| own.files.load().issuer.certificate_pem())
            .collect()
    });
    assert!(roots.iter().all(|one| *one == roots[0]), "one root");
    let mode = |name: &str| {
        let metadata = std::fs::metadata(path.join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode("ca-key.pem"), 0o600);
    let again = open().unwrap();
    assert_eq!(again.files.load().issuer.certificate_pem(), roots[0]);

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

/// What the test is asked: it says which roots the answer names.
struct Question {
    identity: Identity,
    answer: oneshot::Sender<Vec<CertificateDer<'static>>>,
}

/// Signs as soon as the test says by which roots, and has news when the test has.
struct Told {
    issuer: Issuer,
    asked: mpsc::UnboundedSender<Question>,
    news: Mutex<Option<News>>,
}

impl Told {
    fn tell(&self, news: News) {
        *self.news.lock().unwrap() = Some(news);
    }
}

impl Authority for Told {
    fn sign<'a>(
        &'a self,
        identity: &'a Identity,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Signed, Failure>> {
        let now = clock::wall();
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let signed = self
            .issuer
            .sign(&request.der, identity, now - second, now + minute);
        let chain = signed.unwrap();
        let (answer, named) = oneshot::channel();
        let identity = identity.clone();
        self.asked.send(Question { identity, answer }).unwrap();
        Box::pin(async {
            let roots = named.await.map_err(|_| Failure::Refused("over".into()))?;
            Ok(Signed { chain, roots })
        })
    }

    fn look(&self) -> Option<News> {
        self.news.lock().unwrap().take()
    }

    fn name(&self) -> String {
        "told".into()
    }
}

/// How many roots are trusted now.
fn trusted(secrets: &Secrets) -> usize {
    let trust = secrets.trust();
    trust.roots().map(|(_, roots)| roots.len()).sum()
}

#[tokio::test]
async fn a_root_that_is_taken_away_is_gone_at_once_and_no_older_answer_brings_it_back() {
    let now = clock::wall();
    let hour = Duration::from_secs(3600);
    let root = || Issuer::root("cluster.local", now - hour, now + hour).unwrap();
    let issuer = root();
    let a = issuer.certificate().clone();
    let [b, c] = [root(), root()].map(|one| one.certificate().clone());
    let (asked, mut questions) = mpsc::unbounded_channel();
    let authority = Arc::new(Told {
        issuer,
        asked,
        news: Mutex::new(None),
    });
    let mut running = Running::start(Arc::clone(&authority) as _);
    let secrets = running.secrets.clone();
    let until = async |count: usize| {
        let mut changes = secrets.subscribe();
        let wait = async {
            while trusted(&secrets) != count {
                changes.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        waited.unwrap_or_else(|_| panic!("{} roots, not {count}", trusted(&secrets)));
    };
    let mut next = async || {
        let question = tokio::time::timeout(Duration::from_secs(20), questions.recv()).await;
        question.expect("in time").expect("a question")
    };
    running.publish(vec![pod("a", "web"), pod("b", "api")]);
    let (one, two) = (next().await, next().await);
    let late = two.identity.clone();
    one.answer.send(vec![a.clone(), b.clone()]).unwrap();
    until(2).await;

    // What files say is in force although nothing is due, and stays so.
    authority.tell(News::Roots(vec![a.clone()]));
    until(1).await;
    two.answer.send(vec![a.clone(), b.clone()]).unwrap();
    let again = next().await;
    assert_eq!(again.identity, late, "it may have had something to say");
    assert!(secrets.credential(&late).is_some(), "what it signed counts");
    assert_eq!(trusted(&secrets), 1, "what it named does not");
    again.answer.send(vec![a.clone(), c.clone()]).unwrap();
    until(2).await;

    // What was taken away from this node alone does not come back by an answer, but by the file.
    let gone = vec![c.clone()];
    authority.tell(News::Others { withdrawn: gone });
    until(1).await;
    let question = next().await;
    let before = running.status.0.borrow().fetched;
    question.answer.send(vec![a.clone(), c.clone()]).unwrap();
    let taken = |report: &Report| report.fetched > before;
    running.until("an answer", taken).await;
    assert_eq!(trusted(&secrets), 1);
    let withdrawn = Vec::new();
    authority.tell(News::Others { withdrawn });
    until(2).await;
    let question = next().await;
    question.answer.send(vec![a.clone(), c]).unwrap();
    running
        .until("one more", |report| report.fetched > before + 1)
        .await;

    // Nobody is left who would take what is shown: everyone asks, and is no worse off meanwhile.
    authority.tell(News::Roots(vec![b]));
    until(1).await;
    let (one, two) = (next().await, next().await);
    assert_ne!(one.identity, two.identity);
    assert_eq!(secrets.credentials().len(), 2);
    for question in [one, two] {
        question.answer.send(vec![a.clone()]).unwrap();
    }
    let restored = |report: &Report| report.fetched > before + 3;
    running.until("both", restored).await;
    assert!(
        secrets
            .trust()
            .roots()
            .all(|(_, roots)| *roots == [a.clone()])
    );
}

#[tokio::test]
async fn the_files_of_further_roots_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("roots.pem");
    let now = clock::wall();
    let hour = Duration::from_secs(3600);
    let [one, two] = [1, 2].map(|_| Issuer::root("old.test", now - hour, now + hour).unwrap());
    let put = |text: &str| {
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), &path).unwrap();
    };
    put(&(one.certificate_pem() + &two.certificate_pem()));
    let anchors = Anchors {
        domain: "cluster.local".into(),
        aliases: vec!["old.test".into()],
        roots: vec![("old.test".into(), crate::tls::Bundle::open(&path).unwrap())],
    };
    let secrets = Secrets::new(anchors.trust(&[]).unwrap());
    assert_eq!(trusted(&secrets), 2);
    let authority = Moody::new(Mood::Signs { seconds: 600 });
    let driver = Driver::new(authority, anchors, secrets.clone());
    let snapshots = watch::Sender::<Arc<Snapshot>>::default();
    tokio::spawn(driver.run(snapshots.subscribe()));
    let mut changes = secrets.subscribe();
    put("nonsense");
    put(&one.certificate_pem());
    let wait = changes.changed();
    let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
    waited.expect("in time").unwrap();
    let trust = secrets.trust();
    let all: Vec<_> = trust.roots().collect();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].1, std::slice::from_ref(one.certificate()));
}

#[test]
fn the_embedded_authoritys_files_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let own = Own::open(folder.path(), "cluster.local", Duration::from_secs(60)).unwrap();
    assert_eq!(own.look(), None, "nothing has changed");
    let now = clock::wall();
    let hour = Duration::from_secs(3600);
    let new = Issuer::root("cluster.local", now - hour, now + hour).unwrap();
    let first = own.files.load().issuer.certificate().clone();
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    };
    put("root-cert.pem", &new.certificate_pem());
    let both = vec![new.certificate().clone(), first.clone()];
    assert_eq!(own.look(), Some(News::Roots(both)));
    // A key without its certificate is no authority: what was there signs on.
    put("ca-key.pem", &new.key_pem());
    assert_eq!(own.look(), None);
    assert_eq!(own.files.load().issuer.certificate(), &first);
    put("ca-cert.pem", &new.certificate_pem());
    let alone = vec![new.certificate().clone()];
    assert_eq!(own.look(), Some(News::Roots(alone)));
    assert_eq!(own.files.load().issuer.certificate(), new.certificate());
    assert_eq!(own.look(), None);
}

#[tokio::test]
async fn nodes_that_start_together_do_not_renew_together() {
    let authority = Moody::new(Mood::Signs { seconds: 1000 });
    let mut running = Running::start(authority);
    let pods = (0..32).map(|index| pod(&format!("p{index}"), &format!("a{index}")));
    running.publish(pods.collect());
    let report = running
        .until("all", |report| {
            report.rows.len() == 32 && states(report).iter().all(|one| *one == State::Active)
        })
        .await;
    let start = clock::wall();
    let mut waits: Vec<_> = report
        .rows
        .iter()
        .map(|row| row.renew.unwrap().duration_since(start).unwrap().as_secs())
        .collect();
    waits.sort_unstable();
    // Drawn from a window of a hundred seconds.
    assert!(waits[0] >= 420 && waits[31] <= 550, "{waits:?}");
    assert!(waits[31] - waits[0] > 30, "{waits:?}");
}
