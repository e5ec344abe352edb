//! aquifer beside Envoy: what differs must be listed in `envoy-differences.md`, and what is listed must
//! differ.

mod outside;

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    differential::{
        listed::Listed,
        secure::{Opened, Secure},
        suite, table,
    },
    raw,
};
use outside::Authority;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// The servers of the scenarios, by name, and the files that rules name.
fn secure(files: &tempfile::TempDir) -> Result<Secure> {
    let (authority, stranger) = (Authority::new("one")?, Authority::new("two")?);
    std::fs::write(files.path().join("ca.pem"), authority.pem())?;
    authority.sign(&["client"])?.write(files.path(), "client")?;
    let names = [
        "db.example.com",
        "*.wild.example.com",
        "spiffe://x/db",
        "tls-auto",
        "tls-auto-1",
    ];
    let good = authority.sign(&names)?;
    let one = &["http/1.1"][..];
    let servers = [
        ("good", good.server(None, one)?),
        (
            "good12",
            good.server_of(&[&rustls::version::TLS12], None, one)?,
        ),
        ("both", good.server(None, &["h2", "http/1.1"])?),
        ("asking", good.server(Some(&authority), one)?),
        (
            "asking12",
            good.server_of(&[&rustls::version::TLS12], Some(authority.pem()), one)?,
        ),
        ("foreign", stranger.sign(&names)?.server(None, one)?),
        ("expired", authority.expired(&names)?.server(None, one)?),
    ];
    let servers = Arc::new(servers);
    Ok(Secure {
        files: files.path().to_owned(),
        end: Arc::new(move |name, stream| {
            let config = servers.iter().find(|(one, _)| *one == name);
            let config = config.map(|(_, config)| Arc::clone(config));
            Box::pin(end(name, config, stream))
        }),
    })
}

/// Ends TLS, or does not.
async fn end(name: &str, config: Option<Arc<ServerConfig>>, mut stream: TcpStream) -> Opened {
    let Some(config) = config else {
        // A client's first message is more than that.
        let mut hello = [0; 64];
        stream.read_exact(&mut hello).await.ok()?;
        match name {
            "reset" => raw::reset(stream).ok()?,
            "plain" => {
                let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).await.ok()?;
            }
            // What was not read would make it a reset.
            _ => {
                let _ = stream.try_read(&mut [0; 4096]);
            }
        }
        return None;
    };
    let mut inside = TlsAcceptor::from(config).accept(stream).await.ok()?;
    let session = inside.get_ref().1;
    let word = |bytes: Option<&[u8]>| match bytes {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => "-".into(),
    };
    let told = [
        ("tls-sni", word(session.server_name().map(str::as_bytes))),
        ("tls-alpn", word(session.alpn_protocol())),
        (
            "tls-client",
            session
                .peer_certificates()
                .map_or(0, <[_]>::len)
                .to_string(),
        ),
        (
            "tls-version",
            session
                .protocol_version()
                .map_or("-".into(), |version| format!("{version:?}")),
        ),
    ];
    let told = told.map(|(name, value)| (name.to_owned(), value)).to_vec();
    // The scripts of upstreams are played on sockets.
    let listener = TcpListener::bind("127.0.0.1:0").await.ok()?;
    let near = TcpStream::connect(listener.local_addr().ok()?);
    let (near, far) = tokio::join!(near, listener.accept());
    let (near, mut far) = (near.ok()?, far.ok()?.0);
    tokio::spawn(async move {
        let _ = tokio::io::copy_bidirectional(&mut inside, &mut far).await;
    });
    Some((near, told))
}

/// Plays every scenario, or those whose names begin with one of the words in `SCENARIOS`; those alone
/// can't tell what has vanished from the list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Envoy: its path in ENVOY"]
async fn aquifer_does_what_envoy_does() -> Result<()> {
    let envoy = PathBuf::from(std::env::var_os("ENVOY").context("ENVOY has no path")?);
    let wanted = std::env::var("SCENARIOS").unwrap_or_default();
    let mut scenarios = table::all();
    if !wanted.is_empty() {
        let named = |name: &str| wanted.split(' ').any(|start| name.starts_with(start));
        scenarios.retain(|scenario| named(&scenario.name));
    }
    let list = include_str!("../envoy-differences.md");
    let mut listed = Listed::parse(list)?;
    let known = listed.clone();
    let count = scenarios.len();
    let mut report = Vec::<String>::new();
    let files = tempfile::tempdir()?;
    for verdict in suite::run(&envoy, scenarios, &secure(&files)?, &known).await? {
        let name = verdict.name.as_str();
        for wrong in &verdict.unmeant {
            report.push(format!("{name}: Envoy does not do what is meant: {wrong}"));
        }
        for one in &verdict.differences {
            if listed.has(name, one) {
                continue;
            }
            report.push(format!(
                "{name}: {}:\n    Envoy   {}\n    aquifer {}",
                one.facet, one.envoy, one.aquifer
            ));
        }
    }
    if wanted.is_empty() {
        let vanished = listed.vanished().into_iter();
        report.extend(vanished.map(|row| format!("{row}: listed, and no longer there")));
    }
    ensure!(
        report.is_empty(),
        "{count} scenarios, {} complaints:\n{}",
        report.len(),
        report.join("\n")
    );
    println!("{count} scenarios");
    Ok(())
}

#[test]
fn names_are_unique_and_fit_a_service() {
    let mut names: Vec<_> = table::all()
        .iter()
        .map(|scenario| scenario.name.clone())
        .collect();
    names.sort_unstable();
    for pair in names.windows(2) {
        assert_ne!(pair[0], pair[1]);
    }
    for name in names {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(name.len() <= 60 && name.chars().all(fits), "{name}");
    }
}
