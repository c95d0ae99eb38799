//! search_path as the server reads it.

/// The schemas a name without one is looked up in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SearchPath {
    schemas: Vec<String>,
}

impl SearchPath {
    /// Reads the setting's value for a role; `None` where it cannot be read for sure.
    pub(crate) fn parse(setting: &str, role: &str) -> Option<Self> {
        let mut schemas = Vec::new();
        let mut rest = setting.trim_matches(blank);
        while !rest.is_empty() {
            let (name, after) = if let Some(inside) = rest.strip_prefix('"') {
                quoted(inside)?
            } else {
                plain(rest)
            };
            if name.is_empty() {
                return None;
            }
            schemas.push(if name == "$user" { role.to_owned() } else { name });
            rest = match after.trim_start_matches(blank) {
                "" => "",
                more => {
                    let more = more.strip_prefix(',')?.trim_start_matches(blank);
                    if more.is_empty() {
                        return None;
                    }
                    more
                }
            };
        }
        Some(Self { schemas })
    }

    /// Whether `schema` is searched; pg_catalog always is.
    pub(crate) fn has(&self, schema: &str) -> bool {
        schema == "pg_catalog" || self.schemas.iter().any(|listed| listed == schema)
    }
}

fn blank(character: char) -> bool {
    character.is_ascii_whitespace() || character == '\x0b'
}

fn quoted(inside: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = inside;
    loop {
        let end = rest.find('"')?;
        name.push_str(rest.get(..end)?);
        rest = rest.get(end + 1..)?;
        match rest.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, rest)),
        }
    }
}

fn plain(rest: &str) -> (String, &str) {
    let end = rest
        .find(|character| character == ',' || blank(character))
        .unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    (name.to_ascii_lowercase(), after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_path_is_read_as_the_server_reads_it() {
        let path = |setting: &str| SearchPath::parse(setting, "ann").map(|path| path.schemas.join("|"));
        for (setting, read) in [
            ("\"$user\", public", Some("ann|public")),
            ("$user,public", Some("ann|public")),
            ("", Some("")),
            ("\"a\"\"b, c\" , D", Some("a\"b, c|d")),
            ("a b", None),
            ("a,,b", None),
            ("a,", None),
            ("\"open", None),
        ] {
            assert_eq!(path(setting).as_deref(), read, "{setting}");
        }
    }
}
