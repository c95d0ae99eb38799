//! Rules in the form of `pg_hba.conf`, one line each: [`parse`] gives a [`Rule`], [`Rule::matches`] says whether it is
//! for a client.
//!
//! How to use them: parse every line of [`crate::Auth::hba`] once (they are known to be good), ask them in order with
//! the [`Facts`] of a client, and take the method of the first that matches. No match is a refusal (28000, PostgreSQL's
//! text: `no pg_hba.conf entry for host ...`). What needs the world (groups, names of hosts, our own networks) is
//! asked through `Facts`; nothing here does I/O.
//!
//! As in PostgreSQL a quoted word is a name and no keyword, `all` does not match a replication connection, `/...` is
//! a regular expression found anywhere in the name, and later lines are not asked once one has matched.

mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use words::{Word, split};

/// The methods that are understood, for a fault.
pub const METHODS: &str = "trust, reject, scram-sha-256, md5, password, cert";

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// How the client comes.
    pub connection: ConnectionType,
    /// The databases it asks for; never empty.
    pub databases: Vec<DatabaseItem>,
    /// The users it names; never empty.
    pub users: Vec<UserItem>,
    /// Where it comes from; [`AddressItem::All`] for `local`.
    pub address: AddressItem,
    /// What is done with it.
    pub method: Method,
    /// `name=value` after the method: `clientcert` (`verify-ca`, `verify-full`) and `clientname` (`CN`, `DN`) only.
    pub options: BTreeMap<String, String>,
}

/// How a client comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionType {
    /// By a Unix socket.
    Local,
    /// By TCP, with or without encryption.
    Host,
    /// By TCP with TLS.
    HostSsl,
    /// By TCP without TLS.
    HostNoSsl,
    /// By TCP with GSSAPI encryption: never, the proxy has none.
    HostGssEnc,
    /// By TCP without GSSAPI encryption: always.
    HostNoGssEnc,
}

/// A database in a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum DatabaseItem {
    /// Every one, but no replication connection.
    All,
    /// The one named like the user.
    SameUser,
    /// The one named like a group the user is in (`samerole`, `samegroup`).
    SameRole,
    /// Physical replication connections.
    Replication,
    /// Those in whose name it is found.
    Regex(Pattern),
    /// This one.
    Name(String),
}

/// A user in a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum UserItem {
    /// Everybody.
    All,
    /// Members of this role, directly or not.
    Group(String),
    /// Those in whose name it is found.
    Regex(Pattern),
    /// This one.
    Name(String),
}

/// Where a client comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressItem {
    /// Anywhere.
    All,
    /// An address of this machine.
    SameHost,
    /// A network this machine is in.
    SameNet,
    /// A network or a single address.
    Net(IpNet),
    /// A host by name; with a dot in front every host of that domain.
    Host(String),
}

/// What is done with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// It is let in.
    Trust,
    /// It is turned away.
    Reject,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// md5; SCRAM where the verifier is one.
    Md5,
    /// The password as it is: TLS only.
    Password,
    /// A certificate for this user.
    Cert,
}

/// A regular expression of a rule, compiled.
#[derive(Clone, Debug)]
pub struct Pattern(regex::Regex);

impl Pattern {
    /// Whether it is found in `name`.
    pub fn found_in(&self, name: &str) -> bool {
        self.0.is_match(name)
    }

    /// Its text without the slash.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

/// What is known of a client when its rule is looked for.
pub struct Facts<'a> {
    /// Where it comes from; `None`: a Unix socket.
    pub address: Option<IpAddr>,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// The database it asks for.
    pub database: &'a str,
    /// The user it names.
    pub user: &'a str,
    /// Whether it asks for physical replication.
    pub replication: bool,
    /// Whether the user is a member of this role, itself included.
    pub member_of: &'a dyn Fn(&str) -> bool,
    /// Whether the address belongs to this host name (looked up and confirmed, as PostgreSQL does), or domain.
    pub comes_from: &'a dyn Fn(&str) -> bool,
    /// The networks of this machine, each with our own address in it.
    pub own_networks: &'a [IpNet],
}

impl Rule {
    /// Whether this rule is for that client.
    pub fn matches(&self, client: &Facts<'_>) -> bool {
        let connection = match (self.connection, client.address) {
            (ConnectionType::Local, address) => address.is_none(),
            (_, None) | (ConnectionType::HostGssEnc, _) => false,
            (ConnectionType::Host | ConnectionType::HostNoGssEnc, _) => true,
            (ConnectionType::HostSsl, _) => client.tls,
            (ConnectionType::HostNoSsl, _) => !client.tls,
        };
        connection
            && client
                .address
                .is_none_or(|address| self.address.matches(address.to_canonical(), client))
            && self.databases.iter().any(|item| item.matches(client))
            && self.users.iter().any(|item| item.matches(client))
    }
}

impl DatabaseItem {
    fn matches(&self, client: &Facts<'_>) -> bool {
        match self {
            Self::Replication => client.replication,
            _ if client.replication => false,
            Self::All => true,
            Self::SameUser => client.database == client.user,
            Self::SameRole => (client.member_of)(client.database),
            Self::Regex(pattern) => pattern.found_in(client.database),
            Self::Name(name) => name == client.database,
        }
    }
}

impl UserItem {
    fn matches(&self, client: &Facts<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Group(group) => (client.member_of)(group),
            Self::Regex(pattern) => pattern.found_in(client.user),
            Self::Name(name) => name == client.user,
        }
    }
}

impl AddressItem {
    fn matches(&self, address: IpAddr, client: &Facts<'_>) -> bool {
        match self {
            Self::All => true,
            Self::SameHost => client.own_networks.iter().any(|net| net.addr() == address),
            Self::SameNet => client.own_networks.iter().any(|net| net.contains(&address)),
            Self::Net(net) => net.contains(&address),
            Self::Host(name) => (client.comes_from)(name),
        }
    }
}

/// Reads one line. `None`: it is empty or a comment.
///
/// # Errors
/// A text for a person: what is wrong and what was expected.
pub fn parse(line: &str) -> Result<Option<Rule>, String> {
    let mut fields = split(line)?.into_iter();
    let Some(first) = fields.next() else {
        return Ok(None);
    };
    let connection = connection_type(&first)?;
    let databases = fields.next().ok_or("ends before the database")?;
    let databases = databases.iter().map(database).collect::<Result<_, _>>()?;
    let users = fields.next().ok_or("ends before the user")?;
    let users = users.iter().map(user).collect::<Result<_, _>>()?;
    let address = match connection {
        ConnectionType::Local => AddressItem::All,
        _ => {
            let field = single(fields.next().ok_or("ends before the address")?, "address")?;
            address(&field, &mut fields)?
        }
    };
    let method = method(&single(fields.next().ok_or("ends before the method")?, "method")?)?;
    if method == Method::Cert && connection != ConnectionType::HostSsl {
        return Err("method cert is for hostssl only".to_owned());
    }
    let mut options = BTreeMap::new();
    for field in fields {
        let (name, value) = option(&single(field, "option")?)?;
        options.insert(name, value);
    }
    Ok(Some(Rule {
        connection,
        databases,
        users,
        address,
        method,
        options,
    }))
}

fn single(field: Vec<Word>, what: &str) -> Result<Word, String> {
    match <[Word; 1]>::try_from(field) {
        Ok([word]) => Ok(word),
        Err(words) => Err(format!(
            "one {what} expected, a list of {} found at {:?}",
            words.len(),
            words[0].text
        )),
    }
}

fn connection_type(field: &[Word]) -> Result<ConnectionType, String> {
    Ok(match single(field.to_vec(), "connection type")?.text.as_str() {
        "local" => ConnectionType::Local,
        "host" => ConnectionType::Host,
        "hostssl" => ConnectionType::HostSsl,
        "hostnossl" => ConnectionType::HostNoSsl,
        "hostgssenc" => ConnectionType::HostGssEnc,
        "hostnogssenc" => ConnectionType::HostNoGssEnc,
        other => {
            return Err(format!(
                "expected local, host, hostssl, hostnossl, hostgssenc or hostnogssenc first, is {other:?}"
            ));
        }
    })
}

fn pattern(text: &str) -> Result<Pattern, String> {
    let compiled = regex::RegexBuilder::new(text).size_limit(1 << 20).build();
    compiled
        .map(Pattern)
        .map_err(|_| format!("/{text} is no regular expression"))
}

fn no_file(word: &Word) -> Result<(), String> {
    match word.text.strip_prefix('@') {
        Some(_) if !word.quoted => Err(format!(
            "{}: names in a file of their own are not supported",
            word.text
        )),
        _ => Ok(()),
    }
}

fn database(word: &Word) -> Result<DatabaseItem, String> {
    no_file(word)?;
    Ok(match (word.keyword(), word.text.strip_prefix('/')) {
        (Some("all"), _) => DatabaseItem::All,
        (Some("sameuser"), _) => DatabaseItem::SameUser,
        (Some("samerole" | "samegroup"), _) => DatabaseItem::SameRole,
        (Some("replication"), _) => DatabaseItem::Replication,
        (_, Some(text)) => DatabaseItem::Regex(pattern(text)?),
        _ => DatabaseItem::Name(word.text.clone()),
    })
}

fn user(word: &Word) -> Result<UserItem, String> {
    no_file(word)?;
    Ok(match (word.keyword(), word.text.strip_prefix('/')) {
        (Some("all"), _) => UserItem::All,
        (Some(text), _) if text.starts_with('+') => UserItem::Group(text[1..].to_owned()),
        (_, Some(text)) => UserItem::Regex(pattern(text)?),
        _ => UserItem::Name(word.text.clone()),
    })
}

fn address(word: &Word, fields: &mut impl Iterator<Item = Vec<Word>>) -> Result<AddressItem, String> {
    let text = word.text.as_str();
    match word.keyword() {
        Some("all") => return Ok(AddressItem::All),
        Some("samehost") => return Ok(AddressItem::SameHost),
        Some("samenet") => return Ok(AddressItem::SameNet),
        _ => {}
    }
    if text.contains('/') {
        let net = IpNet::from_str(text)
            .map_err(|_| format!("expected a network such as 10.0.0.0/8, is {text:?}"))?;
        return Ok(AddressItem::Net(canonical(net)));
    }
    let Ok(address) = IpAddr::from_str(text) else {
        let name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        // A word of digits and dots that is no address is a slip, not a host.
        let slip = text.chars().all(|c| c.is_ascii_digit() || c == '.');
        return if !text.is_empty() && text.len() <= 253 && text.chars().all(name) && !slip {
            Ok(AddressItem::Host(text.to_ascii_lowercase()))
        } else {
            Err(format!(
                "expected all, samehost, samenet, an address, a network or a host, is {text:?}"
            ))
        };
    };
    let mask = single(
        fields
            .next()
            .ok_or("ends after an address without /bits or a mask")?,
        "mask",
    )?;
    let bits = mask
        .text
        .parse()
        .ok()
        .and_then(|mask| prefix_bits(address, mask))
        .ok_or_else(|| {
            format!(
                "expected the mask of {address}, as 255.255.255.0, or write {address}/32, is {:?}",
                mask.text
            )
        })?;
    IpNet::new(address, bits)
        .map(|net| AddressItem::Net(canonical(net)))
        .map_err(|error| error.to_string())
}

/// Without the bits that the mask throws away.
fn canonical(net: IpNet) -> IpNet {
    net.trunc()
}

fn prefix_bits(address: IpAddr, mask: IpAddr) -> Option<u8> {
    let (ones, width, rest) = match (address, mask) {
        (IpAddr::V4(_), IpAddr::V4(mask)) => {
            (u32::from(mask).leading_ones(), 32, u32::from(mask).count_ones())
        }
        (IpAddr::V6(_), IpAddr::V6(mask)) => (
            u128::from(mask).leading_ones(),
            128,
            u128::from(mask).count_ones(),
        ),
        _ => return None,
    };
    debug_assert!(ones <= width);
    (ones == rest).then(|| u8::try_from(ones).ok()).flatten()
}

fn method(word: &Word) -> Result<Method, String> {
    Ok(match word.text.as_str() {
        "trust" => Method::Trust,
        "reject" => Method::Reject,
        "scram-sha-256" => Method::ScramSha256,
        "md5" => Method::Md5,
        "password" => Method::Password,
        "cert" => Method::Cert,
        other @ ("ident" | "peer" | "ldap" | "gss" | "pam" | "radius" | "sspi" | "bsd" | "oauth") => {
            return Err(format!(
                "method {other} is not supported, supported are {METHODS}"
            ));
        }
        other => return Err(format!("unknown method {other:?}, supported are {METHODS}")),
    })
}

fn option(word: &Word) -> Result<(String, String), String> {
    let (name, value) = word
        .text
        .split_once('=')
        .ok_or_else(|| format!("expected an option name=value, is {:?}", word.text))?;
    match (name, value) {
        ("clientcert", "verify-ca" | "verify-full") | ("clientname", "CN" | "DN") => {
            Ok((name.to_owned(), value.to_owned()))
        }
        ("clientcert", _) => Err(format!(
            "clientcert must be verify-ca or verify-full, is {value:?}"
        )),
        ("clientname", _) => Err(format!("clientname must be CN or DN, is {value:?}")),
        _ => Err(format!(
            "unknown option {name:?}, supported are clientcert, clientname"
        )),
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trust => "trust",
            Self::Reject => "reject",
            Self::ScramSha256 => "scram-sha-256",
            Self::Md5 => "md5",
            Self::Password => "password",
            Self::Cert => "cert",
        })
    }
}

/// The networks of the loopback interface: [`Facts::own_networks`] where nothing better is known.
pub fn loopback() -> [IpNet; 2] {
    [
        IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 8)),
        IpNet::V6(ipnet::Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    ]
}

#[cfg(test)]
mod tests;
