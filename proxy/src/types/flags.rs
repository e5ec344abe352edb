//! Envoy's response flags: the short codes of the access log that operators grep for.

use std::fmt;

/// A set of flags, joined by commas. Envoy 1.40 writes them in the order in which they came up; this is
/// that order for those that come together: a fault first, then why nothing more was tried, then what
/// the last attempt met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($name:ident = $bit:literal, $text:literal, $help:literal;)+) => {
        impl ResponseFlags {
            $(#[doc = $help] pub const $name: Self = Self(1 << $bit);)+

            /// Every flag with its text.
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $text),)+];
        }
    };
}

flags! {
    DELAY_INJECTED = 0, "DI", "A fault delayed the request.";
    FAULT_INJECTED = 1, "FI", "A fault aborted the request.";
    OVERFLOW = 2, "UO", "A circuit breaker was full.";
    RETRY_LIMIT = 3, "URX", "Every retry was used up.";
    NO_HEALTHY_UPSTREAM = 4, "UH", "No usable endpoint.";
    CONNECTION_FAILURE = 5, "UF", "The connection to the upstream failed.";
    ONLY_ATTEMPT = 17, "URX", "The one attempt that an opaque connection has was used up.";
    NO_ROUTE = 6, "NR", "No rule matched.";
    NO_CLUSTER = 7, "NC", "The rule names a cluster that does not exist.";
    UPSTREAM_TIMEOUT = 8, "UT", "The upstream took too long.";
    LOCAL_RESET = 9, "LR", "The proxy reset the connection.";
    UPSTREAM_RESET = 10, "UR", "The upstream reset the stream.";
    UPSTREAM_CLOSED = 11, "UC", "The upstream closed the connection.";
    DOWNSTREAM_CLOSED = 12, "DC", "The client went away.";
    DOWNSTREAM_RESET = 15, "DR", "The client reset the stream.";
    DOWNSTREAM_PROTOCOL = 13, "DPE", "The client broke its protocol.";
    UPSTREAM_PROTOCOL = 14, "UPE", "The upstream broke its protocol.";
    EXTERNAL_AUTHORIZATION = 18, "UAEX", "An external authorizer denied the request.";
    DURATION = 16, "DT", "The connection lasted as long as it may.";
}

impl ResponseFlags {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// Whether every flag of `other` is set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for ResponseFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = Self::ALL.iter().filter(|(flag, _)| self.contains(*flag));
        for (index, (_, text)) in set.enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_joined_in_envoys_order() {
        for (flags, expected) in [
            (
                ResponseFlags::CONNECTION_FAILURE | ResponseFlags::RETRY_LIMIT,
                "URX,UF",
            ),
            (
                ResponseFlags::CONNECTION_FAILURE | ResponseFlags::ONLY_ATTEMPT,
                "UF,URX",
            ),
            (
                ResponseFlags::UPSTREAM_TIMEOUT | ResponseFlags::DELAY_INJECTED,
                "DI,UT",
            ),
        ] {
            assert_eq!(flags.to_string(), expected);
        }
        assert_eq!(ResponseFlags::NONE.to_string(), "");
    }
}
