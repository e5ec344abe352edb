//! Labels and selectors, as Kubernetes accepts them.

use std::collections::BTreeMap;

use super::host::is_label;
use crate::types::Finding;

/// Says which of `labels` no object can have.
pub(super) fn check(labels: &BTreeMap<String, String>, field: &str, findings: &mut Vec<Finding>) {
    for (key, value) in labels {
        if !is_key(key) {
            findings.push(Finding::error(
                format!("{field}.{key}"),
                format!("{key:?} is not the key of a label"),
            ));
        } else if !is_value(value) {
            findings.push(Finding::error(
                format!("{field}.{key}"),
                format!("{value:?} is not the value of a label"),
            ));
        }
    }
}

fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((domain, name)) => {
            domain.len() <= 253 && domain.split('.').all(is_label) && is_word(name)
        }
        None => is_word(key),
    }
}

fn is_value(value: &str) -> bool {
    value.is_empty() || is_word(value)
}

/// At most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.
fn is_word(word: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    word.len() <= 63
        && edge(word.as_bytes().first())
        && edge(word.as_bytes().last())
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_kubernetes_labels() {
        for (key, value, valid) in [
            ("app", "web", true),
            ("app", "", true),
            ("app.kubernetes.io/name", "a.b_c-d", true),
            ("topology.kubernetes.io/zone", "us-east-1a", true),
            ("istio-locality", "a.b.c", true),
            ("", "a", false),
            ("/name", "a", false),
            ("-a", "a", false),
            ("a b", "a", false),
            ("app", "-a", false),
            ("app", "a b", false),
            ("app", "a/b", false),
        ] {
            let mut findings = Vec::new();
            let labels = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            check(&labels, "labels", &mut findings);
            assert_eq!(findings.is_empty(), valid, "{key:?}: {value:?}");
        }
    }
}
