//! The nodes of a template that has been parsed.

use super::error::Span;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// Printed as it is.
    Text(String),
    /// `{{pipeline}}`: printed, unless it only sets a variable.
    Action(Pipeline),
    /// `{{if}} … {{else}} … {{end}}`.
    If(Branch),
    /// `{{with}} … {{else}} … {{end}}`.
    With(Branch),
    /// `{{range}} … {{else}} … {{end}}`.
    Range(Branch),
    /// `{{break}}`.
    Break,
    /// `{{continue}}`.
    Continue,
}

/// A block with a condition and an alternative.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Branch {
    /// What decides.
    pub(super) pipeline: Pipeline,
    /// For what is not empty.
    pub(super) then: Vec<Node>,
    /// For what is.
    pub(super) otherwise: Vec<Node>,
}

/// Commands, each of which is given the value of the one before as its last argument.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipeline {
    /// Variables that are given the value: one, or two for a range.
    pub(super) variables: Vec<String>,
    /// They are declared here (`:=`), not only set (`=`).
    pub(super) declares: bool,
    /// The commands; at least one.
    pub(super) commands: Vec<Command>,
    /// The whole of it.
    pub(super) span: Span,
}

/// Operands; the first one may be something to call with the others.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Command {
    /// What is called, or the value.
    pub(super) first: Operand,
    /// Arguments.
    pub(super) rest: Vec<Operand>,
}

/// A value, or something to call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operand {
    /// What it is.
    pub(super) kind: OperandKind,
    /// Where it stands.
    pub(super) span: Span,
}

/// The kinds of operands.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum OperandKind {
    /// `.`
    Dot,
    /// `nil`
    Nil,
    /// `true`, `false`
    Bool(bool),
    /// `17`, `'a'`
    Integer(i64),
    /// `1.5`
    Float(f64),
    /// `"text"`, or raw in backquotes
    Text(String),
    /// `.State.Status`
    Fields(Vec<String>),
    /// `$name.State.Status`; `$` alone has an empty name
    Variable { name: String, fields: Vec<String> },
    /// `len`
    Function(&'static str),
    /// `(pipeline).Field`
    Pipeline {
        pipeline: Box<Pipeline>,
        fields: Vec<String>,
    },
}

/// Whether a field of this name is asked for anywhere.
pub(super) fn mentions(nodes: &[Node], field: &str) -> bool {
    nodes.iter().any(|node| match node {
        Node::Text(_) | Node::Break | Node::Continue => false,
        Node::Action(pipeline) => in_pipeline(pipeline, field),
        Node::If(branch) | Node::With(branch) | Node::Range(branch) => {
            in_pipeline(&branch.pipeline, field)
                || mentions(&branch.then, field)
                || mentions(&branch.otherwise, field)
        }
    })
}

fn in_pipeline(pipeline: &Pipeline, field: &str) -> bool {
    pipeline.commands.iter().any(|command| {
        std::iter::once(&command.first)
            .chain(&command.rest)
            .any(|operand| in_operand(operand, field))
    })
}

fn in_operand(operand: &Operand, field: &str) -> bool {
    let among = |fields: &[String]| fields.iter().any(|name| name == field);
    match &operand.kind {
        OperandKind::Fields(fields) | OperandKind::Variable { fields, .. } => among(fields),
        OperandKind::Pipeline { pipeline, fields } => among(fields) || in_pipeline(pipeline, field),
        OperandKind::Dot
        | OperandKind::Nil
        | OperandKind::Bool(_)
        | OperandKind::Integer(_)
        | OperandKind::Float(_)
        | OperandKind::Text(_)
        | OperandKind::Function(_) => false,
    }
}
