//! Where settings come from, and where each mistake was made.

use super::Config;
use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};
use thiserror::Error;
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

/// What the names of all variables begin with.
const PREFIX: &str = "TIMECOIN_";
/// So many letters wrong look like a slip of the pen.
const SLIP: usize = 2;

/// Where a setting was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the file.
    File {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// In the environment: this variable.
    Environment(String),
    /// On the command line: this flag.
    Flag(String),
    /// Nowhere.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Default => f.write_str("default settings"),
        }
    }
}

/// A setting made outside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// A variable or a flag.
    pub origin: Origin,
    /// The key with its section: `network.max_connections`.
    pub key: String,
    /// As written.
    pub value: String,
}

impl Override {
    /// A setting made by a flag.
    pub fn flag(flag: &str, key: &str, value: impl Into<String>) -> Self {
        Self {
            origin: Origin::Flag(flag.to_owned()),
            key: key.to_owned(),
            value: value.into(),
        }
    }
}

/// What is wrong with the settings, and where.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {path} cannot be read: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{origin}: not TOML: {message}")]
    Syntax {
        /// The place.
        origin: Origin,
        /// What the parser says.
        message: String,
    },
    /// No such setting, or a value of the wrong kind.
    #[error("{origin}: {key}: {message}")]
    Form {
        /// The place.
        origin: Origin,
        /// The key with its section.
        key: String,
        /// What was found and what was expected.
        message: String,
    },
    /// A value that cannot work.
    #[error("{origin}: {message}")]
    Value {
        /// The place.
        origin: Origin,
        /// The key, the value and what was expected.
        message: String,
    },
}

/// The settings so far, with their origins.
pub(super) struct Merged {
    path: Option<PathBuf>,
    text: String,
    table: Table,
    overridden: BTreeMap<String, Origin>,
    /// A value for every key there is: what kind of value each takes.
    template: BTreeMap<String, Value>,
}

impl Merged {
    pub(super) fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let text = path.map_or(Ok(String::new()), std::fs::read_to_string);
        let text = text.map_err(|source| ConfigError::Read {
            path: path.map(Path::to_owned).unwrap_or_default(),
            source,
        })?;
        let mut merged = Self {
            path: path.map(Path::to_owned),
            text,
            table: Table::new(),
            overridden: BTreeMap::new(),
            template: template(),
        };
        merged.table = toml::from_str(&merged.text).map_err(|error| merged.syntax(&error))?;
        // The file alone, so that what is wrong in it is found with its line.
        toml::from_str::<Config>(&merged.text).map_err(|error| merged.form(&error))?;
        Ok(merged)
    }

    /// Takes over all variables that are settings. A name with a section in it that is no setting is a mistake; one
    /// without may belong to somebody else, and is mentioned when it looks like a slip of the pen.
    pub(super) fn environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Vec<String>, ConfigError> {
        let mut warnings = Vec::new();
        for (variable, value) in variables {
            let Some(name) = variable.strip_prefix(PREFIX) else {
                continue;
            };
            let key = name.to_lowercase().replace("__", ".");
            if !self.template.contains_key(&key) && !key.contains('.') {
                let near = nearest(&key, self.template.keys());
                if edits(&key, near) <= SLIP {
                    warnings.push(format!(
                        "environment variable {variable} is no setting and is ignored; {near} is one"
                    ));
                }
                continue;
            }
            let origin = Origin::Environment(variable);
            self.apply(&Override { origin, key, value })?;
        }
        Ok(warnings)
    }

    pub(super) fn apply(&mut self, setting: &Override) -> Result<(), ConfigError> {
        let form = |message: String| ConfigError::Form {
            origin: setting.origin.clone(),
            key: setting.key.clone(),
            message,
        };
        let Some(template) = self.template.get(&setting.key) else {
            let near = nearest(&setting.key, self.template.keys());
            return Err(form(format!("there is no such setting; the nearest is {near}")));
        };
        let value = typed(template, &setting.value).map_err(&form)?;
        let mut table = self.table.clone();
        insert(&mut table, &setting.key, value).map_err(&form)?;
        let whole: Result<Config, _> = Value::Table(table.clone()).try_into();
        whole.map_err(|error| form(format!("'{}': {}", setting.value, error.message())))?;
        self.table = table;
        self.overridden.insert(setting.key.clone(), setting.origin.clone());
        Ok(())
    }

    pub(super) fn config(&self) -> Result<Config, ConfigError> {
        let config: Result<Config, _> = Value::Table(self.table.clone()).try_into();
        config.map_err(|error| self.form(&error))
    }

    pub(super) fn is_overridden(&self, key: &str) -> bool {
        self.overridden.contains_key(key)
    }

    /// Finds the origin of a key that `message` begins with.
    pub(super) fn blame(&self, message: String) -> ConfigError {
        let key = message.split(' ').next().unwrap_or_default();
        let origin = match self.overridden.get(key) {
            Some(origin) => origin.clone(),
            None => self.line_of(key).map_or(Origin::Default, |line| self.at(line)),
        };
        ConfigError::Value { origin, message }
    }

    fn at(&self, line: usize) -> Origin {
        let path = self.path.clone().unwrap_or_default();
        Origin::File { path, line }
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let offset = error.span().map_or(0, |span| span.start);
        ConfigError::Syntax {
            origin: self.at(line(&self.text, offset)),
            message: error.message().to_owned(),
        }
    }

    fn form(&self, error: &toml::de::Error) -> ConfigError {
        let offset = error.span().map_or(0, |span| span.start);
        let key = DeTable::parse(&self.text)
            .ok()
            .and_then(|table| key_at(table.get_ref(), offset));
        ConfigError::Form {
            origin: self.at(line(&self.text, offset)),
            key: key.unwrap_or_else(|| "the file".into()),
            message: error.message().to_owned(),
        }
    }

    fn line_of(&self, key: &str) -> Option<usize> {
        let root = DeTable::parse(&self.text).ok()?;
        let mut table = root.get_ref();
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            let (name, value) = table.iter().find(|(name, _)| name.get_ref() == part)?;
            if parts.peek().is_none() {
                return Some(line(&self.text, name.span().start));
            }
            table = match value.get_ref() {
                DeValue::Table(inner) => inner,
                _ => return None,
            };
        }
        None
    }
}

fn line(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// The key, with its sections, whose name or value covers an offset.
fn key_at(table: &DeTable<'_>, offset: usize) -> Option<String> {
    let covers = |span: std::ops::Range<usize>| span.contains(&offset);
    table.iter().find_map(|(name, value): (_, &Spanned<DeValue<'_>>)| {
        let own = || name.get_ref().to_string();
        if let DeValue::Table(inner) = value.get_ref()
            && let Some(rest) = key_at(inner, offset)
        {
            return Some(format!("{}.{rest}", own()));
        }
        (covers(name.span()) || covers(value.span())).then(own)
    })
}

/// Every key with a value of its kind.
pub(super) fn template() -> BTreeMap<String, Value> {
    let everything = Config {
        validator_key: Some("validator.key".into()),
        ..Config::default()
    };
    let mut flat = BTreeMap::new();
    if let Ok(Value::Table(table)) = Value::try_from(&everything) {
        flatten("", table, &mut flat);
    }
    flat
}

fn flatten(prefix: &str, table: Table, flat: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match value {
            Value::Table(inner) => flatten(&format!("{key}."), inner, flat),
            value => {
                flat.insert(key, value);
            }
        }
    }
}

/// Text as the kind of value that a setting takes. Lists are separated by commas, or written as in TOML.
fn typed(template: &Value, text: &str) -> Result<Value, String> {
    match template {
        Value::Integer(_) => {
            let digits = text.replace('_', "");
            digits
                .parse()
                .map(Value::Integer)
                .map_err(|_| format!("'{text}', expected a whole number"))
        }
        Value::Boolean(_) => text
            .parse()
            .map(Value::Boolean)
            .map_err(|_| format!("'{text}', expected true or false")),
        Value::Array(_) if text.trim_start().starts_with('[') => {
            let parsed: Result<Table, _> = toml::from_str(&format!("list = {text}"));
            let list = parsed.ok().and_then(|mut table| table.remove("list"));
            list.ok_or_else(|| format!("'{text}', expected a list as in [\"a\", \"b\"]"))
        }
        Value::Array(_) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Ok(Value::Array(parts.map(|part| Value::String(part.to_owned())).collect()))
        }
        _ => Ok(Value::String(text.to_owned())),
    }
}

fn insert(table: &mut Table, key: &str, value: Value) -> Result<(), String> {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
            Ok(())
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            match inner {
                Value::Table(inner) => insert(inner, rest, value),
                _ => Err(format!("{section} is no section")),
            }
        }
    }
}

/// The known key with the fewest edits from `key`.
fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> &'a str {
    known
        .min_by_key(|candidate| edits(key, candidate))
        .map_or("", String::as_str)
}

fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let kept = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = kept.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
