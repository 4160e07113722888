//! Keeps docs/requirements.md true: every promise is listed, and whatever is said to show it exists.
//!
//! A row is `| id | promise | shown by |`. The last cell names files, or `file#function` for a test in one, in
//! backquotes; or it says `not yet`, with what is missing.

use std::{collections::BTreeSet, fs, path::Path};

/// How many promises each section has.
const SECTIONS: [usize; 12] = [5, 6, 7, 5, 3, 8, 8, 4, 5, 10, 4, 12];

fn rows() -> Vec<(String, String)> {
    let page = fs::read_to_string("docs/requirements.md").expect("docs/requirements.md is there");
    let row = |line: &str| {
        let cells: Vec<&str> = line
            .strip_prefix('|')?
            .strip_suffix('|')?
            .split('|')
            .map(str::trim)
            .collect();
        let id = cells.first()?.strip_prefix('R')?;
        id.split_once('.')?.0.parse::<usize>().ok()?;
        Some((format!("R{id}"), (*cells.get(2)?).to_owned()))
    };
    page.lines().filter_map(row).collect()
}

/// What is wrong with a reference; `None`: it exists.
fn wrong(reference: &str) -> Option<String> {
    let (file, name) = reference
        .split_once('#')
        .map_or((reference, None), |(file, name)| (file, Some(name)));
    let path = Path::new(file);
    if !path.exists() {
        return Some(format!("{file} does not exist"));
    }
    let name = name?;
    let text = fs::read_to_string(path).unwrap_or_default();
    (!text.contains(&format!("fn {name}("))).then(|| format!("{file} has no function {name}"))
}

#[test]
fn every_promise_is_listed_once() {
    let listed: Vec<String> = rows().into_iter().map(|(id, _)| id).collect();
    let expected: Vec<String> = (1..)
        .zip(SECTIONS)
        .flat_map(|(section, count)| (1..=count).map(move |number| format!("R{section}.{number}")))
        .collect();
    assert_eq!(listed, expected);
    assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), listed.len());
}

#[test]
fn whatever_shows_a_promise_exists() {
    let mut faults = Vec::new();
    for (id, shown) in rows() {
        let references: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        if references.is_empty() && !shown.contains("not yet") {
            faults.push(format!("{id}: nothing shows it, and it does not say 'not yet'"));
        }
        faults.extend(
            references
                .into_iter()
                .filter_map(wrong)
                .map(|fault| format!("{id}: {fault}")),
        );
    }
    assert!(faults.is_empty(), "docs/requirements.md:\n{}", faults.join("\n"));
}

#[test]
fn a_wrong_reference_is_noticed() {
    assert!(wrong("src/no_such_file.rs").is_some());
    assert!(wrong("tests/requirements.rs#no_such_function").is_some());
    assert!(wrong("tests/requirements.rs#a_wrong_reference_is_noticed").is_none());
}
