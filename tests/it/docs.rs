//! The documentation names tests that exist.

use std::{collections::HashSet, fs, path::Path};

/// All of the libraries' code, in one.
fn sources() -> String {
    fn read(folder: &Path, all: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, all);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                *all += &fs::read_to_string(&path).unwrap();
            }
        }
    }
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    let mut all = String::new();
    for name in ["sitecore-token", "sitecore-auth", "sitecore-token-store"] {
        read(&crates.join(name).join("src"), &mut all);
    }
    all
}

#[test]
fn operations_names_the_log_lines_and_metrics_that_there_are() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = fs::read_to_string(page).unwrap();
    let code = sources();
    let mut lines = 0;
    for row in page.lines() {
        let level = ["| INFO |", "| WARN |", "| DEBUG |"];
        let Some(rest) = level.iter().find_map(|level| row.strip_prefix(level)) else {
            continue;
        };
        for line in rest
            .split('|')
            .next()
            .unwrap()
            .split('`')
            .skip(1)
            .step_by(2)
        {
            assert!(
                code.contains(line),
                "operations.md quotes `{line}`, which is nowhere"
            );
            lines += 1;
        }
    }
    assert!(lines > 10, "only {lines} log lines are quoted");
    let metric = |text: &str| {
        let names = text.split("sitecore_auth_").skip(1);
        let names = names.map(|rest| {
            rest.split(|c: char| c != '_' && !c.is_alphanumeric())
                .next()
                .unwrap()
                .to_owned()
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rows = fs::read_to_string(root.join("docs/failure-modes.md")).unwrap();
    let modules = fs::read_dir(root.join("tests/it"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let modules = modules
        .filter(|path| path.is_file())
        .map(|path| (path.file_stem().unwrap().to_owned(), path));
    let memory = ("memory".into(), root.join("tests/memory/main.rs"));
    let tests: HashSet<String> = modules
        .chain([memory])
        .flat_map(|(module, path)| {
            let source = fs::read_to_string(path).unwrap();
            let names = source
                .split("fn ")
                .skip(1)
                .map(|rest| rest.split('(').next().unwrap());
            names
                .map(|name| format!("{}::{name}", module.display()))
                .collect::<Vec<_>>()
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
        assert!(
            tests.contains(name),
            "docs/ names `{name}`, which does not exist"
        );
    }
    for row in rows.lines().filter(|line| {
        line.starts_with("| ") && !line.starts_with("| row") && !line.starts_with("| ---")
    }) {
        assert!(row.contains("::"), "a row without a test: {row}");
    }
}
