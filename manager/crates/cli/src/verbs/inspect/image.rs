//! docker's document about an image.

use croze_client::v1::InspectImageResponse;
use serde_json::{Value as Json, json};

use crate::human;
use crate::verbs::STORAGE_DRIVER;

/// Everything about an image.
pub(super) fn document(response: &InspectImageResponse) -> Json {
    let summary = response.summary.clone().unwrap_or_default();
    // What the registry delivered may be any JSON; an object's "config" is what docker shows.
    let delivered: Json = serde_json::from_slice(&response.config_json).unwrap_or(Json::Null);
    let text = |key: &str| {
        delivered
            .get(key)
            .and_then(Json::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut document = json!({
        "Id": summary.id,
        "RepoTags": summary.references,
        "RepoDigests": summary.repo_digests,
        "Digest": summary.digest,
        "Parent": "",
        "Comment": comment(&delivered),
        "Created": human::or_never(&summary.created),
        "Container": text("container"),
        "ContainerConfig": null,
        "DockerVersion": text("docker_version"),
        "Author": text("author"),
        "Config": config(delivered.get("config")),
        "Architecture": summary.architecture,
    });
    let rest = json!({
        "Os": summary.os,
        "Size": summary.size_bytes,
        "VirtualSize": summary.size_bytes,
        "GraphDriver": {"Data": null, "Name": STORAGE_DRIVER},
        "RootFS": { "Type": "layers", "Layers": response.diff_ids },
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
    });
    if let (Json::Object(document), Json::Object(rest)) = (&mut document, rest) {
        let variant = text("variant");
        if !variant.is_empty() {
            document.insert("Variant".to_owned(), Json::String(variant));
        }
        document.extend(rest);
    }
    document
}

/// What the last step of the image's history says of itself.
fn comment(delivered: &Json) -> String {
    let history = delivered.get("history").and_then(Json::as_array);
    let last = history.and_then(|steps| steps.last()?.get("comment")?.as_str());
    let own = delivered
        .get("comment")
        .and_then(Json::as_str)
        .unwrap_or_default();
    last.unwrap_or(own).to_owned()
}

/// The image's settings with all of docker's fields: those that the image leaves out have their empty values, and what docker does not know comes last.
fn config(delivered: Option<&Json>) -> Json {
    let mut all = json!({
        "Hostname": "",
        "Domainname": "",
        "User": "",
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
        "Tty": false,
        "OpenStdin": false,
        "StdinOnce": false,
        "Env": null,
        "Cmd": null,
        "Image": "",
        "Volumes": null,
        "WorkingDir": "",
        "Entrypoint": null,
        "OnBuild": null,
        "Labels": null,
    });
    if let (Json::Object(all), Some(Json::Object(delivered))) = (&mut all, delivered) {
        for (key, value) in delivered {
            all.insert(key.clone(), value.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use croze_client::v1::ImageSummary;

    use super::*;

    #[test]
    fn an_image_shows_its_own_configuration() {
        let value = document(&InspectImageResponse {
            summary: Some(ImageSummary {
                references: vec!["a:1".to_owned()],
                repo_digests: vec!["a@sha256:00".to_owned()],
                ..ImageSummary::default()
            }),
            diff_ids: vec!["sha256:11".to_owned()],
            config_json: br#"{"config":{"Cmd":["sh"]},"history":[{"comment":"imported"}]}"#
                .to_vec()
                .into(),
            ..InspectImageResponse::default()
        });
        assert_eq!(value["RepoTags"], json!(["a:1"]));
        assert_eq!(value["RepoDigests"], json!(["a@sha256:00"]));
        assert_eq!(value["Config"]["Cmd"], json!(["sh"]));
        assert_eq!(value["Config"]["User"], "");
        assert_eq!(value["Comment"], "imported");
        assert_eq!(value["Created"], "0001-01-01T00:00:00Z");
        assert_eq!(value["RootFS"]["Layers"], json!(["sha256:11"]));
    }

    #[test]
    fn a_configuration_that_is_no_object_shows_the_empty_one() {
        for bad in ["", "null", "{\"config\":3,\"history\":{}}", "[]"] {
            let value = document(&InspectImageResponse {
                config_json: bad.as_bytes().to_vec().into(),
                ..InspectImageResponse::default()
            });
            assert_eq!(value["Config"]["Entrypoint"], Json::Null, "{bad}");
        }
    }
}
