//! The values that an edit writes, and how much of them a head has room for.
//!
//! Knows no names and no order: what is written where is the edit's.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue};

use crate::policy::format::{
    End, Message, Moment, Name, Nothing, Number, Template, Text, Variables,
};

/// What an edit may add to a head, in bytes of values. Templates can multiply what a client sends,
/// and no server takes a head of this size.
pub(super) const MOST_BYTES: usize = 1 << 20;

/// A value, rendered beforehand where it is always the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Static(HeaderValue),
    Template(Template),
}

impl Value {
    pub(super) fn new(template: Template) -> Self {
        // An empty one is no value: it is never sent.
        let value = template
            .is_static()
            .then(|| rendered(&template, &Nothing))
            .flatten();
        value.map_or(Self::Template(template), Self::Static)
    }

    pub(super) fn render(&self, variables: &impl Variables) -> Option<HeaderValue> {
        match self {
            Self::Static(value) => Some(value.clone()),
            Self::Template(template) => rendered(template, variables),
        }
    }
}

/// `None` where it is empty: then the field is not written (Envoy).
pub(super) fn rendered(template: &Template, variables: &impl Variables) -> Option<HeaderValue> {
    let mut text = Vec::new();
    template.render(variables, &mut text);
    if text.is_empty() {
        return None;
    }
    HeaderValue::try_from(text).ok()
}

/// The head that is being edited, and what else is known.
pub(super) struct Around<'a, V> {
    pub(super) message: Message,
    pub(super) headers: &'a HeaderMap,
    pub(super) variables: &'a V,
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

    fn text(&self, text: Text) -> Option<Cow<'_, str>> {
        self.variables.text(text)
    }

    fn number(&self, number: Number) -> Option<u64> {
        self.variables.number(number)
    }
}

/// What may still be added to a head.
pub(super) struct Room {
    bytes: usize,
    /// Values that there was no room for.
    pub(super) left_out: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            bytes: MOST_BYTES,
            left_out: 0,
        }
    }
}

impl Room {
    /// Takes what `render` gives, if there is room for it. After the first value that does not fit
    /// none is rendered: the work is bounded with the size.
    pub(super) fn admit(
        &mut self,
        render: impl FnOnce() -> Option<HeaderValue>,
    ) -> Option<HeaderValue> {
        let value = if self.left_out == 0 {
            render()?
        } else {
            self.left_out += 1;
            return None;
        };
        match self.bytes.checked_sub(value.len()) {
            Some(rest) => {
                self.bytes = rest;
                Some(value)
            }
            None => {
                self.left_out += 1;
                None
            }
        }
    }
}
