//! What is accepted of a server outside, and what is made of files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::super::provider::outside;
use super::*;
use crate::mesh::origination::{Credentials, Files};

/// Who signs.
struct Authority {
    parameters: CertificateParams,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(parameters.clone(), key),
            parameters,
            pem,
        }
    }

    /// A certificate with its key.
    fn sign(&self, set: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        set(&mut parameters);
        let signed = parameters.signed_by(&key, &self.issuer).unwrap();
        (signed.pem(), key.serialize_pem())
    }

    fn revoke(&self, serial: u64) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: self.parameters.key_identifier_method.clone(),
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn names(all: &[&str]) -> impl FnOnce(&mut CertificateParams) {
    let all = all.iter().map(|name| match *name {
        name if name.contains("://") => SanType::URI(name.try_into().unwrap()),
        name => name.parse().map_or_else(
            |_| SanType::DnsName(name.try_into().unwrap()),
            SanType::IpAddress,
        ),
    });
    let all: Vec<_> = all.collect();
    move |parameters| parameters.subject_alt_names = all
}

/// A handshake in memory; `Err` has what the client says.
fn handshake(
    config: Arc<ClientConfig>,
    name: &str,
    shown: &(String, String),
) -> Result<(), String> {
    let chain = CertificateDer::pem_slice_iter(shown.0.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(shown.1.as_bytes()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::clone(outside()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server
            .process_new_packets()
            .map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        let processed = client.process_new_packets();
        processed.map_err(|error| crate::tls::reason(&error))?;
    }
    Ok(())
}

fn put(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn settings(files: Files, alternatives: &[&str]) -> Origination {
    Origination {
        name: None,
        alternatives: alternatives.iter().map(|one| Arc::from(*one)).collect(),
        credentials: Credentials::Files(files),
    }
}

fn made(files: &Files, alternatives: &[&str]) -> Result<Loaded, String> {
    let settings = settings(files.clone(), alternatives);
    load(&settings, files, &Limits::default())
}

#[test]
fn names_and_alternatives_are_compared_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = Files {
        roots: Some(put(folder.path(), "ca.pem", &authority.pem)),
        ..Files::default()
    };
    let shown = authority.sign(names(&[
        "db.example.com",
        "*.wild.example.com",
        "10.0.0.1",
        "spiffe://x/db",
    ]));
    for (name, alternatives, accepted) in [
        ("db.example.com", &[][..], true),
        ("DB.example.com", &[], true),
        ("a.wild.example.com", &[], true),
        ("10.0.0.1", &[], true),
        ("example.com", &[], false),
        ("a.b.wild.example.com", &[], false),
        ("10.0.0.2", &[], false),
        // The name that is sent counts no more where the rule says whom to expect.
        ("db.example.com", &["other"], false),
        ("other", &["db.example.com"], true),
        ("other", &["nobody", "spiffe://x/db"], true),
        ("other", &["spiffe://x/d", "spiffe://x/db2", "x/db"], false),
        ("other", &["*.wild.example.com"], true),
        ("other", &["*.example.com"], false),
        ("other", &["b.wild.example.com"], true),
        ("other", &["10.0.0.1"], true),
        ("other", &[""], false),
    ] {
        let config = made(&files, alternatives).unwrap().config;
        let outcome = handshake(config, name, &shown);
        assert_eq!(
            outcome.is_ok(),
            accepted,
            "{name} {alternatives:?}: {outcome:?}"
        );
    }
}

#[test]
fn chains_times_and_lists_of_revoked_certificates_count() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(), Authority::new());
    let name = |more: fn(&mut CertificateParams)| {
        move |parameters: &mut CertificateParams| {
            names(&["db"])(parameters);
            more(parameters);
        }
    };
    let roots = Some(put(folder.path(), "ca.pem", &authority.pem));
    let revoked = Some(put(folder.path(), "crl.pem", &authority.revoke(7)));
    let known = Files {
        roots: roots.clone(),
        ..Files::default()
    };
    let listed = Files {
        roots,
        revoked,
        ..Files::default()
    };
    let unlisted = Files {
        revoked: Some(put(folder.path(), "other.pem", &other.revoke(1))),
        ..known.clone()
    };
    let unverified = Files {
        unverified: true,
        ..Files::default()
    };
    let good = authority.sign(name(|_| ()));
    let expired = authority.sign(name(|one| one.not_after = rcgen::date_time_ymd(2021, 1, 1)));
    let early = authority.sign(name(|one| {
        one.not_before = rcgen::date_time_ymd(2090, 1, 1)
    }));
    let seven = authority.sign(name(|one| {
        one.serial_number = Some(SerialNumber::from(7_u64))
    }));
    let foreign = other.sign(name(|_| ()));
    for (what, files, shown, accepted) in [
        ("good", &known, &good, true),
        ("expired", &known, &expired, false),
        ("too early", &known, &early, false),
        ("another's", &known, &foreign, false),
        ("revoked, and nobody asks", &known, &seven, true),
        ("revoked", &listed, &seven, false),
        ("not revoked", &listed, &good, true),
        ("no list of its authority's", &unlisted, &good, false),
        ("unverified", &unverified, &expired, true),
        ("unverified", &unverified, &foreign, true),
    ] {
        let outcome = handshake(made(files, &[]).unwrap().config, "db", shown);
        assert_eq!(outcome.is_ok(), accepted, "{what}: {outcome:?}");
    }
    // One that has signed itself is its own authority: trusted as long as it holds.
    for (until, accepted) in [(2090, true), (2021, false)] {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        names(&["db"])(&mut parameters);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
        let own = parameters.self_signed(&key).unwrap().pem();
        let files = Files {
            roots: Some(put(folder.path(), "own.pem", &own)),
            ..Files::default()
        };
        let config = made(&files, &[]).unwrap().config;
        let outcome = handshake(config, "db", &(own, key.serialize_pem()));
        assert_eq!(outcome.is_ok(), accepted, "{until}: {outcome:?}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named_and_no_key_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = authority.sign(names(&["client"]));
    let (_, other) = authority.sign(names(&["client"]));
    let path = |name: &str, text: &str| put(folder.path(), name, text);
    let ca = Some(path("ca.pem", &authority.pem));
    let mut count = 0;
    let mut own = |certificate: &str, key: &str| {
        count += 1;
        Files {
            roots: ca.clone(),
            own: Some((
                path(&format!("{count}a.crt"), certificate),
                path(&format!("{count}a.key"), key),
            )),
            ..Files::default()
        }
    };
    assert!(made(&own(&certificate, &key), &[]).unwrap().until.is_some());
    let roots = |path: PathBuf| Files {
        roots: Some(path),
        ..Files::default()
    };
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let large = path("large.pem", &"x".repeat(5 << 20));
    let key_text = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
    for (files, expected) in [
        (roots(folder.path().join("none")), "none: No such file"),
        (
            roots(path("empty.pem", "")),
            "empty.pem: has no certificate",
        ),
        (roots(path("key.pem", &key)), "key.pem: has no certificate"),
        (roots(folder.path().to_owned()), "is no file"),
        (roots(pipe), "pipe: is no file"),
        (roots(large), "large.pem: is larger than"),
        (own(&certificate, &other), "a.key: is not the key of"),
        (own(&certificate, "secret"), "a.key: has no private key"),
        (
            own(&certificate, key_text),
            "a.key: its private key is of a kind",
        ),
        (own("", &key), "a.crt: has no certificate"),
        (
            Files {
                revoked: Some(path("crl.pem", &authority.pem)),
                ..roots(path("ca.pem", &authority.pem))
            },
            "crl.pem: has no list",
        ),
    ] {
        let error = made(&files, &[]).unwrap_err();
        assert!(error.contains(expected), "{error}: {expected}");
        assert!(!error.contains("secret") && !error.contains("c2VjcmV0"));
    }
}

#[tokio::test]
async fn whoever_asks_before_files_were_read_waits_for_them() {
    let settings = Arc::new(settings(Files::default(), &[]));
    let outside = Outside::default();
    let (asked, reading) = (outside.clone(), Arc::clone(&settings));
    let asking = tokio::spawn(async move { asked.loaded(&reading).await });
    tokio::task::yield_now().await;
    outside.set(HashMap::new());
    tokio::task::yield_now().await;
    assert!(!asking.is_finished());
    outside.set(HashMap::from([(settings, Err("why".into()))]));
    assert_eq!(&*asking.await.unwrap().unwrap_err(), "why");
}

#[test]
fn who_was_verified_stays_so_for_as_long_as_somebody_vouches_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Authority::new(), Authority::new());
    let signed = first.sign(|parameters| {
        names(&["db"])(parameters);
        parameters.serial_number = Some(SerialNumber::from(7_u64));
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let chain: Vec<_> = CertificateDer::pem_slice_iter(signed.0.as_bytes())
        .map(Result::unwrap)
        .collect();
    let both = first.pem.clone() + &second.pem;
    let listed = |serial| Some(put(folder.path(), "crl.pem", &first.revoke(serial)));
    let valid: SystemTime = rcgen::date_time_ymd(2020, 6, 1).into();
    let late = rcgen::date_time_ymd(2022, 6, 1).into();
    for (what, roots, revoked, unverified, since, expected) in [
        ("its root", &first.pem, None, false, valid, true),
        ("and another", &both, None, false, valid, true),
        ("another alone", &second.pem, None, false, valid, false),
        ("itself", &signed.0, None, false, valid, true),
        (
            "a list without it",
            &first.pem,
            listed(8),
            false,
            valid,
            true,
        ),
        ("verified too late", &first.pem, None, false, late, false),
        ("nobody asks", &second.pem, None, true, late, true),
    ] {
        let files = Files {
            roots: (!unverified).then(|| put(folder.path(), "ca.pem", roots)),
            revoked,
            own: None,
            unverified,
        };
        // Its name does not count any more.
        let loaded = made(&files, &["another"]).unwrap();
        let found = loaded.still_vouches(&chain, since);
        assert_eq!(found.is_ok(), expected, "{what}: {found:?}");
    }
    let files = Files {
        roots: Some(put(folder.path(), "ca.pem", &first.pem)),
        revoked: listed(7),
        ..Files::default()
    };
    let loaded = made(&files, &[]).unwrap();
    assert!(loaded.still_vouches(&chain, valid).is_err(), "revoked");
    assert!(loaded.still_vouches(&[], valid).is_err(), "nobody");
}
