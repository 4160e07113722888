//! Pages under docs/ that are made from tables in the code, and the check that keeps them true.

/// Compares a page with what the code says now. With `TIMECOIN_WRITE_DOCS` set it is written instead.
#[cfg(test)]
pub(super) fn check(path: &str, text: &str) {
    let full = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("TIMECOIN_WRITE_DOCS").is_some() {
        std::fs::write(&full, text).expect("the page can be written");
    }
    let found = std::fs::read_to_string(&full).unwrap_or_default();
    assert!(
        found == text,
        "{path} is not up to date: run the tests once with TIMECOIN_WRITE_DOCS=1"
    );
}
