//! Servers and Secrets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Place, name};
use crate::raw;
use crate::{Address, Faults, KeyRef, PairRef, SecretRef, ServerConfig, ServerTls};

/// Most servers of a pool, each once.
const SERVERS_MAX: usize = 64;

/// The master and the replicas, or nothing where there is no telling.
pub(super) fn servers(
    faults: &mut Faults,
    place: Place,
    master: Option<raw::Server>,
    replicas: Vec<raw::Server>,
    selector: &BTreeMap<String, String>,
) -> Option<(ServerConfig, Vec<ServerConfig>)> {
    let selects = !selector.is_empty();
    if selects && place == Place::File {
        faults.add(
            "selector",
            "no Kubernetes here: name the servers in master and replicas",
        );
    }
    if selects && !replicas.is_empty() {
        faults.add("replicas", "must be empty where selector finds the servers");
    }
    let master = match master {
        None => {
            let address = if place == Place::File { "host" } else { "podName" };
            faults.add(
                "master",
                format!("is missing: expected {{name: ..., {address}: ...}}"),
            );
            None
        }
        Some(master) => faults.within("master", |faults| {
            if master.weight.is_some() {
                let text = "is of replicas only: to let the master take reads, list it in replicas too";
                faults.add("weight", text);
            }
            server(faults, place, master, selects)
        }),
    };
    let replicas = faults.at_most("replicas", replicas, SERVERS_MAX);
    let written = replicas.len();
    let mut read: Vec<(String, ServerConfig)> = master
        .iter()
        .map(|master| ("spec.master".to_owned(), master.clone()))
        .collect();
    for (index, replica) in replicas.into_iter().enumerate() {
        let key = format!("replicas[{index}]");
        faults.within(&key, |faults| {
            if let Some(replica) = server(faults, place, replica, false) {
                agrees(faults, &replica, &read);
                read.push((faults.path(""), replica));
            }
        });
    }
    let mut servers = read.into_iter().map(|(_, server)| server);
    let master = master.and_then(|_| servers.next())?;
    let replicas: Vec<_> = servers.collect();
    (replicas.len() == written).then_some((master, replicas))
}

/// The same name must be the same server, another name another one.
fn agrees(faults: &mut Faults, server: &ServerConfig, others: &[(String, ServerConfig)]) {
    for (path, other) in others {
        match (other.name == server.name, other.address == server.address) {
            (true, false) => {
                let text = format!(
                    "{} is at {} here and at {} in {path}",
                    server.name, server.address, other.address
                );
                return faults.add("", text);
            }
            (false, true) => {
                let text = format!("has the address of {} in {path}: {}", other.name, server.address);
                return faults.add("", text);
            }
            _ => {}
        }
    }
}

fn server(faults: &mut Faults, place: Place, written: raw::Server, selects: bool) -> Option<ServerConfig> {
    let raw::Server {
        name: given,
        pod_name,
        host,
        port,
        failover_priority,
        zone,
        weight,
    } = written;
    name(faults, "name", given.as_deref());
    let port = faults.range("port", port, 1..=u16::MAX);
    let failover_priority = faults.range("failoverPriority", failover_priority, 0..=100);
    let weight = faults.range("weight", weight.unwrap_or(100), 0..=1000);
    if zone.len() > 63 {
        faults.add("zone", "must be at most 63 bytes");
    }
    let address = match (pod_name, host) {
        (Some(_), Some(_)) => {
            faults.add("", "has podName and host: exactly one of them expected");
            None
        }
        (Some(_), None) if place == Place::File => {
            faults.add("podName", "no Kubernetes here: give host");
            None
        }
        (Some(pod), None) => pod_address(faults, &pod, port),
        (None, Some(host)) => host_address(faults, &host, port),
        (None, None) if selects => given.clone().map(|name| Address::Pod { name, port }),
        (None, None) => {
            match place {
                Place::File => faults.add("host", "is missing"),
                Place::Cluster => faults.add("", "has no podName and no host: exactly one of them expected"),
            }
            None
        }
    };
    Some(ServerConfig {
        name: given?,
        address: address?,
        failover_priority,
        zone,
        weight,
    })
}

fn pod_address(faults: &mut Faults, pod: &str, port: u16) -> Option<Address> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if pod.is_empty() || pod.len() > 253 || !pod.chars().all(allowed) {
        faults.add("podName", format!("expected the name of a pod, is {pod:?}"));
        return None;
    }
    Some(Address::Pod {
        name: pod.to_owned(),
        port,
    })
}

fn host_address(faults: &mut Faults, host: &str, port: u16) -> Option<Address> {
    let name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let numeric = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let is_name = !host.is_empty() && host.len() <= 253 && host.chars().all(name);
    // 10.0.0.300 is a slip, not a name: no top-level domain is a number.
    let slip = host.rsplit('.').next().is_some_and(numeric);
    let socket = format!("{host}/.s.PGSQL.{port}");
    let fault = if host.starts_with('/') {
        // sun_path has 108 bytes on Linux, the last of them NUL.
        (socket.len() > 107 || host.contains('\0'))
            .then(|| format!("the socket {socket:?} is over 107 bytes"))
    } else if host.parse::<IpAddr>().is_ok() || (is_name && !slip) {
        None
    } else if let Some((name, after)) = host.rsplit_once(':').filter(|(_, after)| numeric(after)) {
        Some(format!(
            "without the port: write host: {}, port: {after}",
            name.trim_matches(['[', ']'])
        ))
    } else {
        let bare = host.trim_matches(['[', ']']);
        match bare.parse::<IpAddr>() {
            Ok(_) => Some(format!("without brackets: {bare}")),
            Err(_) => Some(format!(
                "expected a name, an address or a folder (/...), is {host:?}"
            )),
        }
    };
    match fault {
        Some(text) => {
            faults.add("host", text);
            None
        }
        None => Some(Address::Host {
            host: host.to_owned(),
            port,
        }),
    }
}

fn secret_name(faults: &mut Faults, key: &str, name: Option<String>) -> Option<String> {
    let name = faults.text(key, name, 253)?;
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if !name.chars().all(allowed) || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        faults.add(
            key,
            format!("expected the name of a Secret (a-z, 0-9, - and .), is {name:?}"),
        );
        return None;
    }
    Some(name)
}

fn secret_key(faults: &mut Faults, at: &str, key: String) -> Option<String> {
    let key = faults.text(at, Some(key), 253)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if !key.chars().all(allowed) {
        faults.add(
            at,
            format!("expected a key of a Secret (letters, digits, -, _ and .), is {key:?}"),
        );
        return None;
    }
    Some(key)
}

/// A reference to a login, where one is written.
pub(super) fn login_secret(faults: &mut Faults, written: Option<raw::LoginSecretRef>) -> Option<SecretRef> {
    let raw::LoginSecretRef {
        name,
        username_key,
        password_key,
    } = written?;
    let name = secret_name(faults, "name", name);
    let username_key = secret_key(faults, "usernameKey", username_key);
    let password_key = secret_key(faults, "passwordKey", password_key);
    Some(SecretRef {
        name: name?,
        username_key: username_key?,
        password_key: password_key?,
    })
}

/// A reference to authorities, where one is written.
pub(super) fn key_secret(faults: &mut Faults, written: Option<raw::KeySecretRef>) -> Option<KeyRef> {
    let raw::KeySecretRef { name, key } = written?;
    let (name, key) = (secret_name(faults, "name", name), secret_key(faults, "key", key));
    Some(KeyRef {
        name: name?,
        key: key?,
    })
}

/// A reference to a certificate and its key, where one is written.
pub(super) fn pair_secret(faults: &mut Faults, written: Option<raw::TlsSecretRef>) -> Option<PairRef> {
    let raw::TlsSecretRef {
        name,
        cert_key,
        private_key,
    } = written?;
    let name = secret_name(faults, "name", name);
    let cert_key = secret_key(faults, "certKey", cert_key);
    let private_key = secret_key(faults, "privateKey", private_key);
    Some(PairRef {
        name: name?,
        cert_key: cert_key?,
        private_key: private_key?,
    })
}

/// TLS towards servers.
pub(super) fn server_tls(faults: &mut Faults, written: raw::ServerTls) -> ServerTls {
    let raw::ServerTls {
        mode,
        ca_secret_ref,
        client_cert_secret_ref,
    } = written;
    ServerTls {
        mode,
        ca_secret: faults.within("caSecretRef", |faults| key_secret(faults, ca_secret_ref)),
        client_cert_secret: faults.within("clientCertSecretRef", |faults| {
            pair_secret(faults, client_cert_secret_ref)
        }),
    }
}
