//! What a destination's failures cost its callers: retries, time limits, ejections, and mirrors,
//! which must cost nothing.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    PATIENCE,
    client::{Http, Reply, request, whole},
    clock,
    echo::Echo,
    raw::{self, End, Server},
    shop::{Shop, says},
};
use bytes::Bytes;
use http_body_util::{BodyExt, channel::Channel};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
};

/// Upstreams are outside the mesh: what happens to their connections is the proxy's own doing.
const PODS: &[(&str, &str)] = &[
    ("client", "app=client"),
    (
        "reviews-v1",
        "app=reviews,version=v1,aquifer.io/mesh=disabled",
    ),
    (
        "reviews-v2",
        "app=reviews,version=v2,aquifer.io/mesh=disabled",
    ),
];
const CLUSTER: &str = "cluster.outbound|80||reviews.shop.svc.cluster.local";

const SUBSETS: &str = "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";

/// A VirtualService for reviews with one rule.
fn rule(rule: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: reviews, namespace: shop}}\n\
         spec: {{hosts: [reviews], http: [{{{rule}}}]}}\n"
    )
}

/// A DestinationRule for reviews with this outlier detection.
fn outliers(settings: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: reviews, namespace: shop}}\n\
         spec: {{host: reviews, trafficPolicy: {{outlierDetection: {{{settings}}}}}}}\n"
    )
}

/// A server that fails as long as the switch says so.
fn switched(shop: &Shop, pod: &'static str, fails: &Arc<AtomicBool>) -> Result<Echo> {
    let fails = Arc::clone(fails);
    shop.answering(pod, move |_| {
        let status = if fails.load(Ordering::Relaxed) {
            503
        } else {
            200
        };
        Box::pin(async move { says(status, pod) })
    })
}

/// The flags of the access log's line for a path.
fn flags(shop: &Shop, path: &str) -> Result<BTreeSet<String>> {
    let line = shop
        .proxy
        .logged(0, |line| line.contains(&format!(" {path} HTTP/1.1\"")))?;
    let flags = line.split(' ').nth(5).unwrap_or_default();
    Ok(flags.split(',').map(str::to_owned).collect())
}

#[tokio::test]
async fn an_endpoint_is_ejected_and_returns() -> Result<()> {
    // Long enough for what is asked meanwhile.
    let settings = "consecutive5xxErrors: 3, interval: 100ms, baseEjectionTime: 3s, \
                    maxEjectionPercent: 100";
    let shop = Shop::open(PODS, &outliers(settings)).await?;
    let fails = Arc::new(AtomicBool::new(true));
    let first = switched(&shop, "reviews-v1", &fails)?;
    let second = switched(&shop, "reviews-v2", &Arc::default())?;
    let mut http = shop.http().await?;
    while first.requests() < 3 {
        http.get("reviews", "/").await?;
    }
    let detection = format!("{CLUSTER}.outlier_detection");
    shop.stat(&format!("{detection}.ejections_active"), |n| n == 1)
        .await?;
    shop.stat(&format!("{CLUSTER}.membership_healthy"), |n| n == 1)
        .await?;
    for _ in 0..20 {
        assert_eq!(http.get("reviews", "/").await?.text(), "reviews-v2");
    }
    assert_eq!(first.requests(), 3);
    // Well again, it is back at a sweep of its own accord, without any request.
    fails.store(false, Ordering::Relaxed);
    shop.stat(&format!("{detection}.ejections_active"), |n| n == 0)
        .await?;
    for (name, value) in [
        ("ejections_enforced_total", 1),
        ("ejections_enforced_consecutive_5xx", 1),
        ("ejections_detected_consecutive_5xx", 1),
        ("ejections_overflow", 0),
    ] {
        shop.stat(&format!("{detection}.{name}"), |n| n == value)
            .await?;
    }
    let before = (first.requests(), second.requests());
    for _ in 0..50 {
        assert_eq!(http.get("reviews", "/").await?.status, 200);
    }
    ensure!(
        first.requests() > before.0 && second.requests() > before.1,
        "both serve"
    );
    Ok(())
}

#[tokio::test]
async fn no_more_than_the_given_share_is_ejected() -> Result<()> {
    // Each of the two has an IPv4 and an IPv6 address, and is one endpoint all the same.
    let settings = "consecutive5xxErrors: 1, interval: 10s, baseEjectionTime: 60s, \
                    maxEjectionPercent: 50";
    let shop = Shop::open(PODS, &outliers(settings)).await?;
    let fails = Arc::new(AtomicBool::new(true));
    let _servers = [
        switched(&shop, "reviews-v1", &fails)?,
        switched(&shop, "reviews-v2", &fails)?,
    ];
    shop.stat(&format!("{CLUSTER}.membership_total"), |n| n == 0)
        .await?;
    let mut http = shop.http().await?;
    for _ in 0..20 {
        let reply = http.get("reviews", "/").await?;
        ensure!(reply.text().starts_with("reviews-v"), "{}", reply.text());
    }
    for (name, value) in [
        ("membership_total", 2),
        ("membership_healthy", 1),
        ("outlier_detection.ejections_active", 1),
        ("outlier_detection.ejections_enforced_total", 1),
        ("outlier_detection.ejections_overflow", 19),
    ] {
        shop.stat(&format!("{CLUSTER}.{name}"), |n| n == value)
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_short_ejection_ends_before_a_longer_one_that_began_earlier() -> Result<()> {
    // One that is well for an interval is forgiven: long enough to fail again before that.
    let settings = "consecutive5xxErrors: 1, interval: 500ms, baseEjectionTime: 2s, \
                    maxEjectionPercent: 100";
    let shop = Shop::open(PODS, &outliers(settings)).await?;
    let fails = [Arc::new(AtomicBool::new(true)), Arc::default()];
    let _servers = [
        switched(&shop, "reviews-v1", &fails[0])?,
        switched(&shop, "reviews-v2", &fails[1])?,
    ];
    let detection = format!("{CLUSTER}.outlier_detection");
    let total = format!("{detection}.ejections_enforced_total");
    let mut http = shop.http().await?;
    // The first is ejected, comes back, and fails at once: now for four seconds.
    let mut failures = 0;
    while failures < 2 {
        failures += usize::from(http.get("reviews", "/").await?.status == 503);
    }
    shop.stat(&total, |n| n == 2).await?;
    // Well into that time the second is ejected, for two seconds.
    let start = clock::now();
    while start.elapsed() < Duration::from_millis(300) {
        assert_eq!(http.get("reviews", "/").await?.text(), "reviews-v2");
    }
    fails[1].store(true, Ordering::Relaxed);
    assert_eq!(http.get("reviews", "/").await?.text(), "reviews-v2");
    shop.stat(&format!("{detection}.ejections_active"), |n| n == 2)
        .await?;
    fails
        .iter()
        .for_each(|one| one.store(false, Ordering::Relaxed));
    let active = shop
        .stat(&format!("{detection}.ejections_active"), |n| n != 2)
        .await?;
    assert_eq!(active, 1, "both came back together");
    assert_eq!(http.get("reviews", "/").await?.text(), "reviews-v2");
    Ok(())
}

#[tokio::test]
async fn too_few_healthy_endpoints_mean_panic_or_none() -> Result<()> {
    let settings = "consecutive5xxErrors: 1, interval: 10s, baseEjectionTime: 60s, \
                    maxEjectionPercent: 100";
    let panic = format!("{settings}, minHealthPercent: 60");
    let shop = Shop::open(PODS, &outliers(&panic)).await?;
    let fails = Arc::new(AtomicBool::new(true));
    let _servers = [
        switched(&shop, "reviews-v1", &fails)?,
        switched(&shop, "reviews-v2", &Arc::default())?,
    ];
    let mut http = shop.http().await?;
    while http.get("reviews", "/").await?.status != 503 {}
    let ejections = format!("{CLUSTER}.outlier_detection.ejections_active");
    shop.stat(&ejections, |n| n == 1).await?;
    // One of two is less than 60 of 100: the ejected one is used as well.
    let mut failed = 0;
    for _ in 0..50 {
        failed += usize::from(http.get("reviews", "/").await?.status == 503);
    }
    ensure!(failed > 5, "{failed} of 50 went to the ejected endpoint");
    shop.stat(&format!("{CLUSTER}.lb_healthy_panic"), |n| n >= 50)
        .await?;
    // Without that it is left alone; the ejection itself outlives the change.
    shop.apply(&outliers(settings)).await?;
    for _ in 0..50 {
        assert_eq!(http.get("reviews", "/").await?.text(), "reviews-v2");
    }
    shop.stat(&ejections, |n| n == 1).await?;
    Ok(())
}

#[tokio::test]
async fn bodies_are_sent_again_up_to_a_mebibyte() -> Result<()> {
    let retries = "retries: {attempts: 2, retryOn: '503', backoff: 1ms}, \
                   route: [{destination: {host: reviews}}]";
    let shop = Shop::open(&PODS[..2], &rule(retries)).await?;
    let (bodies, mut received) = mpsc::unbounded_channel();
    let _server = shop.answering("reviews-v1", move |call| {
        let bodies = bodies.clone();
        Box::pin(async move {
            let attempt = call.request.headers().get("x-envoy-attempt-count");
            let status = if attempt.is_some_and(|attempt| attempt == "3") {
                200
            } else {
                503
            };
            // All of it, so that the failure comes when the body is complete.
            let body = call.request.into_body().collect().await;
            let _ = bodies.send(body.map(|body| body.to_bytes()).unwrap_or_default());
            says(status, "")
        })
    })?;
    let mut http = shop.http().await?;
    let mut abandoned = 0;
    for (length, chunked, attempts) in [
        (0, false, 3),
        (1000, false, 3),
        (1000, true, 3),
        (1 << 20, false, 3),
        (1 << 20, true, 3),
        ((1 << 20) + 1, false, 1),
        ((1 << 20) + 1, true, 1),
        (20 << 20, true, 1),
    ] {
        let name = format!("{length} bytes, chunked {chunked}");
        let sent = Bytes::from(raw::pattern(length));
        let body = if chunked {
            let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(1);
            let mut rest = sent.clone();
            tokio::spawn(async move {
                while !rest.is_empty() {
                    let chunk = rest.split_to(rest.len().min(60_000));
                    if sender.send_data(chunk).await.is_err() {
                        return;
                    }
                }
            });
            body.boxed()
        } else {
            whole(sent.clone())
        };
        let head = request("POST", "reviews", "/").body(body)?;
        let status = http.exchange(head).await?.status;
        assert_eq!(status, if attempts == 3 { 200 } else { 503 }, "{name}");
        for attempt in 1..=attempts {
            let body = received.try_recv().with_context(|| name.clone())?;
            ensure!(body == sent, "{name}: attempt {attempt} sent other bytes");
        }
        ensure!(received.try_recv().is_err(), "{name}: too many attempts");
        abandoned += u64::from(attempts == 1);
        shop.stat(&format!("{CLUSTER}.retry_or_shadow_abandoned"), |n| {
            n == abandoned
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn attempts_and_requests_have_limits() -> Result<()> {
    // What is answered has a second for it; what hangs need not hang for long.
    let limits = |each: &str, all: &str| {
        format!(
            "timeout: {all}, \
             retries: {{attempts: 1, perTryTimeout: {each}, retryOn: reset, backoff: 1ms}}, \
             route: [{{destination: {{host: reviews}}}}]"
        )
    };
    let all = format!(
        "match: [{{uri: {{prefix: /hang}}}}], {}}}, {{{}",
        limits("150ms", "10s"),
        limits("1s", "2500ms")
    );
    let shop = Shop::open(&PODS[..2], &rule(&all)).await?;
    let (ends, mut ended) = mpsc::unbounded_channel();
    let (arrives, mut arrived) = mpsc::unbounded_channel();
    let _server = Server::start(shop.pod("reviews-v1")?, 9080, move |mut stream, _| {
        let (ends, arrives) = (ends.clone(), arrives.clone());
        async move {
            let Ok(head) = raw::read_until(&mut stream, b"\r\n\r\n").await else {
                return;
            };
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let first = head.contains("x-envoy-attempt-count: 1");
            let _ = arrives.send(());
            let answer: &[u8] = if head.starts_with("get /stream") {
                b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun"
            } else if head.starts_with("get /hang") || first {
                b""
            } else {
                b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond"
            };
            if stream.write_all(answer).await.is_ok() {
                let _ = raw::drain(&mut stream).await;
            }
            let _ = ends.send(());
        }
    })?;
    let gone = async |receiver: &mut mpsc::UnboundedReceiver<()>, what: &str| {
        let event = tokio::time::timeout(PATIENCE, receiver.recv()).await;
        event.map(|_| ()).with_context(|| what.to_owned())
    };
    // The first attempt hangs and is given up, the second is answered.
    let start = clock::now();
    let reply = shop.get("/second", &[]).await?;
    let took = start.elapsed();
    assert_eq!(reply.text(), "second");
    ensure!(took >= Duration::from_millis(1000), "{took:?}");
    gone(&mut ended, "the attempt that was given up stays open").await?;
    shop.stat(&format!("{CLUSTER}.upstream_rq_per_try_timeout"), |n| {
        n == 1
    })
    .await?;
    // Both hang.
    let reply = shop.get("/hang", &[]).await?;
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (504, "upstream request timeout")
    );
    assert_eq!(
        flags(&shop, "/hang")?,
        ["URX", "UT"].map(String::from).into()
    );
    for _ in 0..2 {
        gone(&mut ended, "an attempt that was given up stays open").await?;
    }
    // An answer that has begun is not retried, and is cut off when its time is over.
    while arrived.try_recv().is_ok() {}
    let start = clock::now();
    let mut http = shop.http().await?;
    let response = http.send(request("GET", "reviews", "/stream").body(whole(""))?);
    let response = response.await?;
    assert_eq!(response.status(), 200);
    let read = tokio::time::timeout(PATIENCE, Reply::read(response)).await;
    let error = read.context("it still streams")?.err();
    ensure!(error.is_some(), "half an answer was taken for a whole one");
    let took = start.elapsed();
    ensure!(took >= Duration::from_millis(2500), "{took:?}");
    assert_eq!(flags(&shop, "/stream")?, ["UT".to_owned()].into());
    gone(&mut ended, "the upstream still streams").await?;
    gone(&mut arrived, "it did not arrive").await?;
    ensure!(arrived.try_recv().is_err(), "it was sent twice");
    shop.stat(&format!("{CLUSTER}.upstream_rq_timeout"), |n| n == 1)
        .await?;
    Ok(())
}

/// What a raw server does with a connection.
type Script = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// What may be wrong with a mirror.
#[derive(Clone, Copy, Debug)]
enum Mirror {
    Hangs,
    NeverReads,
    Refuses,
    Resets,
    Fails,
    IsSlow,
}

#[tokio::test]
async fn mirrors_never_slow_nor_fail_the_request() -> Result<()> {
    let mirrored = "route: [{destination: {host: reviews, subset: v1}}], \
                    mirrors: [{destination: {host: reviews, subset: v2}}]";
    let shop = Shop::open(PODS, &format!("{}{SUBSETS}", rule(mirrored))).await?;
    let primary = shop.echoes(&["reviews-v1"])?;
    let node = |name: &str| format!("node.{name}");
    let mut asked = 0;
    for mirror in [
        Mirror::Hangs,
        Mirror::NeverReads,
        Mirror::Refuses,
        Mirror::Resets,
        Mirror::Fails,
        Mirror::IsSlow,
    ] {
        let port = 9080;
        let pod = shop.pod("reviews-v2")?;
        let reached = Arc::new(AtomicUsize::new(0));
        let count = reached.clone();
        let server = |script: fn(tokio::net::TcpStream) -> Script| {
            Server::start(pod, port, move |stream, _| {
                count.fetch_add(1, Ordering::Relaxed);
                script(stream)
            })
        };
        let server = match mirror {
            Mirror::Refuses => None,
            Mirror::Hangs => Some(server(|mut stream| {
                Box::pin(async move {
                    let _ = raw::drain(&mut stream).await;
                })
            })?),
            Mirror::NeverReads => Some(server(|stream| {
                Box::pin(async move {
                    std::future::pending::<()>().await;
                    drop(stream);
                })
            })?),
            Mirror::Resets => Some(server(|mut stream| {
                Box::pin(async move {
                    let _ = stream.read(&mut [0; 1]).await;
                    let _ = raw::reset(stream);
                })
            })?),
            Mirror::Fails => Some(server(|mut stream| {
                Box::pin(async move {
                    let _ = raw::read_until(&mut stream, b"\r\n\r\n").await;
                    let _ = stream.write_all(b"not HTTP at all\r\n\r\n").await;
                })
            })?),
            Mirror::IsSlow => Some(server(|mut stream| {
                Box::pin(async move {
                    let _ = raw::read_until(&mut stream, b"\r\n\r\n").await;
                    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
                    let _ = stream.write_all(head).await;
                    // A byte whenever there is nothing else to do, as long as anybody reads.
                    while stream.write_all(b".").await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                })
            })?),
        };
        // More than may be under way at once in both workers.
        let mut clients = JoinSet::new();
        for _ in 0..8 {
            let mut http = shop.http().await?;
            clients.spawn(async move {
                let mut slowest = Duration::ZERO;
                for _ in 0..80 {
                    let start = clock::now();
                    let body = whole(vec![b'x'; 10_000]);
                    let head = request("POST", "reviews", "/").body(body)?;
                    let seen = http.exchange(head).await?.seen()?;
                    ensure!(seen.server() == "reviews-v1" && seen.body_bytes() == 10_000);
                    slowest = slowest.max(start.elapsed());
                }
                Ok(slowest)
            });
        }
        while let Some(slowest) = clients.join_next().await {
            let slowest = slowest?.with_context(|| format!("{mirror:?}"))?;
            ensure!(slowest < PATIENCE / 10, "{mirror:?}: one took {slowest:?}");
        }
        asked += 8 * 80;
        assert_eq!(primary[0].requests(), asked, "{mirror:?}");
        // Each was copied, or counted as dropped where too many were under way.
        let stats = async || {
            let stats = shop.proxy.stats().await?;
            let value = |name: &str| stats.get(&node(name)).copied().unwrap_or_default();
            anyhow::Ok((value("mirrored_rq"), value("mirrored_rq_dropped")))
        };
        let told = async {
            loop {
                let (sent, dropped) = stats().await?;
                if sent + dropped == asked as u64 {
                    return anyhow::Ok((sent, dropped));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let told = tokio::time::timeout(PATIENCE, told).await;
        let (_, dropped) = told.with_context(|| format!("{mirror:?}: of {asked} copies"))??;
        if matches!(mirror, Mirror::Hangs) {
            ensure!(dropped > 0, "640 copies that hang were all kept");
        }
        ensure!(
            server.is_none() || reached.load(Ordering::Relaxed) > 0,
            "{mirror:?}: no copy arrived"
        );
        drop(server);
        shop.stat(
            "cluster.outbound|80|v2|reviews.shop.svc.cluster.local.upstream_rq_active",
            |n| n == 0,
        )
        .await
        .with_context(|| format!("{mirror:?}: copies stay under way"))?;
    }
    // A body that is too large for a copy.
    let head = request("POST", "reviews", "/").body(whole(vec![0; 3 << 20]))?;
    let seen = shop.http().await?.exchange(head).await?.seen()?;
    assert_eq!(seen.body_bytes(), 3 << 20);
    Ok(())
}

#[tokio::test]
async fn upgrades_go_with_retries_timeouts_and_mirrors() -> Result<()> {
    let policies = "timeout: 1s, retries: {attempts: 2, perTryTimeout: 500ms, retryOn: 5xx}, \
                    route: [{destination: {host: reviews, subset: v1}}], \
                    mirrors: [{destination: {host: reviews, subset: v2}}]";
    let shop = Shop::open(PODS, &format!("{}{SUBSETS}", rule(policies))).await?;
    let mirror = shop.echoes(&["reviews-v2"])?;
    let _server = Server::start(
        shop.pod("reviews-v1")?,
        9080,
        |mut stream, number| async move {
            if raw::read_until(&mut stream, b"\r\n\r\n").await.is_err() {
                return;
            }
            if number == 0 {
                let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
                let _ = stream.write_all(answer).await;
                return;
            }
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\n\r\n";
            if stream.write_all(answer).await.is_ok() {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            }
        },
    )?;
    let mut stream = shop
        .pod("client")?
        .netns
        .connect(aquifer_tests::shop::REVIEWS.parse()?)
        .await?;
    let head = "GET /chat HTTP/1.1\r\nhost: reviews\r\nconnection: Upgrade\r\n\
                upgrade: websocket\r\nsec-websocket-key: k\r\nsec-websocket-version: 13\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let said = raw::read_until(&mut stream, b"\r\n\r\n").await?;
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(said.starts_with("HTTP/1.1 101 "), "{said}");
    // Both limits are over before the last of these: they ended with the handshake.
    let start = clock::now();
    while start.elapsed() < Duration::from_millis(1300) {
        stream.write_all(b"ping").await?;
        raw::read_until(&mut stream, b"ping").await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stream.shutdown().await?;
    assert_eq!(raw::drain(&mut stream).await?, (Vec::new(), End::Closed));
    // The client ended it; nothing timed out.
    assert_eq!(flags(&shop, "/chat")?, ["DC".to_owned()].into());
    assert_eq!(mirror[0].requests(), 0, "upgrades are not mirrored");
    Ok(())
}

#[tokio::test]
async fn a_retry_goes_elsewhere_and_refused_connections_are_retried() -> Result<()> {
    // By Istio's default policy: nothing listens in the first pod. In turns, so that the second pod
    // is always found where the first is to be avoided.
    let turns = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
                 metadata: {name: reviews, namespace: shop}\n\
                 spec: {host: reviews, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}\n";
    let shop = Shop::open(PODS, turns).await?;
    let echo = shop.echoes(&["reviews-v2"])?;
    let mut http: Http = shop.http().await?;
    for _ in 0..40 {
        let body = whole("once");
        let reply = http
            .exchange(request("POST", "reviews", "/").body(body)?)
            .await?;
        assert_eq!(reply.seen()?.body_bytes(), 4);
    }
    assert_eq!(echo[0].requests(), 40);
    let retried = shop
        .stat(&format!("{CLUSTER}.upstream_rq_retry"), |n| n > 0)
        .await?;
    shop.stat(&format!("{CLUSTER}.upstream_rq_retry_success"), |n| {
        n == retried
    })
    .await?;
    Ok(())
}
