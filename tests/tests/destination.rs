//! What a destination's policy does to sockets, connections and shares, as the other end sees it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Manifests, PATIENCE,
    client::Http,
    clock,
    echo::Echo,
    process,
    raw::{self, Server},
    shop::{REVIEWS, Shop},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
};

/// A Service `wires` at this address, for ports of a test's own.
const WIRES: &str = "10.96.7.40";

/// It, with these ports (name, number), and a DestinationRule with settings for each port.
fn wires(ports: &[(&str, u16, &str)]) -> Result<String> {
    let (mut declared, mut settings) = (String::new(), String::new());
    for (name, port, pool) in ports {
        writeln!(declared, "  - {{name: {name}-{port}, port: {port}}}")?;
        writeln!(
            settings,
            "    - {{port: {{number: {port}}}, connectionPool: {{{pool}}}}}"
        )?;
    }
    Ok(format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: wires, namespace: shop}}\n\
         spec:\n  clusterIP: {WIRES}\n  selector: {{app: wires}}\n  ports:\n{declared}---\n{}\
         spec:\n  host: wires\n  trafficPolicy:\n    portLevelSettings:\n{settings}",
        rule("wires")
    ))
}

/// The head of a DestinationRule.
fn rule(name: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: {name}, namespace: shop}}\n"
    )
}

fn wire(port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(WIRES.parse::<IpAddr>()?, port))
}

/// Sends back what comes.
async fn echoes(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

async fn echoed(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"x").await?;
    ensure!(raw::read_exactly(stream, 1).await? == b"x");
    Ok(())
}

#[tokio::test]
async fn idle_connections_are_probed_as_configured() -> Result<()> {
    let pods = &[
        ("client", "app=client"),
        ("silent", "app=wires,aquifer.io/mesh=disabled"),
    ];
    // Seconds after which the kernel gives up a peer that does not answer: time, and an interval
    // for each probe.
    let rows = [
        (9001, "time: 1s, interval: 1s, probes: 2", Some(3)),
        (9002, "time: 3s, interval: 1s, probes: 2", Some(5)),
        (9003, "time: 1s, interval: 2s, probes: 2", Some(5)),
        (9004, "time: 1s, interval: 1s, probes: 4", Some(5)),
        (9005, "time: 5ms, interval: 5ms, probes: 1", Some(2)),
        // No kernel takes these as they are.
        (9006, "time: 200h, interval: 200h, probes: 4000000000", None),
        (9007, "", None),
    ];
    let settings = rows.map(|(port, keepalive, _)| {
        let pool = if keepalive.is_empty() {
            "tcp: {maxConnections: 10}".to_owned()
        } else {
            format!("tcp: {{tcpKeepalive: {{{keepalive}}}}}")
        };
        (port, pool)
    });
    let ports: Vec<_> = settings
        .iter()
        .map(|(port, pool)| ("tcp", *port, pool.as_str()))
        .collect();
    let shop = Shop::open(pods, &wires(&ports)?).await?;
    let (client, silent) = (shop.pod("client")?, shop.pod("silent")?);
    let servers = rows.map(|(port, ..)| Server::start(silent, port, |stream, _| echoes(stream)));
    let _servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
    let mut ends = JoinSet::new();
    let mut open = Vec::new();
    for (port, keepalive, seconds) in rows {
        let mut stream = client.netns.connect(wire(port)?).await?;
        echoed(&mut stream).await.context(keepalive)?;
        let begun = clock::now();
        match seconds {
            None => open.push((keepalive, stream)),
            Some(seconds) => drop(ends.spawn(async move {
                let drained = raw::drain(&mut stream).await;
                (keepalive, seconds, begun, clock::now(), drained)
            })),
        }
    }
    // From here on it receives what is sent, and says nothing.
    let nobody = format!("{}/32", client.v4);
    let route = |what: &str| {
        let netns = silent.netns.name();
        process::output(
            "ip",
            &["-netns", netns, "route", what, "blackhole", &nobody],
        )
    };
    route("add")?;
    let silenced = clock::now();
    while let Some(end) = ends.join_next().await {
        let (keepalive, seconds, begun, ended, drained) = end?;
        drained.with_context(|| format!("{keepalive}: not given up"))?;
        // The kernel's timer is no earlier than this; later only as far as the machine is busy. Until
        // it was silenced the peer may have answered one.
        let (took, silent) = ((ended - begun).as_secs_f64(), ended - silenced);
        let due = f64::from(seconds);
        ensure!(
            took > due - 0.2 && silent.as_secs_f64() < due + 1.7,
            "{keepalive}: given up after {took:.1} s"
        );
    }
    route("delete")?;
    for (keepalive, mut stream) in open {
        echoed(&mut stream).await.context(keepalive)?;
    }
    Ok(())
}

/// What a bare server of HTTP/2 saw on one of its connections.
#[derive(Debug)]
enum Saw {
    Ping(Instant),
    Ended(Instant),
}

/// HTTP/2 in its bare frames (RFC 9113, section 4.1): every request is answered by 200, and a ping as
/// long as `answers` says so.
async fn frames(mut stream: TcpStream, answers: Arc<AtomicBool>, saw: mpsc::UnboundedSender<Saw>) {
    const ACK: u8 = 1;
    let mut preface = [0; 24];
    let begun = async {
        stream.read_exact(&mut preface).await?;
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await?;
            let [.., kind, flags, _, _, _, _] = head;
            match (kind, flags & ACK) {
                // SETTINGS, PING, HEADERS: a status of 200 is one byte of HPACK.
                (4, 0) => stream.write_all(&[0, 0, 0, 4, ACK, 0, 0, 0, 0]).await?,
                (6, 0) => {
                    let _ = saw.send(Saw::Ping(clock::now()));
                    if answers.load(Ordering::Relaxed) {
                        head[4] = ACK;
                        stream.write_all(&[&head[..], &payload].concat()).await?;
                    }
                }
                (1, _) => {
                    let id = &head[5..];
                    let answer = [&[0, 0, 1, 1, 0x5][..], id, &[0x88]].concat();
                    stream.write_all(&answer).await?;
                }
                _ => {}
            }
        }
    };
    let ended: std::io::Result<()> = begun.await;
    let _ = (ended, saw.send(Saw::Ended(clock::now())));
}

#[tokio::test]
async fn a_connection_whose_pings_stay_unanswered_is_closed() -> Result<()> {
    let pods = &[
        ("client", "app=client"),
        ("wires", "app=wires,aquifer.io/mesh=disabled"),
    ];
    let (interval, timeout) = (Duration::from_millis(300), Duration::from_millis(1500));
    let ports = [
        (
            "http2",
            9100,
            "http: {http2KeepAlive: {interval: 300ms, timeout: 1500ms}}",
        ),
        ("http2", 9101, "http: {maxRetries: 10}"),
    ];
    let shop = Shop::open(pods, &wires(&ports)?).await?;
    let answers = Arc::new(AtomicBool::new(true));
    let serve = |port| {
        let (sender, receiver) = mpsc::unbounded_channel();
        let answers = answers.clone();
        let server = Server::start(shop.pod("wires")?, port, move |stream, _| {
            frames(stream, answers.clone(), sender.clone())
        });
        anyhow::Ok((server?, receiver))
    };
    let ((pinged, mut saw), (quiet, mut nothing)) = (serve(9100)?, serve(9101)?);
    let ask = async |port| {
        let mut http = Http::connect(shop.pod("client")?, wire(port)?).await?;
        assert_eq!(http.get("wires", "/").await?.status, 200, "{port}");
        anyhow::Ok(())
    };
    ask(9100).await?;
    ask(9101).await?;
    let mut next = async || {
        let next = tokio::time::timeout(PATIENCE, saw.recv()).await;
        next.context("nothing came")?.context("the server is gone")
    };
    // As long as it answers, it is asked again and again, and stays connected.
    let mut last = None;
    for number in 0..4 {
        let Saw::Ping(at) = next().await? else {
            anyhow::bail!("closed after {number} pings");
        };
        let gap = last.map(|last| at - last);
        ensure!(gap.is_none_or(|gap| gap > interval / 2), "{gap:?}");
        last = Some(at);
    }
    answers.store(false, Ordering::Relaxed);
    let mut asked = None;
    let ended = loop {
        match next().await? {
            Saw::Ping(at) => asked = Some(at),
            Saw::Ended(at) => break at,
        }
    };
    let waited = ended - asked.context("no ping was left unanswered")?;
    ensure!(
        waited > timeout / 2 && waited < timeout + Duration::from_secs(2),
        "closed {waited:?} after the ping"
    );
    // Who asks next gets a connection that works.
    answers.store(true, Ordering::Relaxed);
    ask(9100).await?;
    assert_eq!(pinged.accepted(), 2);
    // Nobody has asked for it there.
    ask(9101).await?;
    ensure!(quiet.accepted() > 0 && nothing.try_recv().is_err());
    Ok(())
}

#[tokio::test]
async fn passthrough_goes_where_the_client_goes() -> Result<()> {
    let pods = &[
        ("client", "app=client"),
        ("endpoint", "app=reviews,aquifer.io/mesh=disabled"),
        ("wired", "app=wires,aquifer.io/mesh=disabled"),
        ("elsewhere", "app=elsewhere,aquifer.io/mesh=disabled"),
    ];
    let service = wires(&[("tcp", 9001, "tcp: {maxConnections: 10}")])?;
    let (service, _) = service.split_once("---\n").context("a Service first")?;
    let shop = Shop::open(pods, service).await?;
    let elsewhere = shop.pod("elsewhere")?;
    // The addresses of both Services lead to a pod that is an endpoint of neither.
    for address in [REVIEWS.parse::<SocketAddr>()?.ip(), WIRES.parse()?] {
        let address = format!("{address}/32");
        let via = elsewhere.v4.to_string();
        let client = ["-netns", shop.pod("client")?.netns.name(), "route", "add"];
        process::output("ip", &[&client[..], &[&address, "via", &via]].concat())?;
        let own = ["-netns", elsewhere.netns.name(), "route", "add", "local"];
        process::output("ip", &[&own[..], &[&address, "dev", "lo"]].concat())?;
    }
    let says = |name: &'static str| {
        Server::start(shop.pod(name)?, 9001, move |mut stream, _| async move {
            let _ = stream.write_all(name.as_bytes()).await;
        })
    };
    let _servers = [says("wired")?, says("elsewhere")?];
    let _echoes = [
        Echo::start(shop.pod("endpoint")?, 9080, "endpoint")?,
        Echo::start(elsewhere, 80, "elsewhere")?,
    ];
    let passthrough = |name: &str| {
        let rule = rule(name);
        format!(
            "---\n{rule}spec: {{host: {name}, trafficPolicy: {{loadBalancer: {{simple: PASSTHROUGH}}}}}}\n"
        )
    };
    let all = format!(
        "{service}{}{}",
        passthrough("reviews"),
        passthrough("wires")
    );
    let goes_to = async |endpoint: &str, wired: &str| {
        let seen = shop.http().await?.get("reviews", "/").await?.seen()?;
        assert_eq!(seen.server(), endpoint);
        let (said, _) = raw::ask(shop.pod("client")?, wire(9001)?, b"").await?;
        assert_eq!(said, wired);
        anyhow::Ok(seen)
    };
    goes_to("endpoint", "wired").await?;
    shop.apply(&all).await?;
    let seen = goes_to("elsewhere", "elsewhere").await?;
    assert_eq!(seen.field("local"), REVIEWS);
    shop.apply(service).await?;
    goes_to("endpoint", "wired").await?;
    Ok(())
}

/// A time so long ago, as Kubernetes writes it.
fn ago(seconds: u64) -> Result<String> {
    let at = format!("{seconds} seconds ago");
    let text = process::output("date", &["-u", "-d", &at, "+%Y-%m-%dT%H:%M:%SZ"])?;
    Ok(text.trim().to_owned())
}

#[tokio::test]
async fn an_endpoint_gets_more_as_it_grows_older() -> Result<()> {
    let pods = &[
        ("client", "app=client"),
        ("old", "app=reviews,aquifer.io/mesh=disabled"),
        ("new", "app=reviews,aquifer.io/mesh=disabled"),
    ];
    let shop = Shop::open(pods, "# nothing\n").await?;
    let _echoes = [
        Echo::start(shop.pod("old")?, 9080, "old")?,
        Echo::start(shop.pod("new")?, 9080, "new")?,
    ];
    let pod = |name: &str, labels: &[(&str, &str)], seconds: u64| {
        let pod = shop.pod(name)?;
        let text = Manifests::new().pod_in("shop", pod, labels, &[]).text();
        let ready = format!("\"lastTransitionTime\": \"{}\", \"type\"", ago(seconds)?);
        ensure!(text.matches("\"type\"").count() == 1, "{text}");
        Ok(text.replace("\"type\"", &ready))
    };
    let endpoint = [("app", "reviews"), ("aquifer.io/mesh", "disabled")];
    let day = 24 * 3600;
    let rest = pod("client", &[("app", "client")], day)? + "\n---\n" + &pod("old", &endpoint, day)?;
    // The window is an hour long, so that the seconds of the test itself make no difference. Each time
    // the service is a new one: what joins one that was there is new whatever its pod says.
    let mut number = 0;
    for (settings, age, weight) in [
        ("duration: 1h", 0, 0.1),
        ("duration: 1h", 1800, 0.5),
        ("duration: 1h", 2700, 0.75),
        ("duration: 1h", 3601, 1.0),
        ("duration: 1h, minimumPercent: 30", 0, 0.3),
        ("duration: 1h, aggression: 2", 900, 0.5),
    ] {
        for algorithm in ["ROUND_ROBIN", "LEAST_REQUEST"] {
            let name = format!("{algorithm}, {settings}, {age} s old");
            let balancer = format!("loadBalancer: {{simple: {algorithm}, warmup: {{{settings}}}}}");
            number += 1;
            let host = format!("aged-{number}");
            let (rule, new) = (rule(&host), pod("new", &endpoint, age)?);
            let all = format!(
                "{rest}\n---\n{new}\n---\n\
                 apiVersion: v1\nkind: Service\nmetadata: {{name: {host}, namespace: shop}}\n\
                 spec: {{selector: {{app: reviews}}, ports: [{{name: http, port: 80, targetPort: 9080}}]}}\n---\n\
                 {rule}spec: {{host: {host}, trafficPolicy: {{{balancer}}}}}\n"
            );
            for pods in [&rest, &all] {
                let put = || shop.config.put("pods.yaml", pods);
                shop.proxy.after(put).await?;
            }
            let joined =
                format!("cluster.outbound|80||{host}.shop.svc.cluster.local.membership_total");
            let count = 400;
            let mut served: BTreeMap<String, usize> = BTreeMap::new();
            let mut http = shop.http().await?;
            for _ in 0..count {
                let seen = http.get(&host, "/").await?.seen()?;
                *served.entry(seen.server().to_owned()).or_default() += 1;
            }
            // Each pod has two addresses, of which the one of the family that was dialled counts.
            shop.stat(&joined, |n| n > 0).await?;
            let new = served.get("new").copied().unwrap_or_default();
            let share = weight / (1.0 + weight);
            let meant = share * f64::from(count);
            // Turns are exact but for where they begin. Between equals that are both idle chance
            // decides: six standard deviations.
            let chance = algorithm == "LEAST_REQUEST" && weight == 1.0;
            let most = if chance { 60.0 } else { 8.0 };
            ensure!(
                (new as f64 - meant).abs() < most,
                "{name}: {new} of {count}, not {meant:.0}"
            );
        }
    }
    Ok(())
}

/// A connection of one version of HTTP holds the only place, and has no request.
#[tokio::test]
async fn a_place_passes_from_one_version_of_http_to_the_other() -> Result<()> {
    let pods = &[
        ("client", "app=client"),
        ("endpoint", "app=reviews,aquifer.io/mesh=disabled"),
    ];
    let pool = "connectionPool: {tcp: {maxConnections: 1}, http: {useClientProtocol: true}}";
    let rule = rule("reviews");
    let text = format!("{rule}spec: {{host: reviews, trafficPolicy: {{{pool}}}}}\n");
    let shop = Shop::open(pods, &text).await?;
    let _echo = Echo::start(shop.pod("endpoint")?, 9080, "endpoint")?;
    // On one of the two workers, or on both: more often than chance leaves out one.
    for number in 0..20 {
        let client = shop.pod("client")?;
        let to = REVIEWS.parse()?;
        for (version, mut http) in [
            ("HTTP/1.1", Http::connect(client, to).await?),
            ("HTTP/2.0", Http::connect2(client, to).await?),
        ] {
            let reply = http.get("reviews", "/").await;
            let reply = reply.with_context(|| format!("{version}, request {number}"))?;
            assert_eq!(reply.seen()?.field("version"), version);
        }
    }
    Ok(())
}
