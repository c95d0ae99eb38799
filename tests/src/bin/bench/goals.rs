//! What the proxy wants to reach: ratios within one run on two cores that it shares with pgbench and PostgreSQL.

use crate::table::{CPU, Figure, P50, P99, TPS};

/// One goal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// Its heading in the report.
    pub(crate) what: &'static str,
    /// Whose figure is the measure.
    pub(crate) to: &'static str,
    /// Which figure.
    pub(crate) figure: Figure,
    /// The ratio.
    pub(crate) bound: f64,
    /// Is it the least ratio, or the greatest?
    pub(crate) at_least: bool,
}

impl Goal {
    /// Does a ratio reach it?
    pub(crate) fn reached(&self, ratio: f64) -> bool {
        if self.at_least {
            ratio >= self.bound
        } else {
            ratio <= self.bound
        }
    }

    /// `>= 1.70`.
    pub(crate) fn text(&self) -> String {
        format!("{} {:.2}", if self.at_least { ">=" } else { "<=" }, self.bound)
    }
}

/// The goals of a workload. `old`: this PgBouncer has to run prepared statements in session mode.
pub(crate) fn of(workload: &str, old: bool) -> Vec<Goal> {
    let tps = |bound| goal("statements/s vs PgBouncer", "pgbouncer", TPS, bound, true);
    let direct = |bound| goal("statements/s vs direct", "direct", TPS, bound, true);
    let one_thread = |bound| goal("statements/s vs one thread", "proxy-1-thread", TPS, bound, true);
    let cpu = |bound| goal("CPU vs PgBouncer", "pgbouncer", CPU, bound, false);
    let p99 = |bound| goal("p99 vs PgBouncer", "pgbouncer", P99, bound, false);
    let p50 = |bound| goal("p50 vs PgBouncer", "pgbouncer", P50, bound, false);
    match workload {
        "select_simple" => vec![tps(1.7), direct(1.2), cpu(0.55)],
        "select_prepared" => vec![tps(if old { 1.7 } else { 2.1 }), direct(1.15), cpu(0.45)],
        "select1_1" => vec![p50(1.0)],
        "select1_32" => vec![tps(1.7), cpu(0.55)],
        "select1_1000" => vec![tps(2.3), p99(0.5), cpu(0.45), one_thread(1.0)],
        "rate_2000" => vec![p99(1.1), cpu(1.05)],
        "transactions" => vec![tps(1.25), direct(0.72), cpu(0.85)],
        "pipeline_10" => vec![tps(1.1)],
        "rows_1mb" => vec![tps(1.7), cpu(0.35)],
        "reconnect_trust" => vec![tps(0.95)],
        "reconnect_scram" => vec![tps(0.95), cpu(1.0)],
        "mixed" | "mixed_same_shape" => vec![p99(2.0)],
        _ => Vec::new(),
    }
}

fn goal(what: &'static str, to: &'static str, figure: Figure, bound: f64, at_least: bool) -> Goal {
    Goal {
        what,
        to,
        figure,
        bound,
        at_least,
    }
}
