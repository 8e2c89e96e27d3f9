//! A connection that runs what could be pasted into `psql`: statements with its variables (`:task`, `:'claim'`), and
//! `\gset` to set them. So a walk that fails is told as the very text that failed.
use postgres::{Client, SimpleQueryMessage};
use serde_json::Value;
use std::collections::BTreeMap;

pub struct Session {
    pub client: Client,
    variables: BTreeMap<String, String>,
    /// All that was run.
    pub script: Vec<String>,
}

/// The columns of the last row, or the SQLSTATE and the message of a refusal.
pub type Answer = Result<BTreeMap<String, Option<String>>, Refused>;

#[derive(Debug, Clone)]
pub struct Refused {
    pub sqlstate: String,
    pub message: String,
}

impl Session {
    pub fn new(client: Client) -> Session {
        Session { client, variables: BTreeMap::new(), script: Vec::new() }
    }

    pub fn forget(&mut self) {
        self.variables.clear();
        self.script.clear();
    }

    /// Runs a statement; with `\gset` at its end the columns of its row become variables.
    pub fn run(&mut self, text: &str) -> Answer {
        self.script.push(if text.ends_with("\\gset") { text.to_owned() } else { format!("{text};") });
        let (sql, set) = match text.strip_suffix("\\gset") {
            Some(sql) => (sql, true),
            None => (text, false),
        };
        let sql = self.interpolate(sql);
        let messages = self.client.simple_query(&sql).map_err(|error| {
            let db = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
            let refused = Refused {
                sqlstate: db.code().code().to_owned(),
                message: format!("{} ({:?})", db.message(), db.detail()),
            };
            self.script.push(format!("-- {}: {}", refused.sqlstate, refused.message));
            refused
        })?;
        let mut columns = BTreeMap::new();
        for message in &messages {
            if let SimpleQueryMessage::Row(row) = message {
                for (place, column) in row.columns().iter().enumerate() {
                    columns.insert(column.name().to_owned(), row.get(place).map(str::to_owned));
                }
            }
        }
        if set {
            let named = columns.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
            self.variables.extend(named);
        }
        Ok(columns)
    }

    /// Puts the values of variables in their places, as psql does.
    fn interpolate(&self, sql: &str) -> String {
        let mut parts = sql.split(':');
        let mut text = parts.next().unwrap_or("").to_owned();
        let mut after_colon = false;
        for part in parts {
            let quoted = part.starts_with('\'');
            let name: String = part.trim_start_matches('\'').chars().take_while(char::is_ascii_alphanumeric).collect();
            match self.variables.get(&name).filter(|_| !after_colon) {
                Some(value) if quoted => text += &format!("'{value}'{}", &part[name.len() + 2..]),
                Some(value) => text += &format!("{value}{}", &part[name.len()..]),
                None => text += &format!(":{part}"),
            }
            after_colon = part.is_empty();
        }
        text
    }
}

/// A column that holds JSON.
pub fn json_of(columns: &BTreeMap<String, Option<String>>, name: &str) -> Value {
    let text = columns.get(name).and_then(Option::as_deref);
    text.map_or(Value::Null, |text| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)))
}
