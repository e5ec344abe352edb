//! Every file of `deploy/examples`, applied as it is, and what its comment says to look for.

mod outside;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    PATIENCE,
    client::{Http, request, whole},
    clock,
    echo::{self, Echo},
    gate::Gate,
    raw::{self, End, Server},
    shop::{PORT, RATINGS, REVIEWS, Shop, TWO_VERSIONS, example, folder, get, header, says},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

const VERSIONS: [&str; 2] = ["reviews-v1", "reviews-v2"];
/// Two versions of reviews, and a pod of ratings.
const ALL: &[(&str, &str)] = &[
    ("client", "app=client"),
    ("reviews-v1", "app=reviews,version=v1"),
    ("reviews-v2", "app=reviews,version=v2"),
    ("ratings", "app=ratings"),
];

/// Whether `count` of `of` is within six and a half standard deviations of `share`: by chance it is not
/// once in a hundred million runs, also where the share is small.
fn about(count: usize, of: usize, share: f64) -> bool {
    let of = of as f64;
    let deviation = (of * share * (1.0 - share)).sqrt();
    (count as f64 - of * share).abs() < 6.5 * deviation
}

/// Who served how many of `count` GETs over one connection.
async fn served(http: &mut Http, host: &str, count: usize) -> Result<BTreeMap<String, usize>> {
    let mut all = BTreeMap::new();
    for _ in 0..count {
        let seen = http.get(host, "/").await?.seen()?;
        *all.entry(seen.server().to_owned()).or_default() += 1;
    }
    Ok(all)
}

#[tokio::test]
async fn every_example_is_applied_here_and_has_no_mistake() -> Result<()> {
    let here = include_str!("examples.rs");
    let behind = [
        ("ledger-0", "app=ledger,role=primary"),
        ("ledger-1", "app=ledger,role=replica"),
        ("vault-v1", "app=vault,version=v1"),
        ("vault-v2", "app=vault,version=v2"),
        ("payments", "app=payments,aquifer.io/mesh=disabled"),
        ("ext-authz", "app=ext-authz"),
    ];
    let shop = Shop::open(&[ALL, &behind].concat(), "# nothing\n").await?;
    let mut read = BTreeSet::new();
    for entry in fs::read_dir(folder())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".yaml") {
            continue;
        }
        ensure!(
            name == "shop.yaml" || here.contains(&format!("\"{name}\"")),
            "no test applies {name}"
        );
        let text = example(&name)?;
        ensure!(text.starts_with("# "), "{name} does not say what it is");
        if name != "shop.yaml" {
            shop.apply(&text).await.with_context(|| name.clone())?;
            let problems = &shop.proxy.admin("/status").await?["problems"];
            let none = problems.as_array().is_some_and(Vec::is_empty);
            ensure!(none, "{name}: {problems}");
        }
        read.insert(name);
    }
    ensure!(read.len() >= 16, "{read:?}");
    Ok(())
}

#[tokio::test]
async fn a_canary_gets_its_share_and_the_testers() -> Result<()> {
    // It has a mesh.yaml of its own, with the same namespace and reviews at another address.
    let shop = Shop::open(TWO_VERSIONS, "# nothing\n").await?;
    let _echoes = shop.echoes(&VERSIONS)?;
    let ratings = "apiVersion: v1\nkind: Service\nmetadata: {name: ratings, namespace: shop}\n\
                   spec: {clusterIP: 10.96.7.11, ports: [{name: http, port: 80}]}\n";
    let mesh = format!("{}---\n{ratings}", example("canary/mesh.yaml")?);
    shop.proxy
        .after(|| shop.config.put("mesh.yaml", mesh))
        .await?;
    for (file, share) in [("canary-90-10.yaml", 0.1), ("canary-50-50.yaml", 0.5)] {
        shop.apply(&example(&format!("canary/{file}"))?).await?;
        let mut http = Http::connect(shop.pod("client")?, "10.96.0.10:80".parse()?).await?;
        let count = 1000;
        let served = served(&mut http, "reviews", count).await?;
        let canary = served.get("reviews-v2").copied().unwrap_or_default();
        ensure!(about(canary, count, share), "{file}: {served:?}");
        for _ in 0..20 {
            let reply = get(&mut http, "reviews", "/", &[("end-user", "tester")]).await?;
            assert_eq!(reply.seen()?.server(), "reviews-v2", "{file}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn headers_choose_the_version() -> Result<()> {
    let shop = Shop::example(TWO_VERSIONS, "header-routing.yaml").await?;
    let _echoes = shop.echoes(&VERSIONS)?;
    for (headers, version) in [
        (&[][..], "reviews-v1"),
        (&[("end-user", "tester")], "reviews-v2"),
        (&[("end-user", "testers")], "reviews-v1"),
        (&[("cookie", "a=1; beta=true; b=2")], "reviews-v2"),
        (&[("cookie", "beta=true")], "reviews-v2"),
        (&[("cookie", "alphabeta=true")], "reviews-v1"),
        (&[("user-agent", "Phone/4.0")], "reviews-v2"),
        (&[("user-agent", "Phone/3.9")], "reviews-v1"),
        (&[("user-agent", "Desk/4.0")], "reviews-v1"),
    ] {
        let reply = shop.get("/", headers).await?;
        assert_eq!(reply.seen()?.server(), version, "{headers:?}");
    }
    shop.proxy.logged(0, |line| {
        line.ends_with(" new-reviews.0") || line.ends_with(" new-reviews")
    })?;
    Ok(())
}

#[tokio::test]
async fn paths_choose_the_service_and_are_rewritten() -> Result<()> {
    let shop = Shop::example(ALL, "path-routing.yaml").await?;
    let _echoes = shop.echoes(&["reviews-v1", "reviews-v2", "ratings"])?;
    for (path, server, target, host) in [
        ("/ratings/7?all=1", "ratings", "/7?all=1", "ratings"),
        ("/ratings", "ratings", "/", "ratings"),
        ("/ratingsfoo", "reviews", "/ratingsfoo", "reviews"),
        ("/api/v1/users/42?x", "reviews", "/users/42/v1?x", "reviews"),
        (
            "/api/v1/users/none",
            "reviews",
            "/api/v1/users/none",
            "reviews",
        ),
        ("/old/page", "reviews", "/archive/page", "reviews"),
        ("/Old/page", "reviews", "/archive/page", "reviews"),
        ("/", "reviews", "/", "reviews"),
    ] {
        let seen = shop.get(path, &[]).await?.seen()?;
        ensure!(
            seen.server().starts_with(server),
            "{path}: {}",
            seen.server()
        );
        assert_eq!(
            (seen.field("target"), seen.header("host")),
            (target, vec![host]),
            "{path}"
        );
        let original = seen.header("x-envoy-original-path");
        let rewritten = target != path;
        assert_eq!(
            original,
            if rewritten { vec![path] } else { vec![] },
            "{path}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn faults_are_injected() -> Result<()> {
    let shop = Shop::example(TWO_VERSIONS, "fault.yaml").await?;
    let echoes = shop.echoes(&VERSIONS)?;
    let requests = || echoes.iter().map(Echo::requests).sum::<usize>();
    let start = clock::now();
    let reply = shop.get("/slow", &[("x-chaos", "slow")]).await?;
    let took = start.elapsed();
    ensure!(
        reply.status == 200 && took >= Duration::from_millis(500),
        "{took:?}"
    );
    let line = shop.proxy.logged(0, |line| line.contains("GET /slow"))?;
    assert!(line.contains("\" 200 DI "), "{line}");
    assert_eq!(requests(), 1);

    let reply = shop.get("/broken", &[("x-chaos", "broken")]).await?;
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (503, "fault filter abort")
    );
    let line = shop.proxy.logged(0, |line| line.contains("GET /broken"))?;
    assert!(line.contains("\" 503 FI fault_filter_abort "), "{line}");

    let headers = [("x-chaos", "grpc"), ("content-type", "application/grpc")];
    let reply = shop.get("/grpc", &headers).await?;
    assert_eq!((reply.status, header(&reply, "grpc-status")), (200, "14"));
    assert_eq!(requests(), 1, "what is aborted reaches nobody");

    let mut http = shop.http().await?;
    let (count, mut aborted) = (500, 0);
    for _ in 0..count {
        aborted += usize::from(http.get("reviews", "/").await?.status == 500);
    }
    ensure!(
        about(aborted, count, 0.1),
        "{aborted} of {count} were aborted"
    );
    assert_eq!(requests(), 1 + count - aborted);
    Ok(())
}

#[tokio::test]
async fn a_circuit_breaker_opens() -> Result<()> {
    let pods = &TWO_VERSIONS[..2];
    let shop = Shop::example(pods, "circuit-breaker.yaml").await?;
    let gate = Gate::default();
    let held = gate.clone();
    let server = shop.answering("reviews-v1", move |_| {
        let held = held.clone();
        Box::pin(async move { held.pass(async { says(200, "served") }).await })
    })?;
    let mut clients = JoinSet::new();
    let mut send = async || {
        let mut http = shop.http().await?;
        clients.spawn(async move { http.get("reviews", "/").await });
        anyhow::Ok(())
    };
    let cluster = "cluster.outbound|80||reviews.shop.svc.cluster.local";
    send().await?;
    gate.holds(1).await?;
    send().await?;
    shop.stat(&format!("{cluster}.upstream_rq_pending_active"), |n| n == 1)
        .await?;
    let reply = shop.get("/", &[]).await?;
    assert_eq!(
        (reply.status, header(&reply, "x-envoy-overloaded")),
        (503, "true")
    );
    assert_eq!(
        reply.text(),
        "upstream connect error or disconnect/reset before headers. reset reason: overflow"
    );
    shop.proxy.logged(0, |line| line.contains("\" 503 UO "))?;
    shop.stat(&format!("{cluster}.upstream_rq_pending_overflow"), |n| {
        n == 1
    })
    .await?;
    gate.open();
    while let Some(client) = clients.join_next().await {
        assert_eq!(client??.text(), "served");
    }
    assert_eq!((server.requests(), gate.most()), (2, 1));
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_sits_out() -> Result<()> {
    let shop = Shop::example(TWO_VERSIONS, "outlier-detection.yaml").await?;
    let failing = shop.answering("reviews-v1", |_| Box::pin(async { says(500, "broken") }))?;
    let working = shop.answering("reviews-v2", |_| Box::pin(async { says(200, "works") }))?;
    let mut http = shop.http().await?;
    while failing.requests() < 3 {
        // Each failure is retried elsewhere: no caller sees one.
        assert_eq!(http.get("reviews", "/").await?.status, 200);
    }
    let cluster = "cluster.outbound|80||reviews.shop.svc.cluster.local.outlier_detection";
    shop.stat(&format!("{cluster}.ejections_active"), |n| n == 1)
        .await?;
    for _ in 0..50 {
        assert_eq!(http.get("reviews", "/").await?.status, 200);
    }
    assert_eq!(failing.requests(), 3, "{} were served", working.requests());
    Ok(())
}

#[tokio::test]
async fn failures_are_retried_and_time_is_limited() -> Result<()> {
    let pods = &TWO_VERSIONS[..2];
    let shop = Shop::example(pods, "retries-timeouts.yaml").await?;
    // Fails or hangs as often as the path says.
    let _server = shop.answering("reviews-v1", |call| {
        Box::pin(async move {
            let attempt = call.request.headers().get("x-envoy-attempt-count");
            let attempt: u32 = attempt
                .and_then(|value| value.to_str().ok()?.parse().ok())
                .unwrap_or_default();
            let path = call.request.uri().path().to_owned();
            let mut parts = path.split('/').skip(1);
            let what = parts.next().unwrap_or_default();
            let times: u32 = parts
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or_default();
            match what {
                "hang" if attempt <= times => std::future::pending().await,
                "fail" | "upload" if attempt <= times => says(503, &attempt.to_string()),
                "500" => says(500, &attempt.to_string()),
                _ => says(200, &attempt.to_string()),
            }
        })
    })?;
    for (method, path, status, body, flags) in [
        ("GET", "/fine", 200, "1", "-"),
        ("GET", "/fail/1", 200, "2", "-"),
        ("POST", "/fail/3", 200, "4", "-"),
        ("GET", "/fail/4", 503, "4", "URX"),
        ("GET", "/500", 500, "1", "-"),
        ("GET", "/hang/2", 200, "3", "-"),
        ("GET", "/hang/9", 504, "upstream request timeout", "UT,URX"),
        ("POST", "/upload/1", 503, "1", "-"),
        ("GET", "/upload/1", 200, "2", "-"),
    ] {
        let head = request(method, "reviews", path);
        let reply = shop.http().await?.exchange(head.body(whole(""))?).await?;
        assert_eq!(
            (reply.status, reply.text().as_str()),
            (status, body),
            "{path}"
        );
        let wanted = format!("\"{method} {path} HTTP/1.1\"");
        let line = shop.proxy.logged(0, |line| line.contains(&wanted))?;
        let logged = line.split(' ').nth(5).unwrap_or_default();
        let sorted = |text: &str| text.split(',').map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(sorted(logged), sorted(flags), "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn mirrors_get_copies() -> Result<()> {
    let shop = Shop::example(ALL, "mirror.yaml").await?;
    let echoes = shop.echoes(&["reviews-v1", "ratings"])?;
    let (seen, mut copies) = tokio::sync::mpsc::unbounded_channel();
    let _mirror = shop.answering("reviews-v2", move |call| {
        let seen = seen.clone();
        Box::pin(async move {
            let path = call.request.uri().to_string();
            let reply = echo::echo("mirror".into(), call).await;
            let _ = seen.send(path);
            reply
        })
    })?;
    let mut http = shop.http().await?;
    let count = 200;
    for n in 0..count {
        let head = request("POST", "reviews", &format!("/{n}?q")).body(whole("copied"))?;
        let seen = http.exchange(head).await?.seen()?;
        assert_eq!((seen.server(), seen.body_bytes()), ("reviews-v1", 6));
    }
    let mut copied = BTreeSet::new();
    while copied.len() < count {
        let path = tokio::time::timeout(PATIENCE, copies.recv()).await;
        let path = path.with_context(|| format!("{} copies came", copied.len()))?;
        ensure!(
            copied.insert(path.context("the mirror ended")?),
            "copied twice"
        );
    }
    assert_eq!(echoes[0].requests(), count);
    ensure!(
        echoes[1].requests() <= 60,
        "{} of 5 %",
        echoes[1].requests()
    );
    Ok(())
}

#[tokio::test]
async fn requests_go_in_turns_or_to_the_less_busy() -> Result<()> {
    let pods = &[
        ("client", "app=client"),
        ("a", "app=reviews"),
        ("b", "app=reviews"),
        ("c", "app=reviews"),
        ("slow", "app=ratings"),
        ("quick", "app=ratings"),
    ];
    let shop = Shop::example(pods, "load-balancing.yaml").await?;
    let _echoes = shop.echoes(&["a", "b", "c", "quick"])?;
    let mut http = shop.http().await?;
    let mut turns = Vec::new();
    for _ in 0..30 {
        turns.push(http.get("reviews", "/").await?.seen()?.server().to_owned());
    }
    for window in turns.windows(4) {
        let different: BTreeSet<_> = window[..3].iter().collect();
        ensure!(different.len() == 3 && window[0] == window[3], "{turns:?}");
    }
    let gate = Gate::default();
    let held = gate.clone();
    let slow = shop.answering("slow", move |call| {
        let held = held.clone();
        Box::pin(async move { held.pass(echo::echo("slow".into(), call)).await })
    })?;
    // Requests that hang make it busy; the others are answered by its neighbour. Each is on a
    // connection of its own, since one that hangs holds its connection.
    let mut hanging = JoinSet::new();
    let mut quick = 0;
    for _ in 0..200 {
        let mut http = Http::connect(shop.pod("client")?, RATINGS.parse()?).await?;
        let before = slow.requests();
        let mut asking = tokio::spawn(async move { http.get("ratings", "/").await });
        let arrived = async {
            while slow.requests() == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            reply = &mut asking => quick += usize::from(reply??.seen()?.server() == "quick"),
            () = arrived => drop(hanging.spawn(asking)),
        }
    }
    // Two draws of two endpoints: the busy one is taken where it is drawn twice, once in four.
    ensure!(
        about(quick, 200, 0.75),
        "{quick} of 200 went to the quick one"
    );
    gate.open();
    while let Some(reply) = hanging.join_next().await {
        assert_eq!(reply???.seen()?.server(), "slow");
    }
    Ok(())
}

#[tokio::test]
async fn sessions_stick() -> Result<()> {
    let pods = &[
        ("client", "app=client"),
        ("a", "app=reviews"),
        ("b", "app=reviews"),
        ("c", "app=reviews"),
        ("d", "app=ratings"),
        ("e", "app=ratings"),
    ];
    let shop = Shop::example(pods, "sticky-sessions.yaml").await?;
    let _echoes = shop.echoes(&["a", "b", "c", "d", "e"])?;
    let mut met = BTreeSet::new();
    // Of three pods chance leaves out one in 20 sessions of one run in a thousand, and in 80 of none.
    let mut sessions = 0;
    while sessions < 20 || (met.len() < 3 && sessions < 80) {
        sessions += 1;
        // Cookies are made of the connection's addresses: each connection has another one.
        let reply = shop.get("/", &[]).await?;
        let cookie = header(&reply, "set-cookie").to_owned();
        ensure!(
            cookie.starts_with("session=\"") && cookie.contains("; Max-Age=3600; Path=/; HttpOnly"),
            "{cookie}"
        );
        let session = cookie.split(';').next().unwrap_or_default();
        let server = reply.seen()?.server().to_owned();
        for _ in 0..5 {
            let again = shop.get("/", &[("cookie", session)]).await?;
            assert_eq!(header(&again, "set-cookie"), "");
            assert_eq!(again.seen()?.server(), server, "{session}");
        }
        met.insert(server);
    }
    ensure!(met.len() == 3, "{sessions} sessions met {met:?} only");
    let mut met = BTreeSet::new();
    for user in 0..40 {
        let user = format!("user-{user}");
        let mut own = BTreeSet::new();
        for _ in 0..3 {
            let mut http = Http::connect(shop.pod("client")?, RATINGS.parse()?).await?;
            let reply = get(&mut http, "ratings", "/", &[("x-user", &user)]).await?;
            own.insert(reply.seen()?.server().to_owned());
        }
        ensure!(own.len() == 1, "{user} met {own:?}");
        met.extend(own);
    }
    ensure!(met.len() == 2, "40 users met {met:?} only");
    Ok(())
}

#[tokio::test]
async fn callers_stay_near_until_the_near_ones_fail() -> Result<()> {
    let pods = &[
        ("client", "app=client,istio-locality=europe.west"),
        ("near", "app=reviews,istio-locality=europe.west"),
        ("region", "app=reviews,istio-locality=europe.east"),
        ("america", "app=reviews,istio-locality=america.east"),
        ("asia", "app=reviews,istio-locality=asia.south"),
    ];
    let shop = Shop::example(pods, "locality-failover.yaml").await?;
    let names = ["near", "region", "america", "asia"];
    let broken: Vec<_> = names.map(|_| Arc::new(AtomicBool::new(false))).into();
    let mut servers = Vec::new();
    for (name, broken) in names.into_iter().zip(&broken) {
        let broken = Arc::clone(broken);
        servers.push(shop.answering(name, move |_| {
            let status = if broken.load(Ordering::Relaxed) {
                500
            } else {
                200
            };
            Box::pin(async move { says(status, name) })
        })?);
    }
    let mut http = shop.http().await?;
    let ejections =
        "cluster.outbound|80||reviews.shop.svc.cluster.local.outlier_detection.ejections_active";
    for (index, name) in names.into_iter().enumerate() {
        for _ in 0..30 {
            let reply = http.get("reviews", "/").await?;
            assert_eq!((reply.status, reply.text().as_str()), (200, name));
        }
        broken[index].store(true, Ordering::Relaxed);
        for _ in 0..2 {
            assert_eq!(http.get("reviews", "/").await?.status, 500, "{name}");
        }
        shop.stat(ejections, |n| n == index as u64 + 1).await?;
    }
    // All sit out, and there is no panic by default.
    let reply = http.get("reviews", "/none").await?;
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (503, "no healthy upstream")
    );
    shop.proxy
        .logged(0, |line| line.contains("GET /none HTTP/1.1\" 503 UH "))?;
    Ok(())
}

#[tokio::test]
async fn localities_get_their_shares() -> Result<()> {
    let pods = &[
        ("client", "app=client,istio-locality=europe.west"),
        ("abroad", "app=client,istio-locality=america.east"),
        ("west-a", "app=reviews,istio-locality=europe.west"),
        ("west-b", "app=reviews,istio-locality=europe.west"),
        ("east", "app=reviews,istio-locality=europe.east"),
        ("far", "app=reviews,istio-locality=america.east"),
    ];
    let shop = Shop::example(pods, "locality-distribute.yaml").await?;
    let _echoes = shop.echoes(&["west-a", "west-b", "east", "far"])?;
    let count = 1000;
    let shares = served(&mut shop.http().await?, "reviews", count).await?;
    let share = |name: &str| shares.get(name).copied().unwrap_or_default();
    ensure!(
        about(share("west-a") + share("west-b"), count, 0.7) && share("far") == 0,
        "{shares:?}"
    );
    ensure!(share("west-a") > 200 && share("west-b") > 200, "{shares:?}");
    let mut http = Http::connect(shop.pod("abroad")?, REVIEWS.parse()?).await?;
    let shares = served(&mut http, "reviews", 200).await?;
    ensure!(
        shares.len() == 4,
        "callers from elsewhere reach all: {shares:?}"
    );
    Ok(())
}

/// A TCP server that tells its name to whoever connects.
fn names_itself(shop: &Shop, pod: &'static str, port: u16) -> Result<Server> {
    Server::start(shop.pod(pod)?, port, move |mut stream, _| async move {
        let _ = stream.write_all(pod.as_bytes()).await;
    })
}

#[tokio::test]
async fn tcp_goes_by_caller_subnet_and_weight() -> Result<()> {
    let pods = &[
        ("client", "app=client"),
        ("reports", "app=reports"),
        ("primary", "app=ledger,role=primary"),
        ("replica", "app=ledger,role=replica"),
    ];
    let shop = Shop::example(pods, "tcp-routing.yaml").await?;
    let _servers = [
        names_itself(&shop, "primary", 5432)?,
        names_itself(&shop, "replica", 5432)?,
    ];
    let ask = async |pod: &str, to: &str| {
        let (said, end) = raw::ask(shop.pod(pod)?, to.parse()?, b"").await?;
        ensure!(end == End::Closed, "{pod}: {said:?} {end:?}");
        Ok(said)
    };
    for _ in 0..20 {
        assert_eq!(ask("reports", "10.96.7.20:5432").await?, "replica");
        assert_eq!(ask("client", "[fd96::7:20]:5432").await?, "replica");
    }
    let count = 300;
    let mut replica = 0;
    for _ in 0..count {
        replica += usize::from(ask("client", "10.96.7.20:5432").await? == "replica");
    }
    ensure!(
        about(replica, count, 0.1),
        "{replica} of {count} to the replica"
    );
    Ok(())
}

#[tokio::test]
async fn an_authorizer_of_ones_own_is_asked() -> Result<()> {
    let pods = &[
        ("client", "app=client"),
        ("reviews-v1", "app=reviews,version=v1"),
        ("ext-authz", "app=ext-authz"),
    ];
    let shop = Shop::example(pods, "external-authorization.yaml").await?;
    let _echoes = shop.echoes(&["reviews-v1"])?;
    let _authorizer = Echo::answering(shop.pod("ext-authz")?, 8000, |call| {
        let allowed = call.request.headers().get("x-ext-authz").is_some();
        Box::pin(async move {
            let status = if allowed { 200 } else { 403 };
            let status = http::StatusCode::from_u16(status).unwrap_or_default();
            let mut response = echo::respond(status, "".into());
            let user = http::HeaderValue::from_static("somebody");
            response.headers_mut().insert("x-user", user);
            response
        })
    })?;
    let mut http = Http::connect(shop.pod("client")?, REVIEWS.parse()?).await?;
    let reply = get(&mut http, "reviews", "/admin", &[]).await?;
    ensure!(reply.status == 403, "{}", reply.status);
    let reply = get(&mut http, "reviews", "/admin", &[("x-ext-authz", "yes")]).await?;
    ensure!(
        reply.seen()?.header("x-user") == ["somebody"],
        "{}",
        reply.text()
    );
    ensure!(get(&mut http, "reviews", "/", &[]).await?.status == 200);
    Ok(())
}

#[tokio::test]
async fn plain_text_becomes_tls_on_its_way_out_of_the_mesh() -> Result<()> {
    let pods = &[
        ("client", "app=client"),
        ("payments", "app=payments,aquifer.io/mesh=disabled"),
    ];
    let shop = Shop::open(pods, "# nothing\n").await?;
    let authority = outside::Authority::new("payments")?;
    let files = tempfile::tempdir()?;
    let shown = authority.sign(&["shop"])?;
    for (name, text) in [
        ("payments-ca.pem", authority.pem()),
        ("shop.pem", &shown.certificate),
        ("shop-key.pem", &shown.key),
    ] {
        fs::write(files.path().join(name), text)?;
    }
    let here = files.path().to_string_lossy();
    let text = example("tls-origination.yaml")?.replace("/etc/aquifer/tls", &here);
    shop.apply(&text).await?;
    let pod = shop.pod("payments")?;
    let signed = authority.sign(&["payments.shop.svc.cluster.local", "payments.example.com"])?;
    let _http = outside::Server::http(pod, 8443, signed.server(None, &["http/1.1"])?)?;
    let asks = signed.server(Some(&authority), &[])?;
    let _db = outside::Server::start(pod, 5433, asks, |mut stream| async move {
        let name = stream
            .get_ref()
            .1
            .server_name()
            .unwrap_or_default()
            .to_owned();
        let _ = stream.write_all(name.as_bytes()).await;
        let _ = stream.shutdown().await;
    })?;
    let host = "payments.shop.svc.cluster.local";
    let client = shop.pod("client")?;
    let mut http = Http::connect(client, "10.96.7.31:80".parse()?).await?;
    let reply = http.get(host, "/").await?;
    ensure!(
        reply.text().contains("\"sni\":\"payments.shop.svc"),
        "{}",
        reply.text()
    );
    let (said, end) = raw::ask(client, "10.96.7.31:5432".parse()?, b"").await?;
    assert_eq!((said.as_str(), end), ("payments.example.com", End::Closed));
    Ok(())
}

#[tokio::test]
async fn tls_goes_by_the_name_asked_for() -> Result<()> {
    let pods = &[
        ("client", "app=client"),
        ("vault-v1", "app=vault,version=v1"),
        ("vault-v2", "app=vault,version=v2"),
    ];
    let shop = Shop::example(pods, "tls-routing.yaml").await?;
    let answers = |pod: &'static str| {
        Server::start(shop.pod(pod)?, 8443, move |mut stream, _| async move {
            // A server of TLS waits for the whole hello: here, for its length.
            let Ok(head) = raw::read_exactly(&mut stream, 5).await else {
                return;
            };
            let rest = usize::from(u16::from_be_bytes([head[3], head[4]]));
            if raw::read_exactly(&mut stream, rest).await.is_ok() {
                let _ = stream.write_all(pod.as_bytes()).await;
            }
        })
    };
    let _servers = [answers("vault-v1")?, answers("vault-v2")?];
    let to = "10.96.7.30:443".parse()?;
    for (name, server) in [
        ("vault.shop.svc.cluster.local", "vault-v1"),
        ("VAULT.shop.svc.cluster.local", "vault-v1"),
        ("a.vault.shop.svc.cluster.local", "vault-v2"),
        ("a.b.vault.shop.svc.cluster.local", "vault-v2"),
    ] {
        let (said, end) = raw::ask(shop.pod("client")?, to, &raw::client_hello(name)).await?;
        assert_eq!((said.as_str(), end), (server, End::Closed), "{name}");
        let name = name.to_ascii_lowercase();
        shop.proxy.logged(0, |line| {
            line.to_ascii_lowercase().contains(&format!(" {name} "))
        })?;
    }
    // In several segments, as a hello with large keys comes.
    let mut stream = shop.pod("client")?.netns.connect(to).await?;
    for part in raw::client_hello("a.vault.shop.svc.cluster.local").chunks(20) {
        stream.write_all(part).await?;
        stream.flush().await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(raw::drain(&mut stream).await?.0, b"vault-v2");
    // No rule has it.
    let hello = raw::client_hello("example.com");
    let (said, end) = raw::ask(shop.pod("client")?, to, &hello).await?;
    assert_eq!((said.as_str(), end), ("", End::Reset));
    shop.proxy
        .logged(0, |line| line.contains("\"- - -\" 0 NR "))?;
    Ok(())
}

#[tokio::test]
async fn browsers_of_two_origins_are_let_in() -> Result<()> {
    let pods = &TWO_VERSIONS[..2];
    let shop = Shop::example(pods, "cors.yaml").await?;
    let echoes = shop.echoes(&["reviews-v1"])?;
    let mut http = shop.http().await?;
    let preflight = async |http: &mut Http, origin: &str| {
        let head = request("OPTIONS", "reviews", "/")
            .header("origin", origin)
            .header("access-control-request-method", "POST");
        http.exchange(head.body(whole(""))?).await
    };
    for origin in ["https://shop.example", "https://x.preview.shop.example"] {
        let reply = preflight(&mut http, origin).await?;
        assert_eq!(reply.status, 200);
        for (name, value) in [
            ("access-control-allow-origin", origin),
            ("access-control-allow-methods", "GET,POST"),
            ("access-control-allow-headers", "content-type,x-user"),
            ("access-control-max-age", "86400"),
            ("access-control-allow-credentials", "true"),
        ] {
            assert_eq!(header(&reply, name), value, "{name}");
        }
        let reply = get(&mut http, "reviews", "/", &[("origin", origin)]).await?;
        assert_eq!(reply.seen()?.server(), "reviews-v1");
        assert_eq!(header(&reply, "access-control-allow-origin"), origin);
        assert_eq!(
            header(&reply, "access-control-expose-headers"),
            "x-request-id"
        );
    }
    assert_eq!(echoes[0].requests(), 2, "preflights reach nobody");
    let reply = preflight(&mut http, "https://elsewhere.example").await?;
    assert_eq!(
        (reply.status, header(&reply, "access-control-allow-origin")),
        (200, "")
    );
    let origin = [("origin", "https://elsewhere.example")];
    let reply = get(&mut http, "reviews", "/", &origin).await?;
    assert_eq!(
        (reply.status, header(&reply, "access-control-allow-origin")),
        (200, "")
    );
    assert_eq!(echoes[0].requests(), 3);
    Ok(())
}

#[tokio::test]
async fn some_answers_need_no_service() -> Result<()> {
    let pods = &TWO_VERSIONS[..2];
    let shop = Shop::example(pods, "redirect.yaml").await?;
    let echoes = shop.echoes(&["reviews-v1"])?;
    let mut http = shop.http().await?;
    for (path, status, location, body) in [
        ("/old/a?q=1", 301, "http://reviews/new/a?q=1", ""),
        ("/go", 302, "https://docs.shop.example/start", ""),
        ("/login/x?y", 308, "https://reviews/login/x?y", ""),
        ("/healthz", 200, "", "fine"),
        ("/gone/with", 410, "", "nothing is left of it"),
    ] {
        let reply = http.get("reviews", path).await?;
        assert_eq!(
            (
                reply.status,
                header(&reply, "location"),
                reply.text().as_str()
            ),
            (status, location, body),
            "{path}"
        );
        let lasts = header(&reply, "cache-control") == "max-age=3600";
        assert_eq!(lasts, status == 410, "{path}");
    }
    assert_eq!(echoes[0].requests(), 0);
    assert_eq!(
        http.get("reviews", "/").await?.seen()?.server(),
        "reviews-v1"
    );
    Ok(())
}

#[tokio::test]
async fn headers_are_set_added_and_removed() -> Result<()> {
    let shop = Shop::example(TWO_VERSIONS, "headers.yaml").await?;
    let met = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let mut servers = Vec::new();
    for name in VERSIONS {
        servers.push(shop.answering(name, move |call| {
            Box::pin(async move {
                let mut reply = echo::echo(name.into(), call).await;
                let value = http::HeaderValue::from_static("abacus");
                reply.headers_mut().insert("x-powered-by", value);
                reply
            })
        })?);
    }
    let client = shop.pod("client")?.v4.to_string();
    let mut http = shop.http().await?;
    while met.iter().any(|met| met.load(Ordering::Relaxed) == 0) {
        let sent = [
            ("x-internal", "1"),
            ("x-tag", "own"),
            ("x-caller", "forged"),
        ];
        let reply = get(&mut http, "reviews", "/a?b", &sent).await?;
        let seen = reply.seen()?;
        let second = seen.server() == "reviews-v2";
        met[usize::from(second)].fetch_add(1, Ordering::Relaxed);
        assert_eq!(seen.header("x-forwarded-path"), ["/a?b"]);
        assert_eq!(seen.header("x-caller"), [client.as_str()]);
        assert_eq!(seen.header("x-tag"), ["own", "mesh"]);
        assert!(seen.header("x-internal").is_empty());
        let arrived = seen.header("x-arrived").join(",");
        let (seconds, millis) = arrived.split_once('.').context(arrived.clone())?;
        ensure!(
            seconds.parse::<u64>()? > 1_700_000_000 && millis.len() == 3,
            "{arrived}"
        );
        assert_eq!(
            seen.header("host"),
            [if second { "beta.reviews" } else { "reviews" }]
        );
        for (name, value) in [
            ("x-version", if second { "v2" } else { "v1" }),
            ("x-share", "100%"),
            ("x-powered-by", ""),
        ] {
            assert_eq!(header(&reply, name), value, "{name}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_token_lets_readers_in() -> Result<()> {
    let shop = Shop::example(TWO_VERSIONS, "tokens.yaml").await?;
    let _echoes = shop.echoes(&VERSIONS)?;
    let text = example("tokens.yaml")?;
    let (_, token) = text
        .split_once("Authorization: ")
        .context("a token to try")?;
    let token = token.lines().next().unwrap_or_default();
    let spoiled = format!("{token}A");
    let spoof = ("x-user", "evil");
    for (path, headers, status) in [
        ("/", &[spoof][..], 403),
        ("/health", &[spoof], 200),
        ("/", &[spoof, ("authorization", token)], 200),
        ("/", &[spoof, ("authorization", &spoiled)], 401),
        (
            "/health",
            &[spoof, ("authorization", "Bearer nonsense")],
            401,
        ),
    ] {
        let reply = shop.get(path, headers).await?;
        assert_eq!(reply.status, status, "{path} {headers:?}");
        if status == 200 {
            let seen = reply.seen()?;
            let user = (path == "/").then_some("joe");
            assert_eq!(seen.header("x-user"), Vec::from_iter(user));
            ensure!(seen.header("authorization").is_empty());
        }
    }
    Ok(())
}

#[tokio::test]
async fn only_who_is_named_is_let_in_and_only_by_mutual_tls() -> Result<()> {
    const PODS: &[(&str, &str)] = &[
        ("client", "app=client"),
        ("ratings", "app=ratings"),
        ("stranger", "app=stranger,aquifer.io/mesh=disabled"),
        ("reviews-v1", "app=reviews,version=v1"),
        ("reviews-v2", "app=reviews,version=v2"),
    ];
    let shop = Shop::secured(PODS, 3, "zero-trust.yaml").await?;
    let _echoes = shop.echoes(&VERSIONS)?;
    for (caller, method, status) in [
        ("client", "GET", 200),
        ("client", "POST", 403),
        ("ratings", "GET", 403),
        ("ratings", "POST", 403),
    ] {
        let mut http = Http::connect(shop.pod(caller)?, REVIEWS.parse()?).await?;
        let asked = request(method, "reviews", "/").body(whole(""))?;
        let reply = http.exchange(asked).await?;
        assert_eq!(reply.status, status, "{caller} {method}: {}", reply.text());
        if status == 403 {
            assert_eq!(reply.text(), "RBAC: access denied");
        }
    }
    let reviews = shop.pod("reviews-v1")?.at(PORT);
    for outside in [&shop.pod("stranger")?.netns, &shop.lab.node] {
        let asked = async {
            let mut stream = outside.connect(reviews).await?;
            let ask = b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n";
            stream.write_all(ask).await?;
            stream.read_u8().await
        };
        let refused = asked.await.map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionReset), "{outside:?}");
    }
    Ok(())
}
