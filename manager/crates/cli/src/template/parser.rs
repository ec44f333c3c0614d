//! From tokens to nodes, by recursive descent.

use std::iter::Peekable;
use std::vec::IntoIter;

use super::MAX_DEPTH;
use super::ast::{Branch, Command, Node, Operand, OperandKind, Pipeline};
use super::error::{Located, Problem, Span};
use super::functions;
use super::lexer::{Kind, Token};

/// What Go has and this does not: named in the error, because users may know it.
const ABSENT: [&str; 3] = ["define", "block", "template"];

/// Makes nodes of tokens.
pub(super) fn parse(tokens: Vec<Token>) -> Result<Vec<Node>, Located> {
    let mut parser = Parser {
        tokens: tokens.into_iter().peekable(),
        depth: 0,
        loops: 0,
        variables: vec![String::new()],
    };
    let (nodes, end) = parser.list()?;
    match end {
        Some((word, span)) => Err(Problem::Unexpected {
            token: format!("{{{{{word}}}}}"),
            expected: "nothing to end",
        }
        .at(span)),
        None => Ok(nodes),
    }
}

/// `end` or `else`, with its place: what ends a list of nodes. `None`: the end of the text.
type ListEnd = Option<(&'static str, Span)>;

struct Parser {
    tokens: Peekable<IntoIter<Token>>,
    depth: usize,
    /// Ranges around the present place.
    loops: usize,
    /// Variables that may be used, the innermost last; `$` is the empty name.
    variables: Vec<String>,
}

/// Nowhere: only if the lexer forgot its last token.
const NOWHERE: Span = Span { start: 0, end: 0 };

impl Parser {
    fn next(&mut self) -> Token {
        self.tokens.next().unwrap_or(Token {
            kind: Kind::End,
            span: NOWHERE,
            spaced: true,
        })
    }

    fn peek(&mut self) -> Option<&Kind> {
        self.tokens.peek().map(|token| &token.kind)
    }

    fn here(&mut self) -> Span {
        self.tokens.peek().map_or(NOWHERE, |token| token.span)
    }

    fn deeper<T>(
        &mut self,
        span: Span,
        parse: impl FnOnce(&mut Self) -> Result<T, Located>,
    ) -> Result<T, Located> {
        if self.depth == MAX_DEPTH {
            return Err(Problem::TooDeep { limit: MAX_DEPTH }.at(span));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// Nodes up to `end`, `else` or the end of the text.
    fn list(&mut self) -> Result<(Vec<Node>, ListEnd), Located> {
        let mut nodes = Vec::new();
        loop {
            let token = self.next();
            match token.kind {
                Kind::Text(text) => nodes.push(Node::Text(text)),
                Kind::End => return Ok((nodes, None)),
                _ => {
                    let span = self.here();
                    match self.keyword() {
                        Some("end") => {
                            self.close("the end of {{end}}")?;
                            return Ok((nodes, Some(("end", span))));
                        }
                        // What follows it belongs to the block.
                        Some("else") => return Ok((nodes, Some(("else", span)))),
                        Some(word) => nodes.push(self.statement(word, span)?),
                        None => {
                            let pipeline = self.pipeline()?;
                            single_variable(&pipeline)?;
                            self.close("the end of the action")?;
                            nodes.push(Node::Action(pipeline));
                        }
                    }
                }
            }
        }
    }

    /// Takes a keyword, if one is next.
    fn keyword(&mut self) -> Option<&'static str> {
        const WORDS: [&str; 7] = ["if", "with", "range", "end", "else", "break", "continue"];
        let word = match self.peek() {
            Some(Kind::Identifier(name)) => WORDS.into_iter().find(|word| word == name)?,
            _ => return None,
        };
        self.next();
        Some(word)
    }

    fn statement(&mut self, word: &'static str, span: Span) -> Result<Node, Located> {
        match word {
            "break" | "continue" if self.loops == 0 => Err(Problem::Unexpected {
                token: format!("{{{{{word}}}}}"),
                expected: "a range around it",
            }
            .at(span)),
            "break" => self.close("the end of {{break}}").map(|()| Node::Break),
            "continue" => self.close("the end of {{continue}}").map(|()| Node::Continue),
            _ => self.deeper(span, |parser| parser.block(word, span)),
        }
    }

    fn block(&mut self, word: &'static str, span: Span) -> Result<Node, Located> {
        let visible = self.variables.len();
        let is_range = word == "range";
        let pipeline = self.pipeline()?;
        if !is_range {
            single_variable(&pipeline)?;
        }
        self.close("the end of the action")?;
        self.loops += usize::from(is_range);
        let then = self.list();
        self.loops -= usize::from(is_range);
        let (then, end) = then?;
        let unclosed = || Problem::Unclosed { what: "a block" }.at(span);
        let otherwise = match end {
            None => return Err(unclosed()),
            Some(("else", else_span)) => self.otherwise(word, else_span, unclosed)?,
            Some(_) => Vec::new(),
        };
        self.variables.truncate(visible);
        let branch = Branch {
            pipeline,
            then,
            otherwise,
        };
        Ok(match word {
            "if" => Node::If(branch),
            "with" => Node::With(branch),
            _ => Node::Range(branch),
        })
    }

    /// What follows `else`: a whole block of the same kind, or nodes up to `end`.
    fn otherwise(
        &mut self,
        word: &'static str,
        span: Span,
        unclosed: impl Fn() -> Located,
    ) -> Result<Vec<Node>, Located> {
        if let Some(Kind::Identifier(name)) = self.peek()
            && name == word
            && word != "range"
        {
            self.next();
            let chained = self.deeper(span, |parser| parser.block(word, span))?;
            return Ok(vec![chained]);
        }
        self.close("the end of {{else}}")?;
        match self.list()? {
            (nodes, Some(("end", _))) => Ok(nodes),
            (_, Some((_, second))) => Err(Problem::Unexpected {
                token: "{{else}}".to_owned(),
                expected: "{{end}}",
            }
            .at(second)),
            (_, None) => Err(unclosed()),
        }
    }

    fn close(&mut self, expected: &'static str) -> Result<(), Located> {
        let token = self.next();
        match token.kind {
            Kind::Close => Ok(()),
            _ => Err(unexpected(&token, expected)),
        }
    }

    /// A pipeline up to `}}` or `)`, which stays.
    fn pipeline(&mut self) -> Result<Pipeline, Located> {
        let start = self.here();
        let (variables, declares, first) = self.declaration()?;
        let mut commands = vec![self.command(first)?];
        while matches!(self.peek(), Some(Kind::Pipe)) {
            self.next();
            let command = self.command(None)?;
            if !can_be_called(&command.first.kind) {
                return Err(Problem::Unexpected {
                    token: "a value".to_owned(),
                    expected: "a function after |",
                }
                .at(command.first.span));
            }
            commands.push(command);
        }
        if declares {
            self.variables.extend(variables.iter().cloned());
        }
        let end = commands.last().map_or(start, |command| {
            command.rest.last().unwrap_or(&command.first).span
        });
        Ok(Pipeline {
            variables,
            declares,
            commands,
            span: start.to(end),
        })
    }

    /// `$x :=`, `$x =`, `$k, $v :=`; or the operand that a variable turned out to be.
    fn declaration(&mut self) -> Result<(Vec<String>, bool, Option<Operand>), Located> {
        let Some(Kind::Variable(_)) = self.peek() else {
            return Ok((Vec::new(), false, None));
        };
        let first = self.next();
        let Kind::Variable(name) = first.kind.clone() else {
            return Err(unexpected(&first, "a variable"));
        };
        let mut variables = vec![name];
        match self.peek() {
            Some(Kind::Declare | Kind::Assign) => {}
            Some(Kind::Comma) => {
                self.next();
                let second = self.next();
                match second.kind {
                    Kind::Variable(name) => variables.push(name),
                    _ => return Err(unexpected(&second, "a variable")),
                }
            }
            _ => {
                let operand = self.variable(&first)?;
                return Ok((Vec::new(), false, Some(operand)));
            }
        }
        let token = self.next();
        match token.kind {
            Kind::Declare => Ok((variables, true, None)),
            Kind::Assign => match variables.iter().find(|name| !self.variables.contains(name)) {
                Some(name) => Err(unknown_variable(name, first.span)),
                None => Ok((variables, false, None)),
            },
            _ => Err(unexpected(&token, ":= or =")),
        }
    }

    fn command(&mut self, first: Option<Operand>) -> Result<Command, Located> {
        let first = match first {
            Some(operand) => operand,
            None => self.operand()?,
        };
        let mut rest = Vec::new();
        loop {
            match self.tokens.peek() {
                Some(token) if matches!(token.kind, Kind::Close | Kind::ParenClose | Kind::Pipe) => {
                    return Ok(Command { first, rest });
                }
                Some(token) if !token.spaced || matches!(token.kind, Kind::End) => {
                    return Err(unexpected(&token.clone(), "a space, | or the end of the action"));
                }
                _ => rest.push(self.operand()?),
            }
        }
    }

    fn operand(&mut self) -> Result<Operand, Located> {
        let token = self.next();
        let mut span = token.span;
        let kind = match token.kind {
            Kind::Dot => OperandKind::Dot,
            Kind::Integer(number) => OperandKind::Integer(number),
            Kind::Float(number) => OperandKind::Float(number),
            Kind::Quoted(text) => OperandKind::Text(text),
            Kind::Field(name) => {
                let mut fields = vec![name];
                span = self.fields(&mut fields, span);
                OperandKind::Fields(fields)
            }
            Kind::Variable(_) => return self.variable(&token),
            Kind::ParenOpen => return self.parenthesis(span),
            Kind::Identifier(ref name) => match name.as_str() {
                "true" => OperandKind::Bool(true),
                "false" => OperandKind::Bool(false),
                "nil" => OperandKind::Nil,
                name => OperandKind::Function(function(name, span)?),
            },
            _ => return Err(unexpected(&token, "a value or a function")),
        };
        Ok(Operand { kind, span })
    }

    fn variable(&mut self, token: &Token) -> Result<Operand, Located> {
        let Kind::Variable(name) = &token.kind else {
            return Err(unexpected(token, "a variable"));
        };
        if !self.variables.contains(name) {
            return Err(unknown_variable(name, token.span));
        }
        let mut fields = Vec::new();
        let span = self.fields(&mut fields, token.span);
        Ok(Operand {
            kind: OperandKind::Variable {
                name: name.clone(),
                fields,
            },
            span,
        })
    }

    fn parenthesis(&mut self, open: Span) -> Result<Operand, Located> {
        let pipeline = self.deeper(open, Self::pipeline)?;
        if pipeline.declares || !pipeline.variables.is_empty() {
            return Err(Problem::Unexpected {
                token: ":=".to_owned(),
                expected: "no variable to be set in parentheses",
            }
            .at(pipeline.span));
        }
        let close = self.next();
        if !matches!(close.kind, Kind::ParenClose) {
            return Err(unexpected(&close, ")"));
        }
        let mut fields = Vec::new();
        let span = self.fields(&mut fields, open.to(close.span));
        Ok(Operand {
            kind: OperandKind::Pipeline {
                pipeline: Box::new(pipeline),
                fields,
            },
            span,
        })
    }

    /// Fields that follow without a space.
    fn fields(&mut self, fields: &mut Vec<String>, mut span: Span) -> Span {
        while let Some(token) = self
            .tokens
            .next_if(|token| !token.spaced && matches!(token.kind, Kind::Field(_)))
        {
            span = span.to(token.span);
            if let Kind::Field(name) = token.kind {
                fields.push(name);
            }
        }
        span
    }
}

/// Only a range has a key beside its value.
fn single_variable(pipeline: &Pipeline) -> Result<(), Located> {
    if pipeline.variables.len() < 2 {
        return Ok(());
    }
    Err(Problem::Unexpected {
        token: "a second variable".to_owned(),
        expected: "a single one outside of range",
    }
    .at(pipeline.span))
}

/// Whether something may stand after `|`: what takes an argument.
fn can_be_called(kind: &OperandKind) -> bool {
    matches!(
        kind,
        OperandKind::Function(_) | OperandKind::Fields(_) | OperandKind::Variable { .. }
    )
}

fn function(name: &str, span: Span) -> Result<&'static str, Located> {
    functions::NAMES
        .into_iter()
        .find(|known| *known == name)
        .ok_or_else(|| {
            let name = name.to_owned();
            if ABSENT.contains(&name.as_str()) {
                Problem::Unsupported { keyword: name }.at(span)
            } else {
                Problem::UnknownFunction { name }.at(span)
            }
        })
}

fn unknown_variable(name: &str, span: Span) -> Located {
    Problem::UnknownVariable {
        name: format!("${name}"),
    }
    .at(span)
}

fn unexpected(token: &Token, expected: &'static str) -> Located {
    let word = match &token.kind {
        Kind::Text(_) => "text".to_owned(),
        Kind::Open => "{{".to_owned(),
        Kind::Close => "}}".to_owned(),
        Kind::Field(name) => format!(".{name}"),
        Kind::Variable(name) => format!("${name}"),
        Kind::Identifier(name) => name.clone(),
        Kind::Dot => ".".to_owned(),
        Kind::Integer(number) => number.to_string(),
        Kind::Float(number) => number.to_string(),
        Kind::Quoted(_) => "a string".to_owned(),
        Kind::Pipe => "|".to_owned(),
        Kind::ParenOpen => "(".to_owned(),
        Kind::ParenClose => ")".to_owned(),
        Kind::Declare => ":=".to_owned(),
        Kind::Assign => "=".to_owned(),
        Kind::Comma => ",".to_owned(),
        Kind::End => "end of the template".to_owned(),
    };
    Problem::Unexpected {
        token: word,
        expected,
    }
    .at(token.span)
}
