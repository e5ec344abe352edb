//! Medians over the rounds, ratios to the first contender of a table, as Markdown tables.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use super::{contender::Contender, load::Load, table::Table};

/// All that was measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    runs: BTreeMap<(Contender, Load), Vec<Run>>,
    idle: BTreeMap<Contender, Vec<f64>>,
    /// The 99th percentile of each run, in microseconds.
    tails: BTreeMap<Contender, Vec<f64>>,
}

/// One round of one load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// CPU seconds for what the load is measured by: 100,000 requests, a GiB.
    pub(super) cpu: f64,
    /// Requests a second.
    pub(super) rate: f64,
}

impl Measured {
    /// Adds one round.
    pub(super) fn add(&mut self, contender: Contender, load: Load, run: Run) {
        self.runs.entry((contender, load)).or_default().push(run);
    }

    /// Adds a reading of idle memory, in MiB.
    pub(super) fn add_idle(&mut self, contender: Contender, mib: f64) {
        self.idle.entry(contender).or_default().push(mib);
    }

    /// Adds the 99th percentiles of one round's runs, in microseconds.
    pub(super) fn add_tail(&mut self, contender: Contender, runs: &[f64]) {
        self.tails.entry(contender).or_default().extend(runs);
    }

    fn cpu(&self, contender: Contender, load: Load) -> Option<f64> {
        median(self.runs.get(&(contender, load))?.iter().map(|run| run.cpu))
    }

    fn rate(&self, contender: Contender, load: Load) -> Option<f64> {
        median(
            self.runs
                .get(&(contender, load))?
                .iter()
                .map(|run| run.rate),
        )
    }

    /// The lower quartile over the runs: what the machine underneath does only ever adds.
    fn p99(&self, contender: Contender) -> Option<f64> {
        quantile(self.tails.get(&contender)?.iter().copied(), 0.25)
    }

    /// The tables: CPU with its ratio to Envoy, then rates, then one line a goal.
    pub(super) fn markdown(&self) -> String {
        let mut text = String::new();
        for table in Table::ALL {
            let was_measured = |one: &&Contender| self.idle.contains_key(*one);
            let rows: Vec<_> = table.contenders().iter().filter(was_measured).collect();
            if !rows.is_empty() {
                let _ = writeln!(text, "### {}\n", table.title());
                text += &self.costs(table, &rows);
                if table.has_tail() {
                    text += &self.spreads();
                }
                text += &self.rates(table, &rows);
                text += "\n";
            }
        }
        text + &self.goals()
    }

    fn costs(&self, table: Table, rows: &[&Contender]) -> String {
        let mut text = String::from(
            "CPU seconds of the proxies for 100,000 requests, of bulk for a GiB, and the ratio to the \
             first:\n\n",
        );
        let tail = table.has_tail().then_some("p99 µs, 32 keep-alive");
        let heads = ["proxy"].into_iter();
        let heads = heads.chain(table.loads().iter().map(|load| load.name()));
        let heads: Vec<_> = heads.chain(tail).chain(["idle MiB"]).collect();
        text += &row(heads.iter().copied());
        text += &row(heads.iter().map(|_| "---"));
        let against = |own: Option<f64>, first: Option<f64>, digits: usize| match (own, first) {
            (Some(own), Some(first)) if first > 0.0 => {
                format!("{own:.digits$} ({:.2})", own / first)
            }
            (Some(own), _) => format!("{own:.digits$}"),
            (None, _) => "–".into(),
        };
        let first = table.contenders()[0];
        for &&contender in rows {
            let mut cells = vec![contender.name().to_owned()];
            for &load in table.loads() {
                let (own, first) = (self.cpu(contender, load), self.cpu(first, load));
                cells.push(against(own, first, 2));
            }
            if table.has_tail() {
                cells.push(against(self.p99(contender), self.p99(first), 0));
            }
            cells.push(against(self.idle(contender), self.idle(first), 1));
            text += &row(cells.iter().map(String::as_str));
        }
        text
    }

    fn rates(&self, table: Table, rows: &[&Contender]) -> String {
        let mut text = String::from("\nRequests a second:\n\n");
        let loads = table.loads();
        let heads = ["proxy"].into_iter();
        text += &row(heads.chain(loads.iter().map(|load| load.name())));
        text += &row(std::iter::repeat_n("---", loads.len() + 1));
        for &&contender in rows {
            let mut cells = vec![contender.name().to_owned()];
            for &load in loads {
                let rate = self.rate(contender, load);
                cells.push(rate.map_or("–".into(), |rate| load.rate(rate)));
            }
            text += &row(cells.iter().map(String::as_str));
        }
        text
    }

    /// How much they differ.
    fn spreads(&self) -> String {
        let mut text = String::new();
        for (contender, runs) in &self.tails {
            let at = |share| quantile(runs.iter().copied(), share).unwrap_or_default();
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "- {}: p99 of {} runs: {:.0} µs at the least, {:.0} at the lower quartile (the table's), \
                 {:.0} at the median, {:.0} at the upper quartile",
                contender.name(),
                runs.len(),
                at(0.0),
                at(0.25),
                at(0.5),
                at(0.75),
            );
        }
        if text.is_empty() {
            text
        } else {
            format!("\n{text}")
        }
    }

    fn idle(&self, contender: Contender) -> Option<f64> {
        median(self.idle.get(&contender)?.iter().copied())
    }

    /// What was to be reached, and whether it was.
    fn goals(&self) -> String {
        use Contender as C;
        use Goal::{Least, Most};
        let cpu = |own, other, load| Some(self.cpu(own, load)? / self.cpu(other, load)?);
        let ratio = |load| cpu(C::Aquifer, C::Envoy, load);
        let p99 = |own, other| Some(self.p99(own)? / self.p99(other)?);
        let hbone = |load| cpu(C::AquiferHbone, C::EnvoyHbone, load);
        let rate = |own, other, load| Some(self.rate(own, load)? / self.rate(other, load)?);
        let goals = [
            (
                "CPU at 32 keep-alive connections, of Envoy's",
                Most(0.36),
                ratio(Load::Keepalive),
            ),
            (
                "CPU of new connections, of Envoy's",
                Most(0.5),
                ratio(Load::Fresh),
            ),
            (
                "CPU of 64 KiB responses, of Envoy's",
                Most(0.5),
                ratio(Load::Large),
            ),
            (
                "p99 at 32 keep-alive connections, of Envoy's",
                Most(0.5),
                p99(C::Aquifer, C::Envoy),
            ),
            (
                "CPU at 32 keep-alive connections with a mesh's policies, of Envoy's with the same",
                Most(0.38),
                cpu(C::AquiferMesh, C::EnvoyMesh, Load::Keepalive),
            ),
            (
                "p99 with a mesh's policies, of Envoy's with the same",
                Most(0.5),
                p99(C::AquiferMesh, C::EnvoyMesh),
            ),
            ("idle memory in MiB", Most(12.0), self.idle(C::Aquifer)),
            (
                "HBONE: CPU of small requests at 32 connections, of Envoy's",
                Most(0.85),
                hbone(Load::Keepalive),
            ),
            (
                "HBONE: CPU a GiB, of Envoy's",
                Most(0.85),
                hbone(Load::Bulk),
            ),
            (
                "HBONE: new connections a second, of Envoy's",
                Least(1.8),
                rate(C::AquiferHbone, C::EnvoyHbone, Load::Fresh),
            ),
            (
                "HTTP over mutual TLS: CPU at 32 keep-alive connections, of Envoy's",
                Most(0.4),
                cpu(C::AquiferMtls, C::EnvoyMtls, Load::Keepalive),
            ),
        ];
        let mut text = String::from("Goals:\n\n");
        for (what, goal, reached) in goals {
            let verdict = match reached {
                Some(value) if goal.holds(value) => format!("{value:.2}, reached"),
                Some(value) => format!("{value:.2}, MISSED"),
                None => "not measured".into(),
            };
            // Writing to a string does not fail.
            let _ = writeln!(text, "- {what}: {goal}: {verdict}");
        }
        text
    }
}

/// What a figure is to be.
#[derive(Clone, Copy, Debug)]
enum Goal {
    Most(f64),
    Least(f64),
}

impl Goal {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::Most(most) => value <= most,
            Self::Least(least) => value >= least,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Most(most) => write!(f, "at most {most}"),
            Self::Least(least) => write!(f, "at least {least}"),
        }
    }
}

fn row<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    let mut line = String::from("|");
    for cell in cells {
        let _ = write!(line, " {cell} |");
    }
    line + "\n"
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    quantile(values, 0.5)
}

/// The value below which `share` of them lie, between two of them by distance.
fn quantile(values: impl Iterator<Item = f64>, share: f64) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let place = values.len().checked_sub(1)? as f64 * share;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    Some(values[low] + (values[high] - values[low]) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::{Contender, Load, Measured, Run, median, quantile};

    #[test]
    fn medians() {
        for (values, expected) in [
            (vec![], None),
            (vec![3.0], Some(3.0)),
            (vec![9.0, 1.0], Some(5.0)),
            (vec![9.0, 1.0, 2.0], Some(2.0)),
        ] {
            assert_eq!(median(values.iter().copied()), expected, "{values:?}");
        }
    }

    #[test]
    fn quantiles() {
        for (share, expected) in [(0.0, 1.0), (0.25, 1.75), (0.5, 2.5), (1.0, 9.0)] {
            let values = [3.0, 1.0, 9.0, 2.0];
            assert_eq!(quantile(values.into_iter(), share), Some(expected));
        }
    }

    #[test]
    fn a_table_tells_ratios_and_goals() {
        let mut measured = Measured::default();
        let run = |cpu| Run { cpu, rate: 1000.0 };
        measured.add(Contender::Envoy, Load::Keepalive, run(4.0));
        measured.add(Contender::Aquifer, Load::Keepalive, run(1.0));
        let rate = |rate| Run { cpu: 1.0, rate };
        for (contender, fresh) in [
            (Contender::EnvoyHbone, 500.0),
            (Contender::AquiferHbone, 900.0),
        ] {
            measured.add(contender, Load::Fresh, rate(fresh));
            measured.add(contender, Load::Bulk, rate(10.0));
        }
        for contender in [
            Contender::Envoy,
            Contender::Aquifer,
            Contender::EnvoyHbone,
            Contender::AquiferHbone,
        ] {
            measured.add_idle(contender, 2.0);
        }
        measured.add_tail(Contender::Envoy, &[400.0]);
        measured.add_tail(Contender::Aquifer, &[100.0, 9000.0]);
        measured.add_tail(Contender::Aquifer, &[100.0, 100.0]);
        let text = measured.markdown();
        assert!(
            text.contains("| aquifer | 1.00 (0.25) | – | – | – | 100 (0.25) | 2.0 (1.00) |"),
            "{text}"
        );
        assert!(
            text.contains("- aquifer: p99 of 4 runs: 100 µs at the least"),
            "{text}"
        );
        assert!(text.contains("at most 0.36: 0.25, reached"), "{text}");
        assert!(text.contains("CPU of new connections, of Envoy's: at most 0.5: not measured"));
        assert!(text.contains("at least 1.8: 1.80, reached"), "{text}");
        assert!(
            text.contains("| aquifer-hbone | – | 900 | 1.3 Gbit/s |"),
            "{text}"
        );
        assert!(!text.contains("mutual TLS: two"), "nor a table: {text}");
        assert!(
            !text.contains("haproxy"),
            "what was not measured has no row: {text}"
        );
    }
}
