//! The documentation matches the project: its tests, log lines, metrics, files, dependencies and
//! words.

mod words;

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    path::{Path, PathBuf},
};

const LIBRARIES: [&str; 3] = ["sitecore-token", "sitecore-auth", "sitecore-token-store"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files with this extension in a folder and below, without those that were built or installed.
fn files(folder: &Path, kind: &str, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") && !path.ends_with("node_modules") {
                files(&path, kind, all);
            }
        } else if path.extension().is_some_and(|extension| extension == kind) {
            all.push(path);
        }
    }
}

fn sources(name: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    files(&root().join("crates").join(name).join("src"), "rs", &mut all);
    all
}

/// All of the libraries' source as one text.
fn code() -> String {
    let all = LIBRARIES.iter().flat_map(|name| sources(name));
    all.map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// A page without its code blocks.
fn prose(path: &Path) -> String {
    let page = fs::read_to_string(path).unwrap();
    page.split("```").step_by(2).collect()
}

/// The anchor of a heading in rendered Markdown.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.chars().filter(kept).collect::<String>().replace(' ', "-")
}

#[test]
fn every_link_has_a_target() {
    let mut pages = Vec::new();
    for folder in ["docs", "crates", "benches"] {
        files(&root().join(folder), "md", &mut pages);
    }
    for page in ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"] {
        pages.push(root().join(page));
    }
    let mut links = 0;
    for page in &pages {
        let text = prose(page);
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.starts_with("https://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                _ => page.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link} does not exist", page.display());
            if !heading.is_empty() {
                let target = prose(&target);
                let mut headings = target.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor(line) == heading),
                    "{}: no heading for {link}",
                    page.display()
                );
            }
            links += 1;
        }
    }
    assert!(links > 40, "only {links} links were found");
}

#[test]
fn every_dependency_has_its_line() {
    let design = fs::read_to_string(root().join("docs/design.md")).unwrap();
    let table = design.split("## Dependencies").nth(1).unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let named: BTreeSet<_> = rows
        .flat_map(|row| row.split('|').next().unwrap().split([',', '`']))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    let mut used = BTreeSet::new();
    for name in LIBRARIES.iter().chain(&["sitecore-sandbox", "sitecore-auth-cli"]) {
        let manifest = root().join("crates").join(name).join("Cargo.toml");
        let manifest = fs::read_to_string(manifest).unwrap();
        for section in manifest.split("\n[").skip(1) {
            let (title, lines) = section.split_once("]\n").unwrap();
            if title.ends_with("dependencies") && title != "dev-dependencies" {
                let names = lines.lines().filter_map(|line| line.split(['.', ' ']).next());
                used.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
            }
        }
    }
    used.retain(|name| !name.starts_with("sitecore-"));
    assert!(used.len() > 20, "only {used:?} were found");
    assert_eq!(named, used.iter().map(String::as_str).collect());
}

#[test]
fn every_public_future_documents_its_cancel_safety() {
    let mut futures = 0;
    for path in LIBRARIES.iter().chain(&["sitecore-sandbox"]).flat_map(|name| sources(name)) {
        let source = fs::read_to_string(&path).unwrap();
        let (mut docs, mut of_trait) = (String::new(), None);
        for line in source.lines() {
            let code = line.trim_start();
            if line.starts_with("pub trait ") {
                of_trait = Some(docs.clone());
            } else if line == "}" {
                of_trait = None;
            }
            if let Some(doc) = code.strip_prefix("///") {
                docs += doc;
                continue;
            }
            let is_public = code.starts_with("pub async fn ")
                || (code.starts_with("pub fn ") && line.contains("impl Future<"))
                || (of_trait.is_some() && code.starts_with("async fn "));
            if is_public {
                docs += of_trait.as_deref().unwrap_or_default();
                assert!(docs.contains("# Cancel safety"), "{}: {code}", path.display());
                futures += 1;
            }
            if !code.starts_with("#[") {
                docs.clear();
            }
        }
    }
    assert!(futures > 12, "only {futures} were found");
}

/// The log lines that the table in operations.md quotes, with their levels.
pub(crate) fn documented_log_lines() -> Vec<(&'static str, String)> {
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let mut all = Vec::new();
    for level in ["INFO", "WARN", "DEBUG"] {
        let begin = format!("| {level} |");
        for row in page.lines().filter_map(|row| row.strip_prefix(&begin)) {
            let said = row.split('|').next().unwrap();
            let lines = said.split('`').skip(1).step_by(2);
            all.extend(lines.map(|line| (level, line.to_owned())));
        }
    }
    all
}

#[test]
fn operations_names_the_existing_log_lines_and_metrics() {
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let code = code();
    let lines = documented_log_lines();
    for (_, line) in &lines {
        assert!(code.contains(line), "operations.md quotes `{line}`, which does not exist");
    }
    assert!(lines.len() > 10, "only {} are quoted", lines.len());
    let metric = |text: &str| {
        let names = text.split("sitecore_auth_").skip(1);
        let names = names.map(|rest| {
            rest.split(|c: char| c != '_' && !c.is_alphanumeric()).next().unwrap().to_owned()
        });
        names.collect::<HashSet<_>>()
    };
    let in_code: HashSet<_> = code
        .split('"')
        .filter(|text| text.starts_with("sitecore_auth_"))
        .flat_map(metric)
        .collect();
    assert!(in_code.len() > 5, "{in_code:?}");
    assert_eq!(metric(&page), in_code);
}

#[test]
fn every_test_named_in_failure_modes_exists() {
    let root = root();
    let rows = fs::read_to_string(root.join("docs/failure-modes.md")).unwrap();
    let modules_of = |folder: PathBuf| {
        let mut sources = Vec::new();
        files(&folder, "rs", &mut sources);
        sources.into_iter().map(move |path| {
            let module = path.strip_prefix(&folder).unwrap().with_extension("");
            let parts = module.iter().map(|part| part.to_str().unwrap());
            (parts.collect::<Vec<_>>().join("::"), path)
        })
    };
    // A test in a source file is in the module `tests` of that file, which may be a folder.
    let unit_tests =
        LIBRARIES.iter().flat_map(|name| modules_of(root.join("crates").join(name).join("src")));
    let unit_tests =
        unit_tests.map(|(module, path)| match format!("{module}::").contains("::tests::") {
            true => (module, path),
            false => (format!("{module}::tests"), path),
        });
    let memory = ("memory".to_owned(), root.join("tests/memory/main.rs"));
    let program = root.join("crates/sitecore-auth-cli");
    let program = modules_of(program.join("tests/it")).chain(
        modules_of(program.join("src"))
            .map(|(module, path)| (module.trim_end_matches("::mod").to_owned() + "::tests", path)),
    );
    let modules = modules_of(root.join("tests/it")).chain(unit_tests).chain([memory]);
    let modules = modules.chain(program);
    let tests: HashSet<String> = modules
        .flat_map(|(module, path)| {
            let source = fs::read_to_string(path).unwrap();
            let names = source.split("fn ").skip(1).map(|rest| rest.split('(').next().unwrap());
            names.map(|name| format!("{module}::{name}")).collect::<Vec<_>>()
        })
        .collect();
    let apis = fs::read_to_string(root.join("docs/apis.md")).unwrap();
    let named: Vec<_> = [&rows, &apis]
        .into_iter()
        .flat_map(|text| text.split('`'))
        .filter(|text| text.contains("::") && !text.contains([' ', '(']))
        .collect();
    assert!(named.len() > 80, "only {} tests are named", named.len());
    for name in named {
        assert!(tests.contains(name), "docs/ names `{name}`, which does not exist");
    }
    let (mut cases, mut tested, mut of_tests) = (BTreeSet::new(), BTreeSet::new(), false);
    for row in rows.lines().filter_map(|line| line.strip_prefix("| ")) {
        let (id, rest) = row.split_once(" | ").unwrap();
        match id {
            "#" => of_tests = rest.starts_with("tests"),
            "---" => {}
            _ if of_tests => {
                assert!(rest.contains("::"), "a row without a test: {row}");
                tested.insert(id);
            }
            _ => assert!(cases.insert(id), "two cases are called {id}"),
        }
    }
    assert!(cases.len() > 80, "only {} cases were found", cases.len());
    assert_eq!(cases, tested, "each case has its tests, and each row of tests has its case");
}
