//! Rust source as text: enough of a lexer to tell code from comments and literals.

use std::ops::Range;

/// The source with the inside of comments and of string and character literals replaced by spaces. Length,
/// offsets and line breaks stay as they are, so a place in the result is the same place in the source.
pub(crate) fn code_only(source: &str) -> String {
    let mut scanner = Scanner {
        source: source.as_bytes(),
        code: source.as_bytes().to_vec(),
        at: 0,
    };
    while scanner.at < scanner.source.len() {
        scanner.step();
    }
    // Whole literals and comments are blanked, so no character is cut in two.
    String::from_utf8_lossy(&scanner.code).into_owned()
}

struct Scanner<'a> {
    source: &'a [u8],
    code: Vec<u8>,
    at: usize,
}

impl Scanner<'_> {
    fn step(&mut self) {
        let rest = &self.source[self.at..];
        match rest[0] {
            b'/' if rest.starts_with(b"//") => self.blank_to(self.end_of_line()),
            b'/' if rest.starts_with(b"/*") => self.blank_to(self.end_of_block_comment()),
            b'"' => self.blank_to(self.end_of_quoted(b'"')),
            b'\'' if self.is_char_literal() => self.blank_to(self.end_of_quoted(b'\'')),
            b'r' | b'b' | b'c' => match self.end_of_raw_string() {
                Some(end) => self.blank_to(end),
                None => self.skip_word(),
            },
            byte if is_word(byte) => self.skip_word(),
            _ => self.at += 1,
        }
    }

    /// A word is passed whole, so that the `r` of `for"x"` never looks like a raw string's prefix.
    fn skip_word(&mut self) {
        while self.at < self.source.len() && is_word(self.source[self.at]) {
            self.at += 1;
        }
    }

    fn blank_to(&mut self, end: usize) {
        for byte in &mut self.code[self.at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        self.at = end;
    }

    fn end_of_line(&self) -> usize {
        let rest = &self.source[self.at..];
        self.at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
    }

    fn end_of_block_comment(&self) -> usize {
        let mut depth = 0_usize;
        let mut at = self.at;
        while at < self.source.len() {
            if self.source[at..].starts_with(b"/*") {
                depth += 1;
                at += 2;
            } else if self.source[at..].starts_with(b"*/") {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            } else {
                at += 1;
            }
        }
        self.source.len()
    }

    fn end_of_quoted(&self, quote: u8) -> usize {
        let mut at = self.at + 1;
        while at < self.source.len() {
            match self.source[at] {
                b'\\' => at += 2,
                byte if byte == quote => return at + 1,
                _ => at += 1,
            }
        }
        self.source.len()
    }

    /// `'a'` and `'\n'` are literals, `'a` and `'static` are lifetimes.
    fn is_char_literal(&self) -> bool {
        let rest =
            String::from_utf8_lossy(&self.source[self.at..self.source.len().min(self.at + 8)])
                .into_owned();
        let mut chars = rest.chars().skip(1);
        match chars.next() {
            Some('\\') => true,
            Some(_) => chars.next() == Some('\''),
            None => false,
        }
    }

    /// The end of `r"..."`, `r#"..."#`, `br".."`, `cr".."`, or of `b".."`, `c".."`, `b'.'` when one starts here.
    fn end_of_raw_string(&self) -> Option<usize> {
        let rest = &self.source[self.at..];
        let prefix = rest
            .iter()
            .take(2)
            .take_while(|&&b| matches!(b, b'r' | b'b' | b'c'))
            .count();
        let raw = rest[..prefix].contains(&b'r');
        let hashes = rest[prefix..].iter().take_while(|&&b| b == b'#').count();
        let quote = *rest.get(prefix + hashes)?;
        if !raw {
            let plain = hashes == 0 && (quote == b'"' || quote == b'\'');
            return plain.then(|| {
                let inner = Scanner {
                    source: self.source,
                    code: Vec::new(),
                    at: self.at + prefix,
                };
                inner.end_of_quoted(quote)
            });
        }
        if quote != b'"' {
            return None;
        }
        let mut close = vec![b'"'];
        close.resize(hashes + 1, b'#');
        let body = self.at + prefix + hashes + 1;
        let end = self.source[body..]
            .windows(close.len())
            .position(|window| window == close)
            .map_or(self.source.len(), |found| body + found + close.len());
        Some(end)
    }
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric() || byte >= 0x80
}

/// The places where `word` stands alone: not part of a longer identifier.
pub(crate) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).filter_map(move |(at, _)| {
        let before = at.checked_sub(1).map(|i| text.as_bytes()[i]);
        let after = text.as_bytes().get(at + word.len()).copied();
        let alone = !before.is_some_and(is_word) && !after.is_some_and(is_word);
        alone.then_some(at)
    })
}

/// The line of an offset, counted from 1.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset]
        .iter()
        .filter(|&&b| b == b'\n')
        .count()
}

/// Where the block that `open` starts ends: the offset just after the matching bracket. `code` is masked code.
pub(crate) fn matching(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// The offset of the `{` that starts the body of the item at `from`, or none when it ends in `;`.
pub(crate) fn body_of(code: &str, from: usize) -> Option<usize> {
    let mut at = from;
    while at < code.len() {
        match code.as_bytes()[at] {
            b'{' => return Some(at),
            b';' => return None,
            b'(' | b'[' => at = matching(code, at),
            _ => at += 1,
        }
    }
    None
}

/// The parts of masked code that only tests see: each item under `#[cfg(test)]`.
pub(crate) fn test_parts(code: &str) -> Vec<Range<usize>> {
    const MARK: &str = "#[cfg(test)]";
    if code.contains("#![cfg(test)]") {
        return std::iter::once(0..code.len()).collect();
    }
    let mut parts: Vec<Range<usize>> = Vec::new();
    for (at, _) in code.match_indices(MARK) {
        if parts.last().is_some_and(|last| last.contains(&at)) {
            continue;
        }
        let after = at + MARK.len();
        let end = match body_of(code, after) {
            Some(open) => matching(code, open),
            None => code[after..]
                .find(';')
                .map_or(code.len(), |found| after + found + 1),
        };
        parts.push(at..end);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_offsets_stay() {
        let source = "let a = \"unsafe \\\" {\"; // unsafe {\nlet b = r#\"unsafe \" {\"#; /* a /* unsafe */ { */ let c = b'{';\n";
        let code = code_only(source);
        assert_eq!(code.len(), source.len());
        assert_eq!(code.lines().count(), source.lines().count());
        assert!(!code.contains("unsafe"), "{code}");
        assert!(!code.contains('{'), "{code}");
        assert!(code.contains("let c ="), "{code}");
    }

    #[test]
    fn lifetimes_are_not_characters() {
        let code = code_only("fn f<'a>(x: &'a str) -> char { '\\'' ; 'é' } unsafe");
        assert!(code.contains("<'a>(x: &'a str)"), "{code}");
        assert!(!code.contains('é'), "{code}");
        assert!(code.ends_with("unsafe"), "{code}");
    }

    #[test]
    fn raw_identifiers_and_words_that_end_in_a_prefix_are_code() {
        let code = code_only("let r#type = for_r; br\"hidden\"; expr!(\"hidden\"); after");
        assert!(code.contains("r#type"), "{code}");
        assert!(!code.contains("hidden"), "{code}");
        assert!(code.ends_with("after"), "{code}");
    }

    #[test]
    fn words_stand_alone() {
        let found: Vec<usize> = words("unsafe_code unsafe munsafe", "unsafe").collect();
        assert_eq!(found, [12]);
    }

    #[test]
    fn test_parts_are_whole_items() {
        let code = "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests { fn b() { [1]; } }\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}";
        let parts = test_parts(code);
        assert_eq!(parts.len(), 2);
        assert!(code[parts[0].clone()].ends_with("} }"));
        assert!(code[parts[1].clone()].ends_with("mod more;"));
    }
}
