//! Objects that are wrong in ways that cost somebody dearly elsewhere: each has one clear problem that
//! names object and field, and everything else stays in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    client::Http,
    clock,
    raw::{self, Server},
    shop::{REVIEWS, Shop},
};
use serde_json::Value;

const PODS: &[(&str, &str)] = &[
    ("client", "app=client"),
    ("reviews-v1", "app=reviews,version=v1"),
    ("ratings", "app=ratings"),
];

/// What is in force all the time: everything goes to ratings, so that it shows where it is gone.
const GOOD: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: good, namespace: shop, creationTimestamp: '2020-01-01T00:00:00Z'}
spec:
  hosts: [reviews]
  http:
  - route: [{destination: {host: ratings}}]
";

/// A VirtualService that is younger than the good one.
fn virtual_service(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: {name}, namespace: shop, creationTimestamp: '2024-01-01T00:00:00Z'}}\n\
         spec: {spec}\n"
    )
}

/// The problems as `status` tells them.
async fn problems(shop: &Shop) -> Result<Vec<Value>> {
    let status = shop.proxy.admin("/status").await?;
    status["problems"]
        .as_array()
        .cloned()
        .context("the status has no problems")
}

#[tokio::test]
async fn each_mistake_has_one_clear_problem() -> Result<()> {
    let shop = Shop::open(PODS, GOOD).await?;
    let _echoes = shop.echoes(&["reviews-v1", "ratings"])?;
    let route = "route: [{destination: {host: ratings}}]";
    let operations = |count: usize| {
        let all: Vec<_> = (0..count).map(|n| format!("x-{n}: v")).collect();
        all.join(", ")
    };
    // Name, mistaken objects, severity, object, field, words.
    for (name, yaml, severity, object, field, words) in [
        (
            "delegates in a loop",
            virtual_service("one", "{http: [{delegate: {name: other}}]}")
                + &virtual_service("other", "{http: [{delegate: {name: one}}]}")
                + &virtual_service(
                    "root",
                    &format!(
                        "{{hosts: [ratings], http: [{{match: [{{uri: {{prefix: /a}}}}], \
                         delegate: {{name: one}}}}, {{{route}}}]}}"
                    ),
                ),
            "error",
            "VirtualService shop/one",
            "spec.http[0].delegate",
            "can't delegate itself",
        ),
        (
            "a delegate of its own",
            virtual_service(
                "self",
                &format!(
                    "{{hosts: [ratings], http: [{{match: [{{uri: {{prefix: /a}}}}], \
                     delegate: {{name: self}}}}, {{{route}}}]}}"
                ),
            ),
            "warning",
            "VirtualService shop/self",
            "spec.http[0].delegate",
            "delegates to itself",
        ),
        (
            "hosts that overlap",
            virtual_service(
                "overlap",
                &format!("{{hosts: [ratings, ratings], http: [{{{route}}}]}}"),
            ),
            "error",
            "VirtualService shop/overlap",
            "spec.hosts[1]",
            "overlaps",
        ),
        (
            "a host that somebody has already",
            virtual_service(
                "second",
                &format!("{{hosts: [reviews], http: [{{{route}}}]}}"),
            ),
            "warning",
            "VirtualService shop/second",
            "spec.hosts[0]",
            "already has the rules of VirtualService shop/good",
        ),
        (
            "a mirror to itself",
            virtual_service(
                "mirror",
                &format!("{{hosts: [ratings], http: [{{{route}, mirror: {{host: ratings}}}}]}}"),
            ),
            "warning",
            "VirtualService shop/mirror",
            "spec.http[0].mirror",
            "mirror",
        ),
        (
            "10,000 header operations",
            virtual_service(
                "headers",
                &format!(
                    "{{hosts: [ratings], http: [{{{route}, headers: {{request: {{set: {{{}}}}}}}}}]}}",
                    operations(10_000)
                ),
            ),
            "error",
            "VirtualService shop/headers",
            "spec.http[0].headers",
            "operations",
        ),
        (
            "a regular expression that explodes",
            virtual_service(
                "explodes",
                &format!(
                    "{{hosts: [ratings], http: [{{match: [{{uri: {{regex: '((a{{1,1000}}){{1,1000}}){{1,1000}}'}}}}], {route}}}]}}"
                ),
            ),
            "error",
            "VirtualService shop/explodes",
            "spec.http[0].match[0].uri.regex",
            "",
        ),
    ] {
        let start = clock::now();
        shop.config.put("mistake.yaml", yaml)?;
        let row = shop.problem(&[object]).await.context(name)?;
        let took = start.elapsed();
        ensure!(took < Duration::from_secs(5), "{name}: told after {took:?}");
        let rows = problems(&shop).await?;
        // One for each of the objects that are wrong, of which a loop has three.
        let objects = rows.iter().map(|row| row["object"].to_string());
        let objects: BTreeSet<_> = objects.collect();
        ensure!(objects.len() == rows.len(), "{name}: {rows:#?}");
        let wrong = if name.contains("loop") { 3 } else { 1 };
        ensure!(rows.len() == wrong, "{name}: {rows:#?}");
        let said = |part: &str| row[part].as_str().unwrap_or_default().to_owned();
        ensure!(
            said("severity") == severity
                && said("object") == object
                && said("field").starts_with(field)
                && said("message").contains(words)
                && said("message").len() < 400,
            "{name}: {row:#}"
        );
        // The command for people says the same, in one line.
        let (status, table, _) = shop.proxy.command(&["status"])?;
        let mut lines = table.lines().filter(|line| line.contains(object));
        let line = lines.next().with_context(|| format!("{name}: {table}"))?;
        ensure!(
            status.success() && line.contains(field) && line.contains("mistake.yaml:"),
            "{name}: {line}"
        );
        // The good rule and the other service are as they were.
        for (host, server) in [("reviews", "ratings"), ("ratings", "ratings")] {
            let mut http = shop.http().await?;
            let seen = http.get(host, "/").await?.seen();
            assert_eq!(seen.context(name)?.server(), server, "{name}");
        }
        shop.config.remove("mistake.yaml")?;
        shop.proxy
            .until("/status", |status| {
                status["problems"].as_array().is_some_and(Vec::is_empty)
            })
            .await
            .context(name)?;
    }
    Ok(())
}

const DURATIONS: &[&str] = &[
    "5",
    "x",
    "-1s",
    "0s",
    "9999999999h",
    ".nan",
    "''",
    "[]",
    "{}",
];
const COUNTS: &[&str] = &[
    "x",
    "-1",
    "1.5",
    "99999999999",
    ".nan",
    ".inf",
    "''",
    "[]",
    "{}",
];
const SHARES: &[&str] = &["x", "-1", "100.1", "1e300", ".nan", "-.inf", "''", "[]"];
const PORTS: &[&str] = &["x", "-1", "0", "65536", "1.5", ".nan", "''", "[]"];
const BOOLS: &[&str] = &["x", "1", ".nan", "''", "[]", "{}"];
const TEXTS: &[&str] = &["1", "true", ".nan", "[]", "{}"];
const LISTS: &[&str] = &["x", "1", "true", ".nan", "{}"];
const MAPPINGS: &[&str] = &["x", "1", "true", ".nan", "[1]"];

/// Fields of all types, each where `%` stands in an object that is right otherwise, with values that it
/// can't have. `api::decode` has all fields; here it counts that what is wrong harms nobody.
const FIELDS: &[(&str, &str, &[&str])] = &[
    ("http[0].timeout", "timeout: %", DURATIONS),
    ("http[0].retries", "retries: %", MAPPINGS),
    ("http[0].retries.attempts", "retries: {attempts: %}", COUNTS),
    (
        "http[0].retries.backoff",
        "retries: {attempts: 1, backoff: %}",
        DURATIONS,
    ),
    ("http[0].rewrite.uri", "rewrite: {uri: %}", TEXTS),
    (
        "http[0].mirrorPercentage.value",
        "mirror: {host: a}, mirrorPercentage: {value: %}",
        SHARES,
    ),
    ("http[0].mirrors", "mirrors: %", LISTS),
    (
        "http[0].corsPolicy.allowCredentials",
        "corsPolicy: {allowCredentials: %}",
        BOOLS,
    ),
    (
        "http[0].headers.request.set",
        "headers: {request: {set: %}}",
        MAPPINGS,
    ),
    ("http[0].match", "match: %", LISTS),
    (
        "http[0].match[0].uri.exact",
        "match: [{uri: {exact: %}}]",
        TEXTS,
    ),
    (
        "http[0].mirror.port.number",
        "mirror: {host: a, port: {number: %}}",
        PORTS,
    ),
    ("trafficPolicy", "%", MAPPINGS),
    (
        "trafficPolicy.loadBalancer.warmup.duration",
        "{loadBalancer: {warmup: {duration: %}}}",
        DURATIONS,
    ),
    (
        "trafficPolicy.loadBalancer.consistentHash.useSourceIp",
        "{loadBalancer: {consistentHash: {useSourceIp: %}}}",
        BOOLS,
    ),
    (
        "trafficPolicy.connectionPool.tcp.maxConnections",
        "{connectionPool: {tcp: {maxConnections: %}}}",
        COUNTS,
    ),
    (
        "trafficPolicy.connectionPool.http.idleTimeout",
        "{connectionPool: {http: {idleTimeout: %}}}",
        DURATIONS,
    ),
    (
        "trafficPolicy.outlierDetection.maxEjectionPercent",
        "{outlierDetection: {maxEjectionPercent: %}}",
        COUNTS,
    ),
    (
        "trafficPolicy.retryBudget.percent",
        "{retryBudget: {percent: %}}",
        SHARES,
    ),
    (
        "trafficPolicy.portLevelSettings",
        "{portLevelSettings: %}",
        LISTS,
    ),
];

#[tokio::test]
async fn many_mistakes_harm_nobody_else() -> Result<()> {
    let shop = Shop::open(PODS, GOOD).await?;
    let _echoes = shop.echoes(&["reviews-v1", "ratings"])?;
    let (mut yaml, mut expected) = (String::new(), BTreeMap::new());
    for (field, template, values) in FIELDS {
        for value in *values {
            let text = template.replace('%', value);
            let name = format!("b{}", expected.len());
            let (kind, spec) = if field.starts_with("http") {
                let spec = format!(
                    "hosts: [ratings], http: [{{{text}, route: [{{destination: {{host: reviews}}}}]}}]"
                );
                ("VirtualService", spec)
            } else {
                (
                    "DestinationRule",
                    format!("host: ratings, trafficPolicy: {text}"),
                )
            };
            writeln!(
                yaml,
                "---\napiVersion: networking.istio.io/v1\nkind: {kind}\n\
                 metadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}"
            )?;
            expected.insert(format!("{kind} shop/{name}"), (*field, *value));
        }
    }
    ensure!(expected.len() > 100, "{}", expected.len());
    shop.config.put("mistakes.yaml", yaml)?;
    shop.proxy
        .until("/status", |status| {
            let rows = status["problems"].as_array();
            rows.is_some_and(|rows| rows.len() >= expected.len())
        })
        .await?;
    let mut told: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for row in problems(&shop).await? {
        let object = row["object"].as_str().unwrap_or_default().to_owned();
        told.entry(object).or_default().push(row);
    }
    for (object, (field, value)) in &expected {
        let rows = told.remove(object).unwrap_or_default();
        let [row] = &rows[..] else {
            anyhow::bail!("{field}: {value}: {rows:#?}");
        };
        let named = row["field"].as_str().unwrap_or_default();
        let parent = field.rsplit_once('.').map_or("spec", |(parent, _)| parent);
        let field = format!("spec.{field}");
        ensure!(
            row["severity"] == "error"
                && (named.starts_with(&field) || named.ends_with(parent))
                && row["message"].as_str().is_some_and(|one| one.len() > 5),
            "{field}: {value}: {row:#}"
        );
    }
    ensure!(told.is_empty(), "{told:#?}");
    // What is right is in force: the rule, and the service that all the mistakes are about.
    for host in ["reviews", "ratings"] {
        let seen = shop.http().await?.get(host, "/").await?.seen()?;
        assert_eq!(seen.server(), "ratings", "{host}");
    }
    Ok(())
}

/// Everything that takes a number, as `VALUE` or `COUNT`, on all the ways that traffic goes.
const LIMITS: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: limits, namespace: shop}
spec:
  hosts: [reviews]
  http:
  - timeout: LONG
    retries: {attempts: COUNT, perTryTimeout: LONG, backoff: VALUE, retryOn: 5xx, retryRemoteLocalities: true}
    fault:
      delay: {fixedDelay: VALUE, percentage: {value: 0}}
      abort: {httpStatus: 599, percentage: {value: 0.0001}}
    corsPolicy: {allowOrigins: [{exact: a}], maxAge: AGE}
    mirror: {host: ratings}
    mirrorPercentage: {value: 100}
    route: [{destination: {host: reviews}, weight: COUNT}, {destination: {host: reviews, subset: all}, weight: COUNT}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: limits, namespace: shop}
spec:
  host: '*.shop.svc.cluster.local'
  subsets: [{name: all}]
  trafficPolicy:
    retryBudget: {percent: 100, minRetryConcurrency: COUNT, budgetInterval: VALUE}
    loadBalancer:
      simple: ROUND_ROBIN
      warmup: {duration: VALUE, minimumPercent: PERCENT, aggression: 1000000}
    outlierDetection:
      consecutive5xxErrors: COUNT
      consecutiveGatewayErrors: COUNT
      splitExternalLocalOriginErrors: true
      consecutiveLocalOriginFailures: COUNT
      interval: VALUE
      baseEjectionTime: VALUE
      maxEjectionPercent: 100
      minHealthPercent: PERCENT
    connectionPool:
      tcp:
        maxConnections: CONNECTIONS
        connectTimeout: LONG
        idleTimeout: LONG
        maxConnectionDuration: LONG
        tcpKeepalive: {probes: COUNT, time: VALUE, interval: VALUE}
      http:
        http1MaxPendingRequests: COUNT
        http2MaxRequests: COUNT
        maxRequestsPerConnection: REQUESTS
        maxRetries: COUNT
        idleTimeout: VALUE
        maxConcurrentStreams: COUNT
        useClientProtocol: true
        http2KeepAlive: {interval: LONG, timeout: LONG}
";

/// A Service for bytes beside the shop's own.
const WIRE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: wire, namespace: shop}
spec: {clusterIP: 10.96.7.40, selector: {app: ratings}, ports: [{name: tcp, port: 9001}]}
";

#[tokio::test]
async fn the_largest_and_the_smallest_values_do_no_harm() -> Result<()> {
    let shop = Shop::open(PODS, WIRE).await?;
    let _echoes = shop.echoes(&["reviews-v1", "ratings"])?;
    let _server = Server::start(shop.pod("ratings")?, 9001, |mut stream, _| async move {
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"here").await;
    })?;
    for (name, value, long, age, count, connections, requests, percent) in [
        (
            "the largest",
            "2562047h47m16.854s",
            "2562047h47m16.854s",
            "2562047h",
            "2147483647",
            "2147483647",
            "536870912",
            "100",
        ),
        ("the smallest", "1ms", "5s", "0s", "1", "1", "1", "0"),
    ] {
        let words = [
            ("VALUE", value),
            ("LONG", long),
            ("AGE", age),
            ("CONNECTIONS", connections),
            ("COUNT", count),
            ("REQUESTS", requests),
            ("PERCENT", percent),
        ];
        let text = words.iter().fold(LIMITS.to_owned(), |text, (word, value)| {
            text.replace(word, value)
        });
        shop.apply(&format!("{text}{WIRE}")).await?;
        let errors = problems(&shop).await?.into_iter();
        let errors: Vec<_> = errors.filter(|row| row["severity"] == "error").collect();
        ensure!(errors.is_empty(), "{name}: {errors:#?}");
        for number in 0..20 {
            let reply = shop.get("/", &[("origin", "a")]).await?;
            assert_eq!(reply.status, 200, "{name}, request {number}");
            let client = shop.pod("client")?;
            let mut http2 = Http::connect2(client, REVIEWS.parse()?).await?;
            assert_eq!(http2.get("reviews", "/").await?.status, 200, "{name}");
            let (said, _) = raw::ask(client, "10.96.7.40:9001".parse()?, b"").await?;
            assert_eq!(said, "here", "{name}");
        }
    }
    Ok(())
}
