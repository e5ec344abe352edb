//! gRPC's statuses: their names, and what Envoy makes of them where HTTP's are meant, and the other
//! way round (`source/common/grpc/status.cc`).

use http::{HeaderMap, HeaderName, StatusCode};

macro_rules! statuses {
    ($($name:ident = $code:literal, $snake:literal, $camel:literal, $http:literal, $help:literal;)+) => {
        /// A status of gRPC.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Status {
            $(#[doc = $help] $name = $code,)+
        }

        impl Status {
            /// By number.
            pub fn from_code(code: u32) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// By its name in capital letters: `UNAVAILABLE`.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($snake => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// In capital letters: `UNAVAILABLE`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $snake,)+
                }
            }

            /// In camel case: `DeadlineExceeded`.
            pub fn camel_name(self) -> &'static str {
                match self {
                    $(Self::$name => $camel,)+
                }
            }

            /// The HTTP status that it counts as, for outlier detection.
            pub fn to_http(self) -> StatusCode {
                StatusCode::from_u16(match self {
                    $(Self::$name => $http,)+
                })
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    };
}

statuses! {
    Ok = 0, "OK", "OK", 200, "Success.";
    Canceled = 1, "CANCELLED", "Canceled", 499, "The caller gave up.";
    Unknown = 2, "UNKNOWN", "Unknown", 500, "An error of another system.";
    InvalidArgument = 3, "INVALID_ARGUMENT", "InvalidArgument", 400, "An argument is wrong.";
    DeadlineExceeded = 4, "DEADLINE_EXCEEDED", "DeadlineExceeded", 504, "Too late.";
    NotFound = 5, "NOT_FOUND", "NotFound", 404, "There is no such thing.";
    AlreadyExists = 6, "ALREADY_EXISTS", "AlreadyExists", 409, "There is one already.";
    PermissionDenied = 7, "PERMISSION_DENIED", "PermissionDenied", 403, "Not allowed.";
    ResourceExhausted = 8, "RESOURCE_EXHAUSTED", "ResourceExhausted", 429, "A quota is used up.";
    FailedPrecondition = 9, "FAILED_PRECONDITION", "FailedPrecondition", 400, "Not in this state.";
    Aborted = 10, "ABORTED", "Aborted", 409, "A conflict of concurrent calls.";
    OutOfRange = 11, "OUT_OF_RANGE", "OutOfRange", 400, "Past the valid range.";
    Unimplemented = 12, "UNIMPLEMENTED", "Unimplemented", 501, "There is no such method.";
    Internal = 13, "INTERNAL", "Internal", 500, "An invariant is broken.";
    Unavailable = 14, "UNAVAILABLE", "Unavailable", 503, "Not now.";
    DataLoss = 15, "DATA_LOSS", "DataLoss", 500, "Data is lost.";
    Unauthenticated = 16, "UNAUTHENTICATED", "Unauthenticated", 401, "Who is calling is not known.";
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

impl Status {
    /// What a response's head tells. A status that comes in trailers is not seen (Envoy).
    pub fn told(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get(&GRPC_STATUS)?.to_str().ok()?.parse().ok()?;
        Self::from_code(code)
    }

    /// Its number.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// What stands for an HTTP status in an answer that the proxy makes.
    pub fn of_http(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_map_as_in_envoy() {
        for (http, expected) in [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 14),
            (502, 14),
            (503, 14),
            (504, 14),
            (200, 2),
            (500, 2),
            (418, 2),
        ] {
            let status = StatusCode::from_u16(http).expect("valid");
            assert_eq!(Status::of_http(status).code(), expected, "{http}");
        }
        let http: Vec<u16> = (0..=16)
            .map(|code| Status::from_code(code).expect("defined").to_http().as_u16())
            .collect();
        assert_eq!(
            http,
            [
                200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401
            ]
        );
        assert_eq!(Status::from_code(17), None);
    }

    #[test]
    fn names_lead_back() {
        for code in 0..=16 {
            let status = Status::from_code(code).expect("defined");
            assert_eq!(Status::from_name(status.name()), Some(status));
            assert_eq!(status.code(), code);
        }
        for name in ["unavailable", "Unavailable", "", "CANCELED"] {
            assert_eq!(Status::from_name(name), None, "{name}");
        }
    }
}
