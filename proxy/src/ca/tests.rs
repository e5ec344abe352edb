//! What is signed and what is refused; what is replaced and when; what a stranger may not take.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::*;
use crate::clock;
use crate::mesh::{Snapshot, Store, Workload};
use crate::policy::renewal::Now;
use crate::proto::ca::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse};
use crate::proto::grpc::client::{Call, Failure, Sender, call};
use crate::proto::grpc::{Code, Status};
use crate::proto::structure::Struct;
use crate::tls::{Credential, Issuer, Key, Trust, certificates, digest, service};
use crate::types::Identity;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const LIVES: Lives = Lives {
    workload: Duration::from_secs(24 * 3600),
    intermediate: Duration::from_secs(100 * 3600),
};

fn pod(name: &str, account: &str, node: Option<&str>) -> Arc<Workload> {
    Arc::new(Workload {
        name: name.into(),
        namespace: "shop".into(),
        labels: Arc::default(),
        service_account: account.into(),
        addresses: Vec::new(),
        node: node.map(Into::into),
        locality: Arc::default(),
        ended: false,
        host_network: false,
        enrolled: true,
        local: None,
    })
}

/// On node a, where it has ended.
fn ended(name: &str, account: &str) -> Arc<Workload> {
    let pod = Workload::clone(&pod(name, account, Some("a")));
    Arc::new(Workload { ended: true, ..pod })
}

fn store(workloads: Vec<Arc<Workload>>) -> Arc<Store> {
    let store = Arc::new(Store::new());
    let snapshot = Snapshot {
        workloads: workloads.into(),
        ..Snapshot::default()
    };
    store.publish(Arc::new(snapshot), Vec::new());
    store
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A token file: `good` is node a's, `narrow` too but for another namespace, `old` has expired, `b` is
/// node b's.
fn tokens(folder: &Path) -> Tokens {
    let path = folder.join("nodes.yaml");
    let row = |node, token: &str, more| {
        let digest = hex(&digest(token.as_bytes()));
        format!("- {{node: {node}, sha256: \"{digest}\"{more}}}\n")
    };
    let text = [
        "nodes:\n".to_owned(),
        row("a", "good", ""),
        row("a", "narrow", ", namespaces: [other]"),
        row("a", "old", ", expires: 2020-01-01T00:00:00Z"),
        row("b", "b", ""),
    ];
    std::fs::write(&path, text.concat()).unwrap();
    Tokens::open(&path).unwrap()
}

fn keeper(folder: &Path, lives: Lives) -> Arc<Keeper> {
    let names = vec!["ca.test".to_owned(), "127.0.0.1".to_owned()];
    let keeper = Keeper::open(folder.join("ca"), "cluster.local".into(), names, lives);
    Arc::new(keeper.unwrap())
}

fn authority(folder: &Path, keeper: &Arc<Keeper>, counters: &Arc<Counters>) -> Service {
    let pods = vec![
        pod("web-1", "web", Some("a")),
        pod("api-1", "api", Some("b")),
        pod("lost-1", "lost", None),
        ended("done-1", "done"),
        ended("web-0", "web"),
    ];
    Service::new(
        Arc::clone(keeper),
        Box::new(tokens(folder)),
        Places::new(store(pods)),
        "cluster.local".into(),
        Arc::clone(counters),
    )
}

fn identity(account: &str) -> Identity {
    let text = format!("spiffe://cluster.local/ns/shop/sa/{account}");
    text.parse().unwrap()
}

fn request(wanted: &str, csr: &str, seconds: i64) -> CertificateRequest {
    let fields = [("ImpersonatedIdentity".to_owned(), wanted.to_owned().into())];
    CertificateRequest {
        csr: csr.to_owned(),
        validity_duration: seconds,
        metadata: Some(Struct {
            fields: fields.into(),
        }),
    }
}

/// A certificate request of rcgen with names of its own.
fn csr(names: &[rcgen::SanType]) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = names.to_vec();
    params.serialize_request(&key).unwrap().pem().unwrap()
}

/// Checks an answer as a node proxy does.
fn check(key: &Key, answer: &CertificateResponse, at: SystemTime) -> Credential {
    let (roots, chain) = answer.cert_chain.split_last().unwrap();
    let chain = chain.iter().flat_map(|one| certificates(one).unwrap());
    let credential = Credential::new(&identity("web"), key, chain.collect()).unwrap();
    let roots = [("cluster.local".into(), certificates(roots).unwrap())];
    let trust = Trust::new("cluster.local".into(), [], roots).unwrap();
    credential.verify(&trust, at).unwrap();
    credential
}

#[test]
fn pods_of_the_asking_node_are_signed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = keeper(folder.path(), LIVES);
    let service = authority(folder.path(), &keeper, &Arc::default());
    let now = clock::wall();
    let node = |name: &str, namespaces: Option<&[&str]>| Caller {
        node: name.into(),
        namespaces: namespaces.map(|all| all.iter().map(|&one| one.to_owned()).collect()),
    };
    let (web, uri) = (identity("web"), |text: &str| {
        rcgen::SanType::URI(text.try_into().unwrap())
    });
    let own = csr(&[uri(&web.to_string())]);
    let dns = rcgen::SanType::DnsName("web.shop".try_into().unwrap());
    let a = node("a", None);
    let name = web.to_string();
    for (what, caller, request, expected) in [
        ("its own pod", &a, request(&name, &own, 60), Ok(())),
        (
            "no name asked for",
            &a,
            request(&name, &csr(&[]), 0),
            Ok(()),
        ),
        (
            "a node that may",
            &node("a", Some(&["x", "shop"])),
            request(&name, &own, 60),
            Ok(()),
        ),
        (
            "another node's pod",
            &node("b", None),
            request(&name, &own, 60),
            Err((
                "not_on_node",
                "no pod of spiffe://cluster.local/ns/shop/sa/web runs on b",
            )),
        ),
        (
            "a pod that no node has",
            &a,
            request(&identity("lost").to_string(), &csr(&[]), 60),
            Err(("not_on_node", "sa/lost runs on a")),
        ),
        (
            "a pod that has ended",
            &a,
            request(&identity("done").to_string(), &csr(&[]), 60),
            Err(("not_on_node", "sa/done runs on a")),
        ),
        (
            "a node that may not",
            &node("a", Some(&["other"])),
            request(&name, &own, 60),
            Err((
                "namespace",
                "a may not ask for spiffe://cluster.local/ns/shop/sa/web",
            )),
        ),
        (
            "another trust domain",
            &a,
            request("spiffe://evil.test/ns/shop/sa/web", &csr(&[]), 60),
            Err(("trust_domain", "not of the trust domain cluster.local")),
        ),
        (
            "a longer path",
            &a,
            request("spiffe://cluster.local/ns/shop/sa/web/x", &csr(&[]), 60),
            Err(("not_an_identity", "not of the form")),
        ),
        (
            "nobody",
            &a,
            request("", &own, 60),
            Err(("no_identity", "is absent")),
        ),
        (
            "no metadata",
            &a,
            CertificateRequest {
                metadata: None,
                ..request(&name, &own, 60)
            },
            Err(("no_identity", "is absent")),
        ),
        (
            "another's name in the request to sign",
            &a,
            request(&name, &csr(&[uri(&identity("api").to_string())]), 60),
            Err(("other_names", "URI:spiffe://cluster.local/ns/shop/sa/api")),
        ),
        (
            "its own and another",
            &a,
            request(&name, &csr(&[uri(&name), dns]), 60),
            Err(("other_names", "DNS:web.shop")),
        ),
        (
            "nonsense to sign",
            &a,
            request(
                &name,
                "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
                60,
            ),
            Err(("signing_request", "it can't be read")),
        ),
        (
            "nothing to sign",
            &a,
            request(&name, "", 60),
            Err(("signing_request", "can't be read")),
        ),
        (
            "megabytes to sign",
            &a,
            request(&name, &"x".repeat(1 << 20), 60),
            Err(("signing_request", "1048576 bytes are too many")),
        ),
    ] {
        match (service.sign(caller, &request, now), expected) {
            (Ok(answer), Ok(())) => assert_eq!(answer.cert_chain.len(), 3, "{what}"),
            (Err(refusal), Err((reason, words))) => {
                assert_eq!(refusal.reason(), reason, "{what}: {refusal}");
                assert!(refusal.to_string().contains(words), "{what}: {refusal}");
            }
            (answer, _) => panic!("{what}: {answer:?}"),
        }
    }
}

#[test]
fn a_request_that_its_key_has_not_signed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = keeper(folder.path(), LIVES);
    let service = authority(folder.path(), &keeper, &Arc::default());
    let key = Key::generate().unwrap();
    let good = key.request(&identity("web")).unwrap();
    // A bit of the signature, at the end.
    let mut der = good.der.to_vec();
    *der.last_mut().unwrap() ^= 1;
    let pem = crate::tls::pem(&der).replace("CERTIFICATE", "CERTIFICATE REQUEST");
    let caller = Caller {
        node: "a".into(),
        namespaces: None,
    };
    let asked = request(&identity("web").to_string(), &pem, 60);
    let refusal = service.sign(&caller, &asked, clock::wall()).unwrap_err();
    assert_eq!(refusal.reason(), "signing_request", "{refusal}");
}

#[test]
fn lives_have_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = keeper(folder.path(), LIVES);
    let now = clock::wall();
    for (asked, expected) in [
        (600, 600),
        (0, 86_400),
        (-5, 86_400),
        (86_401, 86_400),
        (i64::MAX, 86_400),
        (i64::MIN, 86_400),
    ] {
        let key = Key::generate().unwrap();
        let csr = key.request(&identity("web")).unwrap().pem;
        let csr = crate::tls::Asked::from_pem(&csr).unwrap();
        let cert_chain = keeper.sign(&csr, &identity("web"), asked, now).unwrap();
        let credential = check(&key, &CertificateResponse { cert_chain }, now);
        let left = credential
            .certificate
            .not_after
            .duration_since(now)
            .unwrap();
        // Certificates have whole seconds.
        assert!(
            left <= expected * SECOND && left > (expected - 2) * SECOND,
            "{asked}: {left:?}"
        );
    }
}

/// So much later by both clocks.
fn later(start: (Instant, SystemTime), time: Duration) -> Now {
    Now {
        instant: start.0 + time,
        wall: start.1 + time,
    }
}

fn sign(keeper: &Keeper, at: SystemTime) -> (Key, CertificateResponse) {
    let key = Key::generate().unwrap();
    let csr = key.request(&identity("web")).unwrap().pem;
    let csr = crate::tls::Asked::from_pem(&csr).unwrap();
    let cert_chain = keeper.sign(&csr, &identity("web"), 0, at).unwrap();
    (key, CertificateResponse { cert_chain })
}

#[test]
fn the_intermediate_is_replaced_at_half_of_its_life_under_the_same_root() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = keeper(folder.path(), LIVES);
    let start = (clock::now(), clock::wall());
    let (key, first) = sign(&keeper, start.1);
    for (hours, same) in [(1, true), (44, true), (56, false)] {
        let now = later(start, hours * HOUR);
        keeper.tend(now);
        let (new, answer) = sign(&keeper, now.wall);
        check(&new, &answer, now.wall);
        assert_eq!(
            answer.cert_chain[1] == first.cert_chain[1],
            same,
            "{hours} h"
        );
        assert_eq!(answer.cert_chain[2], first.cert_chain[2], "one root");
        let left = keeper.until().duration_since(now.wall).unwrap();
        assert!(left > 24 * HOUR, "no certificate is cut short: {left:?}");
    }
    // What the first intermediate has signed holds on.
    check(&key, &first, start.1 + 23 * HOUR);
}

#[test]
fn a_clock_that_jumps_costs_an_intermediate_and_no_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = keeper(folder.path(), LIVES);
    let start = (clock::now(), clock::wall());
    // The wall clock alone: an hour on, an hour back before its beginning, a year on.
    for (instant, wall) in [
        (10, start.1 + HOUR),
        (20, start.1 - HOUR),
        (30, start.1 + 365 * 24 * HOUR),
        (40, start.1),
    ] {
        let now = Now {
            instant: start.0 + instant * SECOND,
            wall,
        };
        keeper.tend(now);
        // It tells of its end first, and replaces what has ended then.
        keeper.tend(now);
        let (key, answer) = sign(&keeper, wall);
        check(&key, &answer, wall);
    }
}

fn put(folder: &Path, name: &str, text: &str) {
    let new = folder.join("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, folder.join(name)).unwrap();
}

#[test]
fn a_new_root_comes_without_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = keeper(folder.path(), LIVES);
    let ca = folder.path().join("ca");
    let start = (clock::now(), clock::wall());
    let trust = |answer: &CertificateResponse| {
        let roots = certificates(answer.cert_chain.last().unwrap()).unwrap();
        let of = [("cluster.local".into(), roots)];
        Trust::new("cluster.local".into(), [], of).unwrap()
    };
    let (old_key, old) = sign(&keeper, start.1);
    let credential = |key: &Key, answer: &CertificateResponse| {
        let chain = answer.cert_chain.split_last().unwrap().1;
        let chain = chain.iter().flat_map(|one| certificates(one).unwrap());
        Credential::new(&identity("web"), key, chain.collect()).unwrap()
    };

    // Both are trusted, the old one signs.
    let new = Issuer::root("cluster.local", start.1 - HOUR, start.1 + 1000 * HOUR).unwrap();
    let old_root = std::fs::read_to_string(ca.join("ca-cert.pem")).unwrap();
    put(&ca, "root-cert.pem", &(old_root + &new.certificate_pem()));
    keeper.tend(later(start, SECOND));
    let (both_key, both) = sign(&keeper, start.1);
    assert_eq!(trust(&both).roots().next().unwrap().1.len(), 2);

    // The key is there before its certificate: for a moment they don't fit, and the old signs on.
    put(&ca, "ca-key.pem", &new.key_pem());
    keeper.tend(later(start, 2 * SECOND));
    let (_, meanwhile) = sign(&keeper, start.1);
    assert_eq!(meanwhile.cert_chain[1], both.cert_chain[1]);
    put(&ca, "ca-cert.pem", &new.certificate_pem());
    keeper.tend(later(start, 3 * SECOND));
    let (new_key, of_new) = sign(&keeper, start.1);
    assert_ne!(of_new.cert_chain[1], both.cert_chain[1]);

    // Who has asked since the first step accepts both, and is accepted by both.
    let (old, both_credential) = (credential(&old_key, &old), credential(&both_key, &both));
    let new_credential = credential(&new_key, &of_new);
    for answer in [&both, &of_new] {
        for one in [&old, &both_credential, &new_credential] {
            one.verify(&trust(answer), start.1).unwrap();
        }
    }
    // The old one goes.
    put(&ca, "root-cert.pem", &new.certificate_pem());
    keeper.tend(later(start, 4 * SECOND));
    let (_, last) = sign(&keeper, start.1);
    new_credential.verify(&trust(&last), start.1).unwrap();
    old.verify(&trust(&last), start.1).unwrap_err();
}

#[test]
fn an_intermediate_from_files_signs_itself() {
    let folder = tempfile::tempdir().unwrap();
    let now = clock::wall();
    let root = Issuer::root("cluster.local", now - HOUR, now + 1000 * HOUR).unwrap();
    let below = root
        .intermediate("cluster.local", now - HOUR, now + 500 * HOUR)
        .unwrap();
    let ca = folder.path().join("ca");
    std::fs::create_dir(&ca).unwrap();
    std::fs::write(ca.join("ca-cert.pem"), below.certificate_pem()).unwrap();
    std::fs::write(ca.join("ca-key.pem"), &*below.key_pem()).unwrap();
    let open = || Keeper::open(ca.clone(), "cluster.local".into(), Vec::new(), LIVES);
    let error = open().unwrap_err().to_string();
    assert!(
        error.contains("root-cert.pem: ca-cert.pem is not a root"),
        "{error}"
    );
    std::fs::write(ca.join("root-cert.pem"), root.certificate_pem()).unwrap();
    let (key, answer) = sign(&open().unwrap(), now);
    assert_eq!(answer.cert_chain[1], below.certificate_pem());
    check(&key, &answer, now);
}

/// A server on loopback, and the roots by which it is known.
struct Running {
    address: std::net::SocketAddr,
    roots: Vec<CertificateDer<'static>>,
    keeper: Arc<Keeper>,
    counters: Arc<Counters>,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(folder: &Path) -> Self {
        let (keeper, counters) = (keeper(folder, LIVES), Arc::new(Counters::default()));
        let server = Server {
            service: Arc::new(authority(folder, &keeper, &counters)),
            keeper: Arc::clone(&keeper),
            counters: Arc::clone(&counters),
        };
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = watch::Sender::new(false);
        Self {
            address,
            roots: keeper.roots(),
            keeper,
            counters,
            served: tokio::spawn(server.run(listener, stop.subscribe(), 10 * SECOND)),
            stop,
        }
    }

    async fn tls(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let connector: TlsConnector = service::client(&self.roots).unwrap().into();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("ca.test").unwrap();
        connector.connect(name, stream).await.unwrap()
    }

    async fn connect(&self) -> Sender {
        let io = TokioIo::new(self.tls().await);
        let handshake = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>;
        let (sender, connection) = handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    fn metrics(&self) -> String {
        self.counters.text(&self.keeper)
    }
}

fn to(path: &str, token: Option<&'static str>) -> Call {
    let mut metadata = HeaderMap::new();
    if let Some(token) = token {
        metadata.insert("authorization", HeaderValue::from_static(token));
    }
    Call {
        uri: format!("https://ca.test{path}").parse().unwrap(),
        metadata,
        patience: 5 * SECOND,
        limit: 1 << 20,
    }
}

#[tokio::test]
async fn callers_are_known_by_their_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(folder.path()).await;
    let mut sender = running.connect().await;
    let key = Key::generate().unwrap();
    let web = identity("web");
    let asked = request(&web.to_string(), &key.request(&web).unwrap().pem, 60);
    let path = CREATE_CERTIFICATE;
    let mut ask = async |token, path: &str, asked: &CertificateRequest| {
        call::<CertificateResponse>(&mut sender, to(path, token), asked).await
    };
    let answer = ask(Some("Bearer good"), path, &asked).await.unwrap();
    check(&key, &answer, clock::wall());
    let large = request(&web.to_string(), &"x".repeat(100_000), 60);
    let refusals: [(_, _, _, Code, &str); 9] = [
        (None, path, &asked, Code::Unauthenticated, "no bearer token"),
        (
            Some("good"),
            path,
            &asked,
            Code::Unauthenticated,
            "no bearer token",
        ),
        (
            Some("Basic good"),
            path,
            &asked,
            Code::Unauthenticated,
            "no bearer token",
        ),
        (
            Some("Bearer bad"),
            path,
            &asked,
            Code::Unauthenticated,
            "not known",
        ),
        (
            Some("Bearer old"),
            path,
            &asked,
            Code::Unauthenticated,
            "token of a has expired",
        ),
        (
            Some("Bearer b"),
            path,
            &asked,
            Code::PermissionDenied,
            "runs on b",
        ),
        (
            Some("Bearer narrow"),
            path,
            &asked,
            Code::PermissionDenied,
            "a may not ask",
        ),
        (
            Some("Bearer good"),
            path,
            &large,
            Code::ResourceExhausted,
            "at most 65536",
        ),
        (
            Some("Bearer good"),
            "/x",
            &asked,
            Code::Unimplemented,
            "no such method",
        ),
    ];
    for (token, path, asked, code, words) in refusals {
        match ask(token, path, asked).await {
            Err(Failure::Status(Status {
                code: found,
                message,
            })) => {
                assert_eq!(found, code, "{token:?}: {message}");
                assert!(message.contains(words), "{token:?}: {message}");
            }
            other => panic!("{token:?}: {other:?}"),
        }
    }
    let metrics = running.metrics();
    for line in [
        "requests_total{code=\"OK\",reason=\"\"} 1",
        "requests_total{code=\"UNAUTHENTICATED\",reason=\"no_token\"} 3",
        "requests_total{code=\"UNAUTHENTICATED\",reason=\"unknown_token\"} 1",
        "requests_total{code=\"UNAUTHENTICATED\",reason=\"expired_token\"} 1",
        "requests_total{code=\"PERMISSION_DENIED\",reason=\"not_on_node\"} 1",
        "requests_total{code=\"PERMISSION_DENIED\",reason=\"namespace\"} 1",
        "requests_total{code=\"RESOURCE_EXHAUSTED\",reason=\"protocol\"} 1",
        "requests_total{code=\"UNIMPLEMENTED\",reason=\"protocol\"} 1",
        "aquifer_ca_connections_total 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn one_address_takes_a_share_of_the_connections() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(folder.path()).await;
    let mut idle = Vec::new();
    for _ in 0..32 {
        idle.push(running.tls().await);
    }
    let mut more = TcpStream::connect(running.address).await.unwrap();
    let read = more.read(&mut [0; 16]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "closed at once: {read:?}");
    assert!(
        running
            .metrics()
            .contains("aquifer_ca_connections_refused_total 1")
    );
    idle.truncate(31);
    // A place is free again when the server has seen the end.
    let mut sender = loop {
        let connector: TlsConnector = service::client(&running.roots).unwrap().into();
        let stream = TcpStream::connect(running.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        if let Ok(stream) = connector.connect(name, stream).await {
            let handshake = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>;
            let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
            tokio::spawn(connection);
            break sender;
        }
    };
    let none = CertificateRequest::default();
    let asked = call::<CertificateResponse>(&mut sender, to(CREATE_CERTIFICATE, None), &none);
    assert!(matches!(asked.await, Err(Failure::Status(_))));
}

#[tokio::test]
async fn silent_strangers_are_sent_away() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(folder.path()).await;
    let started = clock::now();
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    let read = silent.read(&mut [0; 16]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let took = clock::now() - started;
    assert!(took >= 4 * SECOND && took < 20 * SECOND, "{took:?}");
    assert!(
        running
            .metrics()
            .contains("aquifer_ca_handshakes_failed_total 1")
    );
}

#[tokio::test]
async fn a_stop_ends_idle_connections_and_takes_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(folder.path()).await;
    let mut sender = running.connect().await;
    let none = CertificateRequest::default();
    let asked = call::<CertificateResponse>(&mut sender, to(CREATE_CERTIFICATE, None), &none);
    assert!(matches!(asked.await, Err(Failure::Status(_))), "it is up");
    running.stop.send_replace(true);
    tokio::time::timeout(5 * SECOND, running.served)
        .await
        .expect("it does not wait for its clients")
        .unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}
