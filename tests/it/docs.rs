//! The documentation names tests that exist.

use std::{collections::HashSet, fs, path::Path};

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
