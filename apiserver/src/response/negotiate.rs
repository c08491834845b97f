//! Which representation a client wants (`Accept`) and which one it sent (`Content-Type`).

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

use super::status::ApiError;

/// The encodings of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Media {
    #[default]
    Json,
    Yaml,
    Protobuf,
    /// Not among what messages offer: as upstream, clients that know it ask for it.
    Cbor,
}

impl Media {
    /// As it stands in `Content-Type`.
    pub fn name(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf",
            Media::Cbor => "application/cbor",
        }
    }

    /// Whether the resource has it, whose media types these are.
    fn is_offered(self, offered: &[&str]) -> bool {
        self == Media::Cbor || offered.contains(&self.name())
    }

    /// The content type of a watch.
    pub fn stream_name(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            Media::Cbor => "application/cbor-seq",
        }
    }
}

/// The shape of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Shape {
    #[default]
    Object,
    Table,
    PartialMetadata,
    PartialMetadataList,
}

/// What a client accepts, decided once per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Accepted {
    pub media: Media,
    pub shape: Shape,
    /// JSON for people.
    pub pretty: bool,
}

/// Media types for built-in kinds.
pub const BUILT_IN: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

/// Media types for custom resources, which have no protobuf.
pub const CUSTOM: &[&str] = &["application/json", "application/yaml"];

/// Picks the first media type of `Accept` that the server has.
pub fn accepted(
    headers: &HeaderMap,
    offered: &'static [&'static str],
) -> Result<Accepted, ApiError> {
    accepted_of(headers, offered, |_| true)
}

/// As [`accepted`], of a resource that has no table.
pub fn accepted_without_table(
    headers: &HeaderMap,
    offered: &'static [&'static str],
) -> Result<Accepted, ApiError> {
    accepted_of(headers, offered, |shape| shape != Shape::Table)
}

fn accepted_of(
    headers: &HeaderMap,
    offered: &'static [&'static str],
    has: impl Fn(Shape) -> bool,
) -> Result<Accepted, ApiError> {
    let Some(header) = headers.get(ACCEPT) else {
        return Ok(Accepted::default());
    };
    let text = header.to_str().unwrap_or_default();
    if matches!(text, "" | "*/*" | "application/json") {
        return Ok(Accepted::default());
    }
    let mut clauses: Vec<(f32, &str)> = text.split(',').map(|c| (quality(c), c.trim())).collect();
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    clauses
        .iter()
        .filter_map(|(_, clause)| accept_clause(clause, offered))
        .find(|accepted| has(accepted.shape))
        .ok_or_else(|| ApiError::not_acceptable(offered))
}

fn quality(clause: &str) -> f32 {
    parameters(clause)
        .find(|(k, _)| *k == "q")
        .and_then(|(_, v)| v.parse().ok())
        .unwrap_or(1.0)
}

fn parameters(clause: &str) -> impl Iterator<Item = (&str, &str)> {
    clause
        .split(';')
        .skip(1)
        .filter_map(|p| p.trim().split_once('='))
}

fn accept_clause(clause: &str, offered: &[&str]) -> Option<Accepted> {
    let name = clause.split(';').next()?.trim();
    let media = match name {
        "application/json" | "*/*" | "application/*" => Media::Json,
        "application/yaml" => Media::Yaml,
        "application/vnd.kubernetes.protobuf" => Media::Protobuf,
        "application/cbor" | "application/cbor-seq" => Media::Cbor,
        _ => return None,
    };
    if !media.is_offered(offered) {
        return None;
    }
    let parameter = |key: &str| parameters(clause).find(|(k, _)| *k == key).map(|(_, v)| v);
    let shape = match parameter("as") {
        None => Shape::Object,
        Some(shape) => {
            if parameter("g") != Some("meta.k8s.io")
                || !matches!(parameter("v"), Some("v1" | "v1beta1"))
            {
                return None;
            }
            match shape {
                "Table" => Shape::Table,
                "PartialObjectMetadata" => Shape::PartialMetadata,
                "PartialObjectMetadataList" => Shape::PartialMetadataList,
                _ => return None,
            }
        }
    };
    let pretty = parameter("pretty") == Some("1");
    Some(Accepted {
        media,
        shape,
        pretty,
    })
}

/// What a request's body is written in; JSON when the client does not say.
pub fn sent(headers: &HeaderMap, offered: &'static [&'static str]) -> Result<Media, ApiError> {
    let Some(header) = headers.get(CONTENT_TYPE) else {
        return Ok(Media::Json);
    };
    let name = header
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    let media = match name {
        "" | "application/json" => Media::Json,
        "application/yaml" => Media::Yaml,
        "application/vnd.kubernetes.protobuf" => Media::Protobuf,
        "application/cbor" => Media::Cbor,
        _ => return Err(ApiError::unsupported_media_type(offered)),
    };
    if media.is_offered(offered) {
        Ok(media)
    } else {
        Err(ApiError::unsupported_media_type(offered))
    }
}

/// Without an `Accept` of its own a browser or curl gets readable JSON when it asks for it.
pub fn wants_pretty(query: &crate::request::Query, headers: &HeaderMap) -> bool {
    if let Some(pretty) = query.get("pretty") {
        return !matches!(pretty, "0" | "false");
    }
    let agent = headers
        .get(http::header::USER_AGENT)
        .and_then(|a| a.to_str().ok())
        .unwrap_or("");
    agent.starts_with("curl") || agent.starts_with("Wget") || agent.starts_with("Mozilla/5.0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, expect: Option<(Media, Shape)>) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        let got = accepted(&headers, BUILT_IN)
            .ok()
            .map(|a| (a.media, a.shape));
        assert_eq!(got, expect, "{accept}");
    }

    #[test]
    fn the_first_known_representation_wins() {
        check("*/*", Some((Media::Json, Shape::Object)));
        check("application/xml", None);
        check(
            "application/xml,application/json",
            Some((Media::Json, Shape::Object)),
        );
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some((Media::Json, Shape::Table)),
        );
        check(
            "application/vnd.kubernetes.protobuf, */*",
            Some((Media::Protobuf, Shape::Object)),
        );
        check(
            "application/json;as=Nope;v=v1;g=meta.k8s.io, application/yaml",
            Some((Media::Yaml, Shape::Object)),
        );
        check(
            "application/cbor, application/json",
            Some((Media::Cbor, Shape::Object)),
        );
        check(
            "application/yaml;q=0.5, application/json;q=0.9",
            Some((Media::Json, Shape::Object)),
        );
    }

    #[test]
    fn what_has_no_table_is_another_representation_or_none() {
        let shape_of = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            let accepted = accepted_without_table(&headers, BUILT_IN);
            accepted.map(|a| a.shape).map_err(|e| e.code())
        };
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(shape_of(table), Err(406));
        assert_eq!(
            shape_of(&format!("{table}, application/json")),
            Ok(Shape::Object)
        );
    }
}
