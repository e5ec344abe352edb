//! How a point in time is written: Envoy's default, or a strftime layout with its extensions.
//! Always in UTC.

use std::io::{self, Write};
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::{self, OwnedFormatItem};

use crate::types::Timestamp;

/// A compiled layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `2016-04-15T20:17:00.310Z`.
    Default,
    /// One piece after the other.
    Custom(Vec<Piece>),
}

/// A piece of a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// What strftime knows.
    Date(OwnedFormatItem),
    /// `%3f`: so many digits of the fraction of a second, cut off and not rounded.
    Fraction(u8),
}

impl Layout {
    /// Reads a layout; empty is the default.
    ///
    /// # Errors
    /// The piece that is unknown.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::Default);
        }
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            let (before, tail) = rest.split_at(at);
            plain.push_str(before);
            let mut chars = tail.chars().skip(1);
            match (chars.next(), chars.next()) {
                (Some('f'), _) => {
                    date(&mut plain, &mut pieces)?;
                    pieces.push(Piece::Fraction(9));
                    rest = &tail[2..];
                }
                (Some(digits @ '1'..='9'), Some('f')) => {
                    date(&mut plain, &mut pieces)?;
                    pieces.push(Piece::Fraction(digits as u8 - b'0'));
                    rest = &tail[3..];
                }
                // Always UTC.
                (Some('z'), _) => {
                    plain.push_str("+0000");
                    rest = &tail[2..];
                }
                (Some('Z'), _) => {
                    plain.push_str("UTC");
                    rest = &tail[2..];
                }
                (Some(known), _) if KNOWN.contains(known) => {
                    plain.push('%');
                    plain.push(known);
                    rest = &tail[2..];
                }
                (Some(unknown), _) => return Err(format!("%{unknown}")),
                (None, _) => return Err("%".to_owned()),
            }
        }
        plain.push_str(rest);
        date(&mut plain, &mut pieces)?;
        Ok(Self::Custom(pieces))
    }

    /// Writes `time`.
    pub(super) fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        let written = match self {
            Self::Default => write!(out, "{}", Timestamp(time)),
            Self::Custom(pieces) => Timestamp(time)
                .date()
                .ok_or_else(|| io::Error::other("beyond the calendar"))
                .and_then(|date| pieces.iter().try_for_each(|piece| piece.write(date, out))),
        };
        debug_assert!(
            written.is_ok() || Timestamp(time).date().is_none(),
            "a Vec takes every byte"
        );
    }
}

/// What may follow a `%`: strftime's, as far as it does not depend on a locale or a zone.
const KNOWN: &str = "aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyY%";

impl Piece {
    fn write(&self, date: OffsetDateTime, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Date(item) => date
                .format_into(out, item)
                .map(|_| ())
                .map_err(io::Error::other),
            Self::Fraction(digits) => {
                let nanoseconds = format!("{:09}", date.nanosecond());
                out.extend_from_slice(&nanoseconds.as_bytes()[..usize::from(*digits)]);
                Ok(())
            }
        }
    }
}

/// Compiles what has gathered in `plain`.
fn date(plain: &mut String, pieces: &mut Vec<Piece>) -> Result<(), String> {
    if plain.is_empty() {
        return Ok(());
    }
    let item =
        format_description::parse_strftime_owned(plain).map_err(|error| error.to_string())?;
    pieces.push(Piece::Date(item));
    plain.clear();
    Ok(())
}
