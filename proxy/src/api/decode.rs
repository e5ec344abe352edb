//! Documents into objects: which kind it is, its fields, and what is to be said about them.

mod closed;
mod cursor;
mod mistake;

use std::sync::Arc;

use serde::Deserialize;

use self::cursor::{Cursor, Unread};
use super::host::is_label;
use super::value::{Node, Value};
use super::{Lines, Metadata, Object, schema, yaml};
use crate::types::{Finding, ObjectRef};

/// What became of one object of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// Its name; `None` where it has none.
    pub reference: Option<ObjectRef>,
    /// The object; `None` where it is not valid, or of a kind that is not read.
    pub object: Option<Object>,
    /// What takes its place where it is not valid and never was; `None` where nothing does.
    pub stand_in: Option<Object>,
    /// The lines of its fields.
    pub lines: Lines,
    /// What there is to say. Where there is no object and nothing to say, the kind is none of ours.
    pub findings: Vec<Finding>,
}

/// Reads the objects of a document: one, or the items of a `List`.
pub fn decode(document: Node) -> Vec<Decoded> {
    if document.value == Value::Null {
        return Vec::new();
    }
    let kind = document.get("kind").and_then(Node::as_str);
    let kind = kind.unwrap_or_default();
    // `kubectl get` writes `List`; a resource whose own kind ends like that has no items.
    let is_list = kind == "List" || (kind.ends_with("List") && document.get("items").is_some());
    if !is_list {
        return vec![object(&document)];
    }
    match document.get("items").map(|items| &items.value) {
        Some(Value::List(items)) => items.iter().map(object).collect(),
        None | Some(Value::Null) => Vec::new(),
        Some(_) => {
            let finding = Finding::error("items", "must be a list of objects");
            vec![refused(&document, finding)]
        }
    }
}

const NOT_AN_OBJECT: &str = "not a Kubernetes object: apiVersion, kind and metadata are required";

fn refused(node: &Node, finding: Finding) -> Decoded {
    Decoded {
        reference: None,
        object: None,
        stand_in: None,
        lines: Lines::of(node),
        findings: vec![finding],
    }
}

fn object(node: &Node) -> Decoded {
    let text = |name: &str| node.get(name).and_then(Node::as_str);
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return refused(node, Finding::error("", NOT_AN_OBJECT));
    };
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = schema::kind(kind);
    let metadata = node.get("metadata");
    let named = |field: &str| {
        metadata
            .and_then(|one| one.get(field))
            .and_then(Node::as_str)
    };
    let mut reference = ObjectRef {
        namespace: named("namespace")
            .filter(|one| !one.is_empty())
            .unwrap_or("default")
            .into(),
        name: named("name").unwrap_or_default().into(),
        kind: Arc::clone(&kind),
    };
    let read: fn(&Node, &ObjectRef, &mut Vec<Finding>) -> Option<Object> = match (group, &*kind) {
        ("", "Namespace") => |node, at, out| typed(node, at, out).map(Object::Namespace),
        ("", "Node") => |node, at, out| typed(node, at, out).map(Object::Node),
        ("", "Pod") => |node, at, out| typed(node, at, out).map(Object::Pod),
        ("", "Service") => |node, at, out| typed(node, at, out).map(Object::Service),
        ("", "ConfigMap") if &*reference.name == schema::MESH_CONFIG => {
            |node, at, out| typed(node, at, out).map(Object::ConfigMap)
        }
        ("discovery.k8s.io", "EndpointSlice") => {
            |node, at, out| typed(node, at, out).map(Object::EndpointSlice)
        }
        (schema::ISTIO_NETWORKING, "VirtualService") => {
            |node, at, out| typed(node, at, out).map(Object::VirtualService)
        }
        (schema::ISTIO_NETWORKING, "DestinationRule") => {
            |node, at, out| typed(node, at, out).map(Object::DestinationRule)
        }
        (schema::ISTIO_SECURITY, "PeerAuthentication") => {
            |node, at, out| typed(node, at, out).map(Object::PeerAuthentication)
        }
        (schema::ISTIO_SECURITY, "AuthorizationPolicy") => {
            |node, at, out| typed(node, at, out).map(Object::AuthorizationPolicy)
        }
        (schema::ISTIO_SECURITY, "RequestAuthentication") => {
            |node, at, out| typed(node, at, out).map(Object::RequestAuthentication)
        }
        (group, kind) => {
            let findings = if schema::is_mesh_group(group) {
                vec![Finding::warning(
                    "",
                    format!("{kind} is not implemented yet: it has no effect"),
                )]
            } else {
                Vec::new()
            };
            return Decoded {
                reference: Some(reference),
                object: None,
                stand_in: None,
                lines: Lines::of(node),
                findings,
            };
        }
    };
    if matches!(&*kind, "Namespace" | "Node") {
        reference.namespace = "".into();
    }
    let mut findings = Vec::new();
    if !schema::is_version(group, version) {
        let message = format!(
            "version {version} of {kind} is not known; use {}",
            schema::newest(group)
        );
        findings.push(Finding::error("apiVersion", message));
    }
    let object = match check_name(&reference) {
        Ok(()) => read(node, &reference, &mut findings),
        Err(finding) => {
            findings.push(finding);
            None
        }
    };
    let valid = !findings
        .iter()
        .any(|one| one.severity == crate::types::Severity::Error);
    let stand_in = (group == schema::ISTIO_SECURITY && !valid)
        .then(|| closed::object(node, &reference))
        .flatten();
    limit(&mut findings);
    // Core objects come by the ten thousand, and later messages are hardly ever about one of their
    // fields: for them the object's own line is enough.
    let lines = match object {
        Some(Object::Service(_) | Object::EndpointSlice(_) | Object::Node(_))
            if findings.is_empty() =>
        {
            Lines::leaf(node.line)
        }
        _ => Lines::of(node),
    };
    Decoded {
        reference: (!reference.name.is_empty()).then_some(reference),
        object: object.filter(|_| valid),
        stand_in,
        lines,
        findings,
    }
}

fn check_name(reference: &ObjectRef) -> Result<(), Finding> {
    if reference.name.is_empty() {
        return Err(Finding::error("metadata.name", "a name is required"));
    }
    let name = &*reference.name;
    let valid = if &*reference.kind == "Service" {
        is_label(name)
    } else {
        name.len() <= 253 && name.split('.').all(is_label)
    };
    if !valid {
        let message = format!("{name:?} is not a name Kubernetes accepts (a-z, 0-9, - and .)");
        return Err(Finding::error("metadata.name", message));
    }
    if !reference.namespace.is_empty() && !is_label(&reference.namespace) {
        let message = format!("{:?} is not a name Kubernetes accepts", reference.namespace);
        return Err(Finding::error("metadata.namespace", message));
    }
    Ok(())
}

/// The most that is said about one object: whoever makes more mistakes has one in the tool that
/// wrote it.
const MAX_FINDINGS: usize = 100;

/// Keeps the first findings, and among these an error if there was one.
fn limit(findings: &mut Vec<Finding>) {
    if findings.len() <= MAX_FINDINGS {
        return;
    }
    findings.sort_by_key(|one| one.severity);
    let more = findings.len() - MAX_FINDINGS;
    findings.truncate(MAX_FINDINGS);
    findings.push(Finding::warning("", format!("and {more} more of the kind")));
}

/// A resource of one kind.
pub(super) trait Resource: for<'de> Deserialize<'de> {
    /// Its metadata, for the namespace to be filled in.
    fn metadata(&mut self) -> &mut Metadata;
    /// Says what is wrong with it.
    fn validate(&self, findings: &mut Vec<Finding>);
}

fn typed<T: Resource>(
    node: &Node,
    reference: &ObjectRef,
    findings: &mut Vec<Finding>,
) -> Option<Arc<T>> {
    let unread = Unread::default();
    // Kubernetes has many fields that are no business of a proxy's; Istio's all are.
    let all = schema::is_mesh_kind(&reference.kind).then_some(&unread);
    let result = T::deserialize(Cursor::new(node, all));
    tell_unread(&unread.into_inner(), findings);
    match result {
        Ok(mut object) => {
            object.metadata().namespace = Arc::clone(&reference.namespace);
            object.metadata().name = Arc::clone(&reference.name);
            object.validate(findings);
            Some(Arc::new(object))
        }
        Err(error) => {
            let (field, message) = error.into_parts();
            findings.push(Finding::error(field, message));
            None
        }
    }
}

/// Reads a document that lies in an object as the text of its field.
pub(super) fn text<T>(text: &str, field: &str, findings: &mut Vec<Finding>) -> Option<T>
where
    T: for<'de> Deserialize<'de> + Default,
{
    let mut wrong = |at: String, message: String| {
        let at = if at.is_empty() {
            field.to_owned()
        } else {
            format!("{field}.{at}")
        };
        findings.push(Finding::error(at, message));
        None
    };
    let documents = match yaml::read(text) {
        Ok(documents) => documents,
        Err(refused) => return wrong(String::new(), refused.to_string()),
    };
    let Some(node) = documents.iter().find(|one| one.value != Value::Null) else {
        return Some(T::default());
    };
    match T::deserialize(Cursor::new(node, None)) {
        Ok(value) => Some(value),
        Err(error) => {
            let (at, message) = error.into_parts();
            wrong(at, message)
        }
    }
}

fn tell_unread(fields: &[String], findings: &mut Vec<Finding>) {
    let unread = fields.iter().filter(|field| !schema::is_kubernetes(field));
    for (index, field) in unread.enumerate() {
        // Past the limit nobody reads what is meant.
        let message = if index < MAX_FINDINGS {
            unknown(field)
        } else {
            UNKNOWN.to_owned()
        };
        findings.push(Finding::warning(field.as_str(), message));
    }
}

const UNKNOWN: &str = "unknown field: it has no effect";

/// What is said about a field that nobody knows; with the one that may be meant.
fn unknown(field: &str) -> String {
    let name = field.rsplit('.').next().unwrap_or(field);
    match schema::similar(name) {
        Some(meant) => format!("{UNKNOWN}; is {meant} meant?"),
        None => UNKNOWN.to_owned(),
    }
}

#[cfg(test)]
mod tests;
