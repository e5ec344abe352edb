//! Limits of a destination: exact however many workers there are, and each client pod's own; the
//! refusals, flags and counters are Envoy's.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    PATIENCE,
    client::{Http, Reply},
    echo::{Answer, Call},
    gate::Gate,
    raw::{self, End, Server},
    shop::{REVIEWS, Shop, get, header, says},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
};

/// Upstreams are outside the mesh: their connections are the proxy's own, not those of a second one.
const PODS: &[(&str, &str)] = &[
    ("client", "app=client"),
    ("client-b", "app=client"),
    ("reviews", "app=reviews,aquifer.io/mesh=disabled"),
    ("ratings", "app=ratings,aquifer.io/mesh=disabled"),
];
const CLUSTER: &str = "cluster.outbound|80||reviews.shop.svc.cluster.local";

/// A DestinationRule for reviews.
fn policy(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: reviews, namespace: shop}}\n\
         spec: {{host: reviews, trafficPolicy: {{{policy}}}}}\n"
    )
}

/// The policy with a limit on connections and requests.
fn pool(tcp: &str, http: &str) -> String {
    policy(&format!(
        "connectionPool: {{tcp: {{{tcp}}}, http: {{{http}}}}}"
    ))
}

/// A Service of reviews that carries bytes, with this `connectionPool.tcp`.
fn queue(tcp: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: queue, namespace: shop}}
spec: {{clusterIP: 10.96.7.40, selector: {{app: reviews}}, ports: [{{name: tcp, port: 7000}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: queue, namespace: shop}}
spec: {{host: queue, trafficPolicy: {{connectionPool: {{tcp: {{{tcp}}}}}}}}}
"
    )
}

fn stat(name: &str) -> String {
    format!("{CLUSTER}.{name}")
}

/// Answers `served` once the gate is open.
fn behind(gate: &Gate) -> impl Fn(Call) -> Answer + Clone + Send + Sync + 'static {
    let gate = gate.clone();
    move |_| {
        let gate = gate.clone();
        Box::pin(async move { gate.pass(async { says(200, "served") }).await })
    }
}

/// Requests under way, each on a connection of its own.
type Replies = JoinSet<Result<(Http, Reply)>>;

/// Sends a GET on each of `clients`.
fn send(replies: &mut Replies, clients: impl IntoIterator<Item = Http>) {
    for mut http in clients {
        replies.spawn(async move {
            let reply = http.get("reviews", "/").await?;
            Ok((http, reply))
        });
    }
}

/// The next `count` replies that come, with their connections.
async fn next(replies: &mut Replies, count: usize) -> Result<Vec<(Http, Reply)>> {
    let mut all = Vec::new();
    for _ in 0..count {
        let reply = tokio::time::timeout(PATIENCE, replies.join_next()).await;
        let reply = reply.with_context(|| format!("{} of {count} replies came", all.len()))?;
        all.push(reply.context("nobody else asked")???);
    }
    Ok(all)
}

/// Whether it is what a circuit breaker answers.
fn refused(reply: &Reply) -> Result<()> {
    let body = "upstream connect error or disconnect/reset before headers. reset reason: overflow";
    ensure!(
        reply.status == 503
            && header(reply, "x-envoy-overloaded") == "true"
            && reply.text() == body,
        "{} {:?} {}",
        reply.status,
        reply.headers,
        reply.text()
    );
    Ok(())
}

/// How many lines of the access log have a flag, once there are `count` of them.
async fn flagged(shop: &Shop, flag: &str, count: usize) -> Result<()> {
    let lines = || {
        let all = shop.proxy.child.stdout.since(0);
        let has = |line: &&String| line.split(' ').nth(5).unwrap_or_default().contains(flag);
        all.iter().filter(has).count()
    };
    let wanted = tokio::time::timeout(PATIENCE, async {
        while lines() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let _ = wanted.await;
    let found = lines();
    ensure!(found == count, "{found} lines have {flag}, not {count}");
    Ok(())
}

#[tokio::test]
async fn connections_are_counted_across_workers() -> Result<()> {
    let shop = Shop::open(PODS, &pool("maxConnections: 2", "")).await?;
    let (_ratings, gate) = (shop.echoes(&["ratings"])?, Gate::default());
    let server = shop.answering("reviews", behind(&gate))?;
    let clients = shop.spread("client", 4).await?;
    let mut replies = Replies::new();
    send(&mut replies, clients.into_iter().flatten());
    gate.holds(2).await?;
    // Six wait, on both workers; nobody else gets through.
    shop.stat(&stat("upstream_rq_pending_active"), |n| n == 6)
        .await?;
    assert_eq!(server.connections(), 2);
    shop.stat(&stat("upstream_cx_active"), |n| n == 2).await?;
    shop.stat(&stat("circuit_breakers.default.cx_open"), |n| n == 1)
        .await?;
    shop.stat(&stat("upstream_cx_overflow"), |n| n >= 6).await?;
    gate.open();
    let mut clients = Vec::new();
    for (http, reply) in next(&mut replies, 8).await? {
        assert_eq!(reply.text(), "served");
        clients.push(http);
    }
    // The eight go on for a while, and take the connections from each other.
    for mut http in clients {
        replies.spawn(async move {
            for _ in 0..100 {
                let reply = http.get("reviews", "/").await?;
                ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
            }
            let last = http.get("reviews", "/").await?;
            Ok((http, last))
        });
    }
    next(&mut replies, 8).await?;
    assert_eq!((server.requests(), gate.most()), (8 + 808, 2));
    shop.stat(&stat("upstream_rq_pending_active"), |n| n == 0)
        .await?;
    shop.stat(&stat("upstream_cx_active"), |n| n <= 2).await?;
    Ok(())
}

#[tokio::test]
async fn a_worker_that_is_refused_gets_the_idle_connection_of_another() -> Result<()> {
    let shop = Shop::open(PODS, &pool("maxConnections: 1", "")).await?;
    let _echoes = shop.echoes(&["ratings"])?;
    let (ends, mut ended) = mpsc::unbounded_channel();
    let _server = Server::start(shop.pod("reviews")?, 9080, move |mut stream, number| {
        let ends = ends.clone();
        async move {
            while raw::read_until(&mut stream, b"\r\n\r\n").await.is_ok() {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n{number:04}");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
            }
            let _ = ends.send(number);
        }
    })?;
    let [one, other] = shop.spread("client", 1).await?;
    let mut clients: Vec<Http> = one.into_iter().chain(other).collect();
    for turn in 0..20_usize {
        for _ in 0..2 {
            // On the connection that this worker has, which the other gave up for it.
            let reply = clients[turn % 2].get("reviews", "/").await?;
            assert_eq!(reply.text(), format!("{turn:04}"));
        }
    }
    for number in 0..19 {
        let end = tokio::time::timeout(PATIENCE, ended.recv()).await;
        let end = end.with_context(|| format!("connection {number} was not closed"))?;
        assert_eq!(
            end,
            Some(number),
            "closed in the order in which they were made"
        );
    }
    shop.stat(&stat("upstream_cx_active"), |n| n == 1).await?;
    Ok(())
}

#[tokio::test]
async fn requests_that_wait_are_counted() -> Result<()> {
    let limits = pool("maxConnections: 1", "http1MaxPendingRequests: 2");
    let shop = Shop::open(PODS, &limits).await?;
    let (_ratings, gate) = (shop.echoes(&["ratings"])?, Gate::default());
    let server = shop.answering("reviews", behind(&gate))?;
    let mut clients = shop.spread("client", 4).await?.into_iter().flatten();
    let mut replies = Replies::new();
    send(&mut replies, clients.next());
    gate.holds(1).await?;
    send(&mut replies, clients);
    for (_, reply) in next(&mut replies, 5).await? {
        refused(&reply)?;
    }
    flagged(&shop, "UO", 5).await?;
    for (name, value) in [
        ("upstream_rq_pending_overflow", 5),
        ("upstream_rq_pending_active", 2),
        ("upstream_rq_active", 1),
        ("circuit_breakers.default.rq_pending_open", 1),
        ("circuit_breakers.default.remaining_pending", 0),
    ] {
        shop.stat(&stat(name), |n| n == value).await?;
    }
    gate.open();
    for (_, reply) in next(&mut replies, 3).await? {
        assert_eq!(reply.text(), "served");
    }
    assert_eq!((server.requests(), gate.most()), (3, 1));
    for name in ["upstream_rq_pending_active", "upstream_rq_active"] {
        shop.stat(&stat(name), |n| n == 0).await?;
    }
    Ok(())
}

#[tokio::test]
async fn requests_under_way_are_counted() -> Result<()> {
    let shop = Shop::open(PODS, "# nothing\n").await?;
    let (_ratings, gate) = (shop.echoes(&["ratings"])?, Gate::default());
    let server = shop.answering("reviews", behind(&gate))?;
    let mut clients = shop.spread("client", 4).await?.concat_all();
    // Also where all of a worker's requests share one HTTP/2 connection.
    for (round, http) in [
        "http2MaxRequests: 3",
        "http2MaxRequests: 3, h2UpgradePolicy: UPGRADE",
    ]
    .into_iter()
    .enumerate()
    {
        shop.apply(&pool("", http)).await?;
        let mut replies = Replies::new();
        send(&mut replies, clients.drain(..));
        let mut back = next(&mut replies, 5).await?;
        for (_, reply) in &back {
            refused(reply)?;
        }
        gate.holds(3).await?;
        let overflows = 5 * (round as u64 + 1);
        for (name, value) in [
            ("upstream_rq_active", 3),
            ("circuit_breakers.default.rq_open", 1),
            ("upstream_rq_active_overflow", overflows),
        ] {
            shop.stat(&stat(name), |n| n == value).await?;
        }
        flagged(&shop, "UO", overflows as usize).await?;
        gate.open();
        for (http, reply) in next(&mut replies, 3).await? {
            assert_eq!(reply.text(), "served");
            back.push((http, reply));
        }
        gate.close();
        clients.extend(back.into_iter().map(|(http, _)| http));
        shop.stat(&stat("upstream_rq_active"), |n| n == 0).await?;
    }
    assert_eq!((server.requests(), gate.most()), (6, 3));
    Ok(())
}

/// Both workers' connections as one list.
trait ConcatAll {
    fn concat_all(self) -> Vec<Http>;
}

impl ConcatAll for [Vec<Http>; 2] {
    fn concat_all(self) -> Vec<Http> {
        self.into_iter().flatten().collect()
    }
}

#[tokio::test]
async fn retries_under_way_are_counted() -> Result<()> {
    let route = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                 metadata: {name: reviews, namespace: shop}\n\
                 spec: {hosts: [reviews], http: [{retries: {attempts: 1, retryOn: 5xx}, \
                 route: [{destination: {host: reviews}}]}]}\n";
    // A fifth of six requests is one, so that the least that a budget allows decides.
    for (limits, allowed) in [
        (pool("", "maxRetries: 1"), 1_usize),
        (
            policy("retryBudget: {percent: 20, minRetryConcurrency: 2}"),
            2,
        ),
    ] {
        let shop = Shop::open(PODS, &format!("{limits}{route}")).await?;
        let (_ratings, gate) = (shop.echoes(&["ratings"])?, Gate::default());
        let held = gate.clone();
        let server = shop.answering("reviews", move |call| {
            let held = held.clone();
            let attempt = call.request.headers().get("x-envoy-attempt-count").cloned();
            Box::pin(async move {
                if attempt.is_some_and(|attempt| attempt == "1") {
                    return says(503, "broken");
                }
                held.pass(async { says(200, "served") }).await
            })
        })?;
        let clients = shop.spread("client", 3).await?;
        let mut replies = Replies::new();
        send(&mut replies, clients.concat_all());
        // Without a retry the first answer is the last.
        for (_, reply) in next(&mut replies, 6 - allowed).await? {
            assert_eq!((reply.status, reply.text().as_str()), (503, "broken"));
        }
        gate.holds(allowed).await?;
        let rest = 6 - allowed;
        flagged(&shop, "UO", rest).await?;
        for (name, value) in [
            ("upstream_rq_retry_overflow", rest),
            ("upstream_rq_retry", allowed),
            ("upstream_rq_retry_success", 0),
        ] {
            shop.stat(&stat(name), |n| n == value as u64).await?;
        }
        gate.open();
        for (_, reply) in next(&mut replies, allowed).await? {
            assert_eq!(reply.text(), "served");
        }
        shop.stat(&stat("upstream_rq_retry_success"), |n| n == allowed as u64)
            .await?;
        assert_eq!((server.requests(), gate.most()), (6 + allowed, allowed));
    }
    Ok(())
}

#[tokio::test]
async fn each_client_pod_has_limits_of_its_own() -> Result<()> {
    let shop = Shop::open(PODS, &pool("", "http2MaxRequests: 2")).await?;
    let (_ratings, gate) = (shop.echoes(&["ratings"])?, Gate::default());
    let server = shop.answering("reviews", behind(&gate))?;
    let mut replies = Replies::new();
    for (index, pod) in ["client", "client-b"].into_iter().enumerate() {
        let clients = shop.spread(pod, 2).await?;
        send(&mut replies, clients.concat_all());
        for (_, reply) in next(&mut replies, 2).await? {
            refused(&reply)?;
        }
        gate.holds(2 * (index + 1)).await?;
    }
    // `/stats` adds the pods up.
    shop.stat(&stat("upstream_rq_active"), |n| n == 4).await?;
    shop.stat(&stat("upstream_rq_active_overflow"), |n| n == 4)
        .await?;
    gate.open();
    next(&mut replies, 4).await?;
    assert_eq!((server.requests(), gate.most()), (4, 4));
    Ok(())
}

#[tokio::test]
async fn tcp_connections_over_the_limit_are_reset_at_once() -> Result<()> {
    let shop = Shop::open(PODS, &queue("maxConnections: 3")).await?;
    let server = Server::start(shop.pod("reviews")?, 7000, |mut stream, _| async move {
        let _ = stream.write_all(b"hello").await;
        let _ = stream.read(&mut [0; 1]).await;
    })?;
    let to: std::net::SocketAddr = "10.96.7.40:7000".parse()?;
    let cluster = "cluster.outbound|7000||queue.shop.svc.cluster.local";
    let client = Arc::new(aquifer_tests::netns::Netns::open(
        shop.pod("client")?.netns.name(),
    )?);
    // All at once, so that both workers count at the same time.
    let mut dialling = JoinSet::new();
    for _ in 0..16 {
        let client = client.clone();
        dialling.spawn(async move {
            let Ok(mut stream) = client.connect(to).await else {
                return Ok(None);
            };
            let mut said = [0; 5];
            let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut said)).await;
            match read.context("neither served nor refused")? {
                Ok(_) => Ok(Some(stream)),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
                Err(error) => Err(anyhow::Error::from(error).context("not a reset")),
            }
        });
    }
    let mut open = Vec::new();
    while let Some(dialled) = dialling.join_next().await {
        open.extend(dialled??);
    }
    assert_eq!((open.len(), server.accepted()), (3, 3));
    flagged(&shop, "UO", 13).await?;
    shop.stat(&format!("{cluster}.upstream_cx_overflow"), |n| n == 13)
        .await?;
    // Another pod has three of its own.
    let mut other = shop.pod("client-b")?.netns.connect(to).await?;
    raw::read_until(&mut other, b"hello").await?;
    // One that ends makes room for one.
    open.pop();
    shop.stat(&format!("{cluster}.upstream_cx_active"), |n| n == 3)
        .await?;
    let again = client.connect(to).await;
    let mut again = again.context("there is room for one")?;
    raw::read_until(&mut again, b"hello").await?;
    // And for no more. The reset may be quicker than the connection.
    let end = match client.connect(to).await {
        Ok(mut stream) => raw::drain(&mut stream).await?.1,
        Err(_) => End::Reset,
    };
    assert_eq!(end, End::Reset);
    Ok(())
}

#[tokio::test]
async fn connections_end_when_they_have_served_or_lasted_enough() -> Result<()> {
    let shop = Shop::open(PODS, "# nothing\n").await?;
    let (ends, mut ended) = mpsc::unbounded_channel();
    // Tells how many requests each connection carried, when it ends.
    let server = Server::start(shop.pod("reviews")?, 9080, move |mut stream, _| {
        let ends = ends.clone();
        async move {
            let mut carried = 0;
            while raw::read_until(&mut stream, b"\r\n\r\n").await.is_ok() {
                carried += 1;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                if stream.write_all(answer).await.is_err() {
                    break;
                }
            }
            let _ = ends.send(carried);
        }
    })?;
    let mut closed = 0;
    // What each carries at most; less where the machine is so slow that time ends it between requests.
    for (name, limits, requests, most) in [
        ("requests", pool("", "maxRequestsPerConnection: 2"), 4, 2),
        (
            "no keep-alive",
            pool("", "maxRequestsPerConnection: 1"),
            3,
            1,
        ),
        ("idle", pool("", "idleTimeout: 100ms"), 3, 3),
        ("idle as TCP", pool("idleTimeout: 100ms", ""), 3, 3),
        ("old", pool("maxConnectionDuration: 200ms", ""), 3, 3),
    ] {
        shop.apply(&limits).await?;
        let mut http = shop.http().await?;
        for _ in 0..requests {
            assert_eq!(get(&mut http, "reviews", "/", &[]).await?.status, 200);
        }
        let mut carried = 0;
        while carried < requests {
            let end = tokio::time::timeout(PATIENCE, ended.recv()).await;
            let end = end.with_context(|| format!("{name}: a connection stays open"))?;
            let end = end.context("the server is gone")?;
            ensure!(end <= most, "{name}: one carried {end}");
            ensure!(most == requests || end == most, "{name}: one carried {end}");
            carried += end;
            closed += 1;
        }
        // The client's own connection does not notice.
        assert_eq!(
            get(&mut http, "reviews", "/", &[]).await?.status,
            200,
            "{name}"
        );
        // Nothing of this round is left for the next: another request, and its connection ends.
        shop.apply(&pool("", "idleTimeout: 1ms")).await?;
        let last = get(&mut http, "reviews", "/", &[]).await?;
        assert_eq!(last.status, 200, "{name}");
        while closed < server.accepted() {
            tokio::time::timeout(PATIENCE, ended.recv())
                .await
                .with_context(|| format!("{name}: the last connection stays open"))?;
            closed += 1;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_shorter_idle_timeout_counts_for_connections_that_are_idle_already() -> Result<()> {
    let shop = Shop::open(PODS, "# nothing\n").await?;
    let server = Server::start(shop.pod("reviews")?, 9080, |mut stream, _| async move {
        while raw::read_until(&mut stream, b"\r\n\r\n").await.is_ok() {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            if stream.write_all(answer).await.is_err() {
                break;
            }
        }
    })?;
    let mut http = shop.http().await?;
    for _ in 0..2 {
        assert_eq!(get(&mut http, "reviews", "/", &[]).await?.status, 200);
    }
    assert_eq!(server.accepted(), 1, "a connection is used again");
    shop.apply(&pool("", "idleTimeout: 50ms")).await?;
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(get(&mut http, "reviews", "/", &[]).await?.status, 200);
    assert_eq!(server.accepted(), 2, "one that was idle for longer is not");
    Ok(())
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_outlast_the_routes_timeout() -> Result<()> {
    // Enough for the head of an answer to come first, also where the machine is busy.
    const LIMIT: Duration = Duration::from_secs(1);
    let route = "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                 metadata: {name: reviews, namespace: shop}\n\
                 spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}], \
                 timeout: 1s}]}\n";
    let shop = Shop::open(PODS, route).await?;
    let (ends, mut ended) = mpsc::unbounded_channel();
    let _server = Server::start(shop.pod("reviews")?, 9080, move |mut stream, _| {
        let ends = ends.clone();
        async move {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 4000000000\r\n\r\n";
            if raw::read_until(&mut stream, b"\r\n\r\n").await.is_err()
                || stream.write_all(head).await.is_err()
            {
                return;
            }
            let block = vec![b'x'; 1 << 16];
            while stream.write_all(&block).await.is_ok() {}
            let _ = ends.send(());
        }
    })?;
    let to: std::net::SocketAddr = REVIEWS.parse()?;
    for http2 in [false, true] {
        let client = shop.pod("client")?;
        let mut http = if http2 {
            Http::connect2(client, to).await?
        } else {
            Http::connect(client, to).await?
        };
        let start = aquifer_tests::clock::now();
        let request = aquifer_tests::client::request("GET", "reviews", "/");
        let response = http
            .send(request.body(aquifer_tests::client::whole(""))?)
            .await?;
        assert_eq!(response.status(), 200);
        let end = tokio::time::timeout(PATIENCE, ended.recv()).await;
        end.with_context(|| format!("HTTP/2: {http2}: the upstream still sends"))?;
        let took = start.elapsed();
        ensure!(
            took >= LIMIT - Duration::from_millis(20),
            "ended after {took:?}"
        );
        // What was on its way is followed by no regular end.
        let rest = tokio::time::timeout(PATIENCE, Reply::read(response)).await?;
        ensure!(rest.is_err(), "an answer without an end was whole");
    }
    let timeouts = stat("upstream_rq_timeout");
    shop.stat(&timeouts, |count| count == 2).await?;
    Ok(())
}

#[tokio::test]
async fn tcp_sessions_end_when_they_are_idle_or_old() -> Result<()> {
    let shop = Shop::open(PODS, "# nothing\n").await?;
    let (ends, mut ended) = mpsc::unbounded_channel();
    let _server = Server::start(shop.pod("reviews")?, 7000, move |mut stream, _| {
        let ends = ends.clone();
        async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = ends.send(());
        }
    })?;
    let to: std::net::SocketAddr = "10.96.7.40:7000".parse()?;
    for (tcp, talks) in [
        ("idleTimeout: 500ms", false),
        ("maxConnectionDuration: 500ms", true),
    ] {
        shop.apply(&queue(tcp)).await?;
        // The proxy counts from when it has the connection, which may be before its client has.
        let start = aquifer_tests::clock::now();
        let mut stream = shop.pod("client")?.netns.connect(to).await?;
        let mut answered = 0;
        // Talking keeps a session from being idle, and not from getting old.
        while stream.write_all(b"ping").await.is_ok() {
            let read = stream.read_exact(&mut [0; 4]).await;
            if read.is_err() {
                break;
            }
            answered += 1;
            if !talks {
                raw::drain(&mut stream).await?;
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let took = start.elapsed();
        ensure!(
            answered > 0 && took >= Duration::from_millis(490),
            "{tcp}: ended after {took:?} and {answered} answers"
        );
        let end = tokio::time::timeout(PATIENCE, ended.recv()).await;
        end.with_context(|| format!("{tcp}: the upstream's side stays open"))?;
    }
    Ok(())
}
