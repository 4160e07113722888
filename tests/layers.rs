//! Keeps the floors of the crate: a module imports only from lower floors, and below the sans-IO boundary (floors 0 to
//! 3) there is no clock, no thread, no file, no async and no random iteration order. `clippy.toml` says the same where
//! clippy can; this test also sees what clippy cannot: who imports whom, `async`, and modules that forgot to ask clippy.
//!
//! It reads text, not types: comments, strings and whatever is under `#[cfg(test)]` are cut away, then paths and words
//! are looked at. Somebody determined can get past it; nobody gets past it by accident.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Modules by floor, the ground floor first. Those of one floor do not know one another.
const FLOORS: [&[&str]; 8] = [
    &["primitives"],
    &["ledger"],
    &["pool", "finality", "consensus", "epoch", "sync"],
    &["replica"],
    &["store", "network", "signer", "wallet", "api"],
    &["node", "sim"],
    &["cli"],
    &["main"],
];

/// The last floor below the sans-IO boundary.
const LAST_PURE_FLOOR: usize = 3;

/// What `proto/` compiles to; everybody may use it.
const GENERATED: &str = "proto";

/// Words that have no place below the boundary, and what to use instead.
const FORBIDDEN_WORDS: [(&str, &str); 17] = [
    ("Instant", "time comes in as primitives::Time"),
    ("SystemTime", "time comes in as primitives::Time"),
    ("tokio", "async is for floors 4 and up"),
    ("async", "async is for floors 4 and up"),
    ("await", "async is for floors 4 and up"),
    (
        "HashMap",
        "its iteration order is random: BTreeMap, or DashMap where it is only looked up",
    ),
    ("HashSet", "its iteration order is random: BTreeSet"),
    ("RandomState", "its order is random"),
    ("OsRng", "chance comes from the replica's seeded generator"),
    ("SysRng", "chance comes from the replica's seeded generator"),
    ("ThreadRng", "chance comes from the replica's seeded generator"),
    ("thread_rng", "chance comes from the replica's seeded generator"),
    ("println", "say it in the effects"),
    ("eprintln", "say it in the effects"),
    ("print", "say it in the effects"),
    ("eprint", "say it in the effects"),
    ("dbg", "say it in the effects"),
];

/// Parts of the standard library that touch the world.
const FORBIDDEN_STD: [&str; 5] = ["thread", "fs", "net", "env", "process"];

// ---- reading -----------------------------------------------------------------------------------------------------

/// The text with comments, strings and character literals blanked out, so that only code is left.
fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < bytes.len() {
        let skipped = comment(&bytes[at..]).or_else(|| literal(&bytes[at..], code.as_bytes().last().copied()));
        if let Some(length) = skipped {
            code.push(' ');
            at += length;
        } else {
            // A byte beyond ASCII is part of no word that is looked for.
            code.push(if bytes[at].is_ascii() {
                char::from(bytes[at])
            } else {
                ' '
            });
            at += 1;
        }
    }
    code
}

/// The length of the comment that starts here, if one does.
fn comment(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(b"//") {
        return Some(bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len()));
    }
    if !bytes.starts_with(b"/*") {
        return None;
    }
    let (mut depth, mut at) = (1, 2);
    while depth > 0 && at < bytes.len() {
        match &bytes[at..bytes.len().min(at + 2)] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    Some(at)
}

/// The length of the string or character literal that starts here after the byte `before`, if one does.
fn literal(bytes: &[u8], before: Option<u8>) -> Option<usize> {
    let in_word = before.is_some_and(is_word);
    match bytes[0] {
        b'r' if !in_word => raw_string(&bytes[1..]).map(|length| length + 1),
        b'"' => Some(closed_by(bytes, b'"')),
        b'\'' => {
            // 'x' and '\n' are literals, 'a in a generic is a lifetime.
            let escaped = bytes.get(1) == Some(&b'\\');
            let short = (2..=5).find(|at| bytes.get(*at) == Some(&b'\''));
            let lifetime = bytes.get(1).copied().is_some_and(is_word) && bytes.get(2) != Some(&b'\'');
            (escaped || (!lifetime && short.is_some())).then(|| closed_by(bytes, b'\''))
        }
        _ => None,
    }
}

fn raw_string(bytes: &[u8]) -> Option<usize> {
    let hashes = bytes.iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(hashes) != Some(&b'"') {
        return None;
    }
    let end: Vec<u8> = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let body = &bytes[hashes + 1..];
    let length = body
        .windows(end.len())
        .position(|window| window == end)
        .unwrap_or(body.len());
    Some(hashes + 1 + length + end.len())
}

fn closed_by(bytes: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Code without the items under `#[cfg(test)]`, and the names of the modules under it that are files of their own.
fn without_tests(code: &str) -> (String, BTreeSet<String>) {
    const MARK: &str = "#[cfg(test)]";
    let (mut kept, mut rest, mut files) = (String::new(), code, BTreeSet::new());
    while let Some(start) = rest.find(MARK) {
        kept.push_str(&rest[..start]);
        let item = &rest[start + MARK.len()..];
        let end = item_end(item);
        if let Some(name) = declared_file(&item[..end]) {
            files.insert(name);
        }
        rest = &item[end..];
    }
    kept.push_str(rest);
    (kept, files)
}

/// Where the first item of `code` ends: behind its braces, or its semicolon.
fn item_end(code: &str) -> usize {
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && byte == b'}' {
                    return at + 1;
                }
            }
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// `name` of an item that reads `mod name;`.
fn declared_file(item: &str) -> Option<String> {
    let words: Vec<&str> = item.strip_suffix(';')?.split_whitespace().collect();
    match words[..] {
        [.., "mod", name] => Some(name.to_owned()),
        _ => None,
    }
}

/// What is named directly behind every `root::` in code: one name, or those of a group.
fn named_behind(code: &str, root: &str) -> BTreeSet<String> {
    let squeezed = squeeze(code);
    let mut names = BTreeSet::new();
    for (at, _) in squeezed.match_indices(&format!("{root}::")) {
        let before = squeezed[..at].bytes().last();
        if before.is_some_and(|byte| is_word(byte) || byte == b':') {
            continue;
        }
        names.extend(heads(&squeezed[at + root.len() + 2..]));
    }
    names
}

/// Without the spaces around `::`, braces and commas, so that a path has one form.
fn squeeze(code: &str) -> String {
    let words: Vec<&str> = code.split_whitespace().collect();
    let mut squeezed = String::new();
    for word in words {
        let (last, first) = (squeezed.bytes().last(), word.bytes().next());
        if last.is_some_and(is_word) && first.is_some_and(is_word) {
            squeezed.push(' ');
        }
        squeezed.push_str(word);
    }
    squeezed
}

/// The first names of the path or group that `code` starts with: `a::b` gives a; `{a::{b, c}, d}` gives a and d.
fn heads(code: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.chars()
            .take_while(|letter| letter.is_ascii() && is_word(*letter as u8))
            .collect()
    };
    let Some(group) = code.strip_prefix('{') else {
        return vec![word(code)];
    };
    let (mut depth, mut names, mut start) = (0usize, Vec::new(), true);
    for (at, letter) in group.char_indices() {
        if start && depth == 0 && letter != '}' {
            names.push(word(&group[at..]));
        }
        start = letter == ',';
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            _ => {}
        }
    }
    names
}

// ---- judging -----------------------------------------------------------------------------------------------------

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

/// The crate's modules that a file names, in whatever form it names them.
fn imports(path: &[&str], code: &str) -> BTreeSet<String> {
    let mut names = named_behind(code, "crate");
    names.extend(named_behind(code, "$crate"));
    if path == ["main"] {
        names.extend(named_behind(code, "timecoin"));
    }
    // As many steps up as the file is deep lead to the crate's root; more come from modules inside the file.
    for steps in path.len()..path.len() + 3 {
        names.extend(named_behind(code, &vec!["super"; steps].join("::")));
    }
    names
}

/// What is wrong with one file; `path` is that of its module, as in `["ledger", "check"]`.
fn complaints(path: &[&str], code: &str) -> Vec<String> {
    let Some(own) = floor(path[0]) else {
        return vec![format!(
            "module {} has no floor: add it to FLOORS in tests/layers.rs",
            path[0]
        )];
    };
    let place = path.join("/");
    let mut found = Vec::new();
    for name in imports(path, code) {
        if floor(&name).is_some_and(|other| name != path[0] && other >= own) {
            found.push(format!(
                "{place} (floor {own}) imports {name}, which is not on a lower floor"
            ));
        }
    }
    if own <= LAST_PURE_FLOOR {
        for (word, instead) in FORBIDDEN_WORDS {
            let words = code.split(|letter: char| !letter.is_ascii() || !is_word(letter as u8));
            if words.into_iter().any(|candidate| candidate == word) {
                found.push(format!("{place} (floor {own}) says `{word}`: {instead}"));
            }
        }
        for name in named_behind(code, "std") {
            if FORBIDDEN_STD.contains(&name.as_str()) {
                found.push(format!(
                    "{place} (floor {own}) uses std::{name}: the world is for floors 4 and up"
                ));
            }
        }
    }
    found
}

/// All files of `src/` by module path, code only, without tests.
fn sources() -> BTreeMap<Vec<String>, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut raw = BTreeMap::new();
    read_folder(&root, &[], &mut raw);
    let mut tests: BTreeSet<Vec<String>> = BTreeSet::new();
    let mut sources = BTreeMap::new();
    for (path, source) in raw {
        let (code, files) = without_tests(&code_only(&source));
        tests.extend(files.into_iter().map(|name| [path.clone(), vec![name]].concat()));
        sources.insert(path, code);
    }
    sources.retain(|path, _| !tests.iter().any(|test| path.starts_with(test)));
    sources
}

fn read_folder(folder: &Path, above: &[String], into: &mut BTreeMap<Vec<String>, String>) {
    for entry in fs::read_dir(folder).expect("src/ is readable") {
        let path = entry.expect("src/ is readable").path();
        let name = path
            .file_stem()
            .expect("every entry has a name")
            .to_string_lossy()
            .into_owned();
        let module = if name == "mod" {
            above.to_vec()
        } else {
            [above, &[name]].concat()
        };
        if path.is_dir() {
            read_folder(&path, &module, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.insert(module, fs::read_to_string(&path).expect("source files are text"));
        }
    }
}

// ---- the tests ---------------------------------------------------------------------------------------------------

#[test]
fn the_floors_are_kept() {
    let sources = sources();
    let seen = |path: &[&str]| sources.contains_key(&path.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>());
    assert!(
        seen(&["ledger", "check"]) && seen(&["ledger"]) && seen(&["primitives", "hash"]),
        "src/ was read"
    );
    let mut found = Vec::new();
    for (path, code) in &sources {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if path != ["lib"] {
            found.extend(complaints(&path, code));
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_module_has_a_floor() {
    let lib = code_only(include_str!("../src/lib.rs"));
    let words: Vec<&str> = lib
        .split(|letter: char| !letter.is_ascii() || !is_word(letter as u8))
        .collect();
    let declared = words.windows(2).filter(|pair| pair[0] == "mod").map(|pair| pair[1]);
    let homeless: Vec<&str> = declared
        .filter(|name| floor(name).is_none() && *name != GENERATED)
        .collect();
    assert!(homeless.is_empty(), "add to FLOORS in tests/layers.rs: {homeless:?}");
}

#[test]
fn the_pure_floors_ask_clippy() {
    let lib = squeeze(&code_only(include_str!("../src/lib.rs")));
    let items: Vec<&str> = lib.split_inclusive([';', '}']).collect();
    for module in FLOORS[..=LAST_PURE_FLOOR].concat() {
        let Some(item) = items.iter().find(|item| item.ends_with(&format!("mod {module};"))) else {
            continue;
        };
        for lint in ["disallowed_types", "disallowed_methods", "disallowed_macros"] {
            let asks = item.contains("#[deny(") && item.contains(&format!("clippy::{lint}"));
            assert!(
                asks,
                "lib.rs declares {module} without #[deny(clippy::{lint})]: see clippy.toml"
            );
        }
    }
}

#[test]
fn violations_are_noticed() {
    let judge = |path: &[&str], source: &str| {
        let (code, _) = without_tests(&code_only(source));
        complaints(path, &code)
    };
    for (what, path, source) in [
        (
            "a higher floor",
            &["primitives", "hash"][..],
            "use crate::ledger::View;",
        ),
        (
            "a higher floor in a group",
            &["ledger"],
            "use crate::{primitives::Hash, pool::Pool};",
        ),
        (
            "after a nested group",
            &["ledger"],
            "use crate::{primitives::{Hash, hash::{a, b}},\n    pool};",
        ),
        (
            "an equal floor",
            &["finality", "proof"],
            "fn f(_: &crate::pool::Pool) {}",
        ),
        ("an equal floor by super", &["pool"], "use super::finality::Finality;"),
        (
            "an equal floor by two supers",
            &["finality", "proof"],
            "use super::super::{primitives, pool::Pool};",
        ),
        (
            "one adapter from another",
            &["network", "task"],
            "let _ = crate :: store\n::open();",
        ),
        ("a shell from a shell", &["sim"], "use crate::node;"),
        ("a clock", &["pool"], "use std::time::Instant;"),
        ("another clock", &["replica"], "let now = std::time::SystemTime::now();"),
        ("a thread", &["consensus", "height"], "std::thread::spawn(f);"),
        (
            "a thread in a group",
            &["epoch"],
            "use std::{collections::BTreeMap, thread};",
        ),
        ("a file", &["ledger"], "std::fs::read(path)"),
        ("async", &["sync"], "pub async fn f() {}"),
        (
            "a random order",
            &["replica"],
            "use std::collections::{BTreeMap, HashMap};",
        ),
        ("printing", &["primitives"], "println!(\"{x}\");"),
        (
            "behind a test module",
            &["pool"],
            "#[cfg(test)]\nmod tests { fn f() { g('}', \"}\"); } }\nuse std::fs;",
        ),
        (
            "behind a lifetime",
            &["pool"],
            "fn f<'a>(x: &'a str) -> std::fs::File { '\\'' }",
        ),
        ("no floor", &["cellar"], ""),
    ] {
        assert_eq!(judge(path, source).len(), 1, "{what}: {:?}", judge(path, source));
    }
    for (what, path, source) in [
        (
            "a lower floor",
            &["finality", "proof"][..],
            "use crate::{ledger::View, primitives::{Hash, TxId}};",
        ),
        (
            "its own module",
            &["pool"],
            "use crate::pool::PoolError; use super::pool as other;",
        ),
        ("its parent", &["finality", "proof"], "use super::Finality;"),
        ("generated code", &["primitives"], "use crate::proto;"),
        (
            "words in comments",
            &["pool"],
            "// HashMap\n/* std::fs /* async */ Instant */ /// crate::replica\nfn f() {}",
        ),
        (
            "words in strings",
            &["pool"],
            "let _ = (\"async \\\" HashMap\", r#\"std::fs \"Instant\" \"#, b\"tokio\", '\"');",
        ),
        (
            "words in tests",
            &["pool"],
            "#[cfg(test)]\nmod tests {\n use std::collections::HashMap; fn f() { { } }\n}\n",
        ),
        (
            "parts of words",
            &["pool"],
            "struct Instantly; fn asynchronous(prints: u8) {}",
        ),
        (
            "the world above the boundary",
            &["store"],
            "use std::{fs, thread}; async fn f() { tokio::spawn(g()) }",
        ),
        ("the library from main", &["main"], "fn main() { timecoin::cli::run() }"),
    ] {
        assert_eq!(judge(path, source), Vec::<String>::new(), "{what}");
    }
    let (_, files) = without_tests("#[cfg(test)]\npub(crate) mod testing;\n#[cfg(test)]\nmod tests;\nmod real;");
    assert_eq!(files, BTreeSet::from(["testing".to_owned(), "tests".to_owned()]));
}
