//! Lists in the form that `--format` asks for, as docker has them.
//!
//! | `--format` | what is printed |
//! |---|---|
//! | nothing, `table` | the verb's own table |
//! | `table TEMPLATE` | a table of the template's cells, which tabs part; its first line are the titles of the fields |
//! | `json` | one line of JSON per item |
//! | `TEMPLATE` | the template, once per item |
//!
//! `\t` and `\n` may be written as two characters each, as shells like it.

use crate::failure::Failure;
use crate::output;
use crate::table;
use crate::template::{Functions, Method, Template, Value};

/// How a list is printed.
#[derive(Debug, Clone)]
pub(crate) struct Format {
    template: Template,
    is_table: bool,
}

/// A field of the items: its name and the title of its column.
pub(crate) type Title = (&'static str, &'static str);

impl Format {
    /// The format that the user asks for; `table` is the verb's own one, without the word.
    pub(crate) fn parse(asked: Option<&str>, table: &str) -> Result<Self, Failure> {
        let asked = asked.unwrap_or_default().trim_matches(' ');
        // An empty one is as good as none.
        let asked = if asked.is_empty() { "table" } else { asked };
        let (is_table, template) = match (asked, asked.strip_prefix("table")) {
            ("json", _) => (false, "{{json .}}"),
            (_, Some("")) => (true, table),
            (_, Some(template)) if template.starts_with([' ', '{', '\\', '\t']) => {
                (true, template.trim_matches(' '))
            }
            _ => (false, asked),
        };
        let template = template.replace("\\t", "\t").replace("\\n", "\n");
        Ok(Self {
            template: Template::parse(&template)?,
            is_table,
        })
    }

    /// The format of `-q`: this field alone.
    pub(crate) fn quiet(asked: Option<&str>, field: &str) -> Result<Self, Failure> {
        if asked.is_some_and(|asked| asked != "table") {
            output::notice("warning: --format is ignored, because --quiet is set too");
        }
        Ok(Self {
            template: Template::parse(&format!("{{{{.{field}}}}}"))?,
            is_table: false,
        })
    }

    /// Whether a field of this name is asked for.
    pub(crate) fn mentions(&self, field: &str) -> bool {
        self.template.mentions(field)
    }

    /// Prints the items.
    pub(crate) fn print(&self, titles: &[Title], items: &[Value]) -> Result<(), Failure> {
        let text = self.render(titles, items)?;
        output::text(&text)
    }

    fn render(&self, titles: &[Title], items: &[Value]) -> Result<String, Failure> {
        let mut text = String::new();
        if self.is_table {
            text.push_str(&self.template.execute(&title_row(titles), Functions::Titles)?);
            text.push('\n');
        }
        for item in items {
            text.push_str(&self.template.execute(item, Functions::Values)?);
            text.push('\n');
        }
        Ok(if self.is_table {
            table::aligned(&text)
        } else {
            text
        })
    }
}

fn title_row(titles: &[Title]) -> Value {
    let mut fields: Vec<(String, Value)> = titles
        .iter()
        .map(|&(name, title)| (name.to_owned(), Value::from(title)))
        .collect();
    fields.push(("Label".to_owned(), Value::Method(Method::Title)));
    Value::Struct(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(asked: &str) -> String {
        let item = |name: &str| {
            Value::Struct(vec![
                ("ID".to_owned(), "0123456789ab".into()),
                ("Names".to_owned(), name.into()),
            ])
        };
        let titles = [("ID", "CONTAINER ID"), ("Names", "NAMES")];
        Format::parse(Some(asked), "{{.ID}}\t{{.Names}}")
            .unwrap()
            .render(&titles, &[item("web"), item("db")])
            .unwrap()
    }

    #[test]
    fn every_form() {
        let whole = "CONTAINER ID   NAMES\n0123456789ab   web\n0123456789ab   db\n";
        for (asked, printed) in [
            ("table", whole),
            (" table {{.ID}}\\t{{.Names}}", whole),
            ("table {{upper .Names}}", "NAMES\nWEB\nDB\n"),
            ("{{.Names}}", "web\ndb\n"),
            ("{{.Names}}\\t!", "web\t!\ndb\t!\n"),
            (
                "json",
                "{\"ID\":\"0123456789ab\",\"Names\":\"web\"}\n{\"ID\":\"0123456789ab\",\"Names\":\"db\"}\n",
            ),
            ("tables", "tables\ntables\n"),
        ] {
            assert_eq!(rendered(asked), printed, "{asked}");
        }
    }

    #[test]
    fn an_empty_format_is_the_table() {
        for asked in [None, Some(""), Some("  "), Some("table")] {
            let format = Format::parse(asked, "{{.ID}}").unwrap();
            let printed = format.render(&[("ID", "CONTAINER ID")], &[]).unwrap();
            assert_eq!(printed, "CONTAINER ID\n", "{asked:?}");
        }
    }

    #[test]
    fn a_wrong_field_is_an_error_even_without_items() {
        let format = Format::parse(Some("table {{.Bogus}}"), "").unwrap();
        assert!(format.render(&[("ID", "ID")], &[]).is_err());
        assert!(Format::parse(Some("{{.ID"), "").is_err());
    }
}
