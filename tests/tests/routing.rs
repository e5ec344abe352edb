//! Which destination a request gets: by VirtualService, by DestinationRule, by nothing but a
//! Service; and what it gets where there is none.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Config, Lab, Manifests, PATIENCE, Pod, Proxy,
    client::{Http, Reply, request, whole},
    echo::{self, Echo},
};
use tokio::{sync::watch, task::JoinSet};

/// Two versions of one service, with a client in the mesh.
struct Reviews {
    proxy: Proxy,
    config: Config,
    client: Pod,
    _echoes: [Echo; 2],
    _pods: [Pod; 2],
    _lab: Lab,
}

const REVIEWS: &str = "10.96.0.20:80";
const RATINGS: &str = "10.96.0.21:80";

const SUBSETS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: v3, labels: {version: v3}}
";

/// A VirtualService for `reviews` with the rules given as a YAML list in one line.
fn rules(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: reviews, namespace: default}}\n\
         spec: {{hosts: [reviews], http: {http}}}\n"
    )
}

/// One destination of a rule.
fn to(subset: &str, weight: u32) -> String {
    format!("{{destination: {{host: reviews, subset: {subset}}}, weight: {weight}}}")
}

impl Reviews {
    async fn new(virtual_service: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let client = lab.pod("client")?;
        let pods = [lab.pod("reviews-v1")?, lab.pod("reviews-v2")?];
        let echoes = [
            Echo::start(&pods[0], 9080, "v1")?,
            Echo::start(&pods[1], 9080, "v2")?,
        ];
        let address = |text: &str| -> Result<std::net::SocketAddr> { Ok(text.parse()?) };
        let port = [("http", 80, 9080)];
        let manifests = Manifests::new()
            .namespace("default", &[])
            .pod(&client, &[("app", "client")])
            .pod(&pods[0], &[("app", "reviews"), ("version", "v1")])
            .pod(
                &pods[1],
                &[("app", "reviews"), ("version", "v2"), ("also", "ratings")],
            )
            .service(
                "reviews",
                &[address(REVIEWS)?.ip()],
                &port,
                &[("app", "reviews")],
            )
            .service(
                "ratings",
                &[address(RATINGS)?.ip()],
                &port,
                &[("also", "ratings")],
            )
            .yaml(SUBSETS);
        let config = Config::new(&manifests)?;
        config.put("route.yaml", virtual_service)?;
        let proxy = Proxy::on(&lab, &config).ready().await?;
        Ok(Self {
            proxy,
            config,
            client,
            _echoes: echoes,
            _pods: pods,
            _lab: lab,
        })
    }

    async fn http(&self) -> Result<Http> {
        Http::connect(&self.client, REVIEWS.parse()?).await
    }

    async fn get(&self, path: &str) -> Result<Reply> {
        self.http().await?.get("reviews", path).await
    }

    async fn apply(&self, virtual_service: &str) -> Result<()> {
        self.proxy
            .after(|| self.config.put("route.yaml", virtual_service))
            .await
    }
}

/// Who served how many of `count` requests over one connection.
async fn split(http: &mut Http, count: usize) -> Result<BTreeMap<String, usize>> {
    let mut served = BTreeMap::new();
    for _ in 0..count {
        let seen = http.get("reviews", "/").await?.seen()?;
        *served.entry(seen.server().to_owned()).or_default() += 1;
    }
    Ok(served)
}

#[tokio::test]
async fn weights_are_shares_of_requests() -> Result<()> {
    let world = Reviews::new(&rules(&format!(
        "[{{route: [{}, {}]}}]",
        to("v1", 90),
        to("v2", 10)
    )))
    .await?;
    let count = 4000;
    let served = split(&mut world.http().await?, count).await?;
    let share = served.get("v2").copied().unwrap_or_default() as f64;
    // Six standard deviations of a binomial: one failure in 200 million runs by chance.
    let deviation = (count as f64 * 0.1 * 0.9).sqrt();
    ensure!(
        (share - count as f64 * 0.1).abs() < 6.0 * deviation,
        "{served:?}"
    );
    ensure!(served.values().sum::<usize>() == count, "{served:?}");

    // A sum other than 100, a weight of zero, a single destination's weight: all as shares.
    for (destinations, expected) in [
        (vec![to("v1", 0), to("v2", 7)], "v2"),
        (vec![to("v1", 0)], "v1"),
        (vec![to("v2", 3)], "v2"),
    ] {
        world
            .apply(&rules(&format!(
                "[{{route: [{}]}}]",
                destinations.join(", ")
            )))
            .await?;
        let served = split(&mut world.http().await?, 50).await?;
        ensure!(
            served.len() == 1 && served.contains_key(expected),
            "{destinations:?}: {served:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_plain_service_is_spread_over_its_endpoints() -> Result<()> {
    let world = Reviews::new("# nothing\n").await?;
    let served = split(&mut world.http().await?, 400).await?;
    let least = served.values().min().copied().unwrap_or_default();
    ensure!(served.len() == 2 && least > 100, "{served:?}");
    Ok(())
}

#[tokio::test]
async fn the_first_rule_that_matches_decides() -> Result<()> {
    // Each alternative sends to v2; what matches none of them falls to v1.
    let world = Reviews::new(&rules(&format!(
        "[{{match: [\
            {{uri: {{exact: /exact}}}}, \
            {{uri: {{prefix: /pre}}, method: {{exact: POST}}}}, \
            {{uri: {{regex: '/r[0-9]+'}}}}, \
            {{headers: {{end-user: {{exact: jason}}}}}}, \
            {{headers: {{x-a: {{prefix: one}}, x-b: {{regex: 't.o'}}}}}}, \
            {{queryParams: {{v: {{exact: '2'}}}}}}, \
            {{uri: {{prefix: /without}}, withoutHeaders: {{x-skip: {{exact: '1'}}}}}}, \
            {{authority: {{exact: 'reviews:80'}}}}, \
            {{uri: {{exact: /port}}, port: 80}}, \
            {{uri: {{exact: /other-port}}, port: 81}}\
         ], route: [{}]}}, {{route: [{}]}}]",
        to("v2", 100),
        to("v1", 100),
    )))
    .await?;
    let mut http = world.http().await?;
    for (name, method, host, path, headers, expected) in [
        ("exact", "GET", "reviews", "/exact", &[][..], "v2"),
        (
            "exact leaves the query out",
            "GET",
            "reviews",
            "/exact?a",
            &[],
            "v2",
        ),
        (
            "exact is the whole path",
            "GET",
            "reviews",
            "/exact/",
            &[],
            "v1",
        ),
        ("and: both hold", "POST", "reviews", "/prefix", &[], "v2"),
        ("and: one fails", "GET", "reviews", "/prefix", &[], "v1"),
        ("regex", "GET", "reviews", "/r12", &[], "v2"),
        (
            "regex is the whole path",
            "GET",
            "reviews",
            "/r12x",
            &[],
            "v1",
        ),
        (
            "header",
            "GET",
            "reviews",
            "/",
            &[("end-user", "jason")],
            "v2",
        ),
        (
            "header name in any case",
            "GET",
            "reviews",
            "/",
            &[("End-User", "jason")],
            "v2",
        ),
        (
            "header value in its case",
            "GET",
            "reviews",
            "/",
            &[("end-user", "Jason")],
            "v1",
        ),
        (
            "a repeated header, one line fits",
            "GET",
            "reviews",
            "/",
            &[("end-user", "x"), ("end-user", "jason")],
            "v2",
        ),
        (
            "two headers",
            "GET",
            "reviews",
            "/",
            &[("x-a", "one1"), ("x-b", "two")],
            "v2",
        ),
        (
            "two headers, one is missing",
            "GET",
            "reviews",
            "/",
            &[("x-a", "one1")],
            "v1",
        ),
        ("query", "GET", "reviews", "/?a=1&v=2", &[], "v2"),
        ("query, other value", "GET", "reviews", "/?v=22", &[], "v1"),
        (
            "query, the first value counts",
            "GET",
            "reviews",
            "/?v=1&v=2",
            &[],
            "v1",
        ),
        (
            "query is not decoded",
            "GET",
            "reviews",
            "/?v=%32",
            &[],
            "v1",
        ),
        ("without: absent", "GET", "reviews", "/without", &[], "v2"),
        (
            "without: other value",
            "GET",
            "reviews",
            "/without",
            &[("x-skip", "2")],
            "v2",
        ),
        (
            "without: present",
            "GET",
            "reviews",
            "/without",
            &[("x-skip", "1")],
            "v1",
        ),
        ("authority", "GET", "reviews:80", "/", &[], "v2"),
        ("port", "GET", "reviews", "/port", &[], "v2"),
        ("another port", "GET", "reviews", "/other-port", &[], "v1"),
        (
            "dot segments are gone before matching",
            "GET",
            "reviews",
            "/a/../exact",
            &[],
            "v2",
        ),
        (
            "and what is encoded needlessly",
            "GET",
            "reviews",
            "/%65xact",
            &[],
            "v2",
        ),
    ] {
        let mut head = request(method, host, path);
        for (name, value) in headers {
            head = head.header(*name, *value);
        }
        let seen = http.exchange(head.body(whole(""))?).await?.seen()?;
        assert_eq!(seen.server(), expected, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn what_has_no_destination_is_told_apart() -> Result<()> {
    let world = Reviews::new(&rules(&format!(
        "[{{match: [{{uri: {{exact: /nobody}}}}], route: [{}]}}, \
          {{match: [{{uri: {{exact: /subset}}}}], route: [{}]}}, \
          {{match: [{{uri: {{exact: /host}}}}], route: [{{destination: {{host: nowhere}}}}]}}, \
          {{match: [{{uri: {{exact: /port}}}}], \
            route: [{{destination: {{host: reviews, port: {{number: 81}}}}}}]}}]",
        to("v3", 1),
        to("v4", 1),
    )))
    .await?;
    let mut http = world.http().await?;
    for (path, status, flag, details, body) in [
        ("/else", 404, "NR", "route_not_found", ""),
        (
            "/nobody",
            503,
            "UH",
            "no_healthy_upstream",
            "no healthy upstream",
        ),
        ("/subset", 503, "NC", "cluster_not_found", ""),
        ("/host", 503, "NC", "cluster_not_found", ""),
        ("/port", 503, "NC", "cluster_not_found", ""),
    ] {
        let reply = http.get("reviews", path).await?;
        assert_eq!(
            (reply.status, reply.text().as_str()),
            (status, body),
            "{path}"
        );
        let wanted = format!("\"GET {path} HTTP/1.1\" {status} {flag} {details} ");
        world.proxy.logged(0, |line| line.contains(&wanted))?;
    }
    Ok(())
}

#[tokio::test]
async fn the_authority_decides_and_not_the_address() -> Result<()> {
    let world = Reviews::new(&rules(&format!("[{{route: [{}]}}]", to("v1", 1)))).await?;
    for (dialled, host, expected) in [
        (RATINGS, "reviews", "v1"),
        (RATINGS, "reviews.default", "v1"),
        (RATINGS, "reviews.default.svc", "v1"),
        (RATINGS, "reviews.default.svc.cluster.local", "v1"),
        (RATINGS, "Reviews.Default.svc.cluster.local.", "v1"),
        (RATINGS, "reviews:80", "v1"),
        (RATINGS, "10.96.0.20", "v1"),
        (REVIEWS, "ratings", "v2"),
        // An unknown one goes to where the client was going.
        (RATINGS, "unknown.example", "v2"),
    ] {
        let mut http = Http::connect(&world.client, dialled.parse()?).await?;
        for _ in 0..4 {
            let seen = http.get(host, "/").await?.seen()?;
            assert_eq!(seen.server(), expected, "{host} at {dialled}");
            assert_eq!(seen.header("host"), [host], "the upstream sees the same");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_change_under_traffic_loses_no_request() -> Result<()> {
    let first = rules(&format!("[{{route: [{}]}}]", to("v1", 1)));
    let second = rules(&format!("[{{route: [{}]}}]", to("v2", 1)));
    let world = Arc::new(Reviews::new(&first).await?);
    let done = Arc::new(AtomicBool::new(false));
    let mut workers = JoinSet::new();
    for two in [false, false, true, true] {
        let (world, done) = (world.clone(), done.clone());
        workers.spawn(async move {
            let to = REVIEWS.parse()?;
            let mut http = if two {
                Http::connect2(&world.client, to).await?
            } else {
                Http::connect(&world.client, to).await?
            };
            let mut served = BTreeMap::<String, usize>::new();
            while !done.load(Ordering::Relaxed) {
                let seen = http.get("reviews", "/").await?.seen()?;
                *served.entry(seen.server().to_owned()).or_default() += 1;
            }
            anyhow::Ok(served)
        });
    }
    for change in 0..10 {
        world
            .apply(if change % 2 == 0 { &second } else { &first })
            .await?;
        // In force for the next request, on a connection of its own.
        let seen = world.get("/").await?.seen()?;
        assert_eq!(seen.server(), if change % 2 == 0 { "v2" } else { "v1" });
    }
    done.store(true, Ordering::Relaxed);
    while let Some(worker) = workers.join_next().await {
        let served = worker??;
        ensure!(
            served.len() == 2,
            "a connection saw both versions: {served:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_request_in_flight_keeps_its_snapshot() -> Result<()> {
    let world = Reviews::new("# nothing\n").await?;
    let (release, released) = watch::channel(false);
    let lab = &world._lab;
    let slow = lab.pod("slow")?;
    let _server = Echo::answering(&slow, 9080, move |_| {
        let mut released = released.clone();
        Box::pin(async move {
            let _ = released.wait_for(|released| *released).await;
            echo::respond(http::StatusCode::OK, "at last".into())
        })
    })?;
    let address = "10.96.0.22:80".parse::<std::net::SocketAddr>()?;
    let manifests = Manifests::new().pod(&slow, &[("app", "slow")]).service(
        "slow",
        &[address.ip()],
        &[("http", 80, 9080)],
        &[("app", "slow")],
    );
    world
        .proxy
        .after(|| world.config.put("slow.yaml", manifests.text()))
        .await?;
    let mut http = Http::connect(&world.client, address).await?;
    let asking = tokio::spawn(async move { http.get("slow", "/").await });
    let echo_seen = async {
        while _server.requests() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, echo_seen)
        .await
        .context("the request did not arrive")?;
    // Only the Service goes: its pod stays where it is.
    let pod_only = Manifests::new().pod(&slow, &[("app", "slow")]);
    world
        .proxy
        .after(|| world.config.put("slow.yaml", pod_only.text()))
        .await?;
    release.send_replace(true);
    assert_eq!(asking.await??.text(), "at last");
    Ok(())
}

#[tokio::test]
async fn another_gateways_rules_do_not_reach_the_mesh() -> Result<()> {
    let rule = rules(&format!("[{{route: [{}]}}]", to("v2", 1)));
    let world =
        Reviews::new(&rule.replace("hosts: [reviews]", "hosts: [reviews], gateways: [edge]"))
            .await?;
    let served = split(&mut world.http().await?, 200).await?;
    ensure!(
        served.len() == 2,
        "the rule is for a gateway only: {served:?}"
    );
    world
        .apply(&rule.replace(
            "hosts: [reviews]",
            "hosts: [reviews], gateways: [edge, mesh]",
        ))
        .await?;
    let served = split(&mut world.http().await?, 50).await?;
    ensure!(served.len() == 1, "{served:?}");
    Ok(())
}

#[tokio::test]
async fn a_field_without_effect_is_reported() -> Result<()> {
    let rule = format!(
        "[{{fault: {{abort: {{httpStatus: 500}}}}, route: [{}]}}]",
        to("v1", 1)
    );
    let world = Reviews::new(&rules(&rule)).await?;
    assert_eq!(
        world.get("/").await?.status,
        200,
        "the rest of the rule is in force"
    );
    let status = world.proxy.admin("/status").await?.to_string();
    ensure!(status.contains("spec.http[0].fault"), "{status}");
    world
        .proxy
        .child
        .stderr
        .wait_for(0, PATIENCE, |line| line.contains("spec.http[0].fault"))?;
    let (_, table, _) = world.proxy.command(&["status"])?;
    ensure!(table.contains("spec.http[0].fault"), "{table}");
    Ok(())
}

#[tokio::test]
async fn config_commands_tell_what_is_in_force() -> Result<()> {
    let world = Reviews::new(&rules(&format!("[{{route: [{}]}}]", to("v1", 1)))).await?;
    for (what, expected) in [
        ("routes", "reviews"),
        (
            "clusters",
            "outbound|80|v1|reviews.default.svc.cluster.local",
        ),
        ("endpoints", ":9080"),
        ("listeners", "client"),
    ] {
        for format in ["table", "json"] {
            let (status, out, err) = world.proxy.command(&["config", what, "-o", format])?;
            ensure!(
                status.success() && out.contains(expected),
                "{what} {format}: {out}{err}"
            );
            if format == "json" {
                serde_json::from_str::<serde_json::Value>(&out).context("not JSON")?;
            }
        }
    }
    let bpffs = world.proxy.bpffs().to_string_lossy().into_owned();
    let (status, out, err) = world
        .proxy
        .command(&["maps", "--bpffs", &bpffs, "-o", "json"])?;
    ensure!(
        status.success() && out.contains("default/client"),
        "{out}{err}"
    );
    Ok(())
}
