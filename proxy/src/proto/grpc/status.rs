//! How a call ended, in headers or trailers.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

const CODE: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// What `grpc-message` may not have as it is; other than printable ASCII is encoded anyway.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');
/// How much of a peer's message is kept, in characters.
const SHOWN: usize = 512;

/// The codes of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "gRPC's own names say what they are")]
pub enum Code {
    Ok,
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

use Code::{
    Aborted, AlreadyExists, Cancelled, DataLoss, DeadlineExceeded, FailedPrecondition, Internal,
    InvalidArgument, NotFound, Ok, OutOfRange, PermissionDenied, ResourceExhausted,
    Unauthenticated, Unavailable, Unimplemented, Unknown,
};

/// In the order of their numbers, with their names.
const CODES: [(Code, &str); 17] = [
    (Ok, "OK"),
    (Cancelled, "CANCELLED"),
    (Unknown, "UNKNOWN"),
    (InvalidArgument, "INVALID_ARGUMENT"),
    (DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (NotFound, "NOT_FOUND"),
    (AlreadyExists, "ALREADY_EXISTS"),
    (PermissionDenied, "PERMISSION_DENIED"),
    (ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (FailedPrecondition, "FAILED_PRECONDITION"),
    (Aborted, "ABORTED"),
    (OutOfRange, "OUT_OF_RANGE"),
    (Unimplemented, "UNIMPLEMENTED"),
    (Internal, "INTERNAL"),
    (Unavailable, "UNAVAILABLE"),
    (DataLoss, "DATA_LOSS"),
    (Unauthenticated, "UNAUTHENTICATED"),
];

impl Code {
    /// As the documents of gRPC write it.
    pub fn name(self) -> &'static str {
        CODES[self as usize].1
    }

    /// That of a number; one that gRPC does not know counts as [`Code::Unknown`].
    fn of(number: usize) -> Self {
        CODES.get(number).map_or(Unknown, |(code, _)| *code)
    }

    /// What an answer without a status means, by gRPC's `doc/http-grpc-status-mapping.md`: it came
    /// from something in between.
    pub fn of_http(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Internal,
            401 => Unauthenticated,
            403 => PermissionDenied,
            404 => Unimplemented,
            429 | 502..=504 => Unavailable,
            _ => Unknown,
        }
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// In one word.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl Status {
    /// With a message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// What headers or trailers say; `None` where they have no status. The message is cut, and has no
    /// control characters: it goes into logs.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let number = headers.get(CODE)?;
        let number = number.to_str().ok().and_then(|text| text.parse().ok());
        let text = headers.get(MESSAGE).and_then(|value| value.to_str().ok());
        let text = percent_decode_str(text.unwrap_or_default()).decode_utf8_lossy();
        let plain = |one: char| if one.is_control() { ' ' } else { one };
        Some(Self {
            code: number.map_or(Unknown, Code::of),
            message: text.chars().take(SHOWN).map(plain).collect(),
        })
    }

    /// As headers or trailers.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CODE, HeaderValue::from(self.code as u16));
        if !self.message.is_empty() {
            let message = utf8_percent_encode(&self.message, ENCODED).to_string();
            if let Result::Ok(message) = HeaderValue::try_from(message) {
                headers.insert(MESSAGE, message);
            }
        }
        headers
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, message } = self;
        let name = code.name();
        match &message[..] {
            "" => write!(f, "{name}"),
            _ => write!(f, "{message} ({name})"),
        }
    }
}
