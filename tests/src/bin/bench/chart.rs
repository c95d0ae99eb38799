//! The chart: two columns of bars, everything beside PgBouncer. Plain SVG, written by hand: a library would be longer.

use std::fmt::Write as _;

use crate::table::{CPU, Figure, Samples, TPS};

const BAR: f64 = 11.0;
const GAP: f64 = 12.0;
const LEFT: f64 = 150.0;
const COLUMN: f64 = 360.0;
const TOP: f64 = 78.0;
/// A ratio that fills a column; longer bars are cut and say so.
const FULL: f64 = 3.0;

/// A colour for each peer.
fn colour(peer: &str) -> &'static str {
    match peer {
        "proxy" => "#1b6ca8",
        "direct" => "#7a7a7a",
        "pgbouncer" => "#e08e45",
        "haproxy" => "#7fb069",
        _ => "#b06ab3",
    }
}

/// The chart of these peers and workloads.
pub(crate) fn svg(samples: &Samples, peers: &[&'static str], workloads: &[&'static str]) -> String {
    let group = BAR * peers.len() as f64 + GAP;
    let height = TOP + group * workloads.len() as f64 + 16.0;
    let width = LEFT + 2.0 * COLUMN + 40.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    legend(&mut out, peers);
    let columns: [(&str, Figure, f64); 2] = [
        ("statements a second / PgBouncer's (more is better)", TPS, LEFT),
        (
            "CPU per statement / PgBouncer's (less is better)",
            CPU,
            LEFT + COLUMN + 20.0,
        ),
    ];
    for (title, figure, x) in columns {
        text(&mut out, x, TOP - 14.0, "start", "bold", title);
        axis(&mut out, x, height);
        for (row, workload) in workloads.iter().enumerate() {
            let y = TOP + group * row as f64;
            if x < LEFT + 1.0 {
                let middle = y + BAR * peers.len() as f64 / 2.0 + 4.0;
                text(&mut out, LEFT - 8.0, middle, "end", "normal", workload);
            }
            for (n, peer) in peers.iter().enumerate() {
                let ratio = samples.ratio(workload, peer, "pgbouncer", figure);
                let at = y + BAR * n as f64;
                // Direct connections have no pooler whose CPU could be measured.
                if let Some(ratio) = ratio.filter(|r| r.median > 0.0) {
                    bar(&mut out, (x, at), ratio.median, colour(peer));
                }
            }
        }
    }
    out.push_str("</svg>\n");
    out
}

fn legend(out: &mut String, peers: &[&str]) {
    text(
        out,
        LEFT,
        20.0,
        "start",
        "bold",
        "Beside PgBouncer, same machine, same run",
    );
    for (n, peer) in peers.iter().enumerate() {
        let x = LEFT + 100.0 * n as f64;
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"32\" width=\"10\" height=\"10\" fill=\"{}\"/>",
            colour(peer)
        );
        text(out, x + 15.0, 41.0, "start", "normal", peer);
    }
}

/// A line at each half; the one at 1 is PgBouncer's and darker.
fn axis(out: &mut String, x: f64, height: f64) {
    for half in 0..=6_u8 {
        let at = x + length(f64::from(half) / 2.0);
        let shade = if half == 2 { "#666" } else { "#ddd" };
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"{shade}\"/>",
            TOP - 6.0,
            height - 10.0
        );
    }
}

fn bar(out: &mut String, (x, y): (f64, f64), ratio: f64, fill: &str) {
    let (shown, mark) = if ratio > FULL { (FULL, " >") } else { (ratio, "") };
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>",
        length(shown),
        BAR - 1.0
    );
    let label = format!("{ratio:.2}{mark}");
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"9\">{label}</text>",
        x + length(shown) + 3.0,
        y + BAR - 2.5
    );
}

fn length(ratio: f64) -> f64 {
    ratio / FULL * (COLUMN - 50.0)
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, weight: &str, what: &str) {
    let _ = writeln!(
        out,
        "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-weight=\"{weight}\">{what}</text>"
    );
}
