//! What Envoy is known to make of a step, as words. All must hold.
//!
//! | word | what |
//! | --- | --- |
//! | `200`, `200*3,503*2` | the status of every answer; how many had which |
//! | `UF,URX`, `-` | the flags of one answer at least; of every answer, none |
//! | `x2`, `x1-3` | attempts that reached an upstream |
//! | `h2` | how many different endpoints they reached |
//! | `@1` | the endpoint that the last one reached |
//! | `@1:60-100` | how many reached that endpoint |
//! | `name=value`, `name~part`, `!name` | a field of the first answer (`+` is a space) |
//! | `body=…`, `body~…`, `t.name=…` | its body, one of its trailers |
//! | `>name=…`, `>name~…`, `>!name` | the same of the last attempt; `>:path`, `>:method`, `>version`, `>body` |
//! | `end=whole` and so on | how it ended, where not whole |
//! | `took=300` | how long the first answer took, in milliseconds, about |
//! | `details=…`, `route=…` | what the log says of it |

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::{
    client::End,
    observe::{Observed, Reply},
};

/// The words of a step.
#[derive(Clone, Debug)]
pub struct Expected(Vec<Word>);

#[derive(Clone, Debug)]
enum Word {
    Status(u16),
    Counts(BTreeMap<u16, usize>),
    Flags(String),
    Attempts(usize, usize),
    Hosts(usize),
    Last(usize),
    Share(usize, usize, usize),
    Took(f64),
    Field(Place, String, Test),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Answer,
    Attempt,
}

#[derive(Clone, Debug)]
enum Test {
    Is(String),
    Has(String),
    Absent,
}

impl Expected {
    /// Reads words.
    pub fn parse(text: &str) -> Result<Self> {
        text.split_whitespace()
            .map(Word::parse)
            .collect::<Result<_>>()
            .map(Self)
    }

    /// How many attempts there are at least.
    pub fn attempts(&self) -> usize {
        let least = self.0.iter().filter_map(|word| match word {
            Word::Attempts(least, _) => Some(*least),
            _ => None,
        });
        least.max().unwrap_or_default()
    }

    /// The words that do not hold for what was seen of a step.
    pub fn wrong(&self, step: &Observed) -> Vec<String> {
        let mut wrong: Vec<String> = self
            .0
            .iter()
            .filter_map(|word| word.check(step).err())
            .collect();
        let ends = self
            .0
            .iter()
            .any(|word| matches!(word, Word::Field(Place::Answer, name, _) if name == "end"));
        let broken = step
            .replies
            .iter()
            .find(|one| one.outcome.end != End::Whole);
        if let (false, Some(broken)) = (ends, broken) {
            wrong.push(format!("an exchange ended as {:?}", broken.outcome.end));
        }
        wrong
    }
}

impl Word {
    fn parse(word: &str) -> Result<Self> {
        if let Ok(status) = word.parse() {
            return Ok(Self::Status(status));
        }
        if word == "-" {
            return Ok(Self::Flags(String::new()));
        }
        if word.chars().all(|c| c.is_ascii_uppercase() || c == ',') {
            return Ok(Self::Flags(word.into()));
        }
        let number = |mark: char| word.strip_prefix(mark).and_then(|rest| rest.parse().ok());
        if let Some(count) = number('x') {
            return Ok(Self::Attempts(count, count));
        }
        if let Some((least, most)) = word.strip_prefix('x').and_then(|rest| rest.split_once('-'))
            && let (Ok(least), Ok(most)) = (least.parse(), most.parse())
        {
            return Ok(Self::Attempts(least, most));
        }
        if let Some(count) = number('h') {
            return Ok(Self::Hosts(count));
        }
        if let Some(endpoint) = number('@') {
            return Ok(Self::Last(endpoint));
        }
        if let Some(share) = share(word) {
            return Ok(share);
        }
        if let Some(counts) = counts(word) {
            return Ok(Self::Counts(counts));
        }
        let (place, word) = match word.strip_prefix('>') {
            Some(rest) => (Place::Attempt, rest),
            None => (Place::Answer, word),
        };
        if let Some(name) = word.strip_prefix('!') {
            return Ok(Self::Field(place, name.into(), Test::Absent));
        }
        let Some(at) = word.find(['=', '~']) else {
            bail!("`{word}` is no expectation");
        };
        let (name, value) = (&word[..at], word[at + 1..].replace('+', " "));
        if name == "took" {
            return Ok(Self::Took(value.parse()?));
        }
        let test = if word.as_bytes()[at] == b'=' {
            Test::Is(value)
        } else {
            Test::Has(value)
        };
        Ok(Self::Field(place, name.into(), test))
    }

    fn check(&self, step: &Observed) -> Result<(), String> {
        let replies = &step.replies;
        let statuses = || replies.iter().map(|one| one.outcome.status);
        let must = |holds: bool, seen: String| if holds { Ok(()) } else { Err(seen) };
        match self {
            Self::Status(wanted) => must(
                statuses().all(|one| one == *wanted),
                format!("status: {:?}", counted(statuses())),
            ),
            Self::Counts(wanted) => {
                let seen = counted(statuses());
                must(seen == *wanted, format!("statuses: {seen:?}"))
            }
            Self::Flags(wanted) => {
                let seen: BTreeSet<_> = replies.iter().map(Reply::flags).collect();
                let holds =
                    seen.contains(wanted.as_str()) && (!wanted.is_empty() || seen.len() == 1);
                must(holds, format!("flags: {seen:?}"))
            }
            Self::Attempts(least, most) => {
                let seen = step.attempts.len();
                must(
                    (*least..=*most).contains(&seen),
                    format!("attempts: {seen}"),
                )
            }
            Self::Hosts(wanted) => {
                let seen = step
                    .attempts
                    .iter()
                    .map(|one| one.endpoint)
                    .collect::<BTreeSet<_>>();
                must(seen.len() == *wanted, format!("endpoints: {seen:?}"))
            }
            Self::Last(wanted) => {
                let seen = step.attempts.last().map(|one| one.endpoint);
                must(seen == Some(*wanted), format!("last endpoint: {seen:?}"))
            }
            Self::Share(endpoint, least, most) => {
                let own = step.attempts.iter().filter(|one| one.endpoint == *endpoint);
                let seen = own.count();
                must(
                    (*least..=*most).contains(&seen),
                    format!("attempts at endpoint {endpoint}: {seen}"),
                )
            }
            Self::Took(wanted) => {
                let seen = replies
                    .first()
                    .map_or(0.0, |one| one.outcome.took.as_secs_f64() * 1e3);
                let holds = seen > wanted * 0.9 - 20.0 && seen < wanted * 1.5 + 400.0;
                must(holds, format!("took: {seen:.0} ms"))
            }
            Self::Field(place, name, test) => {
                let seen = match place {
                    Place::Answer => replies.first().map_or(vec![], |one| one.field(name)),
                    Place::Attempt => step.attempts.last().map_or(vec![], |one| one.field(name)),
                };
                let joined = seen.join(",");
                let holds = match test {
                    Test::Is(wanted) => {
                        joined == *wanted && (!seen.is_empty() || wanted.is_empty())
                    }
                    Test::Has(wanted) => joined.contains(wanted.as_str()),
                    Test::Absent => seen.is_empty(),
                };
                must(holds, format!("{name}: {seen:?}"))
            }
        }
    }
}

/// `@1:60-100`.
fn share(word: &str) -> Option<Word> {
    let (endpoint, range) = word.strip_prefix('@')?.split_once(':')?;
    let (least, most) = range.split_once('-')?;
    let number = |text: &str| text.parse().ok();
    Some(Word::Share(
        number(endpoint)?,
        number(least)?,
        number(most)?,
    ))
}

/// `200*3,503*2`.
fn counts(word: &str) -> Option<BTreeMap<u16, usize>> {
    let pairs = word.split(',').map(|part| {
        let (status, count) = part.split_once('*')?;
        Some((status.parse().ok()?, count.parse().ok()?))
    });
    pairs.collect()
}

fn counted(statuses: impl Iterator<Item = u16>) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for status in statuses {
        *counts.entry(status).or_default() += 1;
    }
    counts
}
