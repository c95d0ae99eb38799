//! From rows to verdicts about relations.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{CATALOG_ROWS_MAX, Catalog, Effect, FunctionFlags, Relation, Type, builtin_effect};

/// A relation while it is being judged.
#[derive(Debug)]
struct Candidate {
    schema: Box<str>,
    name: Box<str>,
    readable: bool,
    writable: bool,
    serial: bool,
}

#[derive(Debug, Clone, Copy)]
struct Edge {
    from: u32,
    to: u32,
    kind: u8,
}

#[derive(Default)]
struct Loader {
    candidates: HashMap<u32, Candidate>,
    edges: Vec<Edge>,
    /// Owners of expressions that call something to beware of, and where.
    suspects: Vec<(u32, u8)>,
    /// Owners of expressions that cast to a domain, and where.
    to_domains: Vec<(u32, u8)>,
    serials: Vec<u32>,
    functions: HashMap<Box<str>, FunctionFlags>,
    operators: std::collections::HashSet<Box<str>>,
    types: HashMap<Box<str>, Vec<Type>>,
    casts_run_code: bool,
    domains_run_code: bool,
    /// Default isolation levels: how many, and how many of them are not *read committed*.
    levels: (u32, u32),
}

impl Catalog {
    /// Makes a snapshot of the rows of [`super::CATALOG_QUERY`]. `None`: too many, or not what that query answers.
    pub fn from_rows<'a>(rows: impl IntoIterator<Item = [Option<&'a [u8]>; 4]>) -> Option<Self> {
        static GENERATIONS: AtomicU64 = AtomicU64::new(1);
        let mut loader = Loader::default();
        for (count, row) in rows.into_iter().enumerate() {
            if count >= CATALOG_ROWS_MAX {
                return None;
            }
            loader.row(row)?;
        }
        let relations = loader.judged()?;
        Some(Self {
            generation: GENERATIONS.fetch_add(1, Ordering::Relaxed),
            relations,
            functions: loader.functions,
            operators: loader.operators,
            types: loader.types,
            casts_run_code: loader.casts_run_code,
            domains_run_code: loader.domains_run_code,
            reads_committed: matches!(loader.levels, (1.., 0)),
        })
    }
}

impl Loader {
    /// Takes one row in; `None`: it is none of ours.
    fn row(&mut self, row: [Option<&[u8]>; 4]) -> Option<()> {
        let [kind, a, b, c] = row.map(|field| field.unwrap_or_default());
        // A name that is not UTF-8 cannot be in a text that the grammar reads either.
        let (Ok(a), Ok(b), Ok(c)) = (
            std::str::from_utf8(a),
            std::str::from_utf8(b),
            std::str::from_utf8(c),
        ) else {
            return Some(());
        };
        match kind {
            b"r" => self.relation(a, b, c),
            b"e" => {
                let kind = *c.as_bytes().first()?;
                self.edges.push(Edge {
                    from: a.parse().ok()?,
                    to: b.parse().ok()?,
                    kind,
                });
                Some(())
            }
            b"x" => self.call(a.parse().ok()?, b, c.as_bytes()),
            b"l" => {
                let owner = (a.parse().ok()?, *c.as_bytes().first()?);
                if b == "domain" {
                    self.to_domains.push(owner)
                } else {
                    self.suspects.push(owner)
                }
                Some(())
            }
            b"f" => {
                self.function(a, b, c);
                Some(())
            }
            b"o" => {
                self.operators.insert(a.into());
                Some(())
            }
            b"t" => {
                let (_, kind) = c.split_once(' ')?;
                let plain = !matches!(kind, "d" | "c");
                self.types.entry(b.into()).or_default().push(Type {
                    schema: a.into(),
                    plain,
                });
                Some(())
            }
            b"c" => {
                self.casts_run_code = true;
                Some(())
            }
            b"i" => {
                self.levels.0 += 1;
                // PostgreSQL treats the lower level as this one.
                self.levels.1 += u32::from(!matches!(a, "read committed" | "read uncommitted"));
                Some(())
            }
            _ => None,
        }
    }

    fn relation(&mut self, schema: &str, name: &str, about: &str) -> Option<()> {
        let (oid, flags) = about.split_once(' ')?;
        let (kind, flags) = (*flags.as_bytes().first()?, flags.get(1..)?);
        let has = |flag: char| flags.contains(flag);
        self.candidates.insert(
            oid.parse().ok()?,
            Candidate {
                schema: schema.into(),
                name: name.into(),
                readable: !has('R') && kind != b'f',
                writable: matches!(kind, b'r' | b'p')
                    && !has('R')
                    && !has('U')
                    && !has('T')
                    && schema != "pg_catalog",
                serial: has('N'),
            },
        );
        Some(())
    }

    /// `about`: place (`v`iew, `d`efault, `c`heck, `i`ndex, `t`ype), how it is called (`f`unction, `o`perator or cast), whose
    /// (`B`uilt-in, `U`ser), whether only a superuser can have made it (`t`, `q`), volatility.
    fn call(&mut self, owner: u32, name: &str, about: &[u8]) -> Option<()> {
        let [place, via, whose, language, volatility] = *about else {
            return None;
        };
        let volatile = volatility == b'v';
        let harmless = match whose {
            b'B' => builtin_effect(name, volatile) == Effect::None,
            _ => via == b'o' && language == b't' && !volatile,
        };
        if harmless {
            return Some(());
        }
        if whose == b'B' && place == b'd' && name == "nextval" {
            self.serials.push(owner);
        } else if place == b't' {
            self.domains_run_code = true;
        } else {
            self.suspects.push((owner, place));
        }
        Some(())
    }

    fn function(&mut self, name: &str, whose: &str, flags: &str) {
        let known = self.functions.entry(name.into()).or_default();
        if whose == "B" {
            known.builtin = true;
            known.volatile = flags.contains('v');
        } else {
            known.user_code = flags.contains('X');
            known.user_of_one = flags.contains('1');
            known.user_in_catalog = flags.contains('P');
        }
    }

    /// Spreads what is bad about one relation to those that reach it.
    fn judged(&mut self) -> Option<HashMap<Box<str>, Vec<Relation>>> {
        let mut suspects = std::mem::take(&mut self.suspects);
        if self.domains_run_code {
            suspects.append(&mut self.to_domains);
        }
        for (owner, place) in suspects {
            if let Some(relation) = self.candidates.get_mut(&owner) {
                relation.writable = false;
                // The planner computes what is constant in index expressions and checks, whatever the query wants.
                relation.readable &= place == b'd';
            }
        }
        for owner in &self.serials {
            if let Some(relation) = self.candidates.get_mut(owner) {
                relation.serial = true;
            }
        }
        // Each round follows every edge by one step: more rounds than any sane nesting are a reason to give up.
        let settled = (0..100).any(|_| !self.spread());
        if !settled {
            return None;
        }
        let mut relations: HashMap<Box<str>, Vec<Relation>> = HashMap::new();
        for (_, of) in self.candidates.drain() {
            let relation = Relation {
                schema: of.schema,
                readable: of.readable,
                writable: of.writable,
                serial: of.serial,
            };
            relations.entry(of.name).or_default().push(relation);
        }
        Some(relations)
    }

    /// One round; whether anything changed.
    fn spread(&mut self) -> bool {
        let mut changed = false;
        for Edge { from, to, kind } in &self.edges {
            if from == to {
                continue;
            }
            let reached = self.candidates.get(to);
            let (readable, writable, serial) =
                reached.map_or((false, false, false), |of| (of.readable, of.writable, of.serial));
            let Some(of) = self.candidates.get_mut(from) else {
                continue;
            };
            let before = (of.readable, of.writable, of.serial);
            match kind {
                b'v' => of.readable &= readable,
                b'i' => {
                    of.readable &= readable;
                    of.writable &= writable;
                    of.serial |= serial;
                }
                _ => of.writable &= writable,
            }
            changed |= before != (of.readable, of.writable, of.serial);
        }
        changed
    }
}
