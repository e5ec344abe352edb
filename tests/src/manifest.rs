//! The Kubernetes objects of a lab, as one YAML text. What a test is about (a VirtualService, a
//! broken file) it writes out itself; this writes the rest: Namespaces, Pods, Services.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::{lab::Pod, netns::Netns};

/// A list of objects under construction.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    documents: Vec<String>,
}

/// One port of a Service: name, number, number at the pods.
pub type Port<'a> = (&'a str, u16, u16);

impl Manifests {
    /// No objects.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a Namespace that is part of the mesh, with annotations.
    pub fn namespace(self, name: &str, annotations: &[(&str, &str)]) -> Self {
        self.object(json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": name,
                "labels": { "aquifer.io/mesh": "enabled" },
                "annotations": map(annotations),
            },
        }))
    }

    /// Adds a ready Pod of the namespace `default`, local to whatever node reads it.
    pub fn pod(self, pod: &Pod, labels: &[(&str, &str)]) -> Self {
        self.pod_in("default", pod, labels, &[])
    }

    /// Adds a ready Pod that is known, but not in the mesh.
    pub fn stranger(self, pod: &Pod, labels: &[(&str, &str)]) -> Self {
        let labels = [labels, &[("aquifer.io/mesh", "disabled")]].concat();
        self.pod_in("default", pod, &labels, &[])
    }

    /// Adds a ready Pod of `namespace` with annotations beside that of its network namespace.
    pub fn pod_in(
        self,
        namespace: &str,
        pod: &Pod,
        labels: &[(&str, &str)],
        annotations: &[(&str, &str)],
    ) -> Self {
        let object = ready(namespace, pod, labels, annotations);
        self.object(object)
    }

    /// Adds a ready Pod of `namespace` with a service account.
    pub fn pod_as(
        self,
        namespace: &str,
        account: &str,
        pod: &Pod,
        labels: &[(&str, &str)],
    ) -> Self {
        let mut object = ready(namespace, pod, labels, &[]);
        object["spec"]["serviceAccountName"] = json!(account);
        self.object(object)
    }

    /// Adds a ready Pod of the namespace `default` that runs on `node` with a service account.
    pub fn pod_on(self, node: &Netns, account: &str, pod: &Pod, labels: &[(&str, &str)]) -> Self {
        let mut object = ready("default", pod, labels, &[]);
        object["spec"]["nodeName"] = json!(node.name());
        object["spec"]["serviceAccountName"] = json!(account);
        self.object(object)
    }

    /// Adds a Service of the namespace `default` with a cluster address for each of `addresses`.
    pub fn service(
        self,
        name: &str,
        addresses: &[IpAddr],
        ports: &[Port<'_>],
        selector: &[(&str, &str)],
    ) -> Self {
        let ports: Vec<_> = ports
            .iter()
            .map(|(name, port, target)| json!({"name": name, "port": port, "targetPort": target}))
            .collect();
        self.object(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name, "namespace": "default" },
            "spec": {
                "clusterIP": addresses.first(),
                "clusterIPs": addresses,
                "ipFamilyPolicy": "PreferDualStack",
                "selector": map(selector),
                "ports": ports,
            },
        }))
    }

    /// Adds objects written out as YAML.
    pub fn yaml(mut self, text: impl Into<String>) -> Self {
        self.documents.push(text.into());
        self
    }

    /// Adds one object.
    pub fn object(self, object: Value) -> Self {
        // JSON is YAML, and says without doubt what is a string.
        self.yaml(format!("{object:#}\n"))
    }

    /// All of them as one YAML stream.
    pub fn text(&self) -> String {
        self.documents.join("\n---\n")
    }
}

fn ready(
    namespace: &str,
    pod: &Pod,
    labels: &[(&str, &str)],
    annotations: &[(&str, &str)],
) -> Value {
    let path = pod.netns.path().to_string_lossy();
    let annotations = [annotations, &[("aquifer.io/netns", path.as_ref())]].concat();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name,
            "namespace": namespace,
            "labels": map(labels),
            "annotations": map(&annotations),
        },
        "spec": { "containers": [{ "name": "app", "image": "none" }] },
        "status": {
            "phase": "Running",
            "podIP": pod.v4,
            "podIPs": [{ "ip": pod.v4 }, { "ip": pod.v6 }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

fn map(pairs: &[(&str, &str)]) -> Value {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect()
}
