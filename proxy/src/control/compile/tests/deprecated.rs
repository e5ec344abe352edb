//! Fields that have given way to others and still count.

use super::*;

/// The one rule for web, as it is compiled.
fn compiled_rule(rule: &str) -> String {
    let to = "route: [{destination: {host: web, port: {number: 80}}}]";
    let text = rules(
        "web",
        "shop",
        &format!("hosts: [web], http: [{{{rule}, {to}}}]"),
    );
    let compiled = compile(&[WEB, &text]);
    let table = compiled.snapshot.route_table("web", "shop", 80);
    let rules = table.expect("it is owned").rules();
    assert_eq!(rules.len(), 1, "{rule}");
    format!("{:?}", rules[0])
}

#[test]
fn old_fields_do_what_their_successors_do() {
    // `%` is where the old field or the new one stands.
    for (rule, old, new, other) in [
        (
            "mirror: {host: web, subset: v2}, %",
            "mirrorPercent: 25",
            "mirrorPercentage: {value: 25}",
            "mirrorPercentage: {value: 100}",
        ),
        (
            "fault: {delay: {fixedDelay: 1s, %}}",
            "percent: 25",
            "percentage: {value: 25}",
            "percentage: {value: 100}",
        ),
        (
            "corsPolicy: {%}",
            "allowOrigin: [https://a.com, '*']",
            "allowOrigins: [{exact: https://a.com}, {exact: '*'}]",
            "allowOrigins: [{prefix: https://a.com}]",
        ),
    ] {
        let with = |field: &str| compiled_rule(&rule.replace('%', field));
        assert_eq!(with(old), with(new), "{old}");
        assert_ne!(with(old), with(other), "{old}");
        // Beside the new one the old one does not count.
        assert_eq!(with(&format!("{old}, {other}")), with(other), "{old}");
    }
}
