//! A few words of shell: commands separated by `;` and `&&`, quotes, variables, and where output goes.

use std::collections::BTreeMap;

/// Where a command's output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Stdout,
    Stderr,
    File { path: String, append: bool },
}

/// One command of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Simple {
    pub(super) words: Vec<String>,
    pub(super) target: Target,
    /// Whether it runs only after a success.
    pub(super) only_after_success: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Operator(&'static str),
}

const OPERATORS: [&str; 5] = [">&2", ">>", ">", "&&", ";"];

/// Takes a line apart.
pub(super) fn parse(line: &str, env: &BTreeMap<String, String>) -> Vec<Simple> {
    let mut commands = Vec::new();
    let mut words = Vec::new();
    let mut target = Target::Stdout;
    let mut only_after_success = false;
    let mut tokens = tokens(line, env).into_iter();
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(word) => words.push(word),
            Token::Operator(">&2") => target = Target::Stderr,
            Token::Operator(operator @ (">" | ">>")) => {
                if let Some(Token::Word(path)) = tokens.next() {
                    target = Target::File { path, append: operator == ">>" };
                }
            }
            Token::Operator(operator) => {
                let target = std::mem::replace(&mut target, Target::Stdout);
                commands.push(Simple { words: std::mem::take(&mut words), target, only_after_success });
                only_after_success = operator == "&&";
            }
        }
    }
    commands.push(Simple { words, target, only_after_success });
    commands.retain(|command| !command.words.is_empty());
    commands
}

fn tokens(line: &str, env: &BTreeMap<String, String>) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line;
    while let Some(character) = rest.chars().next() {
        if let Some(operator) = OPERATORS.into_iter().find(|operator| rest.starts_with(operator)) {
            tokens.extend(word.take().map(Token::Word));
            tokens.push(Token::Operator(operator));
            rest = &rest[operator.len()..];
            continue;
        }
        rest = &rest[character.len_utf8()..];
        match character {
            ' ' | '\t' | '\n' => tokens.extend(word.take().map(Token::Word)),
            '\'' => {
                let end = rest.find('\'').unwrap_or(rest.len());
                word.get_or_insert_default().push_str(&rest[..end]);
                rest = rest.get(end + 1..).unwrap_or_default();
            }
            '"' => {
                let end = rest.find('"').unwrap_or(rest.len());
                let expanded = expand(&rest[..end], env);
                word.get_or_insert_default().push_str(&expanded);
                rest = rest.get(end + 1..).unwrap_or_default();
            }
            '$' => {
                let end = rest.find([' ', ';', '"', '\'', '>', '&']).unwrap_or(rest.len());
                let expanded = expand(&format!("${}", &rest[..end]), env);
                word.get_or_insert_default().push_str(&expanded);
                rest = &rest[end..];
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    tokens.extend(word.map(Token::Word));
    tokens
}

/// Puts variables in; `$$` stays, since a process knows its own number.
fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut pieces = text.split('$');
    let mut expanded = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|character: char| !(character.is_ascii_alphanumeric() || character == '_')).unwrap_or(piece.len());
        let (name, rest) = piece.split_at(end);
        match env.get(name) {
            _ if name.is_empty() => expanded.push('$'),
            Some(value) => expanded.push_str(value),
            None => {}
        }
        expanded.push_str(rest);
    }
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let env = BTreeMap::from([("NAME".to_owned(), "a  b".to_owned())]);
        let commands = parse("echo 'x;y' >&2; printf \"$NAME|\" && cat f > g; kill -9 $$", &env);
        let words: Vec<Vec<&str>> = commands.iter().map(|command| command.words.iter().map(String::as_str).collect()).collect();
        assert_eq!(words, [vec!["echo", "x;y"], vec!["printf", "a  b|"], vec!["cat", "f"], vec!["kill", "-9", "$$"]]);
        assert_eq!(commands[0].target, Target::Stderr);
        assert!(commands[2].only_after_success);
        assert_eq!(commands[2].target, Target::File { path: "g".to_owned(), append: false });
    }
}
