//! The command line.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, ValueEnum};

/// The port of a Unix socket whose door does not name one.
pub const DEFAULT_PORT: u16 = 6432;

/// What the program was asked to do.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "pgstmtpool-proxy",
    version,
    about = "The statement-level connection pooler for PostgreSQL",
    after_help = "Signals: SIGTERM drains (idle clients leave at once, others have timeouts.drain) and a second one ends \
                  at once, as SIGQUIT does; SIGHUP reads the manifest and the certificates again.\n\
                  Exit codes: 0 done, 1 cannot run, 2 bad arguments or a bad manifest."
)]
pub struct Cli {
    /// The manifest: a YAML file with a PgPool, and any Secrets it names [default: the Kubernetes API]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Which PgPool: needed without --config, and when the file holds several
    #[arg(long, value_name = "NAME", required_unless_present = "config")]
    pub pool: Option<String>,

    /// Follow a PgPool of the Kubernetes API, as without --config
    #[arg(long, conflicts_with_all = ["config", "check", "id"])]
    pub kubernetes: bool,

    /// The namespace of the PgPool [default: that of this pod]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub namespace: Option<String>,

    /// Validate the manifest, print "ok" or every fault, and leave
    #[arg(long)]
    pub check: bool,

    /// A door for clients, repeatable: ADDR:PORT, or a folder for a Unix socket [default: 127.0.0.1:6432, in a cluster 0.0.0.0:5432]
    #[arg(long, value_name = "ADDR:PORT|/FOLDER[:PORT]")]
    pub listen: Vec<Listen>,

    /// A door whose statements prefer replicas, repeatable
    #[arg(long, value_name = "ADDR:PORT|/FOLDER[:PORT]")]
    pub listen_ro: Vec<Listen>,

    /// Serve /livez, /readyz and /metrics here
    #[arg(long, value_name = "ADDR:PORT")]
    pub http_listen: Option<SocketAddr>,

    /// How log lines look
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Data threads [default: the CPUs this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// The number of this proxy among those of the pool [default: one that is free]
    #[arg(long, value_name = "0..255")]
    pub id: Option<u8>,
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people, and for the journal of systemd.
    Text,
    /// One JSON object a line.
    Json,
}

impl Cli {
    /// The doors for clients: as asked for, else the usual one.
    pub fn doors(&self) -> Vec<Listen> {
        let usual = |host: &str, port| {
            vec![Listen::Tcp {
                host: host.to_owned(),
                port,
            }]
        };
        match (self.listen.as_slice(), &self.config) {
            ([], Some(_)) => usual("127.0.0.1", DEFAULT_PORT),
            ([], None) => usual("0.0.0.0", 5432),
            (asked, _) => asked.to_vec(),
        }
    }
}

/// Where a door is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A name or address, and a port; port 0 lets the system choose.
    Tcp {
        /// A name, an IPv4 address, an IPv6 address without brackets, or empty for every address.
        host: String,
        /// The port.
        port: u16,
    },
    /// The socket `.s.PGSQL.<port>` in a folder, as PostgreSQL names it.
    Unix {
        /// The folder.
        folder: PathBuf,
        /// The number in the name of the socket.
        port: u16,
    },
}

/// Why a door cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected ADDR:PORT, [IPV6]:PORT or /FOLDER[:PORT]")]
pub struct BadListen;

impl FromStr for Listen {
    type Err = BadListen;

    fn from_str(text: &str) -> Result<Self, BadListen> {
        if text.starts_with('/') {
            return match text.rsplit_once(':') {
                Some((folder, port)) if !port.contains('/') => Ok(Self::Unix {
                    folder: folder.into(),
                    port: socket_number(port)?,
                }),
                _ => Ok(Self::Unix {
                    folder: text.into(),
                    port: DEFAULT_PORT,
                }),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or(BadListen)?;
        let port = port.parse().map_err(|_| BadListen)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .filter(|inner| inner.contains(':'))
                .ok_or(BadListen)?,
            None if host.contains(':') => return Err(BadListen), // an IPv6 address needs its brackets
            None if host == "*" => "",
            None => host,
        };
        if host.contains(|c: char| c.is_whitespace() || c == '/') {
            return Err(BadListen);
        }
        Ok(Self::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

fn socket_number(text: &str) -> Result<u16, BadListen> {
    text.parse().ok().filter(|port| *port != 0).ok_or(BadListen)
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { folder, port } => write!(f, "{}/.s.PGSQL.{port}", folder.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Option<Listen> {
        Some(Listen::Tcp {
            host: host.into(),
            port,
        })
    }

    fn unix(folder: &str, port: u16) -> Option<Listen> {
        Some(Listen::Unix {
            folder: folder.into(),
            port,
        })
    }

    #[test]
    fn doors_are_addresses_or_folders() {
        let cases = [
            ("127.0.0.1:6432", tcp("127.0.0.1", 6432)),
            ("localhost:0", tcp("localhost", 0)),
            ("[::1]:6432", tcp("::1", 6432)),
            ("*:5432", tcp("", 5432)),
            (":5432", tcp("", 5432)),
            ("/run/pool", unix("/run/pool", 6432)),
            ("/run/pool:7000", unix("/run/pool", 7000)),
            ("/odd:name/pool", unix("/odd:name/pool", 6432)),
            ("::1:6432", None),
            ("[localhost]:1", None),
            ("127.0.0.1", None),
            ("127.0.0.1:70000", None),
            ("127.0.0.1:", None),
            ("a b:1", None),
            ("relative/folder:1", None),
            ("/run/pool:0", None),
            ("/run/pool:x", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Listen>().ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn doors_repeat_and_replace_the_default() {
        let cli =
            |args: &[&str]| Cli::try_parse_from([&["proxy", "--config", "x.yaml"], args].concat()).unwrap();
        assert_eq!(cli(&[]).doors(), [tcp("127.0.0.1", 6432).unwrap()]);
        let in_cluster = Cli::try_parse_from(["proxy", "--kubernetes", "--pool", "x"]).unwrap();
        assert_eq!(in_cluster.doors(), [tcp("0.0.0.0", 5432).unwrap()]);
        let two = cli(&["--listen", "127.0.0.1:1", "--listen", "/tmp/a"]);
        assert_eq!(
            two.doors(),
            [tcp("127.0.0.1", 1).unwrap(), unix("/tmp/a", 6432).unwrap()]
        );
    }

    #[test]
    fn bad_arguments_end_with_exit_code_two() {
        for args in [
            &["proxy"][..],
            &["proxy", "--kubernetes"],
            &["proxy", "--kubernetes", "--pool", "x", "--config", "y"],
            &["proxy", "--config", "x", "--id", "256"],
            &["proxy", "--config", "x", "--threads", "0"],
        ] {
            assert_eq!(Cli::try_parse_from(args).unwrap_err().exit_code(), 2, "{args:?}");
        }
    }
}
