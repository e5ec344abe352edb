//! Documents into objects: which kind it is, its fields, and what is to be said about them.

mod written;

use std::sync::Arc;

use serde::Deserialize;
use serde_ignored::Path;
use serde_yaml::Value;

use self::written::Written;
use super::host::is_label;
use super::yaml::Document;
use super::{Lines, Metadata, Object, schema};
use crate::types::{Finding, ObjectRef};

/// What became of one object of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// Its name; `None` where it has none.
    pub reference: Option<ObjectRef>,
    /// The object; `None` where it is not valid, or of a kind that is not read.
    pub object: Option<Object>,
    /// The lines of its fields.
    pub lines: Lines,
    /// What there is to say. Where there is no object and nothing to say, the kind is none of ours.
    pub findings: Vec<Finding>,
}

/// Reads the objects of a document: one, or the items of a `List`.
pub fn decode(document: Document) -> Vec<Decoded> {
    let Document { value, lines } = document;
    if value.is_null() {
        return Vec::new();
    }
    let kind = value
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default();
    // `kubectl get` writes `List`; a resource whose own kind ends like that has no items.
    let is_list = kind == "List" || (kind.ends_with("List") && value.get("items").is_some());
    let Value::Mapping(mut mapping) = value else {
        return vec![refused(None, lines, Finding::error("", NOT_AN_OBJECT))];
    };
    if !is_list {
        return vec![object(&Value::Mapping(mapping), lines)];
    }
    match mapping.remove("items") {
        Some(Value::Sequence(items)) => items
            .into_iter()
            .enumerate()
            .map(|(index, item)| {
                let lines = lines.item("items", index).cloned().unwrap_or_default();
                object(&item, lines)
            })
            .collect(),
        None | Some(Value::Null) => Vec::new(),
        Some(_) => vec![refused(
            None,
            lines,
            Finding::error("items", "must be a list of objects"),
        )],
    }
}

const NOT_AN_OBJECT: &str = "not a Kubernetes object: apiVersion, kind and metadata are required";

fn refused(reference: Option<ObjectRef>, lines: Lines, finding: Finding) -> Decoded {
    Decoded {
        reference,
        object: None,
        lines,
        findings: vec![finding],
    }
}

fn object(value: &Value, lines: Lines) -> Decoded {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return refused(None, lines, Finding::error("", NOT_AN_OBJECT));
    };
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = schema::kind(kind);
    let metadata = value.get("metadata");
    let named = |field: &str| {
        metadata
            .and_then(|one| one.get(field))
            .and_then(Value::as_str)
    };
    let mut reference = ObjectRef {
        namespace: named("namespace")
            .filter(|one| !one.is_empty())
            .unwrap_or("default")
            .into(),
        name: named("name").unwrap_or_default().into(),
        kind: Arc::clone(&kind),
    };
    let read: fn(&Value, &ObjectRef, &mut Vec<Finding>) -> Option<Object> = match (group, &*kind) {
        ("", "Namespace") => |value, at, out| typed(value, at, out).map(Object::Namespace),
        ("", "Node") => |value, at, out| typed(value, at, out).map(Object::Node),
        ("", "Pod") => |value, at, out| typed(value, at, out).map(Object::Pod),
        ("", "Service") => |value, at, out| typed(value, at, out).map(Object::Service),
        ("discovery.k8s.io", "EndpointSlice") => {
            |value, at, out| typed(value, at, out).map(Object::EndpointSlice)
        }
        (schema::ISTIO_NETWORKING, "VirtualService") => {
            |value, at, out| typed(value, at, out).map(Object::VirtualService)
        }
        (schema::ISTIO_NETWORKING, "DestinationRule") => {
            |value, at, out| typed(value, at, out).map(Object::DestinationRule)
        }
        (schema::ISTIO_SECURITY, "PeerAuthentication") => {
            |value, at, out| typed(value, at, out).map(Object::PeerAuthentication)
        }
        (schema::ISTIO_SECURITY, "AuthorizationPolicy") => {
            |value, at, out| typed(value, at, out).map(Object::AuthorizationPolicy)
        }
        (schema::ISTIO_SECURITY, "RequestAuthentication") => {
            |value, at, out| typed(value, at, out).map(Object::RequestAuthentication)
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
                lines,
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
        Ok(()) => read(value, &reference, &mut findings),
        Err(finding) => {
            findings.push(finding);
            None
        }
    };
    let valid = !findings
        .iter()
        .any(|one| one.severity == crate::types::Severity::Error);
    limit(&mut findings);
    Decoded {
        reference: (!reference.name.is_empty()).then_some(reference),
        object: object.filter(|_| valid),
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
    value: &Value,
    reference: &ObjectRef,
    findings: &mut Vec<Finding>,
) -> Option<Arc<T>> {
    // Kubernetes has many fields that are no business of a proxy's; Istio's all are.
    let result = if schema::is_mesh_kind(&reference.kind) {
        let mut ignored: Vec<String> = Vec::new();
        let mut note = |path: Path<'_>| {
            if !is_null(value, &path) {
                ignored.push(render(&path));
            }
        };
        let result = T::deserialize(serde_ignored::Deserializer::new(Written(value), &mut note));
        let unread = ignored.iter().filter(|field| !schema::is_kubernetes(field));
        for (index, field) in unread.enumerate() {
            // Past the limit nobody reads what is meant.
            let message = if index < MAX_FINDINGS {
                unknown(field)
            } else {
                UNKNOWN.to_owned()
            };
            findings.push(Finding::warning(field.as_str(), message));
        }
        result
    } else {
        T::deserialize(Written(value))
    };
    match result {
        Ok(mut object) => {
            object.metadata().namespace = Arc::clone(&reference.namespace);
            object.metadata().name = Arc::clone(&reference.name);
            object.validate(findings);
            Some(Arc::new(object))
        }
        Err(error) => {
            // Read once more to know where: keeping the path costs as much as all the rest, and
            // mistakes are rare.
            let mut track = serde_path_to_error::Track::new();
            let tracked = serde_path_to_error::Deserializer::new(Written(value), &mut track);
            let again = T::deserialize(tracked).err();
            let path = track.path().to_string();
            let field = if path == "." { String::new() } else { path };
            let message = again.unwrap_or(error).to_string();
            findings.push(Finding::error(field, message));
            None
        }
    }
}

fn render(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", render(parent)),
        Path::Map { parent, key } => {
            let parent = render(parent);
            if parent.is_empty() {
                key.clone()
            } else {
                format!("{parent}.{key}")
            }
        }
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => render(parent),
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

/// Whether what stands at `path` is null, which is as good as absent.
fn is_null(value: &Value, path: &Path<'_>) -> bool {
    fn at<'a>(value: &'a Value, path: &Path<'_>) -> Option<&'a Value> {
        match path {
            Path::Root => Some(value),
            Path::Seq { parent, index } => at(value, parent)?.get(*index),
            Path::Map { parent, key } => at(value, parent)?.get(key.as_str()),
            Path::Some { parent }
            | Path::NewtypeStruct { parent }
            | Path::NewtypeVariant { parent } => at(value, parent),
        }
    }
    at(value, path).is_some_and(Value::is_null)
}

#[cfg(test)]
mod tests;
