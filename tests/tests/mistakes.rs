//! Objects that are wrong in ways that cost somebody dearly elsewhere: each has one clear problem that
//! names object and field, and everything else stays in force.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{clock, shop::Shop};
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
