//! The values that templates are about, and how Go prints them.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::error::Problem;
use super::printf;

/// What stands for something that is not there, by its type in docker: an entry that `index` does not find in a map, a field that documents leave
/// out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zero {
    /// The empty text.
    Text,
    /// False.
    Bool,
    /// A pointer to nothing.
    Pointer,
    /// A list that is not there.
    List,
    /// A map that is not there.
    Map,
}

/// Something that is called with one text, as `.Label "key"`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Method {
    /// The entry of this key; empty when there is none.
    Lookup(BTreeMap<String, String>),
    /// The title of a column that shows this key: its last part, in words.
    Title,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// An entry that a map does not have, or the untyped `nil`.
    Missing,
    /// A pointer, list or map that is not there.
    Nil(Zero),
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// Values in their order.
    List(Vec<Value>),
    /// Values by free keys: another key is no error.
    Map {
        /// The entries; printed and walked in the order of their keys.
        entries: BTreeMap<String, Value>,
        /// What another key gives.
        zero: Zero,
    },
    /// Values by known keys, in docker's order: another key is an error.
    Struct(Vec<(String, Value)>),
    /// Something to call.
    Method(Method),
    /// Of a structure: a field that documents and lists of fields leave out because it is empty. Whoever asks for it by name finds this.
    Silent(Box<Value>),
}

/// The fields of an object, found by its key and the key around it, that a document leaves out where they are empty.
pub(crate) type Omitted = fn(around: &str, key: &str) -> &'static [(&'static str, Zero)];

/// How a JSON object or null is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// An object with known keys; a pointer to one when it is null.
    Struct,
    /// An object with free keys.
    Map(Zero),
    /// A list when it is null.
    List,
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Value {
    /// The value of a JSON document. `shape` says, for a key and the key around it, what an object or null is.
    pub(crate) fn from_json(json: &Json, shape: fn(around: &str, key: &str) -> Shape) -> Self {
        Self::from_document(json, shape, |_, _| &[])
    }

    /// The same of a document that leaves fields out.
    pub(crate) fn from_document(
        json: &Json,
        shape: fn(around: &str, key: &str) -> Shape,
        omitted: Omitted,
    ) -> Self {
        Reading { shape, omitted }.value(json, ("", ""))
    }

    /// A field, or the entry of a key.
    pub(super) fn field(&self, name: &str) -> Result<&Self, Problem> {
        let no_entry = || Problem::NoEntry { key: name.to_owned() };
        match self {
            Self::Missing | Self::Nil(Zero::Map) => Ok(&Self::Missing),
            Self::Nil(Zero::Pointer) => Err(Problem::NilField {
                field: format!(".{name}"),
            }),
            Self::Map { entries, .. } => Ok(entries.get(name).unwrap_or(&Self::Missing)),
            Self::Struct(fields) => fields
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| match value {
                    Self::Silent(value) => value,
                    value => value,
                })
                .ok_or_else(no_entry),
            other => Err(Problem::NoField {
                field: name.to_owned(),
                kind: other.kind(),
            }),
        }
    }

    /// Whether `if` takes it for true: it is not empty.
    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Missing | Self::Nil(_) => false,
            Self::Bool(value) => *value,
            Self::Integer(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Map { entries, .. } => !entries.is_empty(),
            Self::Struct(_) | Self::Method(_) => true,
            Self::Silent(value) => value.truth(),
        }
    }

    /// About how many bytes it takes.
    pub(super) fn weight(&self) -> usize {
        let inner: usize = match self {
            Self::Text(text) => text.len(),
            Self::List(items) => items.iter().map(Self::weight).sum(),
            Self::Map { entries, .. } => entries
                .iter()
                .map(|(key, value)| key.len() + value.weight())
                .sum(),
            Self::Struct(fields) => fields.iter().map(|(key, value)| key.len() + value.weight()).sum(),
            Self::Silent(value) => value.weight(),
            Self::Missing
            | Self::Nil(_)
            | Self::Bool(_)
            | Self::Integer(_)
            | Self::Float(_)
            | Self::Method(_) => 0,
        };
        size_of::<Self>() + inner
    }

    /// What it is, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "missing value",
            Self::Nil(_) => "nil",
            Self::Bool(_) => "bool",
            Self::Integer(_) => "int",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::List(_) => "list",
            Self::Map { .. } => "map",
            Self::Struct(_) => "struct",
            Self::Method(_) => "method",
            Self::Silent(value) => value.kind(),
        }
    }

    /// What `{{.}}` prints of it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Missing => "<no value>".to_owned(),
            value => value.plain(),
        }
    }

    /// What `%v` prints of it.
    pub(super) fn plain(&self) -> String {
        let mut text = String::new();
        self.write_plain(&mut text);
        text
    }

    fn write_plain(&self, out: &mut String) {
        match self {
            Self::Missing | Self::Nil(Zero::Pointer | Zero::Text | Zero::Bool) => out.push_str("<nil>"),
            Self::Nil(Zero::List) => out.push_str("[]"),
            Self::Nil(Zero::Map) => out.push_str("map[]"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Integer(number) => out.push_str(&number.to_string()),
            Self::Float(number) => out.push_str(&printf::shortest(*number)),
            Self::Text(text) => out.push_str(text),
            Self::List(items) => joined(out, "[", items.iter().map(|item| (None, item)), "]"),
            Self::Map { entries, .. } => {
                joined(out, "map[", entries.iter().map(|(k, v)| (Some(k), v)), "]");
            }
            Self::Struct(fields) => joined(out, "{", said(fields).map(|(_, value)| (None, value)), "}"),
            Self::Method(_) => out.push_str("<method>"),
            Self::Silent(value) => value.write_plain(out),
        }
    }

    /// What `json` prints of it.
    pub(crate) fn json(&self) -> Json {
        match self {
            Self::Missing | Self::Nil(_) | Self::Method(_) => Json::Null,
            Self::Bool(value) => Json::from(*value),
            Self::Integer(number) => Json::from(*number),
            Self::Float(number) => Json::from(*number),
            Self::Text(text) => Json::from(text.as_str()),
            Self::List(items) => items.iter().map(Self::json).collect(),
            Self::Map { entries, .. } => entries.iter().map(|(k, v)| (k.clone(), v.json())).collect(),
            Self::Silent(value) => value.json(),
            Self::Struct(fields) => said(fields)
                .filter(|(_, value)| !matches!(value, Self::Method(_)))
                .map(|(key, value)| (key.clone(), value.json()))
                .collect(),
        }
    }
}

impl Zero {
    /// The value itself.
    pub(super) fn value(self) -> Value {
        match self {
            Self::Text => Value::Text(String::new()),
            Self::Bool => Value::Bool(false),
            other => Value::Nil(other),
        }
    }
}

/// The fields that a document shows.
pub(super) fn said(fields: &[(String, Value)]) -> impl Iterator<Item = &(String, Value)> {
    fields
        .iter()
        .filter(|(_, value)| !matches!(value, Value::Silent(_)))
}

fn joined<'value>(
    out: &mut String,
    open: &str,
    items: impl Iterator<Item = (Option<&'value String>, &'value Value)>,
    close: &str,
) {
    out.push_str(open);
    for (index, (key, value)) in items.enumerate() {
        if index > 0 {
            out.push(' ');
        }
        if let Some(key) = key {
            out.push_str(key);
            out.push(':');
        }
        value.write_plain(out);
    }
    out.push_str(close);
}

/// What is known of a document besides its JSON.
struct Reading {
    shape: fn(&str, &str) -> Shape,
    omitted: Omitted,
}

impl Reading {
    /// `place` is the key around the value and its own; an item of a list has those of the list.
    fn value(&self, json: &Json, place: (&str, &str)) -> Value {
        let (around, key) = place;
        match json {
            Json::Null => Value::Nil(match (self.shape)(around, key) {
                Shape::Struct => Zero::Pointer,
                Shape::Map(_) => Zero::Map,
                Shape::List => Zero::List,
            }),
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => number.as_i64().map_or_else(
                || Value::Float(number.as_f64().unwrap_or(f64::MAX)),
                Value::Integer,
            ),
            Json::String(text) => Value::Text(text.clone()),
            Json::Array(items) => Value::List(items.iter().map(|item| self.value(item, place)).collect()),
            Json::Object(fields) => {
                let inner = fields
                    .iter()
                    .map(|(name, value)| (name.clone(), self.value(value, (key, name))));
                match (self.shape)(around, key) {
                    Shape::Map(zero) => Value::Map {
                        entries: inner.collect(),
                        zero,
                    },
                    Shape::Struct | Shape::List => {
                        let omitted = (self.omitted)(around, key)
                            .iter()
                            .filter(|(name, _)| !fields.contains_key(*name))
                            .map(|(name, zero)| ((*name).to_owned(), Value::Silent(Box::new(zero.value()))));
                        Value::Struct(inner.chain(omitted).collect())
                    }
                }
            }
        }
    }
}
