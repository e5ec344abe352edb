//! Medians over the rounds, ratios to the first contender, as a Markdown table.

use std::{collections::BTreeMap, fmt::Write};

use super::{contender::Contender, load::Load};

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
    /// CPU seconds for 100,000 requests.
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
        let mut text = String::from(
            "CPU seconds of the proxy for 100,000 requests, and the ratio to Envoy:\n\n",
        );
        let loads: Vec<_> = Load::ALL.iter().map(|load| load.name()).collect();
        text += &row(["proxy"]
            .into_iter()
            .chain(loads.iter().copied())
            .chain(["p99 µs, 32 keep-alive", "idle MiB"]));
        text += &row(std::iter::repeat_n("---", loads.len() + 3));
        for contender in Contender::ALL {
            let against =
                |own: Option<f64>, reference: Option<f64>, digits: usize| match (own, reference) {
                    (Some(own), Some(reference)) if reference > 0.0 => {
                        format!("{own:.digits$} ({:.2})", own / reference)
                    }
                    (Some(own), _) => format!("{own:.digits$}"),
                    (None, _) => "–".into(),
                };
            let reference = Contender::Envoy;
            let mut cells = vec![contender.name().to_owned()];
            for load in Load::ALL {
                cells.push(against(
                    self.cpu(contender, load),
                    self.cpu(reference, load),
                    2,
                ));
            }
            cells.push(against(self.p99(contender), self.p99(reference), 0));
            cells.push(against(self.idle(contender), self.idle(reference), 1));
            if cells[1..].iter().any(|cell| cell != "–") {
                text += &row(cells.iter().map(String::as_str));
            }
        }
        text += &self.spreads();
        text += "\nRequests a second (one core for the proxy):\n\n";
        text += &row(["proxy"].into_iter().chain(loads.iter().copied()));
        text += &row(std::iter::repeat_n("---", loads.len() + 1));
        for contender in Contender::ALL {
            let mut cells = vec![contender.name().to_owned()];
            for load in Load::ALL {
                cells.push(
                    self.rate(contender, load)
                        .map_or("–".into(), |rate| format!("{rate:.0}")),
                );
            }
            if cells[1..].iter().any(|cell| cell != "–") {
                text += &row(cells.iter().map(String::as_str));
            }
        }
        text += &self.goals();
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
        use Contender::{Aquifer, AquiferMesh, Envoy, EnvoyMesh};
        let cpu = |own, other, load| Some(self.cpu(own, load)? / self.cpu(other, load)?);
        let ratio = |load| cpu(Aquifer, Envoy, load);
        let p99 = |own, other| Some(self.p99(own)? / self.p99(other)?);
        let goals = [
            (
                "CPU at 32 keep-alive connections, of Envoy's",
                0.36,
                ratio(Load::Keepalive),
            ),
            (
                "CPU of new connections, of Envoy's",
                0.5,
                ratio(Load::Fresh),
            ),
            (
                "CPU of 64 KiB responses, of Envoy's",
                0.5,
                ratio(Load::Large),
            ),
            (
                "p99 at 32 keep-alive connections, of Envoy's",
                0.5,
                p99(Aquifer, Envoy),
            ),
            (
                "CPU at 32 keep-alive connections with a mesh's policies, of Envoy's with the same",
                0.38,
                cpu(AquiferMesh, EnvoyMesh, Load::Keepalive),
            ),
            (
                "p99 with a mesh's policies, of Envoy's with the same",
                0.5,
                p99(AquiferMesh, EnvoyMesh),
            ),
            ("idle memory in MiB", 12.0, self.idle(Aquifer)),
        ];
        let mut text = String::from("\nGoals:\n\n");
        for (what, most, reached) in goals {
            let verdict = match reached {
                Some(value) if value <= most => format!("{value:.2}, reached"),
                Some(value) => format!("{value:.2}, MISSED"),
                None => "not measured".into(),
            };
            // Writing to a string does not fail.
            let _ = writeln!(text, "- {what}: at most {most}: {verdict}");
        }
        text
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
        measured.add_tail(Contender::Envoy, &[400.0]);
        measured.add_tail(Contender::Aquifer, &[100.0, 9000.0]);
        measured.add_tail(Contender::Aquifer, &[100.0, 100.0]);
        let text = measured.markdown();
        assert!(
            text.contains("| aquifer | 1.00 (0.25) | – | – | – | 100 (0.25) | – |"),
            "{text}"
        );
        assert!(
            text.contains("- aquifer: p99 of 4 runs: 100 µs at the least"),
            "{text}"
        );
        assert!(text.contains("at most 0.36: 0.25, reached"), "{text}");
        assert!(text.contains("CPU of new connections, of Envoy's: at most 0.5: not measured"));
        assert!(
            !text.contains("haproxy"),
            "what was not measured has no row: {text}"
        );
    }
}
