//! Header operations of a rule or a destination: `set`, `add`, `remove`, on requests and responses.
//!
//! Knows neither routes nor connections. Within one edit fields are removed first, then set, then
//! added, and no value sees another operation's work (Envoy, `header_parser.cc`). Of several edits
//! the later one wins: the engine applies a destination's before the rule's, and where a rule has a
//! single destination the compiler joins both into one ([`Operations::joined`]).

mod value;

use std::collections::BTreeMap;

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue};

use self::value::{Around, Room, Value, rendered};
use super::format::{FormatError, Message, Template, Variables};
use super::target;

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
    /// Those that set come first.
    write: Vec<Write>,
    authority: Option<Template>,
    reads: Reads,
}

/// One field that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Write {
    mode: Mode,
    name: HeaderName,
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Set,
    Add,
}

/// Which messages the values ask for fields of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reads {
    request: bool,
    response: bool,
    trailers: bool,
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
    /// `:path` and its kind, or the authority where it can't be changed.
    #[error(
        "{operation}: {name:?} can't be changed here; the authority can be set on requests, and other pseudo-headers not at all"
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
    /// Both in one level, as for a rule with a single destination: `later` wins where both set a
    /// field. The authority is the exception: what this one sets stands (Istio).
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
    /// the order of their names (Istio).
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
            if is_pseudo(name) {
                return Err(HeadersError::Pseudo {
                    operation: "remove",
                    name: name.clone(),
                });
            }
            edit.remove.push(header("remove", name)?);
        }
        let set = set.iter().map(|entry| (Mode::Set, entry));
        let add = add.iter().map(|entry| (Mode::Add, entry));
        for (mode, (name, text)) in set.chain(add) {
            let operation = mode.name();
            let template = Template::parse(text).map_err(|source| HeadersError::Format {
                operation,
                name: name.clone(),
                source,
            })?;
            edit.reads.add(&template);
            if message == Message::Request && is_authority(name) {
                if edit.authority.replace(template).is_some() {
                    return Err(HeadersError::Authority { operation });
                }
                continue;
            }
            if is_pseudo(name) {
                return Err(HeadersError::Pseudo {
                    operation,
                    name: name.clone(),
                });
            }
            edit.write.push(Write {
                mode,
                name: header(operation, name)?,
                value: Value::new(template),
            });
        }
        Ok(edit)
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.write.is_empty() && self.authority.is_none()
    }

    /// Whether it may replace the request's authority.
    pub fn sets_authority(&self) -> bool {
        self.authority.is_some()
    }

    /// What takes the place of the request's authority; `None` where nothing does, or where the
    /// value is no authority. The engine puts it in place after the edit and before any rewrite of
    /// the path; a rewrite's own authority goes before it.
    pub fn authority(&self, variables: &impl Variables) -> Option<HeaderValue> {
        let value = rendered(self.authority.as_ref()?, variables)?;
        target::is_authority(value.as_bytes()).then_some(value)
    }

    /// Whether a value asks for a field of `message`: the engine need not keep the request's head
    /// for the response where nothing does.
    pub fn reads(&self, message: Message) -> bool {
        match message {
            Message::Request => self.reads.request,
            Message::Response => self.reads.response,
            Message::Trailers => self.reads.trailers,
        }
    }

    fn joined(&self, later: &Self) -> Self {
        let mut both = self.clone();
        both.remove.extend_from_slice(&later.remove);
        both.write.extend_from_slice(&later.write);
        both.write.sort_by_key(|write| write.mode);
        both.authority = both.authority.or_else(|| later.authority.clone());
        both.reads.join(later.reads);
        both
    }

    /// Changes the head of a message of the kind it was compiled for. `message`'s ordinary fields
    /// are read from `headers` themselves, as they are once fields were removed; for the rest
    /// `variables` is asked.
    ///
    /// Gives how many fields were left out because the head does not hold as many (about 24,000
    /// names), or because they would add more than a mebibyte: 0 for any message that a server
    /// takes.
    pub fn apply(
        &self,
        message: Message,
        headers: &mut HeaderMap,
        variables: &impl Variables,
    ) -> usize {
        for name in &self.remove {
            headers.remove(name);
        }
        let mut room = Room::default();
        // Where a value reads the head that is being changed, all are rendered beforehand.
        let mut beforehand = self.reads(message).then(|| {
            let around = Around {
                message,
                headers,
                variables,
            };
            let values = self.write.iter();
            let values = values.map(|write| room.admit(|| write.value.render(&around)));
            values.collect::<Vec<_>>().into_iter()
        });
        for write in &self.write {
            let value = match &mut beforehand {
                Some(values) => values.next().flatten(),
                None => room.admit(|| write.value.render(variables)),
            };
            let Some(value) = value else {
                continue;
            };
            let put = match write.mode {
                Mode::Set => headers.try_insert(&write.name, value).is_ok(),
                Mode::Add => headers.try_append(&write.name, value).is_ok(),
            };
            room.left_out += usize::from(!put);
        }
        room.left_out
    }
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Add => "add",
        }
    }
}

impl Reads {
    fn add(&mut self, template: &Template) {
        self.join(Self {
            request: template.reads(Message::Request),
            response: template.reads(Message::Response),
            trailers: template.reads(Message::Trailers),
        });
    }

    fn join(&mut self, other: Self) {
        self.request |= other.request;
        self.response |= other.response;
        self.trailers |= other.trailers;
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case(HOST.as_str())
}

fn is_pseudo(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case(HOST.as_str())
}

fn header(operation: &'static str, name: &str) -> Result<HeaderName, HeadersError> {
    HeaderName::try_from(name).map_err(|_| HeadersError::Name {
        operation,
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests;
