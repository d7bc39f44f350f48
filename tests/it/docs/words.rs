//! The project's text avoids the words that CONTRIBUTING.md bans: in Markdown, comments, rustdoc
//! and strings.

use std::{fs, path::Path};

use proc_macro2::{Group, TokenStream, TokenTree};

use super::{files, root};

/// Each of these phrases is banned, in any case.
const BANNED: &[&str] = &[
    "answer",
    "answers",
    "answered",
    "answering",
    "life",
    "lives",
    "is over",
    "was over",
    "are over",
    "mend",
    "mends",
    "mended",
    "anew",
    "beside",
    "by and by",
    "reckon",
    "reckons",
    "reckoned",
    "seldom",
    "dear",
    "come by",
    "comes by",
    "came by",
    "tells whether",
    "wants",
    "as a rule",
    "nobody",
    "somebody",
    "everybody",
    "whoever",
    "layer",
    "layers",
    "gate",
    "gates",
    "a grant",
    "one grant",
    "each grant",
    "every grant",
    "no grant",
    "per grant",
    "two grants",
    "three grants",
    "renewal",
    "renewals",
    "hand on",
    "hands on",
    "handed on",
    "to be had",
    "be had",
];

/// After "is no" and its like, these words are fine.
const COMPARISONS: &[&str] =
    &["longer", "more", "less", "later", "earlier", "newer", "older", "larger", "higher"];

/// The banned phrases in a text.
fn banned(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if text.contains(", say,") {
        found.push(", say,".to_owned());
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(|c| !is_word(c)).filter(|word| !word.is_empty()).collect();
    for phrase in BANNED {
        let phrase_words: Vec<_> = phrase.split(' ').collect();
        if words.windows(phrase_words.len()).any(|window| window == phrase_words) {
            found.push((*phrase).to_owned());
        }
    }
    // "X is no Y", but not "there is no Y" and "is no longer".
    for (at, window) in words.windows(3).enumerate() {
        let [verb, no, next] = window else { unreachable!("windows of three") };
        let is_verb = matches!(*verb, "is" | "are" | "was" | "were");
        let is_there = at > 0 && matches!(words[at - 1], "there" | "if");
        if is_verb && *no == "no" && !is_there && !COMPARISONS.contains(next) {
            found.push(format!("{verb} no {next}"));
        }
    }
    found
}

/// The text outside code blocks and code spans.
fn without_code(markdown: &str) -> String {
    let text: String = markdown.split("```").step_by(2).collect();
    text.split('`').step_by(2).collect::<Vec<_>>().join(" code ")
}

/// The comments of Rust source, one block each, without their code.
fn comments(source: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut block: Option<(usize, String)> = None;
    for (number, line) in source.lines().enumerate() {
        let comment = line.trim_start().strip_prefix("//");
        match (comment.map(|text| text.trim_start_matches(['/', '!'])), &mut block) {
            (Some(text), Some((_, block))) => *block += &format!("{text}\n"),
            (Some(text), None) => block = Some((number + 1, format!("{text}\n"))),
            (None, _) => blocks.extend(block.take()),
        }
    }
    blocks.extend(block);
    blocks.into_iter().map(|(line, text)| (line, without_code(&text))).collect()
}

/// The string literals of Rust source. Doc comments, which are attributes to the parser, are left
/// out.
fn strings(tokens: TokenStream, all: &mut Vec<(usize, String)>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) if is_doc(&group) => {}
            TokenTree::Group(group) => strings(group.stream(), all),
            TokenTree::Literal(literal) => {
                let text = literal.to_string();
                if text.starts_with('"') || text.starts_with("r#") || text.starts_with("r\"") {
                    all.push((literal.span().start().line, without_code(&text)));
                }
            }
            _ => {}
        }
    }
}

/// Returns `true` for the inner part of `#[doc = …]`.
fn is_doc(attribute: &Group) -> bool {
    let first = attribute.stream().into_iter().next();
    matches!(first, Some(TokenTree::Ident(name)) if name == "doc")
}

fn check(path: &Path, texts: Vec<(usize, String)>, faults: &mut Vec<String>) {
    for (line, text) in texts {
        for phrase in banned(&text) {
            let path = path.strip_prefix(root()).unwrap().display();
            faults.push(format!("{path}:{line}: `{phrase}`"));
        }
    }
}

#[test]
fn no_text_contains_a_banned_word() {
    let (mut pages, mut sources) = (Vec::new(), Vec::new());
    for folder in ["docs", "crates", "benches", "examples", "fuzz", "tests"] {
        files(&root().join(folder), "md", &mut pages);
        files(&root().join(folder), "rs", &mut sources);
    }
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        pages.extend(Some(path).filter(|path| path.extension().is_some_and(|kind| kind == "md")));
    }
    assert!(pages.len() > 15 && sources.len() > 100, "{} and {}", pages.len(), sources.len());
    let mut faults = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let lines = without_code(&text).replace('\n', " \n");
        // A phrase can span two lines, so the page is one text.
        check(&page, vec![(1, lines)], &mut faults);
    }
    for source in sources {
        // This file lists the words.
        if source.ends_with("docs/words.rs") {
            continue;
        }
        let text = fs::read_to_string(&source).unwrap();
        let mut texts = comments(&text);
        strings(text.parse().expect("Rust"), &mut texts);
        check(&source, texts, &mut faults);
    }
    assert!(faults.is_empty(), "{} banned words:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn banned_words_are_found_in_comments_and_strings_but_not_in_code() {
    let source = r##"
        //! Nothing wrong: `answer` is code.
        //! ```
        //! let answer = 42;
        //! ```
        /// Tells
        /// whether it is late.
        fn answer() -> &'static str {
            // Somebody
            r#"it is no URL"#
        }
    "##;
    let mut texts = comments(source);
    strings(source.parse().unwrap(), &mut texts);
    let found: Vec<_> = texts
        .iter()
        .flat_map(|(line, text)| banned(text).into_iter().map(move |word| (*line, word)))
        .collect();
    let expected = [(2, "tells whether"), (9, "somebody"), (10, "is no url")];
    assert_eq!(found, expected.map(|(line, word)| (line, word.to_owned())));
}
