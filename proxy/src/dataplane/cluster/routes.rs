//! What is counted of requests whose match block has a `statPrefix`, under Envoy's names:
//! `vhost.HOST:PORT.route.PREFIX.…` (Envoy 1.40: `Http::CodeStatsImpl::chargeResponseStat` and
//! `RouteStatsContext`; requests that are answered without a cluster are not counted).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::Registry;
use crate::telemetry::counters::{Counter, counters};

counters! {
    /// Of one prefix at one port of a host, shared by the workers.
    struct Totals;

    /// Attempts.
    upstream_rq_total,
    /// Responses, the proxy's own too.
    upstream_rq_completed,
    /// Retries.
    upstream_rq_retry,
    /// Requests that failed with no attempt left.
    upstream_rq_retry_limit_exceeded,
    /// Requests that ran into the route's timeout.
    upstream_rq_timeout,
}

/// Responses by their status; of each class only once there is one.
type Codes = [OnceLock<Box<[Counter; 100]>>; 5];

/// The counters of one prefix at one port of a host.
#[derive(Debug, Default)]
pub(in crate::dataplane) struct RouteCounters {
    totals: Totals,
    codes: Codes,
}

/// The counters that a worker has asked for, by their names.
#[derive(Default)]
pub(in crate::dataplane) struct Routes(RefCell<HashMap<String, Arc<RouteCounters>>>);

impl Routes {
    /// What is counted under `name`.
    pub(in crate::dataplane) fn of(&self, all: &Registry, name: &str) -> Arc<RouteCounters> {
        let mut routes = self.0.borrow_mut();
        if let Some(known) = routes.get(name) {
            return Arc::clone(known);
        }
        let found = all.route(name);
        routes.insert(name.into(), Arc::clone(&found));
        found
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub(in crate::dataplane) struct Ended {
    /// 0 where its client did not wait for an answer.
    pub(in crate::dataplane) status: u16,
    pub(in crate::dataplane) attempts: u32,
    /// Whether it failed with no attempt left.
    pub(in crate::dataplane) exhausted: bool,
    /// Whether the route's timeout ended it.
    pub(in crate::dataplane) timed_out: bool,
}

impl RouteCounters {
    /// Counts a request.
    pub(in crate::dataplane) fn count(&self, ended: Ended) {
        let totals = &self.totals;
        totals.upstream_rq_total.add(ended.attempts.into());
        let retries = ended.attempts.saturating_sub(1);
        totals.upstream_rq_retry.add(retries.into());
        if ended.exhausted {
            totals.upstream_rq_retry_limit_exceeded.increment();
        }
        if ended.timed_out {
            totals.upstream_rq_timeout.increment();
        }
        let (class, code) = (usize::from(ended.status / 100), ended.status % 100);
        let class = class.checked_sub(1).and_then(|at| self.codes.get(at));
        if let Some(class) = class {
            totals.upstream_rq_completed.increment();
            let codes = class.get_or_init(|| Box::new(std::array::from_fn(|_| Counter::default())));
            codes[usize::from(code)].increment();
        }
    }

    /// Every counter with its name.
    pub(super) fn statistics(&self) -> Vec<(String, u64)> {
        let totals = self.totals.iter();
        let mut all: Vec<_> = totals
            .map(|(name, _, value)| (name.to_owned(), value))
            .collect();
        for (class, codes) in self.codes.iter().enumerate() {
            let Some(codes) = codes.get() else { continue };
            let class = class + 1;
            let counted = codes.iter().map(Counter::value);
            let counted = counted.enumerate().filter(|(_, value)| *value > 0);
            let mut sum = 0;
            for (code, value) in counted {
                sum += value;
                all.push((format!("upstream_rq_{class}{code:02}"), value));
            }
            all.push((format!("upstream_rq_{class}xx"), sum));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_how_they_ended() {
        let counters = RouteCounters::default();
        for (status, attempts, exhausted, timed_out) in [
            (200, 1, false, false),
            (200, 3, false, false),
            (204, 1, false, false),
            (503, 2, true, false),
            (504, 1, false, true),
            (0, 1, false, false),
            (999, 1, false, false),
        ] {
            counters.count(Ended {
                status,
                attempts,
                exhausted,
                timed_out,
            });
        }
        let mut all = counters.statistics();
        all.sort();
        let all: Vec<String> = all
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        assert_eq!(
            all,
            [
                "upstream_rq_200 2",
                "upstream_rq_204 1",
                "upstream_rq_2xx 3",
                "upstream_rq_503 1",
                "upstream_rq_504 1",
                "upstream_rq_5xx 2",
                "upstream_rq_completed 5",
                "upstream_rq_retry 3",
                "upstream_rq_retry_limit_exceeded 1",
                "upstream_rq_timeout 1",
                "upstream_rq_total 10",
            ]
        );
    }
}
