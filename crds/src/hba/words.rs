//! The words of a line: fields by white space, lists by commas, quotes and comments as in the server's `hba.c`.

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Without its quotes.
    pub(super) text: String,
    /// Whether it began with a quote: then it is a name and no keyword.
    pub(super) quoted: bool,
}

impl Word {
    /// Its text, unless it was quoted.
    pub(super) fn keyword(&self) -> Option<&str> {
        (!self.quoted).then_some(self.text.as_str())
    }
}

/// No line may be longer.
const LINE_MAX: usize = 8192;

/// The fields of a line, each a list of at least one word.
pub(super) fn split(line: &str) -> Result<Vec<Vec<Word>>, String> {
    if line.len() > LINE_MAX {
        return Err(format!("is longer than {LINE_MAX} bytes"));
    }
    if line.contains(['\n', '\r', '\0']) {
        return Err("one rule a line expected, is several lines".to_owned());
    }
    let mut fields: Vec<Vec<Word>> = Vec::new();
    let mut rest = line;
    let mut goes_on = false;
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        if rest.is_empty() || rest.starts_with('#') {
            return Ok(fields);
        }
        let (word, tail) = next(rest)?;
        match fields.last_mut() {
            Some(field) if goes_on => field.push(word),
            _ => fields.push(vec![word]),
        }
        (goes_on, rest) = match tail.strip_prefix(',') {
            Some(tail) => (true, tail),
            None => (false, tail),
        };
    }
}

/// The first word of `text`, which begins with one, and what follows.
fn next(text: &str) -> Result<(Word, &str), String> {
    let mut word = Word {
        text: String::new(),
        quoted: text.starts_with('"'),
    };
    let mut within = false;
    let mut was_quote = false;
    for (at, c) in text.char_indices() {
        match c {
            ' ' | '\t' | ',' | '#' if !within => return finish(word, &text[at..]),
            '"' => {
                // A doubled quote inside quotes is one quote.
                if !within && was_quote {
                    word.text.push('"');
                }
                within = !within;
            }
            _ => word.text.push(c),
        }
        was_quote = c == '"' && !within;
    }
    if within {
        return Err("a quote is not closed".to_owned());
    }
    finish(word, "")
}

fn finish(word: Word, rest: &str) -> Result<(Word, &str), String> {
    if word.text.is_empty() && !word.quoted {
        return Err("a word is missing beside a comma".to_owned());
    }
    Ok((word, rest))
}
