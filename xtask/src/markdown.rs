//! Markdown as far as the tasks need it: fenced blocks, links, code spans, shell commands.

/// A fenced block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// What follows the fence, such as `rust,no_run`.
    pub(crate) info: String,
    /// The text between the fences.
    pub(crate) text: String,
    /// Line of the opening fence, counted from 1.
    pub(crate) line: usize,
    /// The text of the comment `<!-- xtask: ... -->` on the line before the fence.
    pub(crate) mark: Option<String>,
}

impl Block {
    /// The language: the first word of the fence's info string.
    pub(crate) fn language(&self) -> &str {
        self.info
            .split([',', ' ', '{'])
            .next()
            .unwrap_or_default()
            .trim()
    }

    /// The shell commands: the lines after `$ ` in a `console` block, every line in a `sh` or `bash` block; a
    /// line that ends in a backslash goes on in the next.
    pub(crate) fn commands(&self) -> Vec<String> {
        let prompt = match self.language() {
            "console" => "$ ",
            "sh" | "bash" => "",
            _ => return Vec::new(),
        };
        let mut commands: Vec<String> = Vec::new();
        let mut open = false;
        for line in self.text.lines() {
            let text = if open {
                Some(line)
            } else {
                line.strip_prefix(prompt)
            };
            let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else {
                continue;
            };
            let (text, goes_on) = match text.strip_suffix('\\') {
                Some(text) => (text.trim_end(), true),
                None => (text, false),
            };
            match commands.last_mut().filter(|_| open) {
                Some(last) => *last = format!("{last} {text}"),
                None => commands.push(text.to_owned()),
            }
            open = goes_on;
        }
        commands
    }
}

/// The fenced blocks and the prose between them (blocks replaced by empty lines, so that line numbers stay).
pub(crate) fn split(text: &str) -> (Vec<Block>, String) {
    let mut blocks = Vec::new();
    let mut prose = String::new();
    let mut open: Option<(Block, String)> = None;
    let mut before = "";
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let fence = fence_of(trimmed);
        match &mut open {
            Some((_, end)) if fence.is_some_and(|f| f.starts_with(end.as_str())) => {
                blocks.extend(open.take().map(|(block, _)| block));
                prose.push('\n');
            }
            Some((block, _)) => {
                block.text.push_str(line);
                block.text.push('\n');
                prose.push('\n');
            }
            None => match fence {
                Some(fence) => {
                    let block = Block {
                        info: trimmed[fence.len()..].trim().to_owned(),
                        text: String::new(),
                        line: index + 1,
                        mark: mark_of(before),
                    };
                    open = Some((block, fence.to_owned()));
                    prose.push('\n');
                }
                None => {
                    prose.push_str(line);
                    prose.push('\n');
                }
            },
        }
        before = line;
    }
    blocks.extend(open.map(|(block, _)| block));
    (blocks, prose)
}

fn fence_of(line: &str) -> Option<&str> {
    ['`', '~'].into_iter().find_map(|mark| {
        let count = line.chars().take_while(|&c| c == mark).count();
        (count >= 3).then(|| &line[..count])
    })
}

fn mark_of(line: &str) -> Option<String> {
    let inside = line.trim().strip_prefix("<!--")?.strip_suffix("-->")?;
    Some(inside.trim().strip_prefix("xtask:")?.trim().to_owned())
}

/// The code spans of prose (text between single backticks), with their lines.
pub(crate) fn code_spans(prose: &str) -> Vec<(usize, String)> {
    let mut spans = Vec::new();
    for (index, line) in prose.lines().enumerate() {
        let spans_of_line = line.split('`').skip(1).step_by(2);
        spans.extend(spans_of_line.map(|span| (index + 1, span.to_owned())));
    }
    spans
}

/// The link targets of prose, `[text](target)` and `[name]: target`, with their lines.
pub(crate) fn links(prose: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (index, line) in prose.lines().enumerate() {
        let outside: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
        for (at, _) in outside.match_indices("](") {
            let rest = &outside[at + 2..];
            let end = rest.find([')', ' ']).unwrap_or(rest.len());
            links.push((index + 1, rest[..end].to_owned()));
        }
        if let Some((_, target)) = outside
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "))
        {
            let target = target.split_whitespace().next().unwrap_or_default();
            links.push((index + 1, target.to_owned()));
        }
    }
    links
}

/// The simple commands of a shell line as words: quotes removed, split at pipes and lists, without redirections,
/// comments and leading assignments.
pub(crate) fn shell_words(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    let mut quote: Option<char> = None;
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some('\''), _) => word.get_or_insert_default().push(c),
            (_, '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | '&' | ';') => {
                end_word(&mut commands, &mut word);
                commands.push(Vec::new());
            }
            (None, '>' | '<') => {
                // The file of a redirection is no argument.
                end_word(&mut commands, &mut word);
                while chars.next_if(|&c| c == '>' || c == ' ').is_some() {}
                while chars.next_if(|&c| !c.is_whitespace()).is_some() {}
            }
            (None, c) if c.is_whitespace() => end_word(&mut commands, &mut word),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    end_word(&mut commands, &mut word);
    for command in &mut commands {
        let assignments = command.iter().take_while(|w| is_assignment(w)).count();
        command.drain(..assignments);
    }
    commands.retain(|command| !command.is_empty());
    commands
}

fn end_word(commands: &mut [Vec<String>], word: &mut Option<String>) {
    if let (Some(word), Some(command)) = (word.take(), commands.last_mut()) {
        command.push(word);
    }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c == '_' || c.is_ascii_uppercase())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_carry_language_line_and_mark() {
        let text = "a\n<!-- xtask: run -->\n```console\n$ strait dev \\\n    --demo\nout\n$ ls\n```\nb\n````text\n```\n````\n";
        let (blocks, prose) = split(text);
        assert_eq!(blocks.len(), 2);
        assert_eq!(blocks[0].language(), "console");
        assert_eq!(blocks[0].line, 3);
        assert_eq!(blocks[0].mark.as_deref(), Some("run"));
        assert_eq!(blocks[0].commands(), ["strait dev --demo", "ls"]);
        assert_eq!(blocks[1].text, "```\n");
        assert_eq!(prose.lines().count(), text.lines().count());
        assert!(prose.contains('b') && !prose.contains("strait"));
    }

    #[test]
    fn links_in_code_are_not_links() {
        let (_, prose) =
            split("[a](x.md) `[b](y.md)` ![c](z.svg \"t\")\n[d]: w.md\n```\n[e](v.md)\n```\n");
        let targets: Vec<String> = links(&prose).into_iter().map(|(_, to)| to).collect();
        assert_eq!(targets, ["x.md", "z.svg", "w.md"]);
        assert_eq!(links(&prose)[2].0, 2);
    }

    #[test]
    fn shell_lines_fall_into_commands() {
        let found = shell_words(
            "A=1 echo '{\"a\": 1}' | strait produce \"my orders\" -k a\\ b > out.txt # note",
        );
        assert_eq!(
            found,
            vec![
                vec!["echo", "{\"a\": 1}"],
                vec!["strait", "produce", "my orders", "-k", "a b"]
            ]
        );
        assert_eq!(shell_words("a && b; c").len(), 3);
        assert_eq!(shell_words("# nothing").len(), 0);
    }
}
