//! Which keys there are, how they are agreed on, and how far from a root they may be.

use rcgen::{BasicConstraints, IsCa};
use rustls::NamedGroup;
use rustls::server::ServerSessionMemoryCache;
use x509_parser::asn1_rs::FromDer as _;
use x509_parser::certification_request::X509CertificationRequest;

use super::*;

/// Of P-256, as RFC 5480 names it.
const P_256: &str = "1.2.840.10045.3.1.7";

#[test]
fn workloads_keys_are_of_p_256() {
    let curve = |key: &x509_parser::x509::SubjectPublicKeyInfo<'_>| {
        let curve = key.algorithm.parameters.as_ref().unwrap();
        curve.as_oid().unwrap().to_id_string()
    };
    let key = Key::generate().unwrap();
    let request = key.request(&web()).unwrap();
    let (_, asked) = X509CertificationRequest::from_der(&request.der).unwrap();
    assert_eq!(curve(&asked.certification_request_info.subject_pki), P_256);
    let chain = root()
        .sign(&request.der, &web(), hours(-1), hours(1))
        .unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    assert_eq!(curve(leaf.public_key()), P_256);
}

/// A client of the mesh that agrees on keys in these ways alone.
fn client_by(root: &Issuer, groups: &[NamedGroup]) -> Arc<ClientConfig> {
    let mut provider = rustls::crypto::CryptoProvider::clone(provider());
    provider
        .kx_groups
        .retain(|group| groups.contains(&group.name()));
    let key = Key::generate().unwrap();
    let request = key.request(&web()).unwrap();
    let chain = root
        .sign(&request.der, &web(), hours(-1), hours(1))
        .unwrap();
    let key = PrivatePkcs8KeyDer::from(key.pair().serialize_der());
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verify::Servers {
            trust: trust(&[root]),
            expected: [api()].into(),
        }))
        .with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(key))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

#[test]
fn who_does_not_have_ml_kem_is_met_by_x25519() {
    let root = root();
    let server = node(&root, trust(&[&root]), &api());
    for (groups, expected) in [
        (
            &[NamedGroup::X25519MLKEM768, NamedGroup::X25519][..],
            Some(NamedGroup::X25519MLKEM768),
        ),
        (&[NamedGroup::X25519], Some(NamedGroup::X25519)),
    ] {
        let joined = join(
            client_by(&root, groups),
            server.server(&api()).unwrap(),
            usize::MAX,
        );
        let found = joined.map(|joined| {
            let group = joined.server.negotiated_key_exchange_group();
            group.unwrap().name()
        });
        assert_eq!(found.ok(), expected, "{groups:?}");
    }
}

/// The types of the extensions of a ClientHello (RFC 8446, section 4.1.2) in a record of its own.
fn extensions(record: &[u8]) -> Vec<u16> {
    let length = |at: usize| usize::from(u16::from_be_bytes([record[at], record[at + 1]]));
    // The record's head, the message's, the version, the random.
    let session = 5 + 4 + 2 + 32;
    let suites = session + 1 + usize::from(record[session]);
    let compression = suites + 2 + length(suites);
    let mut at = compression + 1 + usize::from(record[compression]) + 2;
    let mut found = Vec::new();
    while at < record.len() {
        found.push(u16::from_be_bytes([record[at], record[at + 1]]));
        at += 4 + length(at + 2);
    }
    assert_eq!(at, record.len());
    found
}

#[test]
fn no_session_is_resumed_though_the_server_would() {
    let root = root();
    let (a, b) = (
        node(&root, trust(&[&root]), &web()),
        node(&root, trust(&[&root]), &api()),
    );
    let mut server = ServerConfig::clone(&b.server(&api()).unwrap());
    server.send_tls13_tickets = 2;
    server.session_storage = ServerSessionMemoryCache::new(32);
    let client = a.client(&web(), &[api()]).unwrap();
    let joined = join(Arc::clone(&client), Arc::new(server), usize::MAX).unwrap();
    assert_eq!(joined.client.tls13_tickets_received(), 2);
    let name = ServerName::try_from("10.0.0.1").unwrap();
    let mut again = ClientConnection::new(client, name).unwrap();
    let mut hello = Vec::new();
    again.write_tls(&mut hello).unwrap();
    let found = extensions(&hello);
    assert!(found.contains(&43), "supported_versions: {found:?}");
    assert!(!found.contains(&41), "pre_shared_key: {found:?}");
}

/// An authority that stands so many others below a root.
fn below(root: &Issuer, count: usize) -> Result<Issuer, Error> {
    let mut key = KeyPair::from_pem(&root.key_pem()).unwrap();
    let mut certificate = root.certificate_pem();
    let mut above = Vec::new();
    for index in 0..count {
        let issuer = rcgen::Issuer::from_ca_cert_pem(&certificate, key).unwrap();
        let mut params = CertificateParams::default();
        let name = format!("authority {index}");
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        key = KeyPair::generate().unwrap();
        if index > 0 {
            above.insert(0, certificate);
        }
        certificate = params.signed_by(&key, &issuer).unwrap().pem();
    }
    Issuer::from_pem(&certificate, &key.serialize_pem(), &above.concat())
}

#[test]
fn the_longest_chain_is_accepted_and_no_longer_one_is_made_or_taken() {
    let root = root();
    let server = node(&root, trust(&[&root]), &api());
    for count in [1, MAX_CHAIN - 1] {
        let issuer = below(&root, count).unwrap();
        let client = node(&issuer, trust(&[&root]), &web());
        assert_eq!(client.credential(&web()).unwrap().chain().len(), count + 1);
        let outcome = said(join(
            client.client(&web(), &[api()]).unwrap(),
            server.server(&api()).unwrap(),
            usize::MAX,
        ));
        assert_eq!(outcome, "accepted", "{count}");
    }
    let error = below(&root, MAX_CHAIN).unwrap_err().to_string();
    assert!(error.contains("more authorities above it"), "{error}");
    // Nor would webpki take it, whatever we said.
    let issuer = below(&root, MAX_CHAIN - 1).unwrap();
    let key = KeyPair::from_pem(&issuer.key_pem()).unwrap();
    let last = rcgen::Issuer::from_ca_cert_der(issuer.certificate(), key).unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "one more");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let more = params.signed_by(&key, &last).unwrap();
    let more = Issuer::from_pem(&more.pem(), &key.serialize_pem(), "").unwrap();
    let key = Key::generate().unwrap();
    let request = key.request(&web()).unwrap();
    let mut chain = more
        .sign(&request.der, &web(), hours(-1), hours(1))
        .unwrap();
    let between = issuer
        .sign(&request.der, &web(), hours(-1), hours(1))
        .unwrap();
    chain.extend_from_slice(&between[1..]);
    assert_eq!(chain.len(), MAX_CHAIN + 1);
    let roots = &trust(&[&root]);
    let leaf = rustls::server::ParsedCertificate::try_from(&chain[0]).unwrap();
    let mut store = rustls::RootCertStore::empty();
    for (_, all) in roots.roots() {
        store.add_parsable_certificates(all.iter().cloned());
    }
    let verified = rustls::client::verify_server_cert_signed_by_trust_anchor(
        &leaf,
        &store,
        &chain[1..],
        rustls::pki_types::UnixTime::since_unix_epoch(
            clock::wall()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap(),
        ),
        provider().signature_verification_algorithms.all,
    );
    assert!(verified.is_err(), "webpki takes more than we do");
}
