//! What a target's object says, as far as it was read; no object, no memory.

use std::fmt::{self, Write};

use serde::Serialize;

use super::address::Address;

/// A local variable of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Local {
    /// Its name.
    pub name: String,
    /// Whether it is an argument of the function.
    pub argument: bool,
    /// What it holds.
    pub value: Value,
}

/// An object as it was read. `length` is how many items, code points or bytes there are in all; fewer may be told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool {
        /// Which.
        value: bool,
    },
    /// An `int`, or 2.7's `long`.
    Int {
        /// In decimal, or from 128 bits on in hexadecimal with `0x`; `None` when it is too large to be told.
        text: Option<String>,
        /// How many bits it has, as `int.bit_length` says; an upper bound when it is too large to be told.
        bits: u64,
    },
    /// A `float`, as `repr` shows it.
    Float {
        /// E.g. `1.5`, `1e+16`, `nan`, `-inf`.
        text: String,
    },
    /// A `str`, or in 2.7 a `str` or `unicode` that is text.
    Str {
        /// Lone surrogates are U+FFFD.
        text: String,
        /// Code points in all (bytes in a 2.7 `str`).
        length: u64,
    },
    /// `bytes`, or a 2.7 `str` that is not UTF-8.
    Bytes {
        /// As in a bytes literal, without quotes.
        text: String,
        /// Bytes in all.
        length: u64,
    },
    /// A `list`.
    List {
        /// The first items.
        items: Vec<Value>,
        /// Items in all.
        length: u64,
    },
    /// A `tuple`.
    Tuple {
        /// The first items.
        items: Vec<Value>,
        /// Items in all.
        length: u64,
    },
    /// A `set`.
    Set {
        /// Some items, in the order of the table.
        items: Vec<Value>,
        /// Items in all.
        length: u64,
    },
    /// A `frozenset`.
    FrozenSet {
        /// Some items, in the order of the table.
        items: Vec<Value>,
        /// Items in all.
        length: u64,
    },
    /// A `dict`, or 3.15's `frozendict`.
    Dict {
        /// The first entries.
        entries: Vec<Entry>,
        /// Entries in all.
        length: u64,
    },
    /// Anything else, an instance of a subclass of the above among it.
    Object {
        /// Its type, with the module where that is known.
        #[serde(rename = "type")]
        type_name: String,
        /// Where it is.
        address: Address,
        /// What it is called: for classes and modules.
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// What it is as an instance of the type above that it inherits from.
        #[serde(skip_serializing_if = "Option::is_none")]
        content: Option<Box<Value>>,
        /// The first of its attributes, slots last.
        attributes: Vec<Attribute>,
        /// Attributes in all that have a value.
        length: u64,
    },
    /// An object that contains the place where this stands.
    Cycle {
        /// Where it is.
        address: Address,
    },
    /// An object that was left out: it lies too deep, or enough was read.
    Omitted {
        /// Its type, where it was looked at.
        #[serde(rename = "type")]
        type_name: String,
        /// Where it is.
        address: Address,
    },
    /// What could not be read, or is no object.
    Unreadable {
        /// Why.
        why: String,
    },
    /// A secret, which is not told.
    Redacted,
}

/// An entry of a dict.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Entry {
    /// Its key.
    pub key: Value,
    /// Its value.
    pub value: Value,
}

/// An attribute of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
}

impl fmt::Display for Value {
    /// Much as `repr` shows it, in one line; what was left out is an ellipsis. Text is not made fit for a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("None"),
            Value::Bool { value: true } => f.write_str("True"),
            Value::Bool { value: false } => f.write_str("False"),
            Value::Int {
                text: Some(text), ..
            }
            | Value::Float { text } => f.write_str(text),
            Value::Int { bits, .. } => write!(f, "<int of {bits} bits>"),
            Value::Str { text, length } => {
                write_quoted(f, text)?;
                write_rest(f, text.chars().count().max(text.len()) as u64, *length)
            }
            Value::Bytes { text, length } => {
                write!(f, "b'{text}'")?;
                write_rest(f, text.len() as u64, *length)
            }
            Value::List { items, length } => write_items(f, "[", items, *length, "]"),
            Value::Tuple { items, length: 1 } if items.len() == 1 => {
                write_items(f, "(", items, 1, ",)")
            }
            Value::Tuple { items, length } => write_items(f, "(", items, *length, ")"),
            Value::Set { items, length } if !items.is_empty() => {
                write_items(f, "{", items, *length, "}")
            }
            Value::Set { items, length } => write_items(f, "set(", items, *length, ")"),
            Value::FrozenSet { items, length } => {
                write_items(f, "frozenset({", items, *length, "})")
            }
            Value::Dict { entries, length } => write_entries(f, entries, *length),
            Value::Object { .. } => self.write_object(f),
            Value::Cycle { .. } => f.write_str("<cycle>"),
            Value::Omitted { type_name, address } if type_name.is_empty() => {
                write!(f, "<object at {address}>")
            }
            Value::Omitted { type_name, address } => write!(f, "<{type_name} at {address}>"),
            Value::Unreadable { why } => write!(f, "<unreadable: {why}>"),
            Value::Redacted => f.write_str("<redacted>"),
        }
    }
}

impl Value {
    fn write_object(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Value::Object {
            type_name,
            address,
            name,
            content,
            attributes,
            length,
        } = self
        else {
            return Ok(());
        };
        if let Some(name) = name {
            return write!(f, "<{type_name} {name}>");
        }
        if content.is_none() && attributes.is_empty() {
            return write!(f, "<{type_name} at {address}>");
        }
        write!(f, "{type_name}(")?;
        let mut separator = "";
        if let Some(content) = content {
            write!(f, "{content}")?;
            separator = ", ";
        }
        for attribute in attributes {
            write!(f, "{separator}{}={}", attribute.name, attribute.value)?;
            separator = ", ";
        }
        if *length > attributes.len() as u64 {
            write!(f, "{separator}…")?;
        }
        f.write_str(")")
    }
}

fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    f.write_char(quote)?;
    for letter in text.chars() {
        match letter {
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\\' => f.write_str("\\\\")?,
            _ if letter == quote => write!(f, "\\{letter}")?,
            _ => f.write_char(letter)?,
        }
    }
    f.write_char(quote)
}

/// Says how long a text is of which only a part is shown.
fn write_rest(f: &mut fmt::Formatter<'_>, shown: u64, length: u64) -> fmt::Result {
    if length > shown {
        write!(f, "… ({length} in all)")?;
    }
    Ok(())
}

fn write_items(
    f: &mut fmt::Formatter<'_>,
    open: &str,
    items: &[Value],
    length: u64,
    close: &str,
) -> fmt::Result {
    f.write_str(open)?;
    for (index, item) in items.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        write!(f, "{separator}{item}")?;
    }
    write_more(f, items.len(), length)?;
    f.write_str(close)
}

fn write_entries(f: &mut fmt::Formatter<'_>, entries: &[Entry], length: u64) -> fmt::Result {
    f.write_char('{')?;
    for (index, entry) in entries.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        write!(f, "{separator}{}: {}", entry.key, entry.value)?;
    }
    write_more(f, entries.len(), length)?;
    f.write_char('}')
}

fn write_more(f: &mut fmt::Formatter<'_>, shown: usize, length: u64) -> fmt::Result {
    if length > shown as u64 {
        let separator = if shown == 0 { "" } else { ", " };
        write!(f, "{separator}… ({length} in all)")?;
    }
    Ok(())
}
