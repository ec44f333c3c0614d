//! The facts as a small page for a browser: no script, nothing fetched from elsewhere.

use std::fmt::Write as _;

use crate::facts::Facts;
use crate::serve::Ends;
use crate::text;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem;color:#222;background:#fdfcfa}\
    h1{color:#2a7d46}h2{font-size:1.05rem;color:#20708a;margin:1.6rem 0 .3rem}\
    table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:400;color:#777;width:10rem;vertical-align:top}\
    td{font-family:ui-monospace,monospace;font-size:.9rem;overflow-wrap:anywhere}footer{margin-top:2rem;color:#777;font-size:.9rem}\
    @media(prefers-color-scheme:dark){body{background:#181a1b;color:#ddd}}";

/// The page, for this connection.
pub(crate) fn render(facts: &Facts, ends: Ends) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Hello from Croze!</title><style>{STYLE}</style></head><body>\n<h1>Hello from Croze!</h1>\n"
    );
    let connection = [
        ("you are", ends.client.to_string()),
        ("you reached", ends.server.to_string()),
    ];
    section(&mut page, "This connection", &connection);
    for (title, rows) in text::sections(facts) {
        section(&mut page, title, &rows);
    }
    page.push_str("<footer>The same as <a href=\"/text\">text</a> and as <a href=\"/json\">JSON</a>.</footer>\n</body></html>\n");
    page
}

fn section(page: &mut String, title: &str, rows: &[(&str, String)]) {
    // Writing to a String cannot fail.
    let _infallible = writeln!(page, "<h2>{}</h2>\n<table>", escaped(title));
    for (label, value) in rows {
        let _infallible = writeln!(
            page,
            "<tr><th>{}</th><td>{}</td></tr>",
            escaped(label),
            escaped(value)
        );
    }
    page.push_str("</table>\n");
}

/// Text as HTML shows it: a hostname is the user's choice.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_both_ends_and_escapes_what_is_not_ours() {
        let facts = Facts {
            hostname: "<b>&\"x".into(),
            ..Facts::observe()
        };
        let ends = Ends {
            client: "192.0.2.7:4711".parse().unwrap(),
            server: "[2001:db8::2]:8080".parse().unwrap(),
        };
        let page = render(&facts, ends);
        for words in [
            "192.0.2.7:4711",
            "[2001:db8::2]:8080",
            "&lt;b&gt;&amp;&quot;x",
            "</html>",
        ] {
            assert!(page.contains(words), "{words}:\n{page}");
        }
        assert!(!page.contains("<b>"));
    }
}
