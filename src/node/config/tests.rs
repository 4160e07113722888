//! Where each mistake is found to have been made.

use super::*;

fn load(text: &str, environment: &[(&str, &str)], flags: &[Override]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("node.toml");
    std::fs::write(&path, text).expect("writes");
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(Some(&path), environment, flags).map(|(config, _)| config)
}

#[test]
fn mistakes_in_the_file_are_named_with_key_and_line() {
    let rows = [
        (
            "[network]\nmax_peers = 3",
            "line 2: network.max_peers: unknown field `max_peers`",
        ),
        ("\n\n[networks]\n", "line 3: networks: unknown field `networks`"),
        (
            "[network]\n\nmax_connections = \"many\"",
            "line 3: network.max_connections: invalid type: string \"many\", expected u32",
        ),
        (
            "[network]\nmax_per_peer = 1",
            "line 2: network.max_per_peer is 1, it must be at least 2",
        ),
        ("[network]\nlisten = [\"localhost:1\"]", "line 2: network.listen"),
        (
            "[network]\nlisten = [\"/dns4/example.org/tcp/1\"]",
            "line 2: network.listen has /dns4/example.org/tcp/1",
        ),
        ("[api]\nlisten = \"nowhere\"", "line 2: api.listen"),
        (
            "[api]\nmax_reads = 0",
            "line 2: api.max_reads is 0, expected at least 1",
        ),
        (
            "# a comment\n[log]\nformat = \"xml\"",
            "line 3: log.format: unknown variant `xml`",
        ),
        ("[log]\nfilter = \"=loud=\"", "line 2: log.filter is '=loud='"),
        (
            "[pool]\nmax_bytes = -1",
            "line 2: pool.max_bytes: invalid value: integer `-1`",
        ),
        (
            "[store]\ncache_bytes = 5",
            "line 2: store.cache_bytes is 5, expected at least 1048576",
        ),
        (
            "[check]\nthreads = 1000",
            "line 2: check.threads is 1000, expected at most 256",
        ),
        ("data_dir = \"a\"\ndata_dir = \"b\"", "line 2: not TOML: duplicate key"),
        (
            "[http]\nlisten = \"127.0.0.1:7401\"",
            "line 2: http.listen is 127.0.0.1:7401, the same as api.listen",
        ),
        ("genesis = ", "line 1: not TOML"),
    ];
    for (text, expected) in rows {
        let error = load(text, &[], &[]).expect_err(expected).to_string();
        assert!(
            error.contains(expected),
            "{text}\n  expected: {expected}\n  found:    {error}"
        );
        assert!(error.contains("node.toml"), "{error}");
    }
}

#[test]
fn mistakes_elsewhere_are_named_by_variable_and_flag() {
    let rows = [
        (
            ("TIMECOIN_NETWORK__MAX_CONNECTIONS", "x"),
            "TIMECOIN_NETWORK__MAX_CONNECTIONS: network.max_connections: 'x', expected a whole number",
        ),
        (
            ("TIMECOIN_NETWORK__MAX_PEERS", "1"),
            "there is no such setting; the nearest is network.max_",
        ),
        (
            ("TIMECOIN_NETWORK__MAX_PER_PEER", "1"),
            "TIMECOIN_NETWORK__MAX_PER_PEER: network.max_per_peer is 1",
        ),
        (
            ("TIMECOIN_HTTP__LISTEN", "here"),
            "TIMECOIN_HTTP__LISTEN: http.listen: 'here'",
        ),
        (
            ("TIMECOIN_LOG__FORMAT", "xml"),
            "TIMECOIN_LOG__FORMAT: log.format: 'xml': unknown variant",
        ),
    ];
    for (variable, expected) in rows {
        let error = load("", &[variable], &[]).expect_err(expected).to_string();
        assert!(error.contains(expected), "expected: {expected}\n  found:    {error}");
    }
    let flag = Override::flag("--set", "pool.max_transactions", "0");
    let error = load("", &[], &[flag]).expect_err("no pool").to_string();
    assert!(
        error.contains("flag --set: pool.max_transactions is 0, expected at least 1"),
        "{error}"
    );
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let text = "[pool]\nmax_transactions = 1\nmax_bytes = 2000000\n[network]\nmax_connections = 7";
    let variables = [
        ("TIMECOIN_POOL__MAX_TRANSACTIONS", "2"),
        ("TIMECOIN_POOL__MAX_BYTES", "3_000_000"),
        (
            "TIMECOIN_NETWORK__BOOTSTRAP",
            "/ip4/127.0.0.1/tcp/1, /ip4/127.0.0.1/tcp/2",
        ),
        ("UNRELATED", "x"),
    ];
    let config = load(
        text,
        &variables,
        &[Override::flag("--set", "pool.max_transactions", "3")],
    )
    .expect("loads");
    assert_eq!((config.pool.max_transactions, config.pool.max_bytes), (3, 3_000_000));
    assert_eq!((config.network.max_connections, config.network.bootstrap.len()), (7, 2));
}

#[test]
fn paths_in_the_file_are_relative_to_it_and_others_are_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("node.toml");
    std::fs::write(&path, "data_dir = \"d\"\nvalidator_key = \"/etc/v.key\"").expect("writes");
    let flag = Override::flag("--genesis", "genesis", "g.bin");
    let (config, _) = Config::load(Some(&path), [], &[flag]).expect("loads");
    assert_eq!(config.data_dir, dir.path().join("d"));
    assert_eq!(config.genesis, Path::new("g.bin"));
    assert_eq!(config.validator_key.as_deref(), Some(Path::new("/etc/v.key")));
}

#[test]
fn a_variable_that_is_nearly_a_setting_is_mentioned() {
    let variables = [("TIMECOIN_DATADIR", "x"), ("TIMECOIN_NODE", "127.0.0.1:7401")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (config, warnings) = Config::load(None, variables, &[]).expect("loads");
    assert_eq!(config, Config::default());
    assert!(
        warnings[0].contains("TIMECOIN_DATADIR") && warnings.len() == 1,
        "{warnings:?}"
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some(Path::new("/nowhere/node.toml")), [], &[]).expect_err("not there");
    assert!(error.to_string().contains("/nowhere/node.toml"), "{error}");
}
