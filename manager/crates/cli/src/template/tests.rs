//! Tables of templates and what Go prints for them; and that nothing panics.

use proptest::prelude::{Strategy, any, prop, prop_assert, prop_oneof, proptest};
use serde_json::json;

use super::value::Shape;
use super::*;

/// `Labels` and `Ports` are maps, all other objects have known keys.
fn shape(_: &str, key: &str) -> Shape {
    match key {
        "Labels" | "None" => Shape::Map(Zero::Text),
        "Ports" => Shape::Map(Zero::List),
        "Health" => Shape::Struct,
        _ => Shape::List,
    }
}

fn data() -> Value {
    let document = json!({
        "Name": "/web",
        "State": {"Status": "running", "Pid": 7, "Running": true, "Health": null},
        "Args": ["-c", "true"],
        "Nothing": null,
        "None": null,
        "Labels": {"b": "2", "a": "1", "x-y.z": "3"},
        "Ports": {"80/tcp": [{"HostPort": "8080"}], "81/tcp": null},
    });
    Value::from_json(&document, shape)
}

fn run(template: &str) -> Result<String, String> {
    Template::parse(template)
        .and_then(|template| template.execute(&data(), Functions::Values))
        .map_err(|error| error.to_string())
}

#[test]
fn what_go_prints() {
    for (template, printed) in [
        // Text, comments, trimming.
        ("plain", "plain"),
        ("", ""),
        ("{ {a} }", "{ {a} }"),
        ("a {{/* c */}} b", "a  b"),
        ("a {{- /* c */ -}} b", "ab"),
        ("a \n{{- .Name -}}\n b", "a/webb"),
        ("{{- -3 -}}", "-3"),
        // Fields.
        ("{{.Name}} {{ .State.Status }}", "/web running"),
        ("{{$.State.Pid}}", "7"),
        ("{{(.State).Pid}}", "7"),
        ("{{.Labels.a}} {{.Labels.nope}}", "1 <no value>"),
        ("{{.Labels.nope.deeper}}", "<no value>"),
        ("{{.Nothing}} {{.None}} {{.State.Health}}", "[] map[] <nil>"),
        ("{{.Args}} {{.Labels}}", "[-c true] map[a:1 b:2 x-y.z:3]"),
        ("{{.State}}", "{running 7 true <nil>}"),
        // Literals.
        (r#"{{"a\t\"\x41\u00e9"}}{{`r\n`}}"#, "a\t\"Aér\\n"),
        (
            "{{1.5}} {{010}} {{0x1F}} {{'a'}} {{1_000}} {{-2}} {{true}}",
            "1.5 8 31 97 1000 -2 true",
        ),
        (
            "{{1000000.0}} {{123456789.0}} {{1e20}} {{0.00001}} {{2.0}} {{1e5}}",
            "1e+06 1.23456789e+08 1e+20 1e-05 2 100000",
        ),
        // Pipelines and functions.
        ("{{.Name | printf \"%s-%s\" \"b\" | upper}}", "B-/WEB"),
        (
            "{{len .Args}} {{len .Nothing}} {{len .None}} {{len .Labels}} {{len \"abc\"}}",
            "2 0 0 3 3",
        ),
        (
            "{{index .Args 1}} {{index .Labels \"x-y.z\"}}|{{index .Labels \"nope\"}}|",
            "true 3||",
        ),
        (
            "{{index .Ports \"9/tcp\"}} {{(index (index .Ports \"80/tcp\") 0).HostPort}}",
            "[] 8080",
        ),
        (
            "{{index .Args}} {{slice .Name 1}} {{slice \"abcd\" 1 2}}",
            "[-c true] web b",
        ),
        (
            "{{join .Args \" \"}} {{join .Nothing \",\"}}|{{split \"a,b\" \",\"}}",
            "-c true |[a b]",
        ),
        (
            "{{lower \"AB\"}} {{title \"hello wOrld-foo it's\"}}",
            "ab Hello WOrld-Foo It'S",
        ),
        (
            "{{pad \"x\" 2 3}}|{{pad \"\" 2 3}}|{{truncate \"hello\" 2}}|{{truncate \"é\" 1}}|",
            "  x   ||he||",
        ),
        (
            "{{json .Args}} {{json .Nothing}} {{json \"<a>&\"}}",
            "[\"-c\",\"true\"] null \"<a>&\"",
        ),
        (
            "{{json .State}}",
            "{\"Status\":\"running\",\"Pid\":7,\"Running\":true,\"Health\":null}",
        ),
    ] {
        assert_eq!(run(template).as_deref(), Ok(printed), "{template}");
    }
}

#[test]
fn what_decides() {
    for (template, printed) in [
        // Logic.
        (
            "{{and 1 0 2}} {{or 0 \"x\"}} {{not 1}} {{0 | not}} {{or .Nothing .Name}}",
            "0 x false true /web",
        ),
        ("{{and .Nothing (index .Nothing 3)}}", "[]"),
        (
            "{{eq .State.Status \"exited\" \"running\"}} {{ne 1 2}} {{lt 1 2}} {{ge \"a\" \"b\"}}",
            "true true true false",
        ),
        ("{{eq .Labels.nope \"x\"}} {{eq nil nil}}", "false true"),
        // Blocks.
        ("{{if .Nothing}}a{{else if .State.Running}}b{{else}}c{{end}}", "b"),
        ("{{if and .Name (not .Nothing)}}y{{end}}", "y"),
        (
            "{{with .State}}{{.Pid}} {{$.Name}}{{end}}{{with .Nothing}}x{{else}}none{{end}}",
            "7 /webnone",
        ),
        ("{{with $x := .State.Pid}}{{$x}}{{.}}{{end}}", "77"),
        (
            "{{range .Args}}[{{.}}]{{end}}{{range .Nothing}}x{{else}}empty{{end}}",
            "[-c][true]empty",
        ),
        (
            "{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}",
            "a=1 b=2 x-y.z=3 ",
        ),
        (
            "{{range $i, $a := .Args}}{{if $i}},{{end}}{{$a}}{{end}}",
            "-c,true",
        ),
        (
            "{{range $i := 3}}{{if eq $i 1}}{{continue}}{{end}}{{$i}}{{end}}",
            "02",
        ),
        ("{{range .Args}}{{.}}{{break}}{{end}}", "-c"),
        ("{{$x := 1}}{{range .Args}}{{$x = .}}{{end}}{{$x}}", "true"),
        (
            "{{range $k, $v := .State}}{{$k}} {{end}}",
            "Health Pid Running Status ",
        ),
    ] {
        assert_eq!(run(template).as_deref(), Ok(printed), "{template}");
    }
}

#[test]
fn what_printf_prints() {
    for (template, printed) in [
        (
            r#"{{printf "%g %6.2f|%-6s|%06d|%x|%q|%v" 1e6 3.14159 "ab" -42 "hi" "a\"b" true}}"#,
            r#"1e+06   3.14|ab    |-00042|6869|"a\"b"|true"#,
        ),
        (
            r#"{{printf "%d" "x"}} {{printf "%s"}} {{printf "a" 1}}"#,
            "%!d(string=x) %!s(MISSING) a%!(EXTRA int=1)",
        ),
        (
            r#"{{printf "%5t|%-5t|%05s" true false "ab"}}"#,
            " true|false|000ab",
        ),
        (
            r#"{{printf "%08.3f|%+d|% d|%e|%t" 3.14159 5 5 12345.678 1}}"#,
            "0003.142|+5| 5|1.234568e+04|%!t(int=1)",
        ),
        (
            r#"{{printf "%*d|%.2s|%5.1f%%|%c|%X" 5 1 "abc" 2.25 97 255}}"#,
            "    1|ab|  2.2%|a|FF",
        ),
        (
            r#"{{printf "%s %v %q" .Args .Labels .Args}}"#,
            r#"[-c true] map[a:1 b:2 x-y.z:3] ["-c" "true"]"#,
        ),
        (
            r#"{{printf "%v %s" nil nil}} {{printf "%"}}"#,
            "<nil> %!s(<nil>) %!(NOVERB)",
        ),
        // Each item by itself, and what is not there has none.
        (
            r#"{{printf "%5v|%-3s|%3d|%q" .Args .Labels (len .Args) .Labels}}"#,
            r#"[   -c  true]|map[a  :1   b  :2   x-y.z:3  ]|  2|map["a":"1" "b":"2" "x-y.z":"3"]"#,
        ),
        (
            r#"{{printf "%s %9s %d %+v %s" .Nothing .None .None .State .State.Health}}"#,
            "[] map[] map[] {Status:running Pid:7 Running:true Health:<nil>} %!s(<nil>)",
        ),
        (
            r#"{{printf "%U %#U %O %+v %+d %v" 65 233 8 5 5 -1}}"#,
            "U+0041 U+00E9 'é' 0o10 5 +5 -1",
        ),
        (
            r#"{{print 1 2 "a" "b" 3}}|{{println "a" 1}}|{{print nil}}"#,
            "1 2ab3|a 1\n|<nil>",
        ),
    ] {
        assert_eq!(run(template).as_deref(), Ok(printed), "{template}");
    }
}

#[test]
fn errors_name_the_token_and_its_place() {
    for (template, words) in [
        ("{{.Name", "line 1, column 1, at <{{>: an action is not closed"),
        (
            "a\n b{{bogus .Name}}",
            "line 2, column 5, at <bogus>: function \"bogus\" not defined",
        ),
        (
            "{{.Bogus}}",
            "line 1, column 3, at <.Bogus>: map has no entry for key \"Bogus\"",
        ),
        ("{{.State.Bogus}}", "at <.State.Bogus>: map has no entry"),
        ("{{.State.Health.Status}}", "nil pointer evaluating .Status"),
        ("{{.Name.x}}", "can't evaluate field x in a string"),
        (
            "{{template \"x\"}}",
            "at <template>: \"template\" is not supported",
        ),
        ("{{define \"x\"}}", "\"define\" is not supported"),
        ("{{$x}}", "undefined variable \"$x\""),
        ("{{with $x := 5}}{{end}}{{$x}}", "column 26, at <$x>"),
        ("{{if true}}", "at <if>: a block is not closed"),
        ("{{end}}", "unexpected {{end}}"),
        (
            "{{if 1}}{{else}}{{else}}{{end}}",
            "unexpected {{else}}, {{end}} is expected",
        ),
        ("{{break}}", "unexpected {{break}}"),
        ("{{\"x", "at <\"x>: a string is not closed"),
        ("{{`x", "a raw string is not closed"),
        ("{{ /* c */ }}", "bad character '/'"),
        ("{{/* c }}", "a comment is not closed"),
        ("{{/*/}}", "a comment is not closed"),
        ("{{1 | 2}}", "at <2>: unexpected a value, a function after |"),
        ("{{true.x}}", "unexpected .x"),
        ("{{.A.}}", "unexpected ."),
        ("{{\"a\"\"b\"}}", "unexpected a string"),
        ("{{1x}}", "malformed number"),
        ("{{0x8000000000000000}}", "malformed number"),
        ("{{\"\\q\"}}", "malformed escape"),
        ("{{.Name \"x\"}}", "at <.Name>: .Name cannot be called"),
        ("{{nil}}", "nil cannot be called"),
        (
            "{{eq 1 1.0}}",
            "incompatible types for comparison: int and float64",
        ),
        ("{{eq 1}}", "missing argument"),
        ("{{lt 1 \"a\"}}", "incompatible types"),
        ("{{index .Args 5}}", "index out of range: 5"),
        ("{{index nil 1}}", "index of untyped nil"),
        ("{{upper 1}}", "expected string, got a int"),
        ("{{upper}}", "want 1, got 0"),
        ("{{range .Name}}{{end}}", "range can't iterate over a string"),
        ("{{$a, $b := .Labels}}", "unexpected a second variable"),
        ("{{truncate \"a\" -1}}", "cannot be negative"),
        ("{{pad \"a\" 1 99999999}}", "cannot pad with 99999999"),
        ("{{}}", "unexpected }}"),
        (
            "{{printf \"%[1]d\" 5}}",
            "at <printf>: printf: %[: the numbers of arguments",
        ),
        ("{{printf \"%T\" .Name}}", "printf: %T is not supported"),
        ("{{printf \"%#v\" .Name}}", "printf: %#v is not supported"),
        (
            "{{printf \"%x\" 0.5}}",
            "printf: %x of a float64 is not supported",
        ),
    ] {
        let error = run(template).unwrap_err();
        assert!(error.contains(words), "{template}: {error}");
    }
}

#[test]
fn depth_is_bounded() {
    for deep in [
        format!("{{{{{}1{}}}}}", "(".repeat(100_000), ")".repeat(100_000)),
        "{{if 1}}".repeat(100_000),
        format!("{{{{if 1}}}}{}{{{{end}}}}", "{{else if 1}}".repeat(100_000)),
    ] {
        let error = Template::parse(&deep).unwrap_err();
        assert_eq!(error.problem, error::Problem::TooDeep { limit: MAX_DEPTH });
    }
}

#[test]
fn what_grows_for_ever_is_stopped() {
    let start = "{{$x := \"aaaaaaaaaa\"}}{{range 60}}";
    for template in [
        format!("{start}{{{{$x = print $x $x}}}}{{{{end}}}}{{{{len $x}}}}"),
        format!("{start}{{{{$x = println $x $x}}}}{{{{end}}}}"),
        format!("{start}{{{{$x = printf \"%s%s\" $x $x}}}}{{{{end}}}}"),
        format!("{start}{{{{$x = print $x $x}}}}{{{{$y := split $x \"\"}}}}{{{{end}}}}"),
        "{{range 9223372036854775807}}{{end}}".to_owned(),
        "{{range 9223372036854775807}}{{range 9223372036854775807}}{{end}}{{end}}".to_owned(),
        // Never long, but again and again.
        "{{$x := printf \"%9999999d\" 1}}{{range 9223372036854775807}}{{$y := upper $x}}{{end}}".to_owned(),
    ] {
        let error = Template::parse(&template)
            .and_then(|template| template.execute(&data(), Functions::Values))
            .unwrap_err();
        assert!(
            matches!(
                error.problem,
                error::Problem::TooLong { .. } | error::Problem::TooMuch { .. }
            ),
            "{template}: {error}"
        );
    }
}

#[test]
fn titles_stay_whole() {
    let titles = Value::Struct(vec![
        ("ID".to_owned(), "CONTAINER ID".into()),
        ("Label".to_owned(), Value::Method(Method::Title)),
    ]);
    let template =
        Template::parse("{{lower .ID | truncate 3}}\t{{.Label \"com.some_key\"}}\t{{pad .ID 1 1}}").unwrap();
    assert!(
        template.execute(&titles, Functions::Titles).is_err(),
        "the order of arguments counts"
    );
    let template =
        Template::parse("{{truncate (lower .ID) 3}}\t{{.Label \"com.some_key\"}}\t{{pad .ID 1 1}}");
    assert_eq!(
        template.unwrap().execute(&titles, Functions::Titles).as_deref(),
        Ok("CONTAINER ID\tsome key\t CONTAINER ID ")
    );
}

#[test]
fn mentioned_fields_are_found_anywhere() {
    for (template, found) in [
        ("{{.Size}}", true),
        ("{{if eq (len .Size) 3}}x{{end}}", true),
        ("{{range $.Size}}{{end}}", true),
        ("{{range .A}}{{else}}{{.B.Size}}{{end}}", true),
        ("Size {{.Sizes}}", false),
    ] {
        assert_eq!(
            Template::parse(template).unwrap().mentions("Size"),
            found,
            "{template}"
        );
    }
}

/// Pieces that templates are made of, and some that they are not.
fn pieces() -> impl Strategy<Value = String> {
    let words = [
        "{{",
        "}}",
        "{{-",
        "-}}",
        " ",
        "(",
        ")",
        "|",
        ".",
        ".Name",
        ".State.Pid",
        "$",
        "$x",
        ":=",
        "=",
        ",",
        "if",
        "else",
        "end",
        "range",
        "with",
        "break",
        "continue",
        "len",
        "index",
        "eq",
        "lt",
        "and",
        "or",
        "not",
        "print",
        "printf",
        "json",
        "join",
        "split",
        "pad",
        "truncate",
        "slice",
        "title",
        "nil",
        "true",
        "0",
        "1",
        "-7",
        "1.5",
        "1e309",
        "'a'",
        "\"%d %s %-9.3v\"",
        "\"%*.*f\"",
        "`x`",
        "\"",
        "\\",
        "é",
        "\n",
        "/*",
        "*/",
        ".Args",
        ".Labels",
        ".Ports",
        ".Nothing",
    ];
    let word = prop_oneof![
        8 => prop::sample::select(words.to_vec()).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(word, 0..40).prop_map(|words| words.join(" "))
}

/// Something that parses more often: one action of functions and values.
fn actions() -> impl Strategy<Value = String> {
    let function = prop::sample::select(functions::NAMES.to_vec());
    let value = prop::sample::select(vec![
        ".",
        ".Name",
        ".State",
        ".Args",
        ".Labels",
        ".Nothing",
        ".None",
        "nil",
        "1",
        "-1",
        "999999999",
        "0.5",
        "1e300",
        "\"a\"",
        "\"%s%d%q%v%x%t%f%g%e%5.2f%-8d%c\"",
        "\"%999999999999d\"",
        "true",
        "(len .Args)",
        "(split \"a b\" \" \")",
    ]);
    let arguments = prop::collection::vec(value, 0..5);
    prop::collection::vec((function, arguments), 1..4).prop_map(|calls| {
        let calls: Vec<String> = calls
            .iter()
            .map(|(name, arguments)| format!("{name} {}", arguments.join(" ")))
            .collect();
        format!("{{{{{}}}}}", calls.join(" | "))
    })
}

/// One verb of printf with every kind of value: widths and precisions around what Rust's own formatting takes, and far beyond.
fn verbs() -> impl Strategy<Value = String> {
    let size = prop_oneof!["", "1", "40", "401", "65535", "65536", "70000", "999999999999"].boxed();
    let (flags, letter) = ("[-+# 0]{0,3}", "[a-zA-Z%\\[]");
    let value = prop::sample::select(vec![
        "1", "-1", "0.5", "1e300", "\"a\"", "true", ".Args", ".Labels",
    ]);
    (flags, size.clone(), prop::option::of(size), letter, value).prop_map(
        |(flags, width, precision, letter, value)| {
            let precision = precision.map_or_else(String::new, |digits| format!(".{digits}"));
            format!("{{{{printf \"%{flags}{width}{precision}{letter}\" {value}}}}}")
        },
    )
}

#[test]
fn wide_numbers_are_padded_as_far_as_was_asked() {
    for (template, length, first, last) in [
        ("{{printf \"%070000d\" 1}}", 70_000, '0', '1'),
        ("{{printf \"%070000d\" -1}}", 70_000, '-', '1'),
        ("{{printf \"%.70000d\" 1}}", 70_000, '0', '1'),
        ("{{printf \"%70000d\" 1}}", 70_000, ' ', '1'),
        ("{{printf \"%-70000d\" 1}}", 70_000, '1', ' '),
        ("{{printf \"%070000.1f\" 0.5}}", 70_000, '0', '5'),
    ] {
        let printed = run(template).unwrap();
        assert_eq!(printed.len(), length, "{template}");
        assert!(
            printed.starts_with(first) && printed.ends_with(last),
            "{template}"
        );
    }
}

proptest! {
    #[test]
    fn nothing_panics(template in prop_oneof![pieces(), actions(), verbs(), any::<String>()]) {
        if let Err(error) = run(&template) {
            prop_assert!(error.contains("line "), "{error}");
        }
    }
}
