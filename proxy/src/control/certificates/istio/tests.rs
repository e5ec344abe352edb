//! The client against authorities that sign, refuse, lie, break off and say nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Mutex as Lock;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request as HttpRequest, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::clock;
use crate::proto::grpc::server::{self, Limits, response, unary};
use crate::tls::{Asked, Issuer, Key, pem};

const HOUR: Duration = Duration::from_secs(3600);

/// What the authority does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Signs,
    Fails(Code),
    WebPage,
    NotFound,
    Garbage,
    Huge,
    Nothing,
    BreaksOff,
    Silent,
}

struct Fake {
    address: SocketAddr,
    folder: tempfile::TempDir,
    root: Arc<Issuer>,
    mood: Arc<Lock<Mood>>,
    connections: Arc<AtomicUsize>,
    asked: Arc<Lock<Vec<(HeaderMap, CertificateRequest)>>>,
}

impl Fake {
    /// Listens on loopback; what a node needs to ask it lies in a folder.
    async fn start(alpn: &'static [u8]) -> Self {
        let now = clock::wall();
        let root = Arc::new(Issuer::root("cluster.local", now - HOUR, now + HOUR).unwrap());
        let key = Key::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let chain = root.host(&key, &names, now - HOUR, now + HOUR).unwrap();
        let mut config = Arc::unwrap_or_clone(service::server(chain, &key).unwrap());
        config.alpn_protocols = vec![alpn.to_vec()];
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "first\n").unwrap();
        std::fs::write(folder.path().join("roots.pem"), root.certificate_pem()).unwrap();
        let fake = Self {
            address: listener.local_addr().unwrap(),
            folder,
            root,
            mood: Arc::new(Lock::new(Mood::Signs)),
            connections: Arc::default(),
            asked: Arc::default(),
        };
        let (mood, root) = (Arc::clone(&fake.mood), Arc::clone(&fake.root));
        let (connections, asked) = (Arc::clone(&fake.connections), Arc::clone(&fake.asked));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::Relaxed);
                let Ok(stream) = tls.accept(stream).await else {
                    continue;
                };
                let (mood, root, asked) =
                    (Arc::clone(&mood), Arc::clone(&root), Arc::clone(&asked));
                let service = service_fn(move |request| {
                    let mood = *mood.lock().unwrap();
                    answer(mood, Arc::clone(&root), Arc::clone(&asked), request)
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        fake
    }

    fn settings(&self) -> Settings {
        Settings {
            address: Address {
                host: "127.0.0.1".to_owned(),
                port: self.address.port(),
            },
            name: None,
            token: self.folder.path().join("token"),
            roots: self.folder.path().join("roots.pem"),
            cluster: Some("east".to_owned()),
            life: HOUR,
        }
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(
    mood: Mood,
    root: Arc<Issuer>,
    asked: Arc<Lock<Vec<(HeaderMap, CertificateRequest)>>>,
    request: HttpRequest<Incoming>,
) -> Result<Response<Body>, &'static str> {
    let plain = |status, kind: &'static str, text: &'static str| {
        let mut page = Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed());
        *page.status_mut() = status;
        let kind = HeaderValue::from_static(kind);
        page.headers_mut().insert("content-type", kind);
        Ok(page)
    };
    match mood {
        Mood::WebPage => return plain(StatusCode::OK, "text/html", "<html>"),
        Mood::NotFound => return plain(StatusCode::NOT_FOUND, "text/plain", "no"),
        Mood::Garbage => return plain(StatusCode::OK, "application/grpc", "\0\0\0\0\x03\x0a\x05a"),
        Mood::BreaksOff => return Err("enough"),
        Mood::Silent => std::future::pending::<()>().await,
        _ => {}
    }
    let limits = Limits {
        size: 1 << 16,
        time: HOUR,
    };
    let work = async |headers: HeaderMap, message: CertificateRequest| {
        let identity = message.metadata.as_ref().unwrap();
        let identity = identity.text(IMPERSONATED_IDENTITY).unwrap();
        let identity: Identity = identity.parse().unwrap();
        let csr = Asked::from_pem(&message.csr).unwrap();
        asked.lock().unwrap().push((headers, message));
        let now = clock::wall();
        let chain = root.sign(&csr.der, &identity, now, now + HOUR).unwrap();
        match mood {
            Mood::Fails(code) => Err(Status::new(code, "as it likes")),
            Mood::Nothing => Ok(CertificateResponse::default()),
            Mood::Huge => Ok(CertificateResponse {
                cert_chain: vec!["x".repeat(LARGEST); 2],
            }),
            _ => Ok(CertificateResponse {
                cert_chain: vec![pem(&chain[0]), root.certificate_pem()],
            }),
        }
    };
    let outcome = unary(request, limits, work).await;
    let outcome = outcome.and_then(|one| one.map_err(server::Refusal::Status));
    Ok(response(outcome.as_ref()).map(BodyExt::boxed))
}

fn web() -> Identity {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

async fn ask(istio: &Istio) -> Result<Signed, Failure> {
    let key = Key::generate().unwrap();
    istio.sign(&web(), &key.request(&web()).unwrap()).await
}

async fn refused(istio: &Istio) -> (&'static str, String) {
    let failure = ask(istio).await.unwrap_err();
    (failure.reason(), failure.to_string())
}

#[tokio::test]
async fn it_asks_as_ztunnel_does_and_reads_its_files_anew() {
    let fake = Fake::start(b"h2").await;
    let istio = Istio::new(fake.settings()).unwrap();
    let signed = ask(&istio).await.unwrap();
    assert_eq!(signed.chain.len(), 1);
    assert_eq!(signed.roots, [fake.root.certificate().clone()]);
    std::fs::write(fake.folder.path().join("token"), "second").unwrap();
    ask(&istio).await.unwrap();
    let asked = std::mem::take(&mut *fake.asked.lock().unwrap());
    for ((headers, message), token) in asked.iter().zip(["Bearer first", "Bearer second"]) {
        assert_eq!(headers["authorization"], token);
        assert_eq!(headers["clusterid"], "east");
        assert_eq!(headers["grpc-timeout"], "8000m");
        assert_eq!(message.validity_duration, 3600);
        let own = Asked::from_pem(&message.csr).unwrap();
        assert_eq!(own.beside(&web()).next(), None, "its own name alone");
    }
    assert_eq!(asked.len(), 2);
    assert_eq!(fake.connections.load(Ordering::Relaxed), 2, "none is kept");

    // Requests at once share a connection.
    let all = futures_util::future::join_all((0..8).map(|_| ask(&istio))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(fake.connections.load(Ordering::Relaxed), 3);

    // A bundle that is replaced counts from the next connection on.
    let other = Fake::start(b"h2").await;
    let roots = fake.folder.path().join("roots.pem");
    std::fs::write(&roots, other.root.certificate_pem()).unwrap();
    let (reason, said) = refused(&istio).await;
    assert_eq!(reason, "unreachable", "{said}");
    assert!(said.contains("TLS: invalid peer certificate"), "{said}");
    std::fs::write(&roots, fake.root.certificate_pem()).unwrap();
    ask(&istio).await.unwrap();
}

#[tokio::test]
async fn what_is_no_certificate_is_told_by_its_cause() {
    let fake = Fake::start(b"h2").await;
    let istio = Istio::new(fake.settings()).unwrap();
    for (mood, reason, words) in [
        (
            Mood::Fails(Code::Unauthenticated),
            "refused",
            "as it likes (UNAUTHENTICATED)",
        ),
        (
            Mood::Fails(Code::PermissionDenied),
            "refused",
            "PERMISSION_DENIED",
        ),
        (
            Mood::Fails(Code::InvalidArgument),
            "refused",
            "INVALID_ARGUMENT",
        ),
        (
            Mood::Fails(Code::Unavailable),
            "unreachable",
            "as it likes (UNAVAILABLE)",
        ),
        (
            Mood::Fails(Code::DeadlineExceeded),
            "silent",
            "has not answered for",
        ),
        (Mood::WebPage, "nonsense", "not gRPC"),
        (Mood::NotFound, "refused", "HTTP status 404 (UNIMPLEMENTED)"),
        (Mood::Garbage, "nonsense", "its message can't be read"),
        (Mood::Huge, "nonsense", "at most 524288 are taken"),
        (Mood::Nothing, "nonsense", "it has no certificate"),
        (Mood::BreaksOff, "unreachable", "stream"),
        (Mood::Silent, "silent", "has not answered for 8s"),
    ] {
        fake.set(mood);
        let (found, said) = refused(&istio).await;
        assert_eq!(found, reason, "{mood:?}: {said}");
        assert!(said.contains(words), "{mood:?}: {said}");
        fake.set(Mood::Signs);
        ask(&istio).await.unwrap();
    }
}

#[tokio::test]
async fn what_can_not_be_asked_is_told_by_its_cause() {
    let fake = Fake::start(b"h2").await;
    let token = fake.folder.path().join("token");
    let istio = Istio::new(fake.settings()).unwrap();
    for (content, words) in [
        (Some(""), "there is no token in it"),
        (Some(" \n"), "there is no token in it"),
        (Some("a\nb"), "what is in it is no token"),
        (None, "token: No such file"),
    ] {
        match content {
            Some(content) => std::fs::write(&token, content).unwrap(),
            None => std::fs::remove_file(&token).unwrap(),
        }
        let (reason, said) = refused(&istio).await;
        assert_eq!(reason, "unasked", "{said}");
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(fake.connections.load(Ordering::Relaxed), 0);
    std::fs::write(&token, "again").unwrap();

    let with = |change: &dyn Fn(&mut Settings)| {
        let mut settings = fake.settings();
        change(&mut settings);
        settings
    };
    let named = with(&|settings| settings.name = Some("localhost".into()));
    ask(&Istio::new(named).unwrap()).await.unwrap();
    let wrong = with(&|settings| settings.name = Some("istiod.istio-system.svc".into()));
    let (reason, said) = refused(&Istio::new(wrong).unwrap()).await;
    assert_eq!(reason, "unreachable");
    assert!(said.contains("not valid for name"), "{said}");
    // A port where nobody listens: it was ours a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let nobody = with(&|settings| settings.address.port = port);
    let (reason, said) = refused(&Istio::new(nobody).unwrap()).await;
    assert_eq!(reason, "unreachable");
    assert!(said.contains("Connection refused"), "{said}");
    let unknown = with(&|settings| settings.address.host = "nowhere.invalid".into());
    let (reason, said) = refused(&Istio::new(unknown).unwrap()).await;
    assert_eq!(reason, "unreachable", "{said}");

    for (roots, words) in [
        ("", "no certificate in it"),
        ("nonsense", "no certificate in it"),
    ] {
        let path = fake.folder.path().join("wrong.pem");
        std::fs::write(&path, roots).unwrap();
        let settings = with(&|settings| settings.roots = path.clone());
        let error = Istio::new(settings).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let absent = with(&|settings| settings.roots = "/nowhere/roots.pem".into());
    let error = Istio::new(absent).unwrap_err().to_string();
    assert!(
        error.contains("/nowhere/roots.pem: No such file"),
        "{error}"
    );
}

#[tokio::test]
async fn one_that_speaks_http_1_alone_is_not_asked() {
    let fake = Fake::start(b"http/1.1").await;
    let istio = Istio::new(fake.settings()).unwrap();
    let (reason, said) = refused(&istio).await;
    assert_eq!(reason, "unreachable", "{said}");
    assert!(said.contains("TLS: "), "{said}");
    assert!(fake.asked.lock().unwrap().is_empty(), "no token was sent");
}

#[test]
fn chains_of_any_istiod_are_understood() {
    let now = clock::wall();
    let root = |name: &str| Issuer::root(name, now - HOUR, now + HOUR).unwrap();
    let (one, two) = (root("one"), root("two"));
    let below = one.intermediate("below", now - HOUR, now + HOUR).unwrap();
    let key = Key::generate().unwrap();
    let csr = key.request(&web()).unwrap();
    let signed = below.sign(&csr.der, &web(), now, now + HOUR).unwrap();
    let leaf = pem(&signed[0]);
    let (below, one, two) = (
        below.certificate_pem(),
        one.certificate_pem(),
        two.certificate_pem(),
    );
    let both = format!("{one}\n{two}");
    // Elements, and how many certificates are shown and how many are roots.
    for (name, chain, expected) in [
        ("the root last", vec![&leaf, &below, &one], (2, 1)),
        ("roots in one element", vec![&leaf, &below, &both], (2, 2)),
        (
            "an element for each",
            vec![&leaf, &below, &one, &two],
            (2, 2),
        ),
        ("signed by the root", vec![&leaf, &one], (1, 1)),
        ("a root that is below another", vec![&leaf, &below], (1, 1)),
        ("no root", vec![&leaf], (1, 0)),
    ] {
        let cert_chain = chain.into_iter().cloned().collect();
        let signed = read(&CertificateResponse { cert_chain }).unwrap();
        assert_eq!((signed.chain.len(), signed.roots.len()), expected, "{name}");
        assert_eq!(pem(&signed.chain[0]), leaf, "{name}");
    }
    let many = vec![one.clone(); 100];
    let (empty, text) = (String::new(), "nonsense".to_owned());
    for (name, chain, words) in [
        ("nothing", vec![], "it has no certificate"),
        ("empty", vec![empty, one], "it has no certificate"),
        ("text", vec![text], "it has no certificate"),
        ("too many", many, "too many certificates"),
    ] {
        let error = read(&CertificateResponse { cert_chain: chain }).unwrap_err();
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_change_of_its_roots_is_told_with_what_is_gone() {
    let fake = Fake::start(b"h2").await;
    let istio = Istio::new(fake.settings()).unwrap();
    assert_eq!(istio.look(), None, "nothing has changed");
    let now = clock::wall();
    let other = Issuer::root("cluster.local", now - HOUR, now + HOUR).unwrap();
    let (first, second) = (fake.root.certificate().clone(), other.certificate().clone());
    let (one, two) = (fake.root.certificate_pem(), other.certificate_pem());
    let both = one.clone() + &two;
    let none: &[CertificateDer<'_>] = &[];
    for (name, text, expected) in [
        ("one more", &both, Some(none)),
        ("the first is gone", &two, Some(&[first.clone()][..])),
        ("nonsense", &"nonsense".to_owned(), None),
        (
            "the other is gone, the first is back",
            &one,
            Some(&[second][..]),
        ),
        ("all are back", &both, Some(none)),
    ] {
        let path = fake.folder.path().join("roots.pem");
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), &path).unwrap();
        let expected = expected.map(|gone| News::Others {
            withdrawn: gone.to_vec(),
        });
        assert_eq!(istio.look(), expected, "{name}");
        assert_eq!(istio.look(), None, "{name}: told once");
    }
    // What was opened under other roots is not asked.
    let key = Key::generate().unwrap();
    let request = key.request(&web()).unwrap();
    let held = istio.connection().await.unwrap();
    istio.sign(&web(), &request).await.unwrap();
    assert_eq!(fake.connections.load(Ordering::Relaxed), 1);
    std::fs::write(fake.folder.path().join("roots.pem"), &one).unwrap();
    assert!(istio.look().is_some());
    istio.sign(&web(), &request).await.unwrap();
    assert_eq!(fake.connections.load(Ordering::Relaxed), 2);
    drop(held);
}
