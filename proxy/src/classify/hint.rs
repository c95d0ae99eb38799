//! Hints in the comments before a statement: `/*s c:60 p:1000 t:t1,t2*/` and the habits of other poolers.
//!
//! A comment is a hint only if every word of it is one; anything else (ORM tags, pg_hint_plan) passes untouched and unread.

use std::rc::Rc;

/// What the leading comments of a text ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hints {
    /// `s`: a replica will do.
    pub replica: bool,
    /// `NO LOAD BALANCE`, `primary`, `master`: the master and nothing else; wins over `replica`.
    pub master: bool,
    /// `c:n`: keep the result for so many seconds.
    pub cache_seconds: Option<u32>,
    /// `force`: put the result in the cache though a fresh one is there.
    pub force: bool,
    /// `p` or `p:n`: cache pages of the result.
    pub page: Option<Page>,
    /// `t:a,b`: the tables the result depends on, or, without `c`, whose entries are to go. As written.
    pub tables: Option<Rc<[Box<str>]>>,
}

/// How much of a result the page cache reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// All rows: `p`, `p:0`, `p:-1`.
    All,
    /// So many rows.
    Rows(u32),
}

/// More tables than this in one hint are not one of ours.
const TABLES_MAX: usize = 64;
/// Longer comments are not read.
const HINT_BYTES_MAX: usize = 4096;

impl Hints {
    /// Reads one comment, with its `/*` and `*/`, on top of what earlier ones asked for.
    pub(crate) fn read(&mut self, comment: &[u8]) {
        let Some(inner) = comment
            .strip_prefix(b"/*")
            .and_then(|rest| rest.strip_suffix(b"*/"))
        else {
            return;
        };
        if inner.len() > HINT_BYTES_MAX {
            return;
        }
        let Ok(text) = std::str::from_utf8(inner) else {
            return;
        };
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        if let [no, load, balance] = words.as_slice()
            && no.eq_ignore_ascii_case("no")
            && load.eq_ignore_ascii_case("load")
            && balance.eq_ignore_ascii_case("balance")
        {
            self.master = true;
            return;
        }
        let mut read = self.clone();
        if !words.is_empty() && words.iter().all(|word| read.word(word).is_some()) {
            *self = read;
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        if let Some(seconds) = word.strip_prefix("c:") {
            self.cache_seconds = Some(seconds.parse().ok()?);
        } else if let Some(rows) = word.strip_prefix("p:") {
            self.page = Some(page(rows)?);
        } else if let Some(tables) = word.strip_prefix("t:") {
            self.add_tables(tables)?;
        } else {
            match word {
                "s" => self.replica = true,
                "p" => self.page = Some(Page::All),
                "force" => self.force = true,
                _ if word.eq_ignore_ascii_case("primary") || word.eq_ignore_ascii_case("master") => {
                    self.master = true
                }
                _ => return None,
            }
        }
        Some(())
    }

    fn add_tables(&mut self, list: &str) -> Option<()> {
        let mut tables: Vec<Box<str>> = self.tables.as_deref().map(<[_]>::to_vec).unwrap_or_default();
        for table in list.split(',').filter(|table| !table.is_empty()) {
            tables.push(table.into());
        }
        if tables.is_empty() || tables.len() > TABLES_MAX {
            return None;
        }
        self.tables = Some(tables.into());
        Some(())
    }
}

fn page(rows: &str) -> Option<Page> {
    let rows: i64 = rows.parse().ok()?;
    if rows <= 0 {
        return Some(Page::All);
    }
    u32::try_from(rows).ok().map(Page::Rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(comment: &str) -> Hints {
        let mut hints = Hints::default();
        hints.read(comment.as_bytes());
        hints
    }

    #[test]
    fn all_hints_of_a_comment_are_read_together() {
        let hints = read("/*s c:60 p:1000 t:t1,t2*/");
        assert!(hints.replica && !hints.master);
        assert_eq!(hints.cache_seconds, Some(60));
        assert_eq!(hints.page, Some(Page::Rows(1000)));
        assert_eq!(
            hints.tables.as_deref(),
            Some(["t1".into(), "t2".into()].as_slice())
        );
    }

    #[test]
    fn aliases_of_other_poolers_mean_the_master() {
        for comment in [
            "/*NO LOAD BALANCE*/",
            "/* no load balance */",
            "/*primary*/",
            "/*master*/",
            "/* MASTER */",
        ] {
            assert!(read(comment).master, "{comment}");
        }
    }

    #[test]
    fn unknown_comments_are_not_hints() {
        for comment in [
            "/* s and more */",
            "/*+ SeqScan(t) */",
            "/*application='x',route='/a'*/",
            "/**/",
            "/* */",
            "-- s",
            "/*c:x*/",
            "/*c:-1*/",
            "/*t:*/",
            "/*p:x*/",
            "/*S*/",
        ] {
            assert_eq!(read(comment), Hints::default(), "{comment}");
        }
    }

    #[test]
    fn a_page_of_no_rows_means_all_rows() {
        assert_eq!(read("/*p*/").page, Some(Page::All));
        assert_eq!(read("/*p:0*/").page, Some(Page::All));
        assert_eq!(read("/*p:-5*/").page, Some(Page::All));
    }
}
