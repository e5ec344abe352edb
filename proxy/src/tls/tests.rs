//! Handshakes in memory, between configurations of the mesh and against peers that are not of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::*;
use crate::clock;
use crate::types::Identity;

mod keys;

const MINUTE: Duration = Duration::from_secs(60);

fn id(text: &str) -> Identity {
    text.parse().unwrap()
}

fn web() -> Identity {
    id("spiffe://cluster.local/ns/shop/sa/web")
}

fn api() -> Identity {
    id("spiffe://cluster.local/ns/shop/sa/api")
}

fn hours(count: i64) -> SystemTime {
    let distance = Duration::from_secs(count.unsigned_abs() * 3600);
    if count < 0 {
        clock::wall() - distance
    } else {
        clock::wall() + distance
    }
}

fn root() -> Issuer {
    Issuer::root("cluster.local", hours(-100), hours(1000)).unwrap()
}

fn trust(roots: &[&Issuer]) -> Trust {
    let roots = roots.iter().map(|one| one.certificate().clone()).collect();
    Trust::new(
        "cluster.local".into(),
        [],
        [("cluster.local".into(), roots)],
    )
    .unwrap()
}

fn credential_for(issuer: &Issuer, identity: &Identity, from: i64, until: i64) -> Credential {
    let key = Key::generate().unwrap();
    let request = key.request(identity).unwrap();
    let chain = issuer
        .sign(&request.der, identity, hours(from), hours(until))
        .unwrap();
    Credential::new(identity, &key, chain).unwrap()
}

fn node(issuer: &Issuer, trust: Trust, identity: &Identity) -> Secrets {
    let secrets = Secrets::new(trust);
    secrets
        .put(credential_for(issuer, identity, -1, 24))
        .unwrap();
    secrets
}

struct Joined {
    client: ClientConnection,
    server: ServerConnection,
}

/// Runs a handshake, the records cut into `piece` bytes. An error says whose it is.
fn join(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    piece: usize,
) -> Result<Joined, (&'static str, rustls::Error)> {
    let name = ServerName::try_from("10.0.0.1").unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let mut failed = None;
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        for mut part in bytes.chunks(piece) {
            while !part.is_empty() && failed.is_none() {
                server.read_tls(&mut part).unwrap();
                let read = server.process_new_packets();
                failed = read.err().map(|error| ("server", error));
            }
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        for mut part in bytes.chunks(piece) {
            while !part.is_empty() && failed.is_none() {
                client.read_tls(&mut part).unwrap();
                let read = client.process_new_packets();
                failed = read.err().map(|error| ("client", error));
            }
        }
    }
    if let Some(failed) = failed {
        return Err(failed);
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Joined { client, server })
}

fn said(result: Result<Joined, (&'static str, rustls::Error)>) -> String {
    match result {
        Ok(_) => "accepted".to_owned(),
        Err((who, error)) => format!("{who}: {}: {}", word(&error).word(), reason(&error)),
    }
}

#[test]
fn two_workloads_of_the_mesh_know_each_other() {
    let root = root();
    let (a, b) = (
        node(&root, trust(&[&root]), &web()),
        node(&root, trust(&[&root]), &api()),
    );
    for piece in [usize::MAX, 1] {
        let joined = join(
            a.client(&web(), &[api()]).unwrap(),
            b.server(&api()).unwrap(),
            piece,
        );
        let Joined { mut client, server } = joined.unwrap();
        assert_eq!(peer(&client).unwrap(), api());
        assert_eq!(peer(&server).unwrap(), web());
        for connection in [&*client as &rustls::CommonState, &server] {
            assert_eq!(
                connection.protocol_version(),
                Some(rustls::ProtocolVersion::TLSv1_3)
            );
            assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));
            assert_eq!(
                connection.negotiated_key_exchange_group().unwrap().name(),
                rustls::NamedGroup::X25519MLKEM768
            );
        }
        assert_eq!(server.server_name(), None, "no SNI");
        let state = client.process_new_packets().unwrap();
        assert_eq!(state.plaintext_bytes_to_read(), 0);
        assert_eq!(client.tls13_tickets_received(), 0, "no resumption");
    }
}

#[test]
fn configurations_are_kept_until_something_changes() {
    let root = root();
    let secrets = node(&root, trust(&[&root]), &web());
    let mut changes = secrets.subscribe();
    let first = secrets.client(&web(), &[api()]).unwrap();
    assert!(Arc::ptr_eq(
        &first,
        &secrets.client(&web(), &[api()]).unwrap()
    ));
    assert!(!Arc::ptr_eq(
        &first,
        &secrets.client(&web(), &[web()]).unwrap()
    ));
    assert!(
        secrets.client(&api(), &[web()]).is_none(),
        "not of this node"
    );
    assert!(secrets.server(&api()).is_none());

    secrets.set_trust(trust(&[&root])).unwrap();
    assert!(!changes.has_changed().unwrap(), "the same trust again");
    assert!(Arc::ptr_eq(
        &first,
        &secrets.client(&web(), &[api()]).unwrap()
    ));

    secrets.put(credential_for(&root, &web(), -1, 24)).unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let second = secrets.client(&web(), &[api()]).unwrap();
    assert!(!Arc::ptr_eq(&first, &second), "a new certificate");

    let other = self::root();
    secrets.set_trust(trust(&[&root, &other])).unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert!(!Arc::ptr_eq(
        &second,
        &secrets.client(&web(), &[api()]).unwrap()
    ));

    secrets.remove(&web());
    assert!(changes.has_changed().unwrap());
    assert!(secrets.client(&web(), &[api()]).is_none());
    assert!(secrets.credentials().is_empty());
}

#[test]
fn who_is_not_meant_or_not_of_the_mesh_is_refused() {
    let (root, other) = (root(), root());
    let foreign = id("spiffe://other.example/ns/shop/sa/api");
    let longer = id("spiffe://cluster.local/ns/shop/sa/api2");
    let client = |trust: Trust| {
        let secrets = node(&root, trust, &web());
        secrets.client(&web(), &[api()]).unwrap()
    };
    // The server's certificate, what the client trusts, and what is said of it.
    let ours = || trust(&[&root]);
    for (name, identity, issuer, from, until, trusted, expected) in [
        ("fine", api(), &root, -1, 1, ours(), "accepted"),
        (
            "a longer name",
            longer,
            &root,
            -1,
            1,
            ours(),
            "unexpected_identity: it is",
        ),
        (
            "another name",
            web(),
            &root,
            -1,
            1,
            ours(),
            "unexpected_identity: it is",
        ),
        (
            "another domain",
            foreign,
            &root,
            -1,
            1,
            ours(),
            "trust_domain: ",
        ),
        ("expired", api(), &root, -5, -1, ours(), "expired: "),
        (
            "not yet valid",
            api(),
            &root,
            1,
            5,
            ours(),
            "not_yet_valid: ",
        ),
        (
            "a foreign root of the same name",
            api(),
            &other,
            -1,
            1,
            ours(),
            "unknown_issuer: ",
        ),
        (
            "the other of two roots",
            api(),
            &other,
            -1,
            1,
            trust(&[&root, &other]),
            "accepted",
        ),
        (
            "nobody is trusted",
            api(),
            &root,
            -1,
            1,
            Trust::nobody("cluster.local".into()),
            "unknown_issuer: ",
        ),
    ] {
        // The server trusts the client in any case.
        let secrets = Secrets::new(trust(&[&root]));
        secrets
            .put(credential_for(issuer, &identity, from, until))
            .unwrap();
        let server = secrets.server(&identity).unwrap();
        let said = said(join(client(trusted.clone()), server, usize::MAX));
        assert!(said.contains(expected), "{name}: {said}");
        assert!(
            said == "accepted" || said.starts_with("client"),
            "{name}: {said}"
        );

        // The same certificate, shown by a caller.
        let caller = secrets.client(&identity, &[api()]).unwrap();
        let server = node(&root, trusted, &api()).server(&api()).unwrap();
        let said = self::said(join(caller, server, usize::MAX));
        let expected = if expected == "unexpected_identity: it is" {
            "accepted"
        } else {
            expected
        };
        assert!(said.contains(expected), "{name}, calling: {said}");
        assert!(
            said == "accepted" || said.starts_with("server"),
            "{name}: {said}"
        );
    }
}

#[test]
fn a_root_vouches_for_its_own_domain_and_aliases_alone() {
    let (ours, theirs) = (root(), root());
    let alias = id("spiffe://old.example/ns/shop/sa/api");
    let now = super::provider::unix(clock::wall()).unwrap();
    let of = |issuer: &Issuer, roots: Vec<(&str, &Issuer)>| {
        let roots = roots
            .into_iter()
            .map(|(domain, one)| (domain.into(), vec![one.certificate().clone()]));
        let trust = Trust::new("cluster.local".into(), ["old.example".into()], roots).unwrap();
        let chain = credential_for(issuer, &alias, -1, 1).chain().to_vec();
        trust
            .verify(Peer::Client, &chain[0], &chain[1..], now)
            .is_ok()
    };
    assert!(
        of(&ours, vec![("cluster.local", &ours)]),
        "an alias has the mesh's roots"
    );
    let both = || vec![("cluster.local", &ours), ("old.example", &theirs)];
    assert!(of(&theirs, both()));
    assert!(!of(&ours, both()), "the alias has its own");
}

/// A certificate that no authority of ours would make, shown by a caller.
fn odd(
    issuer: &Issuer,
    names: Vec<SanType>,
    chain: impl FnOnce(CertificateDer<'static>) -> Vec<CertificateDer<'static>>,
) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    let authority = KeyPair::from_pem(&issuer.key_pem()).unwrap();
    let authority = rcgen::Issuer::from_ca_cert_der(issuer.certificate(), authority).unwrap();
    let leaf = params.signed_by(&key, &authority).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verify::Servers {
            trust: trust(&[issuer]),
            expected: [api()].into(),
        }))
        .with_client_auth_cert(chain(leaf), key)
        .unwrap();
    let server = node(issuer, trust(&[issuer]), &api())
        .server(&api())
        .unwrap();
    said(join(Arc::new(config), server, usize::MAX))
}

#[test]
fn odd_certificates_are_refused() {
    let root = root();
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let alone = |leaf| vec![leaf];
    let (a, b) = (
        "spiffe://cluster.local/ns/shop/sa/web",
        "spiffe://cluster.local/ns/shop/sa/api",
    );
    for (name, names, expected) in [
        ("one URI", vec![uri(a)], "accepted"),
        (
            "one URI and a host",
            vec![uri(a), SanType::DnsName("web".try_into().unwrap())],
            "accepted",
        ),
        ("two URIs", vec![uri(a), uri(b)], "2 URIs"),
        ("the same URI twice", vec![uri(a), uri(a)], "2 URIs"),
        (
            "no URI",
            vec![SanType::DnsName("web.shop".try_into().unwrap())],
            "no URI",
        ),
        ("no name", vec![], "no URI"),
        (
            "a web page",
            vec![uri("https://cluster.local/ns/shop/sa/web")],
            "no workload's identity",
        ),
        (
            "more parts",
            vec![uri("spiffe://cluster.local/ns/shop/sa/web/x")],
            "no workload's identity",
        ),
    ] {
        let said = odd(&root, names, alone);
        assert!(said.contains(expected), "{name}: {said}");
    }
    let long = odd(&root, vec![uri(a)], |leaf| vec![leaf; MAX_CHAIN + 1]);
    assert!(long.contains("8 certificates"), "{long}");
    let large = odd(&root, vec![uri(a)], |leaf| {
        vec![leaf, CertificateDer::from(vec![0; MAX_CERTIFICATE + 1])]
    });
    assert!(large.contains("16385 bytes"), "{large}");
}

#[test]
fn callers_without_certificate_older_versions_and_other_protocols_are_refused() {
    let root = root();
    let b = node(&root, trust(&[&root]), &api());
    let verifier = || {
        Arc::new(verify::Servers {
            trust: trust(&[&root]),
            expected: [api()].into(),
        })
    };
    let mut all = rustls::crypto::aws_lc_rs::default_provider();
    all.kx_groups
        .retain(|group| group.name() == rustls::NamedGroup::X25519);
    let all = Arc::new(all);
    let bare = |version| {
        ClientConfig::builder_with_provider(Arc::clone(&all))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier())
            .with_no_client_auth()
    };
    let server = || b.server(&api()).unwrap();
    let anonymous = said(join(
        Arc::new(bare(&rustls::version::TLS13)),
        server(),
        usize::MAX,
    ));
    assert!(
        anonymous.starts_with("server: no_certificate: peer sent no certificates"),
        "{anonymous}"
    );
    let old = said(join(
        Arc::new(bare(&rustls::version::TLS12)),
        server(),
        usize::MAX,
    ));
    assert!(
        old.contains("server: incompatible: peer is incompatible"),
        "{old}"
    );

    let a = node(&root, trust(&[&root]), &web());
    let mut config = ClientConfig::clone(&a.client(&web(), &[api()]).unwrap());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let other = said(join(Arc::new(config.clone()), server(), usize::MAX));
    assert!(
        other.contains("server: incompatible: peer doesn't support any known protocol"),
        "{other}"
    );
    config.alpn_protocols.clear();
    assert_eq!(
        said(join(Arc::new(config), server(), usize::MAX)),
        "accepted"
    );
}

#[test]
fn trust_that_is_taken_away_is_told_of_open_connections() {
    let (first, second) = (root(), root());
    let a = node(&first, trust(&[&first]), &web());
    let b = node(&first, trust(&[&first]), &api());
    let joined = join(
        a.client(&web(), &[api()]).unwrap(),
        b.server(&api()).unwrap(),
        usize::MAX,
    );
    let server = joined.unwrap().server;
    let since = clock::wall();
    let chain = server.peer_certificates().unwrap_or_default();
    let holds = || b.trust().still_trusts(chain, Peer::Client, since);
    assert_eq!(holds().unwrap(), web());
    b.set_trust(trust(&[&first, &second])).unwrap();
    assert!(holds().is_ok(), "both roots, while one replaces the other");
    // Years later: expiry alone ends nothing.
    assert!(
        b.trust()
            .still_trusts(chain, Peer::Client, since - MINUTE)
            .is_ok()
    );
    b.set_trust(trust(&[&second])).unwrap();
    assert!(matches!(holds(), Err(Refusal::Chain { .. })));
}

#[test]
fn what_an_authority_gives_is_checked() {
    let root = root();
    let (key, other) = (Key::generate().unwrap(), Key::generate().unwrap());
    let request = key.request(&web()).unwrap();
    let now = clock::wall();
    let sign = |identity: &Identity, until| root.sign(&request.der, identity, now, until);
    let chain = sign(&web(), now + MINUTE).unwrap();
    assert!(Credential::new(&web(), &key, chain.clone()).is_ok());
    let wrong = Credential::new(&web(), &other, chain.clone()).unwrap_err();
    assert!(matches!(wrong, Error::OtherKey(_)), "{wrong}");
    let wrong = Credential::new(&api(), &key, chain).unwrap_err();
    assert!(wrong.to_string().contains("expected was"), "{wrong}");
    let wrong = Credential::new(&web(), &key, Vec::new()).unwrap_err();
    assert!(wrong.to_string().contains("no certificate"), "{wrong}");
    let garbage = vec![CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])];
    let wrong = Credential::new(&web(), &key, garbage).unwrap_err();
    assert!(wrong.to_string().contains("can't be read"), "{wrong}");
    assert!(sign(&web(), now).is_err(), "ends before it begins");
}

#[test]
fn an_authority_signs_the_key_of_who_has_it_for_whom_it_is_told() {
    let root = root();
    let now = clock::wall();
    let key = Key::generate().unwrap();
    // What is asked for does not matter: what the authority has been told does.
    let request = key.request(&api()).unwrap();
    let chain = root
        .sign(&request.der, &web(), now - MINUTE, hours(9000))
        .unwrap();
    let certificate = Certificate::of_chain(&chain).unwrap();
    assert_eq!(certificate.identity, web());
    let ends = root
        .not_after()
        .duration_since(certificate.not_after)
        .unwrap();
    assert!(
        ends < Duration::from_secs(2),
        "with its authority at the latest"
    );
    assert_eq!(chain.len(), 1, "no root");

    let mut broken = request.der.to_vec();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    for (name, bytes) in [
        ("not signed by its key", broken),
        ("cut", request.der[..last].to_vec()),
        ("longer", [&request.der[..], &[0]].concat()),
        ("huge", vec![0; MAX_CERTIFICATE + 1]),
        ("empty", Vec::new()),
    ] {
        let result = root.sign(&bytes, &web(), now, hours(1));
        assert!(
            matches!(result, Err(Error::Request(_))),
            "{name}: {result:?}"
        );
    }
    let ended = Issuer::root("cluster.local", hours(-2), hours(-1)).unwrap();
    let result = ended.sign(&request.der, &web(), now, hours(1));
    assert!(result.unwrap_err().to_string().contains("expired"));
}

#[test]
fn authorities_below_the_root_and_from_files_sign_alike() {
    let root = root();
    let middle = root
        .intermediate("cluster.local", hours(-1), hours(2000))
        .unwrap();
    assert_eq!(middle.not_after(), root.not_after());
    let again = Issuer::from_pem(&middle.certificate_pem(), &middle.key_pem(), "").unwrap();
    let whole = Issuer::from_pem(&root.certificate_pem(), &root.key_pem(), "").unwrap();
    for (name, issuer, length) in [
        ("intermediate", &middle, 2),
        ("its files", &again, 2),
        ("the root's files", &whole, 1),
    ] {
        let credential = credential_for(issuer, &web(), -1, 1);
        assert_eq!(credential.chain().len(), length, "{name}");
        credential.verify(&trust(&[&root]), clock::wall()).unwrap();
    }
    let leaf = credential_for(&root, &web(), -1, 1);
    let leaf = pem(&leaf.chain()[0]);
    for (name, certificate, key, expected) in [
        (
            "another's key",
            root.certificate_pem(),
            middle.key_pem(),
            "not its certificate's",
        ),
        ("a workload's", leaf, root.key_pem(), "not an authority's"),
        (
            "no certificate",
            String::new(),
            root.key_pem(),
            "can't be read",
        ),
        (
            "no key",
            root.certificate_pem(),
            String::new().into(),
            "can't be read",
        ),
    ] {
        let error = Issuer::from_pem(&certificate, &key, "")
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    assert_eq!(
        certificates(&(root.certificate_pem() + &middle.certificate_pem()))
            .unwrap()
            .len(),
        2
    );
    assert!(certificates("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").is_err());
}

#[test]
fn a_hello_as_large_as_a_record_allows_is_refused_in_time() {
    let root = root();
    let config = node(&root, trust(&[&root]), &api()).server(&api()).unwrap();
    let mut server = ServerConnection::new(config).unwrap();
    // A ClientHello that says it has 2^24 bytes, in records of 16 KiB.
    let mut record = vec![22, 3, 1, 0x40, 0];
    record.extend([1, 0xff, 0xff, 0xff]);
    record.resize(5 + 0x4000, 0);
    let mut taken = 0;
    let refused = (0..64).any(|_| {
        let mut rest = &record[..];
        while !rest.is_empty() {
            match server.read_tls(&mut rest) {
                Ok(count) => taken += count,
                Err(_) => return true,
            }
            if server.process_new_packets().is_err() {
                return true;
            }
        }
        false
    });
    assert!(refused, "{taken} bytes were taken");
    assert!(taken <= 0x2_0000, "{taken}");
}
