//! The list of known differences: a table under a heading of its own in `tests/envoy-differences.md`.
//!
//! `| scenario | what differs | … |`, the scenario in backticks (a `*` at its end stands for the rest of
//! the name), the facets in backticks and by commas. Both directions count: what differs must be
//! listed, and what is listed must differ.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::compare::Difference;

/// The heading.
const HEADING: &str = "## In the differential suite";

/// The list.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    rows: Vec<(String, BTreeSet<String>)>,
    met: BTreeSet<(usize, String)>,
}

impl Listed {
    /// Reads the list out of the document.
    pub fn parse(document: &str) -> Result<Self> {
        let (_, part) = document
            .split_once(HEADING)
            .context("the list has no heading")?;
        let part = part.split("\n## ").next().unwrap_or_default();
        let mut listed = Self::default();
        for row in part.lines().filter(|line| line.starts_with("| `")) {
            let mut cells = row.split('|').skip(1);
            let quoted = |cell: &str| -> Vec<String> {
                cell.split('`')
                    .skip(1)
                    .step_by(2)
                    .map(str::to_owned)
                    .collect()
            };
            let names = quoted(cells.next().unwrap_or_default());
            let facets: BTreeSet<_> = quoted(cells.next().unwrap_or_default())
                .into_iter()
                .collect();
            let reason = cells.next().unwrap_or_default().trim();
            ensure!(
                !facets.is_empty() && !reason.is_empty(),
                "a row lacks a cell: {row}"
            );
            for name in names {
                listed.rows.push((name, facets.clone()));
            }
        }
        Ok(listed)
    }

    /// Whether a difference of `scenario` is listed.
    pub fn has(&mut self, scenario: &str, difference: &Difference) -> bool {
        let mut has = false;
        for (number, (name, facets)) in self.rows.iter().enumerate() {
            let named = match name.strip_suffix('*') {
                Some(start) => scenario.starts_with(start),
                None => scenario == name,
            };
            let facet = facets.iter().find(|facet| match facet.strip_suffix('*') {
                Some(start) => difference.facet.starts_with(start),
                None => **facet == difference.facet,
            });
            if let (true, Some(facet)) = (named, facet) {
                self.met.insert((number, facet.clone()));
                has = true;
            }
        }
        has
    }

    /// What is listed and was not met.
    pub fn vanished(&self) -> Vec<String> {
        let rows = self.rows.iter().enumerate();
        let unmet = rows.flat_map(|(number, (name, facets))| {
            let unmet = facets
                .iter()
                .filter(move |facet| !self.met.contains(&(number, (*facet).clone())));
            unmet.map(move |facet| format!("{name}: {facet}"))
        });
        unmet.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_met_or_vanish() {
        let document = "# x\n| `not` | `here` | y |\n## In the differential suite\n\n\
                        | scenario | facets | why |\n| --- | --- | --- |\n\
                        | `a`, `b-*` | `flags`, `header *` | because |\n## more\n| `c` | `d` | e |\n";
        let mut listed = Listed::parse(document).unwrap();
        let difference = |facet: &str| Difference {
            facet: facet.into(),
            envoy: String::new(),
            aquifer: String::new(),
        };
        assert!(listed.has("b-1", &difference("header x")));
        assert!(!listed.has("b-1", &difference("status")));
        assert!(!listed.has("c", &difference("d")));
        assert_eq!(listed.vanished(), ["a: flags", "a: header *", "b-*: flags"]);
        assert!(Listed::parse("nothing").is_err());
    }
}
