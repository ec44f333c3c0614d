//! One table: the engine's kinds of error and gRPC's status codes. Everything an error says travels beside the code.

use croze_model::{Error, ErrorKind};
use croze_proto::ERROR_DETAIL_KEY;
use croze_proto::v1;
use prost::Message as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// Texts are cut to so many bytes each: all metadata together, in base64 and percent-encoded, must stay below the 16 KiB of headers that
/// HTTP/2 implementations accept by default.
const MAX_TEXT_BYTES: usize = 1024;
/// So many causes at most.
const MAX_CAUSES: usize = 4;

/// The wire's kind and code for each of the engine's kinds.
fn wire(kind: ErrorKind) -> (v1::ErrorKind, Code) {
    match kind {
        ErrorKind::InvalidArgument => (v1::ErrorKind::InvalidArgument, Code::InvalidArgument),
        ErrorKind::NotFound => (v1::ErrorKind::NotFound, Code::NotFound),
        ErrorKind::AlreadyExists => (v1::ErrorKind::AlreadyExists, Code::AlreadyExists),
        ErrorKind::Conflict => (v1::ErrorKind::Conflict, Code::FailedPrecondition),
        ErrorKind::Unauthenticated => (v1::ErrorKind::Unauthenticated, Code::Unauthenticated),
        ErrorKind::PermissionDenied => (v1::ErrorKind::PermissionDenied, Code::PermissionDenied),
        ErrorKind::Unavailable => (v1::ErrorKind::Unavailable, Code::Unavailable),
        ErrorKind::ResourceExhausted => (v1::ErrorKind::ResourceExhausted, Code::ResourceExhausted),
        ErrorKind::Corrupt => (v1::ErrorKind::Corrupt, Code::DataLoss),
        ErrorKind::Unsupported => (v1::ErrorKind::Unsupported, Code::Unimplemented),
        ErrorKind::DeadlineExceeded => (v1::ErrorKind::DeadlineExceeded, Code::DeadlineExceeded),
        ErrorKind::Cancelled => (v1::ErrorKind::Cancelled, Code::Cancelled),
        ErrorKind::CommandNotFound => (v1::ErrorKind::CommandNotFound, Code::FailedPrecondition),
        ErrorKind::CommandNotExecutable => (v1::ErrorKind::CommandNotExecutable, Code::FailedPrecondition),
        ErrorKind::Internal => (v1::ErrorKind::Internal, Code::Internal),
    }
}

/// The status of a failed call, with all that the error says.
pub(crate) fn of(error: &Error) -> Status {
    let (kind, code) = wire(error.kind());
    let detail = v1::ErrorDetail {
        kind: kind.into(),
        stage: error.stage().to_owned(),
        what: cut(error.what()),
        causes: error
            .causes()
            .iter()
            .take(MAX_CAUSES)
            .map(|cause| cut(cause))
            .collect(),
        hint: cut(error.advice().unwrap_or_default()),
    };
    let mut metadata = MetadataMap::new();
    metadata.insert_bin(
        ERROR_DETAIL_KEY,
        MetadataValue::from_bytes(&detail.encode_to_vec()),
    );
    Status::with_metadata(code, cut(&error.one_line()), metadata)
}

/// The same of whatever becomes one.
pub(crate) fn refuse(error: impl Into<Error>) -> Status {
    of(&error.into())
}

/// A refusal of this door itself.
pub(crate) fn invalid(what: impl Into<String>) -> Status {
    of(&Error::new(ErrorKind::InvalidArgument, "decode", what))
}

fn cut(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    let end = (0..=MAX_TEXT_BYTES)
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_wire_kind_of_its_own_name() {
        for kind in ErrorKind::ALL {
            let (wire_kind, code) = wire(kind);
            assert_eq!(
                wire_kind.as_str_name().to_lowercase(),
                format!("error_kind_{}", kind.as_str()),
                "the two tables name the same kinds"
            );
            assert_ne!(code, Code::Ok);
        }
    }

    #[test]
    fn nothing_of_an_error_is_lost() {
        let error = Error::new(ErrorKind::Corrupt, "unpack", "layer sha256:00")
            .because(std::io::Error::other("digest mismatch"))
            .hint("pull again");
        let status = of(&error);
        assert_eq!(
            (status.code(), status.message()),
            (Code::DataLoss, "layer sha256:00: digest mismatch")
        );
        let bytes = status
            .metadata()
            .get_bin(ERROR_DETAIL_KEY)
            .unwrap()
            .to_bytes()
            .unwrap();
        let detail = v1::ErrorDetail::decode(bytes).unwrap();
        assert_eq!(
            detail,
            v1::ErrorDetail {
                kind: v1::ErrorKind::Corrupt.into(),
                stage: "unpack".to_owned(),
                what: "layer sha256:00".to_owned(),
                causes: vec!["digest mismatch".to_owned()],
                hint: "pull again".to_owned(),
            }
        );
    }

    #[test]
    fn the_longest_error_fits_into_the_headers() {
        let long = || "ä".repeat(100_000);
        let mut error = Error::new(ErrorKind::Internal, "run", long());
        for _ in 0..20 {
            error = Error::new(ErrorKind::Internal, "run", format!("{} more", long())).because(error);
        }
        let status = of(&error.hint(long()));
        let detail = status
            .metadata()
            .get_bin(ERROR_DETAIL_KEY)
            .unwrap()
            .as_encoded_bytes()
            .len();
        // A percent-encoded byte takes three.
        assert!(
            detail + 3 * status.message().len() < 15 << 10,
            "{detail} + 3 * {}",
            status.message().len()
        );
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "ä".repeat(MAX_TEXT_BYTES);
        let short = cut(&text);
        assert!(short.len() <= MAX_TEXT_BYTES + '…'.len_utf8() && short.ends_with("ä…"));
    }
}
