//! Header operations of a rule or a destination: `set`, `add`, `remove`, on requests and responses.
//!
//! Knows neither routes nor connections. Within one edit fields are removed first, then set, then
//! added (Envoy, `header_parser.cc`); of several edits the later one wins. The engine applies a
//! destination's before the rule's, and where a rule has a single destination the compiler joins
//! both into one ([`Operations::joined`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::format::{
    End, FormatError, Message, Moment, Name, Nothing, Number, Template, Text, Variables,
};

/// The longest value that is sent, in bytes; a longer one is left out. Templates can multiply what
/// a client sends.
const LONGEST_VALUE: usize = 64 * 1024;

/// Operations on a request and on its response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// On the request, before it is sent upstream.
    pub request: Edit,
    /// On the response, also on one that the proxy makes itself.
    pub response: Edit,
}

/// Operations on one message's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, Value)>,
    add: Vec<(HeaderName, Value)>,
    authority: Option<Template>,
}

/// A value, rendered beforehand where it is always the same.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Static(HeaderValue),
    Template(Template),
}

/// Why operations are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadersError {
    /// Not a header's name.
    #[error("{operation}: {name:?} is not the name of a header")]
    Name {
        /// `set`, `add` or `remove`.
        operation: &'static str,
        /// As it was written.
        name: String,
    },
    /// `:path` and its kind.
    #[error(
        "{operation}: {name} can't be changed; of the pseudo-headers only :authority can be set"
    )]
    Pseudo {
        /// `set`, `add` or `remove`.
        operation: &'static str,
        /// As it was written.
        name: String,
    },
    /// More than one authority.
    #[error("{operation}: the authority is set more than once")]
    Authority {
        /// `set` or `add`.
        operation: &'static str,
    },
    /// A value that does not compile.
    #[error("{operation}.{name}: {source}")]
    Format {
        /// `set` or `add`.
        operation: &'static str,
        /// As it was written.
        name: String,
        /// Why.
        source: FormatError,
    },
}

impl Operations {
    /// Both in one level, as for a rule with a single destination: `later` wins where both set.
    /// The authority is the exception: what the rule sets stands (Istio).
    #[must_use]
    pub fn joined(&self, later: &Self) -> Self {
        Self {
            request: self.request.joined(&later.request),
            response: self.response.joined(&later.response),
        }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }
}

impl Edit {
    /// Compiles the operations on a message of one kind. Those of `set` and of `add` are applied in
    /// the order of their names, whatever order they come in (Istio).
    ///
    /// # Errors
    /// The first name or value that can't be used.
    pub fn new(
        message: Message,
        set: &BTreeMap<String, String>,
        add: &BTreeMap<String, String>,
        remove: &[String],
    ) -> Result<Self, HeadersError> {
        let mut edit = Self::default();
        for name in remove {
            let lower = name.to_ascii_lowercase();
            if lower.starts_with(':') || lower == "host" {
                return Err(HeadersError::Pseudo {
                    operation: "remove",
                    name: name.clone(),
                });
            }
            edit.remove.push(header("remove", name)?);
        }
        for (operation, entries) in [("set", set), ("add", add)] {
            for (name, text) in entries {
                let template = Template::parse(text).map_err(|source| HeadersError::Format {
                    operation,
                    name: name.clone(),
                    source,
                })?;
                let is_authority = message == Message::Request
                    && (name.eq_ignore_ascii_case(":authority")
                        || name.eq_ignore_ascii_case(HOST.as_str()));
                if is_authority {
                    if edit.authority.is_some() {
                        return Err(HeadersError::Authority { operation });
                    }
                    edit.authority = Some(template);
                    continue;
                }
                if name.starts_with(':') {
                    return Err(HeadersError::Pseudo {
                        operation,
                        name: name.clone(),
                    });
                }
                let entry = (header(operation, name)?, Value::new(template));
                if operation == "set" {
                    edit.set.push(entry);
                } else {
                    edit.add.push(entry);
                }
            }
        }
        Ok(edit)
    }

    /// What takes the place of the request's authority. The engine does that, after the edit and
    /// before any rewrite of the path; a rewrite's own authority goes before it.
    pub fn authority(&self) -> Option<&Template> {
        self.authority.as_ref()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty()
            && self.set.is_empty()
            && self.add.is_empty()
            && self.authority.is_none()
    }

    /// Whether a value asks for a field of `message`: the engine need not keep the request's head
    /// for the response where nothing does.
    pub fn reads(&self, message: Message) -> bool {
        let values = self.set.iter().chain(&self.add);
        values
            .filter_map(|(_, value)| match value {
                Value::Static(_) => None,
                Value::Template(template) => Some(template),
            })
            .chain(&self.authority)
            .any(|template| template.reads(message))
    }

    fn joined(&self, later: &Self) -> Self {
        let both = |first: &[(HeaderName, Value)], second: &[(HeaderName, Value)]| {
            first.iter().chain(second).cloned().collect()
        };
        Self {
            remove: self.remove.iter().chain(&later.remove).cloned().collect(),
            set: both(&self.set, &later.set),
            add: both(&self.add, &later.add),
            authority: self.authority.clone().or_else(|| later.authority.clone()),
        }
    }

    /// Changes the head of a message of the kind it was compiled for. `message`'s ordinary fields
    /// are read from `headers` themselves, as they are once fields were removed; for the rest
    /// `variables` is asked.
    pub fn apply(&self, message: Message, headers: &mut HeaderMap, variables: &impl Variables) {
        for name in &self.remove {
            headers.remove(name);
        }
        if self.set.is_empty() && self.add.is_empty() {
            return;
        }
        // Every value is rendered before the first field changes (Envoy): no operation sees
        // another's work.
        let around = Around {
            message,
            headers,
            variables,
        };
        let set = rendered(&self.set, &around);
        let add = rendered(&self.add, &around);
        // A head takes 32,768 fields; what is beyond that is left out.
        for (name, value) in set {
            let _ = headers.try_insert(name, value);
        }
        for (name, value) in add {
            let _ = headers.try_append(name, value);
        }
    }
}

/// The fields that are not empty.
fn rendered(
    entries: &[(HeaderName, Value)],
    variables: &impl Variables,
) -> Vec<(HeaderName, HeaderValue)> {
    let values = entries.iter();
    values
        .filter_map(|(name, value)| Some((name.clone(), value.render(variables)?)))
        .collect()
}

fn header(operation: &'static str, name: &str) -> Result<HeaderName, HeadersError> {
    HeaderName::try_from(name).map_err(|_| HeadersError::Name {
        operation,
        name: name.to_owned(),
    })
}

impl Value {
    fn new(template: Template) -> Self {
        if !template.is_static() {
            return Self::Template(template);
        }
        match value(&template, &Nothing) {
            Some(value) => Self::Static(value),
            // Empty: never sent.
            None => Self::Template(template),
        }
    }

    fn render(&self, variables: &impl Variables) -> Option<HeaderValue> {
        match self {
            Self::Static(value) => Some(value.clone()),
            Self::Template(template) => value(template, variables),
        }
    }
}

/// `None` where it is empty, or longer than any server takes.
pub fn value(template: &Template, variables: &impl Variables) -> Option<HeaderValue> {
    let mut text = Vec::new();
    template.render(variables, &mut text);
    if text.is_empty() || text.len() > LONGEST_VALUE {
        return None;
    }
    HeaderValue::try_from(text).ok()
}

/// The message that is being edited, and what else is known.
struct Around<'a, V> {
    message: Message,
    headers: &'a HeaderMap,
    variables: &'a V,
}

impl<V: Variables> Variables for Around<'_, V> {
    fn time(&self, moment: Moment) -> Option<SystemTime> {
        self.variables.time(moment)
    }

    fn address(&self, end: End) -> Option<SocketAddr> {
        self.variables.address(end)
    }

    fn field(&self, message: Message, name: &Name) -> Option<&[u8]> {
        match name {
            Name::Header(name) if message == self.message => {
                self.headers.get(name).map(HeaderValue::as_bytes)
            }
            name => self.variables.field(message, name),
        }
    }

    fn text(&self, text: Text) -> Option<std::borrow::Cow<'_, str>> {
        self.variables.text(text)
    }

    fn number(&self, number: Number) -> Option<u64> {
        self.variables.number(number)
    }
}
