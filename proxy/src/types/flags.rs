//! Envoy's response flags: the short codes of the access log that operators grep for.

use std::fmt;

/// A set of flags, written in Envoy's order and joined by commas.
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
    NO_HEALTHY_UPSTREAM = 0, "UH", "No usable endpoint.";
    CONNECTION_FAILURE = 1, "UF", "The connection to the upstream failed.";
    OVERFLOW = 2, "UO", "A circuit breaker was full.";
    NO_ROUTE = 3, "NR", "No rule matched.";
    RETRY_LIMIT = 4, "URX", "Every retry was used up.";
    NO_CLUSTER = 5, "NC", "The rule names a cluster that does not exist.";
    UPSTREAM_TIMEOUT = 6, "UT", "The upstream took too long.";
    LOCAL_RESET = 7, "LR", "The proxy reset the connection.";
    UPSTREAM_RESET = 8, "UR", "The upstream reset the stream.";
    UPSTREAM_CLOSED = 9, "UC", "The upstream closed the connection.";
    DOWNSTREAM_CLOSED = 10, "DC", "The client went away.";
    DOWNSTREAM_PROTOCOL = 11, "DPE", "The client broke its protocol.";
    UPSTREAM_PROTOCOL = 12, "UPE", "The upstream broke its protocol.";
    DELAY_INJECTED = 13, "DI", "A fault delayed the request.";
    FAULT_INJECTED = 14, "FI", "A fault aborted the request.";
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
        let flags = ResponseFlags::NO_CLUSTER | ResponseFlags::NO_HEALTHY_UPSTREAM;
        assert_eq!(flags.to_string(), "UH,NC");
        assert_eq!(ResponseFlags::NONE.to_string(), "");
    }
}
