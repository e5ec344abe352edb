//! A node proxy that asks an authority beside it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use anyhow::Result;
use aquifer_tests::{Lab, Manifests, Proxy, authority::Files};
use serde_json::Value;

/// The rows of one kind.
pub(crate) fn rows<'a>(answer: &'a Value, kind: &str) -> Vec<&'a Value> {
    let all = answer.as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter(|row| row["kind"] == kind).collect()
}

/// The serials of certificates that are in force.
pub(crate) fn serials(answer: &Value) -> BTreeSet<String> {
    let all = rows(answer, "certificate").into_iter();
    all.filter(|row| row["state"] == "active")
        .map(|row| row["serial"].to_string())
        .collect()
}

/// Waits until every certificate is another than those of `before`; gives the new ones.
pub(crate) async fn renewed(proxy: &Proxy, before: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let other = |answer: &Value| {
        let now = serials(answer);
        now.len() == before.len() && now.is_disjoint(before)
    };
    Ok(serials(&proxy.until("/config/secrets", other).await?))
}

/// Where the authority is asked, on the near node.
pub(crate) const ASKED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15012);

/// Arguments of the near node, which asks an authority, and of the far one, which is its own.
pub(crate) fn asking(files: &Files, lab: &Lab, index: usize, life: &str) -> Result<Vec<String>> {
    let mut arguments = match index {
        0 => files.arguments(lab.node.name(), ASKED)?,
        _ => {
            let folder = files.path("ca").to_string_lossy().into_owned();
            ["--ca", "self", "--ca-dir", &folder]
                .map(str::to_owned)
                .to_vec()
        }
    };
    if index == 0 {
        arguments.extend(["--certificate-life", life].map(str::to_owned));
    }
    Ok(arguments)
}

/// Pods as the authority knows them: those of the near node.
pub(crate) fn known(lab: &Lab) -> Result<Files> {
    let pod = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "client", "namespace": "default" },
        "spec": { "nodeName": lab.node.name(), "serviceAccountName": "client" },
        "status": { "phase": "Running", "podIP": "192.0.2.1" },
    });
    Files::new(&Manifests::new().object(pod).text(), &[lab.node.name()])
}
