//! Walks the nodes and prints.

use super::ast::{Branch, Command, Node, Operand, OperandKind, Pipeline};
use super::error::{Located, Problem, Span};
use super::functions::{self, Functions};
use super::value::{Method, Value, Zero};
use super::{MAX_OUTPUT, MAX_WORK, STEP};

/// Prints what the nodes say about `data`.
pub(super) fn execute(nodes: &[Node], data: &Value, functions: Functions) -> Result<String, Located> {
    let mut evaluator = Evaluator {
        out: String::new(),
        variables: vec![(String::new(), data.clone())],
        functions,
        work: 0,
    };
    evaluator.walk(data, nodes)?;
    Ok(evaluator.out)
}

/// What a list of nodes wants of the range around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// Text outside of actions has no token of its own.
const NOWHERE: Span = Span { start: 0, end: 0 };

struct Evaluator {
    out: String,
    /// The innermost last; `$` is the empty name.
    variables: Vec<(String, Value)>,
    functions: Functions,
    /// Bytes that were made and copied so far.
    work: usize,
}

impl Evaluator {
    fn walk(&mut self, dot: &Value, nodes: &[Node]) -> Result<Flow, Located> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.print(text, NOWHERE)?;
                    Flow::Next
                }
                Node::Action(pipeline) => {
                    let value = self.pipeline(dot, pipeline)?;
                    if pipeline.variables.is_empty() {
                        self.print(&value.shown(), pipeline.span)?;
                    } else {
                        self.set(pipeline, 0, value);
                    }
                    Flow::Next
                }
                Node::If(branch) => self.choose(dot, branch, false)?,
                Node::With(branch) => self.choose(dot, branch, true)?,
                Node::Range(branch) => self.range(dot, branch)?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    /// Counts a step that has made so many bytes.
    fn count(&mut self, bytes: usize, span: Span) -> Result<(), Located> {
        self.work = self.work.saturating_add(bytes).saturating_add(STEP);
        if self.work > MAX_WORK {
            return Err(Problem::TooMuch { limit: MAX_WORK }.at(span));
        }
        Ok(())
    }

    fn print(&mut self, text: &str, span: Span) -> Result<(), Located> {
        self.out.push_str(text);
        if self.out.len() > MAX_OUTPUT {
            return Err(Problem::TooLong { limit: MAX_OUTPUT }.at(span));
        }
        Ok(())
    }

    /// Gives the variable of this position its value: a new one, or one that is there.
    fn set(&mut self, pipeline: &Pipeline, position: usize, value: Value) {
        let Some(name) = pipeline.variables.get(position) else {
            return;
        };
        if !pipeline.declares
            && let Some((_, old)) = self.variables.iter_mut().rev().find(|(known, _)| known == name)
        {
            *old = value;
            return;
        }
        self.variables.push((name.clone(), value));
    }

    fn choose(&mut self, dot: &Value, branch: &Branch, changes_dot: bool) -> Result<Flow, Located> {
        let visible = self.variables.len();
        let value = self.pipeline(dot, &branch.pipeline)?;
        self.set(&branch.pipeline, 0, value.clone());
        let flow = if value.truth() {
            self.walk(if changes_dot { &value } else { dot }, &branch.then)
        } else {
            self.walk(dot, &branch.otherwise)
        };
        self.variables.truncate(visible);
        flow
    }

    fn range(&mut self, dot: &Value, branch: &Branch) -> Result<Flow, Located> {
        let value = self.pipeline(dot, &branch.pipeline)?;
        let items = items(value).map_err(|problem| problem.at(branch.pipeline.span))?;
        let mut items = items.peekable();
        if items.peek().is_none() {
            return self.walk(dot, &branch.otherwise);
        }
        let visible = self.variables.len();
        for (key, value) in items {
            self.count(0, branch.pipeline.span)?;
            if branch.pipeline.variables.len() > 1 {
                self.set(&branch.pipeline, 0, key);
                self.set(&branch.pipeline, 1, value.clone());
            } else {
                self.set(&branch.pipeline, 0, value.clone());
            }
            let flow = self.walk(&value, &branch.then);
            self.variables.truncate(visible);
            if flow? == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn pipeline(&mut self, dot: &Value, pipeline: &Pipeline) -> Result<Value, Located> {
        let mut last = None;
        for command in &pipeline.commands {
            let value = self.command(dot, command, last)?;
            self.count(value.weight(), command.first.span)?;
            last = Some(value);
        }
        Ok(last.unwrap_or(Value::Missing))
    }

    /// One command; `last` is the value of the one before it, and becomes the last argument.
    fn command(&mut self, dot: &Value, command: &Command, last: Option<Value>) -> Result<Value, Located> {
        let first = &command.first;
        match &first.kind {
            OperandKind::Function(name @ ("and" | "or")) => self.lazy(dot, command, *name == "or", last),
            OperandKind::Function(name) => {
                let arguments = self.arguments(dot, command, last)?;
                functions::call(name, arguments, self.functions).map_err(|problem| problem.at(first.span))
            }
            OperandKind::Fields(fields) => {
                let arguments = self.arguments(dot, command, last)?;
                chain(dot, fields, &arguments).map_err(|problem| problem.at(first.span))
            }
            OperandKind::Variable { name, fields } => {
                let arguments = self.arguments(dot, command, last)?;
                let value = self.variable(name);
                chain(&value, fields, &arguments).map_err(|problem| problem.at(first.span))
            }
            OperandKind::Nil => Err(Problem::NotAFunction {
                name: "nil".to_owned(),
            }
            .at(first.span)),
            _ if command.rest.is_empty() && last.is_none() => self.operand(dot, first),
            _ => Err(Problem::NotAFunction {
                name: "this value".to_owned(),
            }
            .at(first.span)),
        }
    }

    fn arguments(
        &mut self,
        dot: &Value,
        command: &Command,
        last: Option<Value>,
    ) -> Result<Vec<Value>, Located> {
        let mut arguments = Vec::with_capacity(command.rest.len() + 1);
        for operand in &command.rest {
            let value = self.operand(dot, operand)?;
            self.count(value.weight(), operand.span)?;
            arguments.push(value);
        }
        arguments.extend(last);
        Ok(arguments)
    }

    /// `and` and `or`: what decides is the value, and nothing after it is looked at.
    fn lazy(
        &mut self,
        dot: &Value,
        command: &Command,
        wanted: bool,
        last: Option<Value>,
    ) -> Result<Value, Located> {
        let mut value = None;
        for operand in &command.rest {
            let next = self.operand(dot, operand)?;
            if next.truth() == wanted {
                return Ok(next);
            }
            value = Some(next);
        }
        last.or(value).ok_or_else(|| {
            Problem::ArgumentCount {
                name: if wanted { "or" } else { "and" },
                want: "at least 1",
                got: 0,
            }
            .at(command.first.span)
        })
    }

    /// A value that is an argument: functions among them are called without arguments.
    fn operand(&mut self, dot: &Value, operand: &Operand) -> Result<Value, Located> {
        let at = |problem: Problem| problem.at(operand.span);
        Ok(match &operand.kind {
            OperandKind::Dot => dot.clone(),
            OperandKind::Nil => Value::Missing,
            OperandKind::Bool(value) => Value::Bool(*value),
            OperandKind::Integer(number) => Value::Integer(*number),
            OperandKind::Float(number) => Value::Float(*number),
            OperandKind::Text(text) => Value::Text(text.clone()),
            OperandKind::Fields(fields) => chain(dot, fields, &[]).map_err(at)?,
            OperandKind::Variable { name, fields } => chain(&self.variable(name), fields, &[]).map_err(at)?,
            OperandKind::Function(name) => functions::call(name, Vec::new(), self.functions).map_err(at)?,
            OperandKind::Pipeline { pipeline, fields } => {
                let value = self.pipeline(dot, pipeline)?;
                chain(&value, fields, &[]).map_err(at)?
            }
        })
    }

    fn variable(&self, name: &str) -> Value {
        let known = self.variables.iter().rev().find(|(known, _)| known == name);
        // The parser has checked that there is one.
        known.map_or(Value::Missing, |(_, value)| value.clone())
    }
}

/// The field of a field of a value; the last one may be something to call.
fn chain(start: &Value, fields: &[String], arguments: &[Value]) -> Result<Value, Problem> {
    let mut value = start;
    for field in fields {
        value = value.field(field)?;
    }
    match value {
        Value::Method(method) => call(method, arguments),
        value if arguments.is_empty() => Ok(value.clone()),
        _ => Err(Problem::NotAFunction {
            name: fields
                .last()
                .map_or_else(|| "this value".to_owned(), |f| format!(".{f}")),
        }),
    }
}

fn call(method: &Method, arguments: &[Value]) -> Result<Value, Problem> {
    let name = "this method";
    let key = match arguments {
        [Value::Text(key)] => key,
        [other] => {
            return Err(Problem::ArgumentKind {
                name,
                expected: "string",
                got: other.kind(),
            });
        }
        _ => {
            return Err(Problem::ArgumentCount {
                name,
                want: "1",
                got: arguments.len(),
            });
        }
    };
    Ok(Value::Text(match method {
        Method::Lookup(entries) => entries.get(key).cloned().unwrap_or_default(),
        Method::Title => {
            let last = key.rsplit('.').next().unwrap_or_default();
            last.replace(['-', '_'], " ")
        }
    }))
}

/// What a range walks over: keys and values, maps in the order of their keys, numbers from 0 on.
fn items(value: Value) -> Result<Box<dyn Iterator<Item = (Value, Value)>>, Problem> {
    let named = |(key, value): (String, Value)| (Value::Text(key), value);
    match value {
        Value::Missing | Value::Nil(Zero::List | Zero::Map | Zero::Text) => Ok(Box::new(std::iter::empty())),
        Value::Integer(end) => Ok(Box::new(
            (0..end).map(|number| (Value::Integer(number), Value::Integer(number))),
        )),
        Value::List(items) => Ok(Box::new((0..).map(Value::Integer).zip(items))),
        Value::Map { entries, .. } => Ok(Box::new(entries.into_iter().map(named))),
        Value::Struct(mut fields) => {
            fields.retain(|(_, value)| !matches!(value, Value::Silent(_)));
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            Ok(Box::new(fields.into_iter().map(named)))
        }
        other => Err(Problem::Range { kind: other.kind() }),
    }
}
